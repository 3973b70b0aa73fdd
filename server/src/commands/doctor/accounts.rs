//! Checks for accounts with usage that are neither linked nor free: their reports wait.

use super::finding::{Finding, cause_of, first_names};
use crate::{
    domain::{DAY_MS, Millis, period::rfc3339},
    store::{
        Store,
        doctor::{GroupTotals, ReportGroup},
    },
};

const CHECK: &str = "accounts";
/// How long after the first usage a link is expected.
const GRACE_MS: Millis = DAY_MS;

pub(super) async fn check(store: &Store, now: Millis, findings: &mut Vec<Finding>) {
    findings.push(match store.group_totals(&ReportGroup::WithoutLink).await {
        Ok(totals) => check_without_link(&totals, now),
        Err(error) => Finding::unchecked(CHECK, &cause_of(&error)),
    });
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
    use crate::commands::doctor::finding::Severity;

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
