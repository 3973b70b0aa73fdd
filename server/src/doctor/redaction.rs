//! Takes the secrets of the service out of what it answers. No check shows one; this holds also for what Stripe and the
//! database say in their errors.

use std::fmt;

use super::finding::Finding;
use crate::config::Config;

/// What a secret is replaced by.
const SHOWN: &str = "(secret)";

/// The secrets of the configuration.
pub(super) struct Redaction(Vec<String>);

impl fmt::Debug for Redaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Redaction").field(&self.0.len()).finish()
    }
}

impl Redaction {
    pub(super) fn of(config: &Config) -> Self {
        let mut secrets = config.secrets();
        // A longer one may contain a shorter one.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self(secrets)
    }

    pub(super) fn redact(&self, finding: Finding) -> Finding {
        Finding {
            fact: self.text(finding.fact),
            advice: finding.advice.map(|advice| self.text(advice)),
            ..finding
        }
    }

    fn text(&self, text: String) -> String {
        let secrets = self.0.iter();
        secrets.fold(text, |text, secret| text.replace(secret, SHOWN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_replaced_wherever_it_is() {
        let redaction = Redaction(vec!["sk_test_long".to_owned(), "sk_test".to_owned()]);
        let finding = Finding::warn("a", "sk_test_long, sk_test", "not sk_test_long");
        let redacted = redaction.redact(finding);
        assert_eq!(redacted.fact, "(secret), (secret)");
        assert_eq!(redacted.advice.as_deref(), Some("not (secret)"));
        assert_eq!(format!("{redaction:?}"), "Redaction(2)");
    }
}
