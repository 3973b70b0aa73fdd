//! Many seeds, each in a process of its own, as many at once as there are cores: progress, failures and a summary.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    child::{Ended, run_apart},
    faults,
    plan::Size,
    restore, scripts,
    seeds::Case,
    shrink::shrink,
};

/// Failures after which no further seed is begun.
const MAX_FAILURES: usize = 5;

/// How many seeds are run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    Seeds(usize),
    /// For this time, and at least so many.
    Time(Duration, usize),
}

/// What is run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// These first.
    pub(crate) cases: Vec<Case>,
    /// Then the seeds from this one on.
    pub(crate) first: u64,
    pub(crate) limit: Limit,
    pub(crate) size: Size,
    pub(crate) jobs: usize,
}

#[derive(Debug, Default)]
struct Totals {
    seeds: usize,
    days: u64,
    faults: usize,
    failures: usize,
    /// Of each kind of fault: drawn, met, mattered.
    kinds: BTreeMap<String, [usize; 3]>,
    /// Of each change at Stripe, and of restores: drawn, made.
    changes: BTreeMap<String, [usize; 2]>,
}

impl Plan {
    /// Runs it and prints what fails, a summary and the last line. Returns whether nothing failed.
    pub(crate) fn run(&self, out: &mut (impl Write + Send)) -> io::Result<bool> {
        let began = Instant::now();
        let bar = self.bar();
        let next = AtomicUsize::new(0);
        let shared = Mutex::new((Totals::default(), out));
        let is_over = |number: usize| match self.limit {
            Limit::Seeds(seeds) => number >= seeds + self.cases.len(),
            Limit::Time(time, least) => {
                number >= least + self.cases.len() && began.elapsed() >= time
            }
        };
        let work = || -> io::Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::SeqCst);
                let failures = lock(&shared).0.failures;
                if is_over(number) || failures >= MAX_FAILURES {
                    return Ok(());
                }
                let case = self.case(number);
                let ended = run_apart(&case, &self.size)?;
                bar.inc(1);
                let has_failed = ended.failure.is_some();
                lock(&shared).0.add(&ended);
                if has_failed {
                    let (case, ended) = shrink(&case, &self.size, ended)?;
                    let mut shared = lock(&shared);
                    bar.suspend(|| tell(&case, &ended, &mut *shared.1))?;
                }
            }
        };
        let worked: io::Result<()> = thread::scope(|scope| {
            let workers: Vec<_> = (0..self.jobs.max(1)).map(|_| scope.spawn(work)).collect();
            let mut ends = workers.into_iter().map(thread::ScopedJoinHandle::join);
            ends.try_for_each(|end| {
                end.unwrap_or_else(|_| Err(io::Error::other("a worker panicked")))
            })
        });
        bar.finish_and_clear();
        worked?;
        let (totals, out) = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        totals.print(out)?;
        Ok(totals.failures == 0)
    }

    fn case(&self, number: usize) -> Case {
        self.cases.get(number).cloned().unwrap_or_else(|| {
            let fresh = u64::try_from(number - self.cases.len()).unwrap_or(0);
            Case::all_of(self.first.wrapping_add(fresh))
        })
    }

    fn bar(&self) -> ProgressBar {
        let bar = match self.limit {
            Limit::Seeds(seeds) => {
                let all = u64::try_from(seeds + self.cases.len()).unwrap_or(0);
                let style = "{bar:30} {pos}/{len} seeds, {elapsed} of about {duration}";
                ProgressBar::new(all).with_style(style_of(style))
            }
            Limit::Time(..) => {
                ProgressBar::no_length().with_style(style_of("{pos} seeds, {elapsed}"))
            }
        };
        bar.enable_steady_tick(Duration::from_secs(1));
        bar
    }
}

