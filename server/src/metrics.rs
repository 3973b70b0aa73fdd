//! Every metric of the service: only this module names a metric or a label.
//!
//! A label must not name an account, a customer or a report: each label has few values, listed here. Every series is
//! there from the start, with zero.

mod calls;
mod connections;
mod contract;
mod sending;
mod start;
mod stripe;
mod watched;

use std::{sync::OnceLock, time::Duration};

use ::metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

pub(crate) use self::{
    calls::{CANCELLED, Calls, MethodCalls, code_name},
    connections::{
        certificate_expires, connection_refused, revocation_lists_expire, tls_reload_failed,
    },
    sending::{PausedBy, accepted_at, sending_paused},
    stripe::{
        StripeOutcome, events_per_sec, refused_in_shadow, stripe_failure, stripe_request,
        stripe_unreadable,
    },
    watched::{
        DEADLINES, STATES, StateFigures, database_size, job_ran, lease_held, oldest_unreported,
        report_schedule_gap, reports_in_state, reports_near_deadline, unfinished_deletions,
        verification_difference, watched_at,
    },
};
use crate::domain::{Millis, SECOND_MS, invoice_comparison::InvoiceFinding, report::Transition};

/// Increments committed, by `outcome`: `counted`, `duplicate`, `refused`.
const INCREMENTS: &str = "usage_increments_total";
/// Increments that are queued or being committed.
const WAITING_INCREMENTS: &str = "usage_waiting_increments";
/// Calls answered with an error, by `reason`: the names of `usage.v1.ErrorReason`, such as `OVERLOADED`.
const CALLS_REFUSED: &str = "usage_calls_refused_total";
/// Increments that shared a commit.
const COMMIT_INCREMENTS: &str = "usage_commit_increments";
/// Duration of a group commit, with its retries.
const COMMIT_SECONDS: &str = "usage_commit_seconds";
/// Transitions of usage reports, by `transition`: see [`count_transition`].
const REPORTS: &str = "usage_reports_total";
/// Webhooks, by `outcome`: `stored`, `replayed`, `ignored`, or the reason of a rejection.
const WEBHOOKS: &str = "usage_webhooks_total";
/// Changes of a customer's daily total at Stripe to more than this service ever sent.
const VERIFICATION_OVER: &str = "usage_verification_over_total";
/// Billing periods whose invoices were found not to charge what was reported, by `finding`: the names of
/// [`InvoiceFinding`] but `equal`.
const INVOICE_DIFFERENCES: &str = "usage_invoice_differences_total";
/// Differences with invoices that are not acknowledged, by `finding`: the names of [`InvoiceFinding`] but `equal`.
const OPEN_INVOICE_DIFFERENCES: &str = "usage_invoice_differences_open";
/// Comparisons with invoices that are due and were not made.
const WAITING_COMPARISONS: &str = "usage_invoice_comparisons_waiting";
/// Reports near a deadline, counted at each check, by `deadline`: `draft_end`, `33_days`.
const DEADLINE_WARNINGS: &str = "usage_deadline_warnings_total";
/// Seconds by which a clock is ahead of another one, by `clocks`: `machine_database`, `database_stripe`.
const CLOCK_AHEAD: &str = "usage_clock_ahead_seconds";
/// 1 while clocks contradict each other, so that nothing is closed, sent, expired or deleted; otherwise 0.
const CLOCK_IN_DOUBT: &str = "usage_clock_in_doubt";

/// The size of SQLite's write-ahead log.
const SQLITE_LOG: &str = "usage_sqlite_log_bytes";
/// Other databases that sent to the same meters lately.
const OTHER_DATABASES: &str = "usage_other_databases";

/// Reports that were written to an archive and folded.
const FOLDED_REPORTS: &str = "usage_folded_reports_total";
/// Archives that were written.
const REPORT_ARCHIVES: &str = "usage_report_archives_total";

/// 1, with the `version` of the program.
const BUILD: &str = "usage_build_info";
/// The most increments that are queued or being committed at once.
const QUEUE_LIMIT: &str = "usage_waiting_increments_limit";
/// 1 if there is a Stripe key, so that usage is reported; else 0.
const REPORTING: &str = "usage_reporting_enabled";

/// Buckets in seconds, from one durable write to the longest request.
const SECONDS: [f64; 12] = [
    0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 20.0,
];
/// Buckets in increments, up to the largest commit.
const GROUP_SIZES: [f64; 8] = [1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0, 8_192.0];

/// Renders the metrics of this process in the text format of Prometheus.
#[derive(Clone)]
pub(crate) struct Exporter(PrometheusHandle);

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exporter")
    }
}

