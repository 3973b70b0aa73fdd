//! What every replica reads from the database each minute and shows: reports that have not come to their end, when jobs
//! last ran, and the size of the database.

use ::metrics::{Unit, describe_gauge, gauge};

use super::{OTHER_DATABASES, seconds, stripe};
use crate::domain::{Millis, report::State, verification::Finding};

/// Reports that have not come to their end, by `state`: every state but `confirmed`, `invoiced`, `not_billable` and
/// `written_off`. A million are counted of each state.
const REPORTS: &str = "usage_reports";
/// The sum of their quantities, by `state`.
const UNITS: &str = "usage_report_units";
/// Of the longest waiting one: seconds since it was counted if it is open, else since it was closed, by `state`; 0 if there is
/// none.
const OLDEST: &str = "usage_oldest_report_seconds";
/// Seconds since the oldest increment was counted, at most, whose report is on its way to Stripe; 0 if there is none. Those
/// that wait for a customer, a subscription or a decision are not.
const UNREPORTED: &str = "usage_oldest_unreported_seconds";
/// When a job last ran on any replica, by `task`, such as `report schedule`; 0 if it never has. Prometheus itself has a
/// label `job`.
const JOB_RAN: &str = "usage_job_last_run_timestamp_seconds";
/// The longest time between two runs of the report schedule around now, at most a month.
const SCHEDULE_GAP: &str = "usage_report_schedule_gap_seconds";
/// Reports that will soon be too late for their invoice, by `deadline`: `draft_end`, `33_days`.
const NEAR_DEADLINE: &str = "usage_reports_near_deadline";
/// Units by which Stripe's daily totals differ from what was sent, by `finding`: `behind`, `lacking`, `over`.
const DIFFERENCES: &str = "usage_verification_difference_units";
/// Deletions of accounts that were begun and have not ended.
const UNFINISHED_DELETIONS: &str = "usage_unfinished_deletions";
/// When this replica last read all of these.
const WATCHED: &str = "usage_watch_last_success_timestamp_seconds";
/// The size of the database.
const DATABASE_BYTES: &str = "usage_database_bytes";
/// 1 while this replica has the lease of a job, by `task`.
const LEASE_HELD: &str = "usage_lease_held";

/// The states of reports that have not come to their end.
pub(crate) const STATES: [State; 11] = [
    State::Open,
    State::Closed,
    State::Sending,
    State::Accepted,
    State::Missing,
    State::Rejected,
    State::CustomerDeleted,
    State::Unknown,
    State::NoCustomer,
    State::Uncharged,
    State::TooLate,
];

/// The jobs that record when they ran.
const RECORDED_TASKS: [&str; 7] = [
    "cleanup",
    "period end",
    "report folding",
    "report schedule",
    "subscriptions poll",
    "uncompared usage",
    "verification",
];
/// The job whose holder alone knows the rate of meter events and other databases.
const SENDER: &str = "sender";

/// The deadlines that reports are near to.
pub(crate) const DEADLINES: [&str; 2] = ["draft_end", "33_days"];

/// The reports of one state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct StateFigures {
    pub(crate) state: State,
    /// At most a million.
    pub(crate) reports: u32,
    /// As precise as a float, which is all that a metric can show.
    pub(crate) units: f64,
    /// How long the oldest one waits.
    pub(crate) oldest_ms: Millis,
}

pub(super) fn describe() {
    describe_gauge!(
        REPORTS,
        Unit::Count,
        "Reports that have not come to their end, by state"
    );
    describe_gauge!(
        UNITS,
        Unit::Count,
        "Units of reports that have not come to their end, by state"
    );
    describe_gauge!(
        OLDEST,
        Unit::Seconds,
        "How long the oldest report of a state waits"
    );
    describe_gauge!(
        UNREPORTED,
        Unit::Seconds,
        "Age of the oldest increment that is on its way to Stripe"
    );
    describe_gauge!(JOB_RAN, Unit::Seconds, "When a job last ran on any replica");
    describe_gauge!(
        SCHEDULE_GAP,
        Unit::Seconds,
        "The longest time between two scheduled report runs"
    );
    describe_gauge!(
        NEAR_DEADLINE,
        Unit::Count,
        "Reports that will soon be too late for their invoice, by deadline"
    );
    describe_gauge!(
        DIFFERENCES,
        Unit::Count,
        "Units by which Stripe's daily totals differ from what was sent, by finding"
    );
    describe_gauge!(
        UNFINISHED_DELETIONS,
        Unit::Count,
        "Deletions of accounts that were begun and have not ended"
    );
    describe_gauge!(
        WATCHED,
        Unit::Seconds,
        "When this replica last read what it shows of the database"
    );
    describe_gauge!(DATABASE_BYTES, Unit::Bytes, "Size of the database");
    describe_gauge!(LEASE_HELD, "Whether this replica has the lease of a job");
}

