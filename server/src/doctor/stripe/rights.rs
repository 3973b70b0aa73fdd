//! Checks what a restricted key may read, one right after the other. What it may write shows only when it is used.

use crate::{
    doctor::finding::{Finding, first_names},
    stripe::{Failure, Stripe},
};

const RIGHTS: &str = "stripe rights";
/// What a restricted key starts with. Any other secret key has every right.
const RESTRICTED: &str = "rk_";
/// What the service reads, by the names of Stripe's dashboard, with a request that shows nothing but the first object.
const READS: [(&str, &str); 6] = [
    ("Billing Meters", "/v1/billing/meters?limit=1"),
    ("Subscriptions", "/v1/subscriptions?limit=1"),
    ("Invoices", "/v1/invoices?limit=1"),
    ("Customers", "/v1/customers?limit=1"),
    ("Prices", "/v1/prices?limit=1"),
    ("Products", "/v1/products?limit=1"),
];
/// What it writes.
const WRITES: &str = "Billing Meter Events, Products and Subscriptions";

/// Checks a restricted key.
pub(in crate::doctor) async fn check(key: &str, stripe: &Stripe, findings: &mut Vec<Finding>) {
    if !key.starts_with(RESTRICTED) {
        return;
    }
    let mut answers = Vec::new();
    for (right, path) in READS {
        answers.push((right, stripe.status_of(path).await));
    }
    findings.push(check_answers(&answers));
}

fn check_answers(answers: &[(&str, Result<u16, Failure>)]) -> Finding {
    let unanswered = answers.iter().find_map(|(right, answer)| match answer {
        Err(failure) => Some((right, failure.message().to_owned())),
        // A refusal of another kind says nothing of rights.
        Ok(200 | 403) => None,
        Ok(status) => Some((right, format!("Stripe answered {status}"))),
    });
    let missing: Vec<&str> = answers
        .iter()
        .filter(|(_, answer)| matches!(answer, Ok(403)))
        .map(|(right, _)| *right)
        .collect();
    if !missing.is_empty() {
        return Finding::bad(
            RIGHTS,
            format!(
                "the restricted key may not read: {}",
                first_names(&missing, missing.len())
            ),
            "give it these rights in Stripe's dashboard",
        );
    }
    match unanswered {
        Some((right, why)) => Finding::unchecked(RIGHTS, &format!("{right}: {why}")),
        None => Finding::ok(
            RIGHTS,
            format!(
                "the restricted key may read all that is read; whether it may write {WRITES} shows only when it does"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;

    #[test]
    fn a_refusal_names_the_right_that_is_missing() {
        let answers = |invoices: Result<u16, Failure>| {
            vec![
                ("Prices", Ok(200)),
                ("Invoices", invoices),
                ("Products", Ok(200)),
            ]
        };
        assert_eq!(check_answers(&answers(Ok(200))).severity, Severity::Ok);
        let refused = check_answers(&answers(Ok(403)));
        assert_eq!(refused.severity, Severity::Bad);
        assert!(
            refused.fact.ends_with("may not read: Invoices"),
            "{refused}"
        );
        let unanswered = check_answers(&answers(Err(Failure::NotSent("down".to_owned()))));
        assert!(unanswered.fact.contains("Invoices: down"), "{unanswered}");
        let odd = check_answers(&answers(Ok(500)));
        assert!(odd.fact.contains("Invoices: Stripe answered 500"), "{odd}");
    }
}