impl Exporter {
    /// The process's exporter. There is one for all services of a process because the recorder is global.
    ///
    /// # Errors
    /// Another recorder was installed before.
    pub(crate) fn of_process() -> Result<Self, String> {
        static HANDLE: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();
        HANDLE.get_or_init(install).clone().map(Self)
    }

    /// The metrics, with those of the process as they are now: processor, memory and files.
    pub(crate) fn render(&self) -> String {
        metrics_process::Collector::default().collect();
        self.0.render()
    }

    /// Moves recorded values into the histograms.
    pub(crate) fn run_upkeep(&self) {
        self.0.run_upkeep();
    }
}

fn install() -> Result<PrometheusHandle, String> {
    let message =
        |error: &dyn std::error::Error| format!("cannot install the metrics recorder: {error}");
    let matching = |name: &str| Matcher::Full(name.to_owned());
    let recorder = PrometheusBuilder::new()
        .set_buckets(&SECONDS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(matching(COMMIT_INCREMENTS), &GROUP_SIZES)
        })
        .map_err(|error| message(&error))?
        .build_recorder();
    let handle = recorder.handle();
    ::metrics::set_global_recorder(recorder).map_err(|error| message(&error))?;
    describe();
    start::all_series();
    Ok(handle)
}

fn describe() {
    describe_counter!(INCREMENTS, "Increments committed, by outcome");
    describe_gauge!(
        WAITING_INCREMENTS,
        Unit::Count,
        "Increments that are queued or being committed"
    );
    describe_counter!(CALLS_REFUSED, "Calls answered with an error, by reason");
    describe_histogram!(
        COMMIT_INCREMENTS,
        Unit::Count,
        "Increments that shared a commit"
    );
    describe_histogram!(COMMIT_SECONDS, Unit::Seconds, "Duration of a group commit");
    describe_counter!(REPORTS, "Transitions of usage reports, by name");
    describe_counter!(
        VERIFICATION_OVER,
        "Changes of a customer's daily total at Stripe to more than was sent"
    );
    describe_counter!(
        INVOICE_DIFFERENCES,
        "Billing periods whose invoices do not charge what was reported, by finding"
    );
    describe_gauge!(
        OPEN_INVOICE_DIFFERENCES,
        "Differences with invoices that are not acknowledged, by finding"
    );
    describe_gauge!(
        WAITING_COMPARISONS,
        "Comparisons with invoices that are due and were not made"
    );
    describe_counter!(WEBHOOKS, "Webhooks received, by outcome");
    describe_gauge!(
        CLOCK_AHEAD,
        Unit::Seconds,
        "How far a clock is ahead of another one"
    );
    describe_gauge!(
        CLOCK_IN_DOUBT,
        "Whether clocks contradict each other, so that nothing is closed or sent"
    );
    describe_counter!(
        DEADLINE_WARNINGS,
        "Usage reports near a deadline at each check, by deadline"
    );
    describe_gauge!(SQLITE_LOG, Unit::Bytes, "Size of SQLite's write-ahead log");
    describe_gauge!(
        OTHER_DATABASES,
        "Other databases that sent to the same meters lately"
    );
    stripe::describe();
    describe_service();
    describe_archives();
    calls::describe();
    sending::describe();
    watched::describe();
    connections::describe();
}

fn describe_service() {
    describe_gauge!(BUILD, "Version of the program: always 1");
    describe_gauge!(
        QUEUE_LIMIT,
        Unit::Count,
        "Increments that may be queued or being committed"
    );
    describe_gauge!(REPORTING, "Whether usage is reported to Stripe");
    metrics_process::Collector::default().describe();
}

fn describe_archives() {
    describe_counter!(
        FOLDED_REPORTS,
        "Usage reports that were written to an archive and folded"
    );
    describe_counter!(
        REPORT_ARCHIVES,
        "Archives of usage reports that were written"
    );
}

/// Counts an archive and its reports, which were folded.
pub(crate) fn reports_folded(reports: usize) {
    counter!(FOLDED_REPORTS).increment(u64::try_from(reports).unwrap_or(u64::MAX));
    counter!(REPORT_ARCHIVES).increment(1);
}

/// Records a group commit.
pub(crate) fn record_commit(increments: u64, took: Duration) {
    histogram!(COMMIT_INCREMENTS).record(u32::try_from(increments).unwrap_or(u32::MAX));
    histogram!(COMMIT_SECONDS).record(took);
}

/// Counts committed increments of one outcome.
pub(crate) fn count_increments(outcome: &'static str, number: u64) {
    counter!(INCREMENTS, "outcome" => outcome).increment(number);
}

/// Counts a call answered with an error.
pub(crate) fn call_refused(reason: &'static str) {
    counter!(CALLS_REFUSED, "reason" => reason).increment(1);
}

