//! Accounts with usage that nobody has linked or said to be free: their reports wait.

use super::{Finding, some, why};
use crate::{
    domain::{DAY_MS, Millis, period::rfc3339},
    store::{
        Store,
        doctor::{Held, Holding},
    },
};

const CHECK: &str = "accounts";
/// A link may come a little later than the first usage.
const YOUNG_MS: Millis = DAY_MS;

pub(super) async fn check(store: &Store, now: Millis, findings: &mut Vec<Finding>) {
    findings.push(match store.holding(&Held::OfNobody).await {
        Ok(holding) => diff(&holding, now),
        Err(error) => Finding::unchecked(CHECK, &why(&error)),
    });
}

fn diff(holding: &Holding, now: Millis) -> Finding {
    let Some(oldest) = holding.oldest else {
        return Finding::ok(CHECK, "every account with usage is linked or free");
    };
    let fact = format!(
        "{} accounts have usage and no link, {} units since {}: {}",
        holding.accounts,
        holding.quantity,
        rfc3339(oldest),
        some(&holding.first, holding.accounts)
    );
    let advice = "link them, or say that they are free, with PutAccount";
    if now.saturating_sub(oldest) < YOUNG_MS {
        Finding::warn(CHECK, fact, advice)
    } else {
        Finding::bad(CHECK, fact, advice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::Severity;

    #[test]
    fn usage_without_a_link_is_bad_when_it_has_waited_for_a_day() {
        let holding = |oldest| Holding {
            accounts: 1,
            reports: 1,
            quantity: 5,
            oldest,
            first: vec![crate::domain::account_id::AccountId::parse("acct").unwrap()],
            error: None,
        };
        assert_eq!(diff(&holding(None), 0).mark, Severity::Ok);
        assert_eq!(diff(&holding(Some(1)), DAY_MS).mark, Severity::Warn);
        assert_eq!(diff(&holding(Some(0)), DAY_MS).mark, Severity::Bad);
    }
}
