//! Checks for deletions of accounts that were begun and have not ended: usage is refused, and the id still stands everywhere.

use super::finding::{Finding, cause_of, first_names};
use crate::{
    domain::{HOUR_MS, MINUTE_MS, Millis, period::rfc3339},
    store::{Store, deleted_accounts::UnfinishedDeletion},
};

const CHECK: &str = "deletions";
/// How long a deletion may take: it reads all audit entries first.
const GRACE_MS: Millis = 10 * MINUTE_MS;
/// From when on it is not only slow.
const BAD_AFTER_MS: Millis = HOUR_MS;
/// The deletions that are read.
const MAX_READ: u64 = 100;

pub(super) async fn check(store: &Store, now: Millis, findings: &mut Vec<Finding>) {
    findings.push(match store.unfinished_deletions(MAX_READ).await {
        Ok(unfinished) => check_unfinished(&unfinished, now),
        Err(error) => Finding::unchecked(CHECK, &cause_of(&error)),
    });
}

fn check_unfinished(unfinished: &[UnfinishedDeletion], now: Millis) -> Finding {
    let age = |one: &UnfinishedDeletion| now.saturating_sub(one.deleted_at);
    let old: Vec<&UnfinishedDeletion> = unfinished
        .iter()
        .filter(|one| age(one) >= GRACE_MS)
        .collect();
    let Some(oldest) = old.first() else {
        return Finding::ok(CHECK, "no deletion of an account was left unfinished");
    };
    let named: Vec<String> = old.iter().map(|one| describe(one)).collect();
    let fact = format!(
        "{} deletions of accounts were begun and have not ended, so usage is refused and the ids are still stored: {}",
        old.len(),
        first_names(&named, named.len())
    );
    let known = old.iter().find_map(|one| one.account_id.as_ref());
    let account = known.map_or("ACCOUNT", |account| account.as_str());
    let advice = format!(
        "`usagectl accounts delete {account} --without-export` goes on with it; if that fails, the log of the server says why"
    );
    if age(oldest) < BAD_AFTER_MS {
        Finding::warn(CHECK, fact, advice)
    } else {
        Finding::bad(CHECK, fact, advice)
    }
}

/// The account and the time.
fn describe(one: &UnfinishedDeletion) -> String {
    let account = one.account_id.as_ref();
    let account = account.map_or("an account that no audit entry names", |account| {
        account.as_str()
    });
    format!("{account} (since {})", rfc3339(one.deleted_at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{doctor::finding::Severity, domain::account_id::AccountId};

    fn begun_at(deleted_at: Millis, account: Option<&str>) -> UnfinishedDeletion {
        UnfinishedDeletion {
            deleted_at,
            account_id: account.map(|account| AccountId::parse(account).unwrap()),
        }
    }

    #[test]
    fn a_deletion_that_was_left_is_named_with_the_command_that_ends_it() {
        let severity = |minutes: Millis| {
            let begun = [begun_at(0, Some("acct"))];
            check_unfinished(&begun, minutes * MINUTE_MS).severity
        };
        assert_eq!(check_unfinished(&[], HOUR_MS).severity, Severity::Ok);
        assert_eq!(severity(9), Severity::Ok);
        assert_eq!(severity(10), Severity::Warn);
        assert_eq!(severity(60), Severity::Bad);
        let begun = [begun_at(0, None), begun_at(1, Some("acct"))];
        let text = check_unfinished(&begun, HOUR_MS).to_string();
        for says in [
            "2 deletions",
            "no audit entry names (since 1970-01-01T00:00:00Z), acct (since ",
            "`usagectl accounts delete acct --without-export`",
        ] {
            assert!(text.contains(says), "{says} in {text}");
        }
    }
}
