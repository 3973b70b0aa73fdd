//! Identifiers in Stripe's form: a prefix for the kind of object, then random letters and digits.

use uuid::Uuid;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A new customer's id.
pub(crate) fn customer() -> String {
    with_prefix("cus_", 14)
}

/// A new billing meter's id.
pub(crate) fn meter() -> String {
    with_prefix("mtr_test_", 21)
}

/// A request's id, the value of the `request-id` header.
pub(crate) fn request() -> String {
    with_prefix("req_", 14)
}

/// The identifier of a meter event that was sent without one.
pub(crate) fn meter_event() -> String {
    Uuid::new_v4().to_string()
}

/// The id of a billing object, by Stripe's prefix for its kind.
pub(crate) fn billing(prefix: &str) -> String {
    with_prefix(prefix, if prefix == "prod_" { 14 } else { 24 })
}

fn with_prefix(prefix: &str, length: usize) -> String {
    let mut rest = Uuid::new_v4().as_u128();
    let mut id = prefix.to_owned();
    for _ in 0..length {
        let digit = usize::try_from(rest % 62).unwrap_or_default();
        id.push(char::from(DIGITS.get(digit).copied().unwrap_or(b'0')));
        rest /= 62;
    }
    id
}
