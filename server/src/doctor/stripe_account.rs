//! Checks whether the key belongs to the Stripe account that usage is reported to, and whether other copies of the database
//! or other databases send to the same meters.

use super::finding::{Finding, cause_of, first_names};
use crate::{
    account_check::{ADOPT, find_difference},
    domain::{Millis, meter::Meters, pause::PauseReason, period::rfc3339},
    store::{Store, sending_state::Sending},
    stripe::{Failure, Stripe, sender_marks::MarkedProduct},
    workers::sender_mark::active_others,
};

const ACCOUNT: &str = "stripe account";
const COPIES: &str = "copies";

pub(super) async fn check(
    store: &Store,
    stripe: &Stripe,
    meters: &Meters,
    now: Millis,
    findings: &mut Vec<Finding>,
) {
    let sending = match store.sending().await {
        Ok(sending) => sending,
        Err(error) => return findings.push(Finding::unchecked(ACCOUNT, &cause_of(&error))),
    };
    let (finding, is_right) = check_account(stripe, &sending).await;
    findings.push(finding);
    if !is_right {
        return;
    }
    match stripe.marked_products(meters).await {
        Ok(products) => findings.extend(check_marks(&sending, &products, now)),
        Err(Failure::Denied(why)) => findings.push(Finding::warn(
            COPIES,
            format!("the key may not read the marks of databases: {why}"),
            "allow it to read prices and to write products, so that a second copy of the database is noticed",
        )),
        Err(failure) => findings.push(Finding::unchecked(COPIES, failure.message())),
    }
}

async fn check_account(stripe: &Stripe, sending: &Sending) -> (Finding, bool) {
    let Some(account) = &sending.account else {
        let fact = "nothing was reported yet; the first report decides it";
        return (Finding::ok(ACCOUNT, fact), true);
    };
    match find_difference(stripe, account).await {
        Ok(None) => (
            Finding::ok(ACCOUNT, format!("usage is reported to {account}")),
            true,
        ),
        Ok(Some(why)) => {
            let advice =
                format!("set STRIPE_SECRET_KEY to a key of the former account, or run `{ADOPT}`");
            (Finding::bad(ACCOUNT, why, advice), false)
        }
        Err(failure) => (Finding::unchecked(ACCOUNT, failure.message()), false),
    }
}

fn check_marks(sending: &Sending, products: &[MarkedProduct], now: Millis) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut all = products.iter().flat_map(|product| &product.marks);
    let is_foreign = all.any(|stored| {
        stored.database == sending.database_id && !sending.marks.includes(&stored.mark)
    });
    if is_foreign {
        findings.push(Finding::bad(
            COPIES,
            PauseReason::ForeignMark.to_string(),
            "stop the other copy and the server, then run `usage-server restore`",
        ));
    }
    let mut others: Vec<String> = active_others(products, sending.database_id, now)
        .map(|other| format!("{} at {}", other.database, rfc3339(other.written_at)))
        .collect();
    others.sort_unstable();
    others.dedup();
    if !others.is_empty() {
        findings.push(Finding::warn(
            COPIES,
            format!(
                "other databases sent to the same meters lately: {}",
                first_names(&others, others.len())
            ),
            "make sure that they count other usage; what both count is billed twice",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            COPIES,
            format!(
                "no other copy of the database sends, by its mark in {} products",
                products.len()
            ),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        doctor::finding::Severity,
        domain::sender_mark::{Mark, OwnMarks, StoredMark},
    };

    #[test]
    fn marks_of_a_copy_are_bad_and_of_others_a_warning() {
        let id = Uuid::from_u128(1);
        let sending = Sending {
            database_id: id,
            marks: OwnMarks {
                number: 1,
                nonce: Some("a".to_owned()),
                ..OwnMarks::default()
            },
            ..Sending::default()
        };
        let check = |database, number, now| {
            let stored = StoredMark {
                database,
                mark: Mark {
                    number,
                    nonce: "a".to_owned(),
                },
                written_at: 0,
            };
            let product = MarkedProduct {
                id: "prod_1".to_owned(),
                marks: vec![stored],
            };
            check_marks(&sending, &[product], now).remove(0).severity
        };
        assert_eq!(check(id, 1, 0), Severity::Ok);
        assert_eq!(check(id, 2, 0), Severity::Bad);
        assert_eq!(check(Uuid::from_u128(2), 9, 0), Severity::Warn);
        assert_eq!(check(Uuid::from_u128(2), 9, Millis::MAX), Severity::Ok);
    }
}
