//! Checks the clocks of this machine, the database and Stripe against each other, and when the schedule last ran.

use super::finding::{Finding, cause_of};
use crate::{
    clock::Clock,
    domain::{
        MINUTE_MS, Millis, SECOND_MS,
        clock_check::{ahead_of, direction, is_ahead},
        period::rfc3339,
    },
    store::{Store, doctor::LastRun},
    workers::{schedule::Schedule, scheduler::REPORT_JOB},
};

const SCHEDULE: &str = "schedule";
const STORED: &str = "stored times";
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
    now: Millis,
    findings: &mut Vec<Finding>,
) {
    let before = clock.machine_now();
    let theirs = store.database_clock().await;
    let after = clock.machine_now();
    findings.push(match theirs {
        Ok(theirs) => check_skew(
            "database clock",
            "the database's",
            ahead_of(before, after, theirs, 1),
        ),
        Err(error) => Finding::unchecked("database clock", &cause_of(&error)),
    });
    findings.push(match store.times_ahead(now).await {
        Ok(tables) if tables.is_empty() => Finding::ok(STORED, "no stored time is in the future"),
        Ok(tables) => Finding::bad(
            STORED,
            format!(
                "a clock was ahead: times in the future are stored in {}",
                tables.join(", ")
            ),
            "nothing: what they would delay is treated as due; check the clocks of all machines",
        ),
        Err(error) => Finding::unchecked(STORED, &cause_of(&error)),
    });
    match store.last_scheduled_run(REPORT_JOB, now).await {
        Ok(last) => findings.extend(check_schedule(schedule, &last, now)),
        Err(error) => findings.push(Finding::unchecked(SCHEDULE, &cause_of(&error))),
    }
}

/// `whose` is such as `Stripe's`.
pub(super) fn check_skew(check: &'static str, whose: &str, skew: Millis) -> Finding {
    let distance = skew.saturating_abs();
    let fact = format!("the clock of this machine is {} {whose}", direction(skew));
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
        Some(from) if is_ahead(from, now) => Finding::bad(
            SCHEDULE,
            format!(
                "the last run is recorded in the future, at {}",
                rfc3339(from)
            ),
            "check the clocks of all machines; a running server begins a run at once",
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
    use super::*;
    use crate::doctor::finding::Severity;

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
        assert_eq!(severity(Some(2 * HOUR), HOUR), Severity::Bad);
    }
}
