//! Checks the addresses that the service listens on, and its certificate.

use super::finding::Finding;
use crate::{
    clock::Clock,
    config::{ListenConfig, TlsConfig},
    domain::SECOND_MS,
    tls,
};

const WEBHOOKS: &str = "webhook address";
const CERTIFICATE: &str = "certificate";
/// From how many days before its end a certificate is told of.
const EXPIRES_SOON_DAYS: i64 = 21;
const DAY_SECS: i64 = 86_400;
const HOUR_SECS: i64 = 3_600;
const LISTS: &str = "revocation list";
/// How long before its end a list of revoked certificates is told of. Authorities renew theirs daily or weekly, shortly before.
const OUT_OF_DATE_SOON_SECS: i64 = 2 * HOUR_SECS;

/// Whether other machines reach more than they need to, and whether they can.
pub(super) fn check(addresses: &ListenConfig, tls: &TlsConfig, findings: &mut Vec<Finding>) {
    findings.extend(addresses.exposed_webhooks().map(|address| {
        Finding::warn(
            WEBHOOKS,
            format!("Stripe's webhooks share {address} (HTTP_LISTEN) with metrics, and other machines can reach it"),
            "set WEBHOOK_LISTEN to an address for Stripe, and HTTP_LISTEN to loopback or to a private one",
        )
    }));
    let (expiry, lists) = match tls.files() {
        Ok(None) => return,
        Ok(Some(files)) => (tls::expiry(&files), tls::lists_expiry(&files)),
        Err(why) => (Err(why), Ok(None)),
    };
    // Certificates are of the world's time, not of the database's.
    let now = Clock::system().now().div_euclid(SECOND_MS);
    findings.push(check_certificate(expiry, now));
    // That the files cannot be used is said of the certificate.
    findings.extend(lists.unwrap_or_default().map(|at| check_lists(at, now)));
}

/// Checks when the first list of revoked certificates is out of date, in seconds of Unix time.
fn check_lists(at: i64, now: i64) -> Finding {
    const ADVICE: &str = "replace the file of TLS_CLIENT_CRL_FILE with a new list of the authority; the service reads it again without a restart";
    let left = at.saturating_sub(now);
    if left <= 0 {
        let fact = "it is out of date: certificates that were revoked since are accepted";
        return Finding::bad(LISTS, fact, ADVICE);
    }
    let fact = format!("it is out of date in {} hours", left.div_euclid(HOUR_SECS));
    if left < OUT_OF_DATE_SOON_SECS {
        Finding::warn(LISTS, fact, ADVICE)
    } else {
        Finding::ok(LISTS, fact)
    }
}

/// Checks when a certificate expires, in seconds of Unix time.
fn check_certificate(expiry: Result<i64, String>, now: i64) -> Finding {
    const ADVICE: &str = "replace the files of TLS_CERT_FILE and TLS_KEY_FILE; the service reads them again without a restart";
    match expiry.map(|at| at.saturating_sub(now)) {
        Err(why) => Finding::bad(CERTIFICATE, format!("TLS cannot be used: {why}"), ADVICE),
        Ok(left) if left <= 0 => {
            Finding::bad(CERTIFICATE, "it has expired: clients refuse it", ADVICE)
        }
        Ok(left) => {
            let days = left.div_euclid(DAY_SECS);
            let fact = format!("it expires in {days} days");
            if days < EXPIRES_SOON_DAYS {
                Finding::warn(CERTIFICATE, fact, ADVICE)
            } else {
                Finding::ok(CERTIFICATE, fact)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;

    #[test]
    fn a_list_of_revoked_certificates_is_told_of_when_it_is_out_of_date() {
        let now = 1_800_000_000;
        let severity = |hours: i64| check_lists(now + hours * HOUR_SECS, now).severity;
        assert_eq!(severity(24), Severity::Ok);
        assert_eq!(severity(2), Severity::Ok);
        assert_eq!(severity(1), Severity::Warn);
        assert_eq!(severity(0), Severity::Bad);
        assert_eq!(severity(-5), Severity::Bad);
    }

    #[test]
    fn a_certificate_is_told_of_before_it_expires() {
        let now = 1_800_000_000;
        let severity = |days: i64| check_certificate(Ok(now + days * DAY_SECS), now).severity;
        assert_eq!(severity(90), Severity::Ok);
        assert_eq!(severity(21), Severity::Ok);
        assert_eq!(severity(20), Severity::Warn);
        assert_eq!(severity(0), Severity::Bad);
        assert_eq!(severity(-1), Severity::Bad);
        let unreadable = check_certificate(Err("TLS_KEY_FILE: no".to_owned()), now);
        assert_eq!(unreadable.severity, Severity::Bad);
    }
}
