//! Connections that are refused, and the files of TLS.

use ::metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

/// Connections that were refused before they could be used, by `reason`: see [`REFUSALS`].
const REFUSED: &str = "usage_connections_refused_total";
/// When the service's certificate expires, in seconds of Unix time; 0 without TLS.
const CERTIFICATE_EXPIRES: &str = "usage_tls_certificate_expires_timestamp_seconds";
/// When the first list of revoked certificates is out of date, in seconds of Unix time; 0 without lists.
const LISTS_EXPIRE: &str = "usage_tls_revocation_list_expires_timestamp_seconds";
/// New files of TLS that could not be used, counted at each attempt.
const RELOAD_FAILURES: &str = "usage_tls_reload_failures_total";

const REFUSALS: [&str; 6] = [
    "needs_tls",
    "speaks_no_tls",
    "handshake_failed",
    "handshake_timed_out",
    "certificate_refused",
    "too_many_of_address",
];

pub(super) fn describe() {
    describe_counter!(
        REFUSED,
        "Connections that were refused before they could be used, by reason"
    );
    describe_gauge!(
        CERTIFICATE_EXPIRES,
        Unit::Seconds,
        "When the certificate of the service expires, in Unix time"
    );
    describe_gauge!(
        LISTS_EXPIRE,
        Unit::Seconds,
        "When the first list of revoked certificates is out of date, in Unix time"
    );
    describe_counter!(
        RELOAD_FAILURES,
        "Attempts to use new files of TLS that failed"
    );
}

pub(super) fn start() {
    for reason in REFUSALS {
        counter!(REFUSED, "reason" => reason).increment(0);
    }
    gauge!(CERTIFICATE_EXPIRES).set(0);
    gauge!(LISTS_EXPIRE).set(0);
    counter!(RELOAD_FAILURES).increment(0);
}

/// Counts a connection that was refused.
pub(crate) fn connection_refused(reason: &'static str) {
    counter!(REFUSED, "reason" => reason).increment(1);
}

/// Records when the service's certificate expires, in seconds of Unix time.
pub(crate) fn certificate_expires(at: i64) {
    gauge!(CERTIFICATE_EXPIRES).set(unix_time(at));
}

/// Records when the first list of revoked certificates is out of date, in seconds of Unix time; absent without lists.
pub(crate) fn revocation_lists_expire(at: Option<i64>) {
    gauge!(LISTS_EXPIRE).set(at.map_or(0.0, unix_time));
}

/// Counts new files of TLS that cannot be used.
pub(crate) fn tls_reload_failed() {
    counter!(RELOAD_FAILURES).increment(1);
}

/// A time up to the year 2106.
fn unix_time(at: i64) -> f64 {
    f64::from(u32::try_from(at.max(0)).unwrap_or(u32::MAX))
}