fn style_of(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prints a failure, and how it is run again.
fn tell(case: &Case, ended: &Ended, out: &mut impl Write) -> io::Result<()> {
    let why = ended.failure.as_deref().unwrap_or("it did not fail again");
    writeln!(out, "seed {} fails: {why}", case.seed)?;
    for fault in &ended.faults {
        writeln!(
            out,
            "  {}{}",
            fault.text,
            if fault.is_met { "" } else { " (not met)" }
        )?;
    }
    writeln!(out, "  run it again: {}", case.command())
}

impl Totals {
    fn add(&mut self, ended: &Ended) {
        self.seeds += 1;
        self.days += ended.days;
        self.failures += usize::from(ended.failure.is_some());
        for fault in &ended.faults {
            let [drawn, met, mattered] = self.kinds.entry(fault.name.clone()).or_default();
            *drawn += 1;
            *met += usize::from(fault.is_met);
            *mattered += usize::from(fault.mattered);
            self.faults += usize::from(fault.is_met);
        }
        for change in &ended.changes {
            let [drawn, made] = self.changes.entry(change.name.clone()).or_default();
            *drawn += 1;
            *made += usize::from(change.is_made);
        }
    }

    /// What these seeds say nothing about: kinds of faults that were never met, or never mattered, and changes that were
    /// never made.
    fn holes(&self) -> Vec<String> {
        let number = |name: &String, place: usize| self.kinds.get(name).map_or(0, |of| of[place]);
        let faults = faults::names().into_iter().filter_map(|name| {
            let why = match (number(&name, 0), number(&name, 1), number(&name, 2)) {
                (0, ..) => "never drawn",
                (_, 0, _) => "never met",
                (.., 0) => "never mattered",
                _ => return None,
            };
            Some(format!("{name} ({why})"))
        });
        let names = scripts::names().into_iter();
        let names = names.chain([restore::NAME.to_owned()]);
        let changes = names.filter_map(|name| {
            let made = self.changes.get(&name).map_or(0, |[_, made]| *made);
            (made == 0).then(|| format!("{name} (never made)"))
        });
        faults.chain(changes).collect()
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "{:<42} {:>7} {:>7} {:>8}",
            "fault", "drawn", "met", "mattered"
        )?;
        for (name, [drawn, met, mattered]) in &self.kinds {
            writeln!(out, "{name:<42} {drawn:>7} {met:>7} {mattered:>8}")?;
        }
        writeln!(out, "{:<42} {:>7} {:>7}", "change", "drawn", "made")?;
        for (name, [drawn, made]) in &self.changes {
            writeln!(out, "{name:<42} {drawn:>7} {made:>7}")?;
        }
        let holes = self.holes();
        let none = holes.is_empty().then(|| "none".to_owned());
        writeln!(out, "holes: {}", none.unwrap_or_else(|| holes.join(", ")))?;
        writeln!(
            out,
            "simulate: seeds={} years={} faults={} failures={}",
            self.seeds,
            self.days / 365,
            self.faults,
            self.failures
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::{EndedChange, EndedFault};

    fn fault(name: &str, is_met: bool, mattered: bool) -> EndedFault {
        EndedFault {
            number: 0,
            is_met,
            mattered,
            name: name.to_owned(),
            text: String::new(),
        }
    }

    #[test]
    fn what_never_happened_or_never_mattered_is_a_hole() {
        let mut totals = Totals::default();
        let mut ended = Ended {
            faults: vec![fault("kill", true, true), fault("freeze", true, false)],
            ..Ended::default()
        };
        ended.faults.push(fault("outage", false, false));
        ended.changes.push(EndedChange {
            name: "Cancel".to_owned(),
            is_made: true,
        });
        totals.add(&ended);
        let holes = totals.holes();
        let has = |hole: &str| holes.iter().any(|one| one == hole);
        assert!(has("freeze (never mattered)") && has("outage (never met)"));
        assert!(has("restart (never drawn)") && has("Subscribe (never made)"));
        let names = ["kill", "Cancel ("];
        assert!(
            !names
                .iter()
                .any(|name| holes.iter().any(|one| one.starts_with(name)))
        );
        for name in faults::names() {
            ended.faults.push(fault(&name, true, true));
        }
        let names = scripts::names().into_iter();
        let names = names.chain([restore::NAME.to_owned()]);
        let made = names.map(|name| EndedChange {
            name,
            is_made: true,
        });
        ended.changes.extend(made);
        totals.add(&ended);
        assert_eq!(totals.holes(), Vec::<String>::new());
    }
}