/// Shows zero where nothing was read yet.
pub(super) fn start() {
    for state in STATES {
        gauge!(REPORTS, "state" => state.name()).set(0);
        gauge!(UNITS, "state" => state.name()).set(0);
        gauge!(OLDEST, "state" => state.name()).set(0);
    }
    gauge!(UNREPORTED).set(0);
    gauge!(SCHEDULE_GAP).set(0);
    gauge!(DATABASE_BYTES).set(0);
    gauge!(UNFINISHED_DELETIONS).set(0);
    gauge!(WATCHED).set(0);
    for task in RECORDED_TASKS {
        gauge!(JOB_RAN, "task" => task).set(0);
    }
    for deadline in DEADLINES {
        gauge!(NEAR_DEADLINE, "deadline" => deadline).set(0);
    }
    for finding in Finding::ALL {
        gauge!(DIFFERENCES, "finding" => finding.name()).set(0);
    }
}

/// Shows the reports of one state.
pub(crate) fn reports_in_state(figures: &StateFigures) {
    let state = figures.state.name();
    gauge!(REPORTS, "state" => state).set(figures.reports);
    gauge!(UNITS, "state" => state).set(figures.units);
    gauge!(OLDEST, "state" => state).set(seconds(figures.oldest_ms));
}

/// Shows the age of the oldest increment that is on its way to Stripe.
pub(crate) fn oldest_unreported(age: Millis) {
    gauge!(UNREPORTED).set(seconds(age));
}

/// Shows when a job last ran; zero means never.
pub(crate) fn job_ran(job: &str, at: Millis) {
    gauge!(JOB_RAN, "task" => job.to_owned()).set(seconds(at));
}

/// Shows the longest time between two scheduled runs.
pub(crate) fn report_schedule_gap(gap: Millis) {
    gauge!(SCHEDULE_GAP).set(seconds(gap));
}

/// Shows how many reports are near a deadline.
pub(crate) fn reports_near_deadline(deadline: &'static str, reports: u64) {
    let reports = u32::try_from(reports).unwrap_or(u32::MAX);
    gauge!(NEAR_DEADLINE, "deadline" => deadline).set(reports);
}

/// Shows by how many units daily totals differ.
pub(crate) fn verification_difference(finding: Finding, units: f64) {
    gauge!(DIFFERENCES, "finding" => finding.name()).set(units);
}

/// Shows how many deletions of accounts have not ended.
pub(crate) fn unfinished_deletions(deletions: u64) {
    gauge!(UNFINISHED_DELETIONS).set(u32::try_from(deletions).unwrap_or(u32::MAX));
}

/// Shows when all of these were read.
pub(crate) fn watched_at(at: Millis) {
    gauge!(WATCHED).set(seconds(at));
}

/// Shows the size of the database.
pub(crate) fn database_size(bytes: u64) {
    #[allow(
        clippy::as_conversions,
        clippy::cast_precision_loss,
        reason = "a metric is a float; sizes below 2^53 are exact"
    )]
    gauge!(DATABASE_BYTES).set(bytes as f64);
}

/// Shows whether this replica has the lease of a job.
pub(crate) fn lease_held(job: &'static str, is_held: bool) {
    gauge!(LEASE_HELD, "task" => job).set(u8::from(is_held));
    if job == SENDER && !is_held {
        // Otherwise the last figures would stay after another replica has taken over.
        stripe::events_per_sec(0);
        gauge!(OTHER_DATABASES).set(0);
    }
}