/// Counts what happened to a usage report at Stripe or by a decision; `None` is an attempt that will be retried.
pub(crate) fn count_transition(transition: Option<&Transition>) {
    if let Some(name) = transition_name(transition) {
        counter!(REPORTS, "transition" => name).increment(1);
    }
}

/// Counts the same transition of several reports.
pub(crate) fn count_transitions(transition: &Transition, reports: usize) {
    if let Some(name) = transition_name(Some(transition)) {
        let number = u64::try_from(reports).unwrap_or(u64::MAX);
        counter!(REPORTS, "transition" => name).increment(number);
    }
}

fn transition_name(transition: Option<&Transition>) -> Option<&'static str> {
    Some(match transition {
        None => "retried",
        // Part of a transaction that may still fail.
        Some(
            Transition::Close(_)
            | Transition::Relink(_)
            | Transition::Send
            | Transition::DecideAgain,
        ) => return None,
        Some(Transition::Accept) => "accepted",
        Some(Transition::Reject) => "rejected",
        Some(Transition::MarkCustomerDeleted) => "customer_deleted",
        Some(Transition::MarkUnknown) => "unknown",
        Some(Transition::SendUnderNewIdentifier) => "resent",
        Some(Transition::SendAfterLookUp) => "looked_up",
        Some(Transition::MarkUncharged) => "uncharged",
        Some(Transition::MarkNotBillable) => "not_billable",
        Some(Transition::MarkTooLate) => "too_late",
        Some(Transition::Confirm) => "confirmed",
        Some(Transition::MarkMissing) => "missing",
        Some(Transition::Invoice) => "invoiced",
        Some(Transition::TakeOffInvoice) => "taken_off_invoice",
        Some(Transition::Retry) => "decided_retry",
        Some(Transition::WriteOff) => "written_off",
    })
}

/// Counts a daily total at Stripe that is more than was sent.
pub(crate) fn verification_over() {
    counter!(VERIFICATION_OVER).increment(1);
}

/// Counts a billing period whose invoices do not charge what was reported.
pub(crate) fn invoice_difference(finding: InvoiceFinding) {
    counter!(INVOICE_DIFFERENCES, "finding" => finding.name()).increment(1);
}

/// Records how many differences of a finding are open.
pub(crate) fn open_invoice_differences(finding: InvoiceFinding, number: usize) {
    gauge!(OPEN_INVOICE_DIFFERENCES, "finding" => finding.name()).set(whole(number));
}

/// Records how many comparisons with invoices wait.
pub(crate) fn waiting_comparisons(number: usize) {
    gauge!(WAITING_COMPARISONS).set(whole(number));
}

fn whole(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// Records the size of SQLite's write-ahead log in bytes, up to 4 GiB.
pub(crate) fn sqlite_log(bytes: u64) {
    gauge!(SQLITE_LOG).set(f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)));
}

/// Records how many increments are queued or being committed.
pub(crate) fn waiting_increments(count: usize) {
    gauge!(WAITING_INCREMENTS).set(whole(count));
}

/// Counts reports near a deadline.
pub(crate) fn near_deadline(deadline: &'static str, reports: u64) {
    counter!(DEADLINE_WARNINGS, "deadline" => deadline).increment(reports);
}

/// Records how far the clock of this machine is ahead of the database's, and the database's of Stripe's, in milliseconds.
pub(crate) fn clocks(machine: Millis, of_stripe: Option<Millis>, is_in_doubt: bool) {
    gauge!(CLOCK_AHEAD, "clocks" => "machine_database").set(seconds(machine));
    if let Some(ahead) = of_stripe {
        gauge!(CLOCK_AHEAD, "clocks" => "database_stripe").set(seconds(ahead));
    }
    gauge!(CLOCK_IN_DOUBT).set(f64::from(u8::from(is_in_doubt)));
}

/// Whole seconds of a time in milliseconds.
fn seconds(time: Millis) -> f64 {
    #[allow(
        clippy::as_conversions,
        clippy::cast_precision_loss,
        reason = "a metric is a float; times of the next million years are exact"
    )]
    let seconds = time.div_euclid(SECOND_MS) as f64;
    seconds
}

/// Records the settings that metrics are compared with.
pub(crate) fn settings(queue_increments: usize, reports: bool) {
    gauge!(QUEUE_LIMIT).set(whole(queue_increments));
    gauge!(REPORTING).set(u8::from(reports));
}

/// Records how many other databases sent to the same meters lately.
pub(crate) fn other_databases(number: usize) {
    gauge!(OTHER_DATABASES).set(whole(number));
}

/// Counts a webhook.
pub(crate) fn webhook(outcome: &'static str) {
    counter!(WEBHOOKS, "outcome" => outcome).increment(1);
}
