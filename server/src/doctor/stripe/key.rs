//! Checks the Stripe key, its mode, and Stripe's clock.

use crate::{
    clock::Clock,
    config::StripeConfig,
    doctor::{clocks, finding::Finding},
    domain::{
        SECOND_MS,
        clock_check::ahead_of,
        stripe_account::{is_live_key, mode_name},
    },
    stripe::{Failure, Stripe, key_check::KeyCheck},
};

const KEY: &str = "stripe key";
const CLOCK: &str = "stripe clock";
const ADVICE: &str =
    "set STRIPE_SECRET_KEY to a secret key of the account, from Stripe's dashboard";

/// Checks the key and Stripe's clock; returns a client if the key can be used.
pub(in crate::doctor) async fn check(
    key: &Result<Option<String>, String>,
    config: &StripeConfig,
    clock: &Clock,
    findings: &mut Vec<Finding>,
) -> Option<Stripe> {
    const NOT_CHECKED: &str = "so nothing at Stripe was checked";
    let key = match key {
        Ok(Some(key)) => key,
        Ok(None) => {
            findings.push(Finding::bad(
                KEY,
                format!("there is none: nothing is reported, {NOT_CHECKED}"),
                "set STRIPE_SECRET_KEY",
            ));
            return None;
        }
        Err(wrong) => {
            findings.push(Finding::bad(KEY, format!("{wrong}; {NOT_CHECKED}"), ADVICE));
            return None;
        }
    };
    let stripe = match Stripe::new(key, config) {
        Ok(stripe) => stripe,
        Err(error) => {
            findings.push(Finding::bad(
                KEY,
                format!("it cannot be used: {error}; {NOT_CHECKED}"),
                "set STRIPE_SECRET_KEY, and STRIPE_API_BASE only for tests",
            ));
            return None;
        }
    };
    let before = clock.machine_now();
    let answer = stripe.check_key().await;
    let after = clock.machine_now();
    let (mut finding, is_usable) = check_key(key, &answer);
    if !is_usable {
        finding.fact = format!("{}; {NOT_CHECKED}", finding.fact);
    }
    findings.push(finding);
    if let Ok(answer) = &answer {
        findings.push(match answer.date {
            Some(date) => {
                clocks::check_skew(CLOCK, "Stripe's", ahead_of(before, after, date, SECOND_MS))
            }
            None => Finding::unchecked(CLOCK, "the answer has no Date header"),
        });
    }
    is_usable.then_some(stripe)
}

/// Checks a key by its prefix and Stripe's answer; also returns whether it can be used for other checks.
fn check_key(key: &str, answer: &Result<KeyCheck, Failure>) -> (Finding, bool) {
    let answer = match answer {
        Ok(answer) => answer,
        Err(failure) => {
            return (Finding::unchecked(KEY, failure.message()), false);
        }
    };
    let advice = ADVICE;
    let Some(is_live) = is_live_key(key) else {
        let fact = "it starts with none of sk_test_, sk_live_, rk_test_ and rk_live_";
        return (Finding::bad(KEY, fact, advice), false);
    };
    let mode = mode_name;
    match (answer.status, answer.is_live) {
        (200, Some(answered)) if answered != is_live => (
            Finding::bad(
                KEY,
                format!(
                    "its prefix is of {} mode, but Stripe answers in {} mode",
                    mode(is_live),
                    mode(answered)
                ),
                advice,
            ),
            true,
        ),
        (200, _) => (
            Finding::ok(KEY, format!("it is valid, in {} mode", mode(is_live))),
            true,
        ),
        // A restricted key may lack the permission to read the balance.
        (403, _) => (
            Finding::ok(
                KEY,
                format!(
                    "it is a restricted key of {} mode, by its prefix",
                    mode(is_live)
                ),
            ),
            true,
        ),
        (401, _) => (
            Finding::bad(
                KEY,
                format!("Stripe refuses it: {}", answer.message),
                advice,
            ),
            false,
        ),
        (status, _) => (
            Finding::unchecked(
                KEY,
                &format!("Stripe answered {status}: {}", answer.message),
            ),
            false,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;

    fn answer(status: u16, is_live: Option<bool>) -> KeyCheck {
        KeyCheck {
            status,
            date: None,
            is_live,
            message: "no".to_owned(),
        }
    }

    #[test]
    fn a_key_is_checked_by_its_prefix_and_stripes_answer() {
        let check = |key: &str, answer: Result<KeyCheck, Failure>| {
            let (finding, is_usable) = check_key(key, &answer);
            assert!(!finding.to_string().contains(key), "the key is shown");
            (finding.severity, is_usable)
        };
        assert_eq!(
            check("sk_test_x", Ok(answer(200, Some(false)))),
            (Severity::Ok, true)
        );
        assert_eq!(
            check("rk_live_x", Ok(answer(200, Some(true)))),
            (Severity::Ok, true)
        );
        assert_eq!(
            check("sk_live_x", Ok(answer(200, Some(false)))),
            (Severity::Bad, true)
        );
        assert_eq!(
            check("rk_live_x", Ok(answer(403, None))),
            (Severity::Ok, true)
        );
        assert_eq!(
            check("pk_test_x", Ok(answer(200, Some(false)))),
            (Severity::Bad, false)
        );
        assert_eq!(
            check("sk_test_x", Ok(answer(401, None))),
            (Severity::Bad, false)
        );
        assert_eq!(
            check("sk_test_x", Ok(answer(503, None))),
            (Severity::Bad, false)
        );
        assert_eq!(
            check("sk_test_x", Err(Failure::NotSent("down".to_owned()))),
            (Severity::Bad, false)
        );
    }
}
