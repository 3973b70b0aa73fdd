//! The Stripe account that usage is reported to, as the database remembers it.

use std::fmt;

/// An account and a mode of Stripe.
///
/// Its identity is one of its meters. A meter's id exists in one account and one mode only, a meter cannot be deleted, and
/// every key that reports usage may read meters. The account's own id is for people: a restricted key may not read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StripeAccount {
    /// The id of a meter: `mtr_...`.
    pub meter: String,
    /// `acct_...`, if the key may read it.
    pub account: Option<String>,
    /// Whether it is in live mode.
    pub is_live: bool,
}

impl fmt::Display for StripeAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = mode_name(self.is_live);
        match &self.account {
            Some(account) => write!(f, "Stripe account {account} in {mode} mode"),
            None => write!(
                f,
                "the Stripe account that has meter {} in {mode} mode",
                self.meter
            ),
        }
    }
}

/// `live` or `test`.
pub fn mode_name(is_live: bool) -> &'static str {
    if is_live { "live" } else { "test" }
}

/// The mode of a secret key, by its prefix.
pub fn is_live_key(key: &str) -> Option<bool> {
    let starts = |prefixes: [&str; 2]| prefixes.iter().any(|prefix| key.starts_with(prefix));
    if starts(["sk_live_", "rk_live_"]) {
        Some(true)
    } else if starts(["sk_test_", "rk_test_"]) {
        Some(false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_named_by_its_id_or_by_its_meter() {
        let mut account = StripeAccount {
            meter: "mtr_1".to_owned(),
            account: Some("acct_1".to_owned()),
            is_live: true,
        };
        assert_eq!(account.to_string(), "Stripe account acct_1 in live mode");
        account.account = None;
        account.is_live = false;
        assert_eq!(
            account.to_string(),
            "the Stripe account that has meter mtr_1 in test mode"
        );
    }

    #[test]
    fn a_key_shows_its_mode() {
        assert_eq!(is_live_key("rk_live_1"), Some(true));
        assert_eq!(is_live_key("sk_test_1"), Some(false));
        assert_eq!(is_live_key("pk_live_1"), None);
    }
}
