//! One seed in a process of its own, and what it prints. A process runs one seed, because the layer below SQLite and the
//! threads of the process belong to it.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    process::{Command, Stdio},
};

use crate::{
    faults::Fault,
    log,
    plan::{Size, faults_of},
    planted,
    run::{Report, Run},
    seeds::{Case, list},
    vfs,
};

/// What a run of a seed printed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ended {
    /// The same for each run of a seed.
    pub(crate) digest: String,
    pub(crate) days: u64,
    pub(crate) faults: Vec<EndedFault>,
    pub(crate) changes: Vec<EndedChange>,
    /// Why it failed, if it did.
    pub(crate) failure: Option<String>,
    /// All that it printed.
    pub(crate) printed: String,
}

/// A fault of a run that has ended.
#[derive(Clone, Debug)]
pub(crate) struct EndedFault {
    pub(crate) number: usize,
    pub(crate) is_met: bool,
    pub(crate) mattered: bool,
    pub(crate) name: String,
    pub(crate) text: String,
}

/// A change at Stripe of a run that has ended.
#[derive(Clone, Debug)]
pub(crate) struct EndedChange {
    pub(crate) name: String,
    pub(crate) is_made: bool,
}

/// Runs a case in another process.
pub(crate) fn run_apart(case: &Case, size: &Size) -> io::Result<Ended> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg(format!("--seed={}", case.seed))
        .arg(format!("--accounts={}", size.accounts))
        .arg(format!("--days={}", size.days))
        .stdin(Stdio::null());
    if let Some(faults) = &case.faults {
        command.arg(format!("--faults={}", list(faults)));
    }
    if let Some(defect) = &case.defect {
        command.arg(format!("--defect={defect}"));
    }
    let output = command.output()?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut ended = read(&printed);
    if ended.failure.is_none() && !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        ended.failure = Some(format!(
            "the process ended with {}: {errors}",
            output.status
        ));
    }
    ended.printed = printed;
    Ok(ended)
}

/// Reads what [`run_here`] prints.
fn read(printed: &str) -> Ended {
    let mut ended = Ended::default();
    for line in printed.lines() {
        let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
        match what {
            "digest" => {
                rest.clone_into(&mut ended.digest);
                let days = rest.split_whitespace().next();
                let days = days.and_then(|word| word.strip_prefix("days="));
                ended.days = days.and_then(|days| days.parse().ok()).unwrap_or(0);
            }
            "fault" => {
                let parts: Vec<&str> = rest.splitn(5, '|').collect();
                if let [number, is_met, mattered, name, text] = parts[..] {
                    ended.faults.push(EndedFault {
                        number: number.parse().unwrap_or(0),
                        is_met: is_met == "met",
                        mattered: mattered == "mattered",
                        name: name.to_owned(),
                        text: text.to_owned(),
                    });
                }
            }
            "change" => {
                if let Some((name, is_made)) = rest.split_once('|') {
                    ended.changes.push(EndedChange {
                        name: name.to_owned(),
                        is_made: is_made == "made",
                    });
                }
            }
            "failed" => ended.failure = Some(rest.to_owned()),
            _ => {}
        }
    }
    ended
}

/// Runs a case in this process, and prints what [`read`] reads. Returns whether all promises were kept.
pub(crate) fn run_here(case: &Case, size: &Size, out: &mut impl Write) -> io::Result<bool> {
    if let Some(defect) = &case.defect {
        planted::plant(defect).map_err(io::Error::other)?;
    }
    let all: BTreeMap<usize, Fault> = faults_of(case.seed, size).into_iter().enumerate().collect();
    let chosen = |number: &usize| {
        let faults = case.faults.as_ref();
        faults.is_none_or(|faults| faults.contains(number))
    };
    let faults = all.into_iter().filter(|(number, _)| chosen(number));
    let (report, outcome) = live(case.seed, size, faults.collect());
    writeln!(out, "digest {report}")?;
    for (number, fault, is_met, mattered) in &report.faults {
        let is_met = if *is_met { "met" } else { "-" };
        let mattered = if *mattered { "mattered" } else { "-" };
        let name = fault.kind.name();
        writeln!(out, "fault {number}|{is_met}|{mattered}|{name}|{fault}")?;
    }
    for (name, is_made) in &report.changes {
        let is_made = if *is_made { "made" } else { "-" };
        writeln!(out, "change {name}|{is_made}")?;
    }
    let Err(why) = outcome else {
        writeln!(out, "passed")?;
        return Ok(true);
    };
    for line in log::last() {
        writeln!(out, "log {line}")?;
    }
    writeln!(out, "failed {}", why.replace('\n', " "))?;
    Ok(false)
}

/// Runs one seed, which a process can do once.
fn live(seed: u64, size: &Size, faults: Vec<(usize, Fault)>) -> (Report, Result<(), String>) {
    log::keep(std::env::var_os("SIMULATE_LOG").is_some());
    vfs::register(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return (Report::default(), Err(error.to_string())),
    };
    let (awake, asleep) = std::sync::mpsc::channel::<()>();
    let ended = runtime.block_on(async {
        // Keeps the runtime from moving its time by itself.
        tokio::task::spawn_blocking(move || asleep.recv());
        let mut run = match Run::begin(seed, size.clone(), faults).await {
            Ok(run) => run,
            Err(why) => return (Report::default(), Err(why)),
        };
        let lived = run.live().await;
        run.finish(lived).await
    });
    drop(awake);
    runtime.shutdown_background();
    ended
}
