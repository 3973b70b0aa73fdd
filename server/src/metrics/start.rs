//! Shows every series from the start, with zero: an alert on an increase would miss the first one otherwise.

use ::metrics::{counter, gauge, histogram};

use super::{
    BUILD, CALLS_REFUSED, CLOCK_AHEAD, CLOCK_IN_DOUBT, COMMIT_INCREMENTS, COMMIT_SECONDS,
    DEADLINE_WARNINGS, FOLDED_REPORTS, INCREMENTS, INVOICE_DIFFERENCES, OPEN_INVOICE_DIFFERENCES,
    OTHER_DATABASES, QUEUE_LIMIT, REPORT_ARCHIVES, REPORTING, REPORTS, SQLITE_LOG,
    VERIFICATION_OVER, WAITING_COMPARISONS, WAITING_INCREMENTS, WEBHOOKS, connections, contract,
    sending, stripe, watched,
};
use crate::domain::invoice_comparison::InvoiceFinding;

const INCREMENT_OUTCOMES: [&str; 3] = ["counted", "duplicate", "refused"];
/// The names of transitions; see [`super::count_transition`].
pub(super) const TRANSITIONS: [&str; 16] = [
    "retried",
    "accepted",
    "rejected",
    "customer_deleted",
    "unknown",
    "resent",
    "looked_up",
    "uncharged",
    "not_billable",
    "too_late",
    "confirmed",
    "missing",
    "invoiced",
    "taken_off_invoice",
    "decided_retry",
    "written_off",
];
const WEBHOOK_OUTCOMES: [&str; 12] = [
    "stored",
    "replayed",
    "ignored",
    "no_secrets",
    "busy",
    "too_large",
    "no_body",
    "malformed_signature",
    "stale_signature",
    "wrong_signature",
    "unreadable",
    "not_stored",
];

pub(super) fn all_series() {
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1);
    for name in [
        WAITING_INCREMENTS,
        QUEUE_LIMIT,
        REPORTING,
        WAITING_COMPARISONS,
        SQLITE_LOG,
        CLOCK_IN_DOUBT,
        OTHER_DATABASES,
    ] {
        gauge!(name).set(0);
    }
    for clocks in ["machine_database", "database_stripe"] {
        gauge!(CLOCK_AHEAD, "clocks" => clocks).set(0);
    }
    for name in [VERIFICATION_OVER, FOLDED_REPORTS, REPORT_ARCHIVES] {
        counter!(name).increment(0);
    }
    // A histogram is there from its creation.
    let _ = (histogram!(COMMIT_INCREMENTS), histogram!(COMMIT_SECONDS));
    with_label(INCREMENTS, "outcome", &INCREMENT_OUTCOMES);
    with_label(REPORTS, "transition", &TRANSITIONS);
    with_label(WEBHOOKS, "outcome", &WEBHOOK_OUTCOMES);
    with_label(DEADLINE_WARNINGS, "deadline", &watched::DEADLINES);
    for reason in contract::reasons() {
        counter!(CALLS_REFUSED, "reason" => reason).increment(0);
    }
    for finding in InvoiceFinding::ALL {
        if finding != InvoiceFinding::Equal {
            counter!(INVOICE_DIFFERENCES, "finding" => finding.name()).increment(0);
            gauge!(OPEN_INVOICE_DIFFERENCES, "finding" => finding.name()).set(0);
        }
    }
    connections::start();
    sending::start();
    stripe::start();
    watched::start();
}

/// Shows a counter with each value of its label.
fn with_label(name: &'static str, label: &'static str, values: &[&'static str]) {
    for value in values {
        counter!(name, label => *value).increment(0);
    }
}
