//! Requests to Stripe.

use std::time::Duration;

use ::metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

/// Duration of requests to Stripe, by `call`: see [`CALLS`].
const SECONDS: &str = "usage_stripe_request_seconds";
/// Requests to Stripe, by `call` and by `outcome`: see [`StripeOutcome`].
const REQUESTS: &str = "usage_stripe_requests_total";
/// Failed requests to Stripe, by `kind`: see [`FAILURE_KINDS`].
const FAILURES: &str = "usage_stripe_failures_total";
/// Objects in Stripe's lists that cannot be read and were skipped, by `object`: see [`OBJECTS`].
const UNREADABLE: &str = "usage_stripe_unreadable_objects_total";
/// Requests that would have changed something at Stripe and were not sent, because `REPORTING` is `shadow`.
const REFUSED_IN_SHADOW: &str = "usage_stripe_refused_in_shadow_total";
/// The highest rate of meter events to Stripe at present.
const EVENTS_PER_SEC: &str = "usage_stripe_events_per_second_limit";

const CALLS: [&str; 9] = [
    "meter_event",
    "event_summaries",
    "meters",
    "subscriptions",
    "subscription_change",
    "invoices",
    "customers",
    "prices",
    "products",
];
const FAILURE_KINDS: [&str; 8] = [
    "not_sent",
    "no_answer",
    "unreadable",
    "denied",
    "no_meter",
    "no_customer",
    "key_reused",
    "refused",
];
const OBJECTS: [&str; 6] = [
    "subscription",
    "invoice",
    "invoice line",
    "price",
    "meter",
    "event summary",
];

/// What became of a request to Stripe.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StripeOutcome {
    Ok,
    /// Stripe answered an error that a repetition does not change.
    Error,
    /// Stripe did not answer, or answered that it is busy, fails or gets too many requests.
    NoAnswer,
}

impl StripeOutcome {
    const ALL: [Self; 3] = [Self::Ok, Self::Error, Self::NoAnswer];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::NoAnswer => "no_answer",
        }
    }
}

pub(super) fn describe() {
    describe_histogram!(
        SECONDS,
        Unit::Seconds,
        "Duration of requests to Stripe, by call"
    );
    describe_counter!(REQUESTS, "Requests to Stripe, by call and outcome");
    describe_counter!(FAILURES, "Failed requests to Stripe, by kind");
    describe_counter!(
        UNREADABLE,
        "Objects in Stripe's lists that cannot be read and were skipped, by object"
    );
    describe_counter!(
        REFUSED_IN_SHADOW,
        "Requests that would have changed something at Stripe in shadow mode and were not sent"
    );
    describe_gauge!(
        EVENTS_PER_SEC,
        "Highest rate of meter events to Stripe at present"
    );
}

pub(super) fn start() {
    for call in CALLS {
        // A histogram is there from its creation.
        let _ = histogram!(SECONDS, "call" => call);
        for outcome in StripeOutcome::ALL {
            counter!(REQUESTS, "call" => call, "outcome" => outcome.name()).increment(0);
        }
    }
    for kind in FAILURE_KINDS {
        counter!(FAILURES, "kind" => kind).increment(0);
    }
    for object in OBJECTS {
        counter!(UNREADABLE, "object" => object).increment(0);
    }
    counter!(REFUSED_IN_SHADOW).increment(0);
    events_per_sec(0);
}

/// Records a request to Stripe.
pub(crate) fn stripe_request(call: &'static str, outcome: StripeOutcome, took: Duration) {
    histogram!(SECONDS, "call" => call).record(took);
    counter!(REQUESTS, "call" => call, "outcome" => outcome.name()).increment(1);
}

/// Counts a failed request to Stripe.
pub(crate) fn stripe_failure(kind: &'static str) {
    counter!(FAILURES, "kind" => kind).increment(1);
}

/// Counts an object in one of Stripe's lists that cannot be read.
pub(crate) fn stripe_unreadable(object: &'static str) {
    counter!(UNREADABLE, "object" => object).increment(1);
}

/// Counts a request that would have changed something at Stripe in shadow mode.
pub(crate) fn refused_in_shadow() {
    counter!(REFUSED_IN_SHADOW).increment(1);
}

/// Records the highest rate of meter events at present; 0 where none are sent.
pub(crate) fn events_per_sec(limit: u32) {
    gauge!(EVENTS_PER_SEC).set(f64::from(limit));
}
