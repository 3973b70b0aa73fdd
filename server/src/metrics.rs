//! What is counted and timed of the service itself, under which names: the only place that names a metric.
//!
//! Nothing about a single account, customer or report may be a label: each label takes few values, listed here.

use std::{convert::Infallible, sync::OnceLock, time::Duration};

use ::metrics::{Unit, counter, describe_counter, describe_histogram, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::domain::report::Transition;

/// Increments that were committed, by `outcome`: counted, duplicate, refused.
const INCREMENTS: &str = "usage_increments_total";
/// Calls answered with an error, by `reason`: those of the contract, such as `OVERLOADED`.
const CALLS_REFUSED: &str = "usage_calls_refused_total";
/// How many increments shared a commit.
const COMMIT_INCREMENTS: &str = "usage_commit_increments";
/// How long a group commit took, tries included.
const COMMIT_SECONDS: &str = "usage_commit_seconds";
/// What happened to usage reports, by `event`: accepted, retried, rejected, parked, unknown, missed and so on.
const REPORTS: &str = "usage_reports_total";
/// How long Stripe took to answer, by `call`.
const STRIPE_SECONDS: &str = "usage_stripe_request_seconds";
/// Requests that Stripe did not grant, by `kind`, such as `denied`.
const STRIPE_FAILURES: &str = "usage_stripe_failures_total";
/// Webhooks, by `outcome`: stored, replayed, ignored, or why not.
const WEBHOOKS: &str = "usage_webhooks_total";
/// Customers' days whose total at Stripe was found to be more than we ever sent, once for each change.
const VERIFICATION_OVER: &str = "usage_verification_over_total";
/// Reports found near a deadline, at each look, by `deadline`: `draft_end`, `33_days`.
const DEADLINE_WARNINGS: &str = "usage_deadline_warnings_total";

/// Seconds, from one durable write to the longest request.
const SECONDS: [f64; 12] = [
    0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 20.0,
];
/// Increments in a commit, up to what one takes.
const GROUP_SIZES: [f64; 8] = [1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0, 8_192.0];
/// How often what was recorded is folded into the histograms, whether or not anybody asks.
const UPKEEP: Duration = Duration::from_secs(5);

/// Shows everything that was counted in this process, in the text format of Prometheus.
#[derive(Clone)]
pub(crate) struct Exporter(PrometheusHandle);

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exporter")
    }
}

impl Exporter {
    /// The one of this process: what counts does not know who shows it, so there is one for all.
    ///
    /// # Errors
    /// Another recorder was installed before, in words.
    pub(crate) fn of_process() -> Result<Self, String> {
        static HANDLE: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();
        HANDLE.get_or_init(install).clone().map(Self)
    }

    pub(crate) fn render(&self) -> String {
        self.0.render()
    }

    /// Keeps what is recorded from piling up while nobody asks.
    pub(crate) async fn keep_up(self) -> Infallible {
        let mut beat = tokio::time::interval(UPKEEP);
        loop {
            beat.tick().await;
            self.0.run_upkeep();
        }
    }
}

fn install() -> Result<PrometheusHandle, String> {
    let in_words = |error: &dyn std::error::Error| format!("metrics cannot be kept: {error}");
    let matching = |name: &str| Matcher::Full(name.to_owned());
    let recorder = PrometheusBuilder::new()
        .set_buckets(&SECONDS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(matching(COMMIT_INCREMENTS), &GROUP_SIZES)
        })
        .map_err(|error| in_words(&error))?
        .build_recorder();
    let handle = recorder.handle();
    ::metrics::set_global_recorder(recorder).map_err(|error| in_words(&error))?;
    describe();
    Ok(handle)
}

fn describe() {
    describe_counter!(INCREMENTS, "Increments committed, by outcome");
    describe_counter!(CALLS_REFUSED, "Calls answered with an error, by reason");
    describe_histogram!(
        COMMIT_INCREMENTS,
        Unit::Count,
        "Increments that shared a commit"
    );
    describe_histogram!(
        COMMIT_SECONDS,
        Unit::Seconds,
        "Time that a group commit took"
    );
    describe_counter!(REPORTS, "What happened to usage reports, by event");
    describe_histogram!(
        STRIPE_SECONDS,
        Unit::Seconds,
        "Time that Stripe took to answer, by call"
    );
    describe_counter!(
        STRIPE_FAILURES,
        "Requests that Stripe did not grant, by kind"
    );
    describe_counter!(
        VERIFICATION_OVER,
        "Changes of a customer's day to more at Stripe than was sent"
    );
    describe_counter!(WEBHOOKS, "Webhooks received, by outcome");
    describe_counter!(
        DEADLINE_WARNINGS,
        "Usage reports found near a deadline, by deadline"
    );
}

/// A group of increments was committed.
pub(crate) fn committed(increments: u64, took: Duration) {
    histogram!(COMMIT_INCREMENTS).record(u32::try_from(increments).unwrap_or(u32::MAX));
    histogram!(COMMIT_SECONDS).record(took);
}

/// Increments of one outcome were committed.
pub(crate) fn increments(outcome: &'static str, number: u64) {
    counter!(INCREMENTS, "outcome" => outcome).increment(number);
}

/// A call was answered with an error.
pub(crate) fn call_refused(reason: &'static str) {
    counter!(CALLS_REFUSED, "reason" => reason).increment(1);
}

/// Something happened to a usage report; nothing final where there is no event.
pub(crate) fn report(event: Option<&Transition>) {
    let name = match event {
        None => "retried",
        Some(Transition::Close(_)) => "closed",
        Some(Transition::Relink(_)) => "relinked",
        Some(Transition::Send) => "sent",
        Some(Transition::Accept) => "accepted",
        Some(Transition::Reject) => "rejected",
        Some(Transition::MarkCustomerDeleted) => "customer_deleted",
        Some(Transition::MarkUnknown) => "unknown",
        Some(Transition::SendUnderNewIdentifier) => "sent_anew",
        Some(Transition::MarkTooLate) => "too_late",
        Some(Transition::Confirm) => "confirmed",
        Some(Transition::MarkMissing) => "missing",
        Some(Transition::Retry) => "decided_retry",
        Some(Transition::WriteOff) => "written_off",
    };
    counter!(REPORTS, "event" => name).increment(1);
}

/// Stripe answered a call, or did not in time.
pub(crate) fn stripe_request(call: &'static str, took: Duration) {
    histogram!(STRIPE_SECONDS, "call" => call).record(took);
}

/// Stripe did not grant a request.
pub(crate) fn stripe_failure(kind: &'static str) {
    counter!(STRIPE_FAILURES, "kind" => kind).increment(1);
}

/// Stripe holds more of a customer's day than we ever sent.
pub(crate) fn over() {
    counter!(VERIFICATION_OVER).increment(1);
}

/// So many reports were found near a deadline.
pub(crate) fn near_deadline(deadline: &'static str, reports: i64) {
    counter!(DEADLINE_WARNINGS, "deadline" => deadline)
        .increment(u64::try_from(reports).unwrap_or(0));
}

/// A webhook came.
pub(crate) fn webhook(outcome: &'static str) {
    counter!(WEBHOOKS, "outcome" => outcome).increment(1);
}
