//! Checks what a restricted key may do, one right after the other.
//!
//! Stripe refuses a request for which the key has no right with 403. What the key may write is tried with requests that
//! cannot succeed: they lack what is required, or name an object that does not exist.

use http::Method;

use crate::{
    config::Reporting,
    doctor::finding::Finding,
    stripe::{Failure, Stripe},
};

const RIGHTS: &str = "stripe rights";
/// What a restricted key starts with. Any other secret key has every right.
const RESTRICTED: &str = "rk_";
/// What the service reads and writes, by the names of Stripe's dashboard, with a request that shows nothing but the first
/// object, or that cannot succeed.
const RIGHTS_NEEDED: [(&str, Method, &str); 9] = [
    (
        "Billing Meters: read",
        Method::GET,
        "/v1/billing/meters?limit=1",
    ),
    (
        "Subscriptions: read",
        Method::GET,
        "/v1/subscriptions?limit=1",
    ),
    ("Invoices: read", Method::GET, "/v1/invoices?limit=1"),
    ("Customers: read", Method::GET, "/v1/customers?limit=1"),
    ("Prices: read", Method::GET, "/v1/prices?limit=1"),
    ("Products: read", Method::GET, "/v1/products?limit=1"),
    (
        "Billing Meter Events: write",
        Method::POST,
        "/v1/billing/meter_events",
    ),
    (
        "Subscriptions: write",
        Method::POST,
        "/v1/subscriptions/sub_of_no_customer",
    ),
    (
        "Products: write",
        Method::POST,
        "/v1/products/prod_of_no_price",
    ),
];

/// Checks a restricted key.
pub(in crate::doctor) async fn check(
    key: &str,
    stripe: &Stripe,
    reporting: Reporting,
    findings: &mut Vec<Finding>,
) {
    if !key.starts_with(RESTRICTED) {
        return;
    }
    let mut answers = Vec::new();
    for (right, method, path) in RIGHTS_NEEDED {
        // In shadow mode the service only reads, and so may its key.
        if reporting.is_shadow() && method != Method::GET {
            continue;
        }
        answers.push((right, stripe.status_of(method, path).await));
    }
    findings.push(check_answers(&answers));
}

fn check_answers(answers: &[(&str, Result<u16, Failure>)]) -> Finding {
    let unanswered = answers.iter().find_map(|(right, answer)| match answer {
        Err(failure) => Some((right, failure.message().to_owned())),
        // A refusal of another kind says nothing of rights.
        Ok(200 | 400 | 403 | 404) => None,
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
            format!("the restricted key lacks: {}", missing.join(", ")),
            "give it these rights in Stripe's dashboard",
        );
    }
    match unanswered {
        Some((right, why)) => Finding::unchecked(RIGHTS, &format!("{right}: {why}")),
        None => Finding::ok(
            RIGHTS,
            "Stripe refuses nothing of what the restricted key has to read and write".to_owned(),
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
        assert!(refused.fact.ends_with("lacks: Invoices"), "{refused}");
        let unanswered = check_answers(&answers(Err(Failure::NotSent("down".to_owned()))));
        assert!(unanswered.fact.contains("Invoices: down"), "{unanswered}");
        let odd = check_answers(&answers(Ok(500)));
        assert!(odd.fact.contains("Invoices: Stripe answered 500"), "{odd}");
    }
}
