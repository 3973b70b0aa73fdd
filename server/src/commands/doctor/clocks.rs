//! Checks the clocks of this machine, the database and Stripe against each other, and when the schedule last ran.

use super::{Finding, cause_of};
use crate::{
    clock::Clock,
    domain::{MINUTE_MS, Millis, SECOND_MS, period::rfc3339},
    store::{Store, doctor::LastRun},
    workers::{schedule::Schedule, scheduler::REPORT_JOB},
};

const SCHEDULE: &str = "schedule";
/// From this skew on, usage near a boundary may be put on the wrong side.
const SKEW_WARN_MS: Millis = 2 * SECOND_MS;
/// Far below five minutes: periods are closed that long after their end, and Stripe accepts events that far ahead.
const SKEW_BAD_MS: Millis = MINUTE_MS;
/// How late a run may start before it is overdue.
const OVERDUE_MS: Millis = 5 * MINUTE_MS;

pub(super) async fn check(
    store: &Store,
    schedule: &Schedule,
    clock: &Clock,
    findings: &mut Vec<Finding>,
) {
    let before = clock.now();
    let theirs = store.database_clock().await;
    let after = clock.now();
    findings.push(match theirs {
        Ok(theirs) => check_skew(
            "database clock",
            "the database's",
            skew(before, after, theirs, 1),
        ),
        Err(error) => Finding::unchecked("database clock", &cause_of(&error)),
    });
    match store.last_scheduled_run(REPORT_JOB, clock.now()).await {
        Ok(last) => findings.extend(check_schedule(schedule, &last, clock.now())),
        Err(error) => findings.push(Finding::unchecked(SCHEDULE, &cause_of(&error))),
    }
}

/// The smallest possible skew of this machine's clock against another one, which was read between two local times and
/// has a resolution of `step`. Positive means ahead.
pub(super) fn skew(before: Millis, after: Millis, theirs: Millis, step: Millis) -> Millis {
    let lowest = before.saturating_sub(theirs).saturating_sub(step);
    let highest = after.saturating_sub(theirs);
    if lowest > 0 {
        lowest
    } else if highest < 0 {
        highest
    } else {
        0
    }
}

/// `whose` is such as `Stripe's`.
pub(super) fn check_skew(check: &'static str, whose: &str, skew: Millis) -> Finding {
    let distance = skew.saturating_abs();
    let direction = if skew < 0 { "behind" } else { "ahead of" };
    let fact = format!(
        "the clock of this machine is {}.{:03} s {direction} {whose}",
        distance.div_euclid(SECOND_MS),
        distance.rem_euclid(SECOND_MS)
    );
    let advice =
        "synchronize the clock of every machine that runs the service, for example with chrony";
    if distance >= SKEW_BAD_MS {
        Finding::bad(check, fact, advice)
    } else if distance >= SKEW_WARN_MS {
        Finding::warn(check, fact, advice)
    } else {
        Finding::ok(
            check,
            format!("the clock of this machine agrees with {whose}"),
        )
    }
}

fn check_schedule(schedule: &Schedule, last: &LastRun, now: Millis) -> Vec<Finding> {
    let next = |after| {
        schedule
            .next_after(after)
            .map_or_else(|| "never".to_owned(), rfc3339)
    };
    let run = match last.started_at {
        Some(at) => format!("the last scheduled run started at {}", rfc3339(at)),
        None => "no scheduled run has started yet".to_owned(),
    };
    let mut findings = vec![match last.due_after {
        None => Finding::warn(
            SCHEDULE,
            "never run: no server has run the schedule",
            "start `usage-server serve` with STRIPE_SECRET_KEY",
        ),
        Some(from) if schedule.is_due(from, now.saturating_sub(OVERDUE_MS)) => Finding::bad(
            SCHEDULE,
            format!("overdue since {}: {run}", next(from)),
            "check that a server runs with STRIPE_SECRET_KEY, and read its log",
        ),
        Some(from) => Finding::ok(
            SCHEDULE,
            format!("{run}, the next is due at {}", next(from)),
        ),
    }];
    if last.unfinished > 0 {
        findings.push(Finding::bad(
            SCHEDULE,
            format!(
                "{} runs are unfinished and make no progress",
                last.unfinished
            ),
            "a running server continues them: check that one runs, and read its log",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::commands::doctor::Severity;

    #[test]
    fn a_clock_read_in_whole_seconds_does_not_look_skewed() {
        // The other clock showed 5.999 s, answered 5 s, and the answer arrived at 6.1 s.
        assert_eq!(skew(5_950, 6_100, 5_000, 1_000), 0);
        assert_eq!(skew(10_000, 10_100, 5_000, 1_000), 4_000);
        assert_eq!(skew(1_000, 1_100, 5_000, 1_000), -3_900);
    }

    proptest! {
        #[test]
        fn skew_is_never_overstated(true_skew in -100_000..100_000_i64, before in 0..1_000_000_i64, read_after in 0..500_i64, trip in 500..2_000_i64) {
            let theirs = before + read_after - true_skew;
            let answered = theirs.div_euclid(1_000) * 1_000;
            let found = skew(before, before + trip, answered, 1_000);
            prop_assert!(found.abs() <= true_skew.abs());
            prop_assert!(found == 0 || found.signum() == true_skew.signum());
        }
    }

    #[test]
    fn a_minute_distance_is_bad() {
        let severity = |skew| check_skew("c", "Stripe's", skew).severity;
        assert_eq!(severity(0), Severity::Ok);
        assert_eq!(severity(-1_999), Severity::Ok);
        assert_eq!(severity(2_000), Severity::Warn);
        assert_eq!(severity(-60_000), Severity::Bad);
        assert!(
            check_skew("c", "Stripe's", -60_000)
                .fact
                .contains("60.000 s behind Stripe's")
        );
    }

    #[test]
    fn a_schedule_is_ok_overdue_or_never_run() {
        const HOUR: Millis = 60 * MINUTE_MS;
        let schedule = Schedule::parse("0 * * * *", "UTC").unwrap();
        let severity = |due_after, now| {
            let last = LastRun {
                due_after,
                started_at: None,
                unfinished: 0,
            };
            check_schedule(&schedule, &last, now)[0].severity
        };
        assert_eq!(severity(None, 0), Severity::Warn);
        assert_eq!(severity(Some(HOUR), 2 * HOUR + MINUTE_MS), Severity::Ok);
        assert_eq!(severity(Some(HOUR), 2 * HOUR + OVERDUE_MS), Severity::Bad);
    }
}
