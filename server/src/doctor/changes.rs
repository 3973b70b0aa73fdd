//! Checks for changes of subscriptions that have not ended for a long time.

use super::finding::{Finding, MAX_NAMES, cause_of};
use crate::{
    domain::{HOUR_MS, MINUTE_MS, Millis, subscription_change::SubscriptionChange},
    store::Store,
};

const CHECK: &str = "changes";
/// How long a change may take. One that waits for usage gives up after minutes.
const GRACE_MS: Millis = HOUR_MS;
/// The changes that are read.
const MAX_READ: u64 = 1_000;
const ADVICE: &str = "check whether Stripe accepts the key and answers; `usagectl accounts abort-change ACCOUNT` ends a change that Stripe did not make, and leaves everything as it was";

pub(super) async fn check(store: &Store, now: Millis, findings: &mut Vec<Finding>) {
    let begun_by = now.saturating_sub(GRACE_MS);
    findings.push(match store.old_changes(begun_by, MAX_READ).await {
        Ok(old) => check_old(&old, now),
        Err(error) => Finding::unchecked(CHECK, &cause_of(&error)),
    });
}

fn check_old(old: &[SubscriptionChange], now: Millis) -> Finding {
    if old.is_empty() {
        return Finding::ok(CHECK, "no change of a subscription is older than an hour");
    }
    let mut named: Vec<String> = old
        .iter()
        .take(MAX_NAMES)
        .map(|change| describe(change, now))
        .collect();
    let more = old.len().saturating_sub(named.len());
    if more > 0 {
        named.push(format!("and {more} more"));
    }
    let fact = format!(
        "{} changes of subscriptions have not ended for over an hour, and usage of their accounts waits: {}",
        old.len(),
        named.join("; ")
    );
    Finding::bad(CHECK, fact, ADVICE)
}

/// The account, the kind, the step, the age and the last error.
fn describe(change: &SubscriptionChange, now: Millis) -> String {
    let minutes = now.saturating_sub(change.started_at).div_euclid(MINUTE_MS);
    format!(
        "{} ({}, {} for {} h {} min: {})",
        change.account_id,
        change.kind.name(),
        change.step.name(),
        minutes.div_euclid(60),
        minutes.rem_euclid(60),
        change.error.as_deref().unwrap_or("no error")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        doctor::finding::Severity,
        domain::{
            account_id::AccountId,
            subscription_change::{ChangeKind, Step},
        },
    };

    fn change(account: &str, error: Option<&str>) -> SubscriptionChange {
        SubscriptionChange {
            account_id: AccountId::parse(account).unwrap(),
            id: uuid::Uuid::now_v7(),
            kind: ChangeKind::ChangePlan,
            request: String::new(),
            requested_by: "admin".to_owned(),
            subscription: "sub".to_owned(),
            step: Step::Changing,
            boundary_at: 0,
            started_at: 0,
            deadline_at: 0,
            requested_at: Some(0),
            heartbeat_at: 0,
            holder: String::new(),
            finished_at: None,
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn old_changes_are_named_with_what_they_wait_for() {
        let now = 2 * HOUR_MS + 5 * MINUTE_MS;
        assert_eq!(check_old(&[], now).severity, Severity::Ok);
        let mut old = vec![
            change("acct", Some("Stripe answered 500")),
            change("b", None),
        ];
        let found = check_old(&old, now);
        assert_eq!(found.severity, Severity::Bad);
        let text = found.to_string();
        for says in [
            "acct (change_plan, changing for 2 h 5 min: Stripe answered 500); b (",
            "usagectl accounts abort-change",
        ] {
            assert!(text.contains(says), "{text}");
        }
        old.extend((0..7).map(|n| change(&format!("c{n}"), None)));
        let text = check_old(&old, now).to_string();
        assert!(text.contains("; and 4 more"), "{text}");
    }
}
