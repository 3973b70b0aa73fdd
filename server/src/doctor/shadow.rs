//! Says whether another integration bills, and from when on this service does.

use super::finding::{Finding, cause_of};
use crate::{
    config::Reporting,
    domain::{Millis, billing_start::BillingStart, period::rfc3339},
    store::Store,
};

const CHECK: &str = "shadow mode";

pub(super) async fn check(
    store: &Store,
    reporting: Reporting,
    now: Millis,
    findings: &mut Vec<Finding>,
) {
    match store.billing_start().await {
        Ok(start) => findings.extend(check_start(start, reporting, now)),
        Err(error) => findings.push(Finding::unchecked(CHECK, &cause_of(&error))),
    }
}

fn check_start(start: BillingStart, reporting: Reporting, now: Millis) -> Option<Finding> {
    const SET_ON: &str = "set REPORTING=on and restart every server";
    let is_shadow = reporting.is_shadow();
    Some(match start {
        BillingStart::Always if is_shadow => Finding::warn(
            CHECK,
            "REPORTING is shadow, and no server has run with it on this database yet",
            "start the server, or set REPORTING=on if this service bills",
        ),
        BillingStart::Always => return None,
        BillingStart::NotNamed if is_shadow => Finding::ok(
            CHECK,
            "another integration bills: reports show what would be sent, and nothing is sent",
        ),
        // Also after a backup from before the moment was restored.
        BillingStart::NotNamed => Finding::bad(
            CHECK,
            "REPORTING is on, and nothing is sent, because no moment is named from which this service bills",
            "name it with `usagectl shadow switch`, or set REPORTING=shadow; if a backup from before it was named was restored, stop the servers and state it with `usage-server restore --bill-from`",
        ),
        BillingStart::At(at) if now < at => Finding::ok(
            CHECK,
            format!(
                "another integration bills usage before {}, and this service what is after it",
                rfc3339(at)
            ),
        ),
        BillingStart::At(at) if is_shadow => Finding::bad(
            CHECK,
            format!(
                "this service bills since {}, and REPORTING is shadow, so its reports wait",
                rfc3339(at)
            ),
            SET_ON,
        ),
        BillingStart::At(at) => Finding::ok(
            CHECK,
            format!(
                "this service bills since {}; usage before that is another integration's",
                rfc3339(at)
            ),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;

    #[test]
    fn a_server_that_only_reads_is_bad_from_the_moment_on() {
        let severity =
            |start, reporting| check_start(start, reporting, 100).map(|one| one.severity);
        assert_eq!(severity(BillingStart::Always, Reporting::On), None);
        let at = BillingStart::At;
        for (start, reporting, expected) in [
            (BillingStart::Always, Reporting::Shadow, Severity::Warn),
            (BillingStart::NotNamed, Reporting::Shadow, Severity::Ok),
            (BillingStart::NotNamed, Reporting::On, Severity::Bad),
            (at(101), Reporting::Shadow, Severity::Ok),
            (at(101), Reporting::On, Severity::Ok),
            (at(100), Reporting::Shadow, Severity::Bad),
            (at(100), Reporting::On, Severity::Ok),
        ] {
            assert_eq!(
                severity(start, reporting),
                Some(expected),
                "{start:?} {reporting:?}"
            );
        }
    }
}
