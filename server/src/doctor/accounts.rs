//! Checks for accounts with usage that are neither linked nor free, whose reports wait, and for links that do not fit what
//! Stripe has.

use super::finding::{Finding, cause_of, first_names};
use crate::{
    domain::{DAY_MS, Millis, customer_watch::Watch, period::rfc3339},
    store::{
        Store,
        doctor::{GroupTotals, ReportGroup},
        watched_customers::WatchedCustomer,
    },
};

const CHECK: &str = "accounts";
const LINKS: &str = "links";
/// The most links that are read.
const MAX_LINKS: u64 = 1_000;
/// How long after the first usage a link is expected.
const GRACE_MS: Millis = DAY_MS;

pub(super) async fn check(store: &Store, now: Millis, findings: &mut Vec<Finding>) {
    findings.push(match store.group_totals(&ReportGroup::WithoutLink).await {
        Ok(totals) => check_without_link(&totals, now),
        Err(error) => Finding::unchecked(CHECK, &cause_of(&error)),
    });
    match store.watched_customers(None, MAX_LINKS).await {
        Ok(watched) => findings.extend(check_links(&watched)),
        Err(error) => findings.push(Finding::unchecked(LINKS, &cause_of(&error))),
    }
}

/// Checks what the sync found about links.
fn check_links(watched: &[WatchedCustomer]) -> Vec<Finding> {
    let name = |row: &WatchedCustomer| format!("{} ({})", row.customer, row.account_id);
    let (mut unverified, mut problems) = (Vec::new(), Vec::new());
    for row in watched {
        match &row.watch {
            Watch::TestClock => {}
            Watch::Unverified => unverified.push(name(row)),
            Watch::Problem(problem) => problems.push(format!("{}: {problem}", name(row))),
        }
    }
    let mut findings = Vec::new();
    if !problems.is_empty() {
        findings.push(Finding::bad(
            LINKS,
            first_names(&problems, problems.len()),
            "correct them at Stripe, or link their accounts to others with PutAccount",
        ));
    }
    if !unverified.is_empty() {
        findings.push(Finding::warn(
            LINKS,
            format!(
                "Stripe was not asked yet about {}",
                first_names(&unverified, unverified.len())
            ),
            "a running server with a key that may read customers asks at each sync",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(LINKS, "Stripe has what accounts are linked to"));
    }
    findings
}

fn check_without_link(totals: &GroupTotals, now: Millis) -> Finding {
    let Some(oldest) = totals.oldest else {
        return Finding::ok(CHECK, "every account with usage is linked or free");
    };
    let fact = format!(
        "{} accounts have usage and no link, {} units since {}: {}",
        totals.accounts,
        totals.quantity,
        rfc3339(oldest),
        first_names(&totals.first, totals.accounts)
    );
    let advice = "link them or make them free with PutAccount";
    if now.saturating_sub(oldest) < GRACE_MS {
        Finding::warn(CHECK, fact, advice)
    } else {
        Finding::bad(CHECK, fact, advice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;

    #[test]
    fn usage_without_a_link_is_bad_after_a_day() {
        let totals = |oldest| GroupTotals {
            accounts: 1,
            reports: 1,
            quantity: 5,
            oldest,
            first: vec![crate::domain::account_id::AccountId::parse("acct").unwrap()],
            error: None,
        };
        assert_eq!(check_without_link(&totals(None), 0).severity, Severity::Ok);
        assert_eq!(
            check_without_link(&totals(Some(1)), DAY_MS).severity,
            Severity::Warn
        );
        assert_eq!(
            check_without_link(&totals(Some(0)), DAY_MS).severity,
            Severity::Bad
        );
    }
}
