//! A backup that an operator makes, and restores hours or days later. What was acknowledged in between is lost, unless
//! callers repeat it; what of it was sent is compared by the hour, because the database no longer knows its identifiers.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use usage_client::UsageReport;
use usage_server::{
    clock::Clock,
    commands::{
        backup::{self, BackupCommand},
        restore::{self, RestoreCommand},
    },
};

use crate::{
    checks::{AT_STRIPE, Ends, TOLD, window},
    disk::DISK,
    faults::{Fault, Kind, StripeKind},
    oracle::{Answer, Bounds, Oracle},
    plan::{Size, faults_of, times},
    random::Random,
    run::Run,
    time::{self, HOUR, SECOND},
    world::{METERS, Outcome, World, text},
};

/// The part of the seed that backups are drawn from.
const PART: u64 = 0xbac0;
/// The least time from a backup to its restore.
const LEAST_AGE: i64 = 2 * HOUR;
/// Its name in summaries.
pub(crate) const NAME: &str = "restore of a backup";

/// When a backup is made, and when it is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The first step in which it is made if it can be.
    backup: usize,
    restore: usize,
}

/// A restored backup.
#[derive(Clone, Debug)]
pub(crate) struct Restored {
    /// The backup has all that was acknowledged before.
    pub(crate) backup_at: i64,
    pub(crate) at: i64,
    /// What was acknowledged in between, by account and meter.
    pub(crate) lost: BTreeMap<(usize, usize), i64>,
}

impl Restored {
    /// Whether what Stripe has of a time was compared when the backup was restored.
    pub(crate) fn is_before(&self, at: i64) -> bool {
        at < self.at
    }
}

/// Draws whether a seed has a restore. One in two has, of those without a fault that makes Stripe's totals wrong, or the time:
/// a restore believes both.
pub(crate) fn draw(seed: u64, size: &Size) -> Option<Plan> {
    let mut random = Random::of_part(seed, PART);
    let times = times(seed, size);
    let mut steps = [random.place(times.len()), random.place(times.len())];
    steps.sort_unstable();
    let [backup, restore] = steps;
    let is_drawn = random.one_in(2) && times[backup] + LEAST_AGE < times[restore];
    let is_safe = |fault: &Fault| {
        !matches!(
            fault.kind,
            Kind::Lag { .. }
                | Kind::Clock { .. }
                | Kind::Stripe {
                    how: StripeKind::Loses,
                    ..
                }
        )
    };
    let is_possible = faults_of(seed, size).iter().all(is_safe);
    (is_drawn && is_possible).then_some(Plan { backup, restore })
}

impl Run {
    /// Makes the backup or restores it, if its step has come.
    pub(crate) async fn back_up_or_restore(&mut self, step: usize) -> Outcome<()> {
        let Some(plan) = self.restore_plan else {
            return Ok(());
        };
        if self.outage_ends.is_some() {
            return Ok(());
        }
        match self.backup_at {
            None if plan.backup <= step && step < plan.restore => self.back_up().await,
            Some(at) if plan.restore <= step && self.oracle.restored.is_none() => {
                self.restore(at).await
            }
            _ => Ok(()),
        }
    }

    /// Whether what is done now will be lost: then no admin does anything.
    pub(crate) fn is_before_restore(&self) -> bool {
        self.backup_at.is_some() && self.oracle.restored.is_none()
    }

    /// Ends what is left of the faults of the disk and the server.
    async fn end_faults_below(&mut self) -> Outcome<()> {
        DISK.begin_step(Vec::new());
        self.world.kill_in = None;
        self.world.wait_until_up().await
    }

    async fn back_up(&mut self) -> Outcome<()> {
        // A change that is not done would be done twice.
        if self.oracle.accounts.iter().any(|known| known.is_blurred) {
            return Ok(());
        }
        self.end_faults_below().await?;
        let at = self.world.now_ms;
        self.world.back_up().await?;
        self.backup_at = Some(at);
        Ok(())
    }

    async fn restore(&mut self, backup_at: i64) -> Outcome<()> {
        self.end_faults_below().await?;
        self.world.is_wanted = false;
        self.world.stop().await?;
        self.world.restore(backup_at).await?;
        self.world.wait_until_up().await?;
        self.oracle.lose(backup_at, self.world.now_ms);
        self.shown.clear();
        self.refusals.forget();
        Ok(())
    }
}

impl World {
    fn backup_file(&self) -> PathBuf {
        self.file().with_file_name("backup.db")
    }

    /// `usage-server backup`, beside the running server.
    async fn back_up(&mut self) -> Outcome<()> {
        let command = BackupCommand {
            file: self.backup_file(),
            database: self.config()?.database,
        };
        let making = async move {
            let mut printed = Vec::new();
            let made = Box::pin(backup::run(&command, &mut printed)).await;
            made.map_err(text)
        };
        let made = self.run(making).await?;
        // Threads of the driver close the last files.
        self.pass(Duration::from_millis(10)).await?;
        DISK.forget_closed();
        made.map_err(|why| format!("no backup was made: {why}"))
    }

    /// `usage-server restore` of the backup, while no server runs.
    async fn restore(&mut self, backup_at: i64) -> Outcome<()> {
        self.check_closed().await?;
        DISK.forget_closed();
        let command = RestoreCommand {
            config: self.config()?.into(),
            backup_at: Some(backup_at),
            bill_from: None,
            from: Some(self.backup_file()),
            yes: true,
            dry_run: false,
        };
        // An operator runs it again until Stripe answers.
        let faults = self.stripe.faults().await.map_err(text)?;
        self.stripe.clear_faults().await.map_err(text)?;
        let clock = Clock::manual(self.now_ms);
        let restoring = async move {
            let mut printed = Vec::new();
            let done = Box::pin(restore::run(&command, &clock, &mut printed, None)).await;
            let printed = String::from_utf8_lossy(&printed).into_owned();
            match done {
                Ok(true) => Ok(()),
                Ok(false) => Err(printed),
                Err(error) => Err(format!("{error}: {printed}")),
            }
        };
        let restored = self.run(restoring).await?;
        self.check_closed().await?;
        DISK.forget_closed();
        for fault in faults {
            self.stripe.script(fault).await.map_err(text)?;
        }
        restored.map_err(|why| format!("a backup was not restored: {why}"))
    }
}

/// What Stripe and the reports have of an account and meter in an hour.
#[derive(Clone, Copy, Debug, Default)]
struct Hour {
    at_stripe: i64,
    /// Reports that say that they are at Stripe.
    reported: i64,
    /// Reports that a person decides on.
    told: Bounds,
    /// Whether something was moved to another hour, or a person decided.
    is_moved: bool,
}

/// An account, a meter, and the begin of an hour.
type Place = (usize, usize, i64);

/// Checks the usage from before a restore: none is at Stripe twice, and the reports have what Stripe has.
pub(crate) fn check(ends: &Ends, oracle: &Oracle) -> Outcome<()> {
    let Some(restored) = &oracle.restored else {
        return Ok(());
    };
    for (place, hour) in hours(ends, oracle) {
        if !hour.is_moved && restored.is_before(place.2) {
            check_hour(oracle, restored, place, hour)?;
        }
    }
    Ok(())
}

fn check_hour(
    oracle: &Oracle,
    restored: &Restored,
    (account, meter, start): Place,
    hour: Hour,
) -> Outcome<()> {
    let time = start..start + HOUR;
    let own = oracle.units.iter().filter(|unit| {
        (unit.account, unit.meter) == (account, meter)
            && time.contains(&unit.at)
            && unit.answer != Answer::Refused
    });
    let used: i64 = own.map(|unit| unit.quantity.max(0)).sum();
    // Before the backup, Stripe's totals do not always show what was sent after it.
    let is_compared = restored.backup_at < time.end;
    let why = if hour.at_stripe > used {
        "is at Stripe twice"
    } else if hour.at_stripe < hour.reported + hour.told.least {
        "is not at Stripe, and reports say that it is"
    } else if is_compared && hour.at_stripe > hour.reported + hour.told.most {
        "is at Stripe, and no report says so"
    } else {
        return Ok(());
    };
    Err(format!(
        "after a restore at {} of a backup of {}, usage of {} {why}: {used} units of {} from {}, {hour:?}",
        time::text(restored.at),
        time::text(restored.backup_at),
        oracle.accounts[account],
        METERS[meter].0,
        time::text(start),
    ))
}

fn hours(ends: &Ends, oracle: &Oracle) -> BTreeMap<Place, Hour> {
    let mut hours: BTreeMap<Place, Hour> = BTreeMap::new();
    let meter_of = |event_name: &str| METERS.iter().position(|(_, own)| *own == event_name);
    for event in ends.events.values().filter(|event| !event.cancelled) {
        let mut accounts = oracle.accounts.iter();
        let account = accounts.position(|known| known.customer() == event.customer);
        if let (Some(account), Some(meter)) = (account, meter_of(&event.event_name)) {
            let place = (account, meter, hour_of(event.timestamp * SECOND));
            hours.entry(place).or_default().at_stripe += event.value;
        }
    }
    for (account, reports) in ends.reports.iter().enumerate() {
        for report in reports {
            add(&mut hours, account, report);
        }
    }
    hours
}

fn add(hours: &mut BTreeMap<Place, Hour>, account: usize, report: &UsageReport) {
    let meter = usize::from(report.meter != METERS[0].0);
    let own = hour_of(window(report).start);
    let billed = report
        .bill_at
        .map_or(own, |at| hour_of(at.timestamp_millis()));
    let hour = hours.entry((account, meter, billed)).or_default();
    if AT_STRIPE.contains(&report.state) {
        hour.reported += report.quantity;
    } else if TOLD.contains(&report.state) {
        hour.told.may_have(report.quantity);
    }
    if billed != own || !report.decisions.is_empty() {
        for start in [own, billed] {
            let hour = hours.entry((account, meter, start)).or_default();
            hour.is_moved = true;
        }
    }
}

fn hour_of(at: i64) -> i64 {
    at - at.rem_euclid(HOUR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_seeds_have_a_restore_and_always_the_same() {
        let size = Size {
            accounts: 2,
            days: 20,
        };
        let plans: Vec<Option<Plan>> = (0..200).map(|seed| draw(seed, &size)).collect();
        let again = (0..200).map(|seed| draw(seed, &size));
        assert!(plans.iter().copied().eq(again));
        let number = plans.iter().flatten().count();
        assert!((5..120).contains(&number), "{number}");
    }
}
