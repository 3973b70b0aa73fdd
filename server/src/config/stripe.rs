//! The settings of the Stripe account and of its webhooks.

use std::path::PathBuf;

use clap::Args;
use url::Url;

use super::secret::{self, Secret};

/// What a secret key starts with: a whole one, or a restricted one.
const KEY_PREFIXES: [&str; 2] = ["sk_", "rk_"];
/// What a publishable key starts with, which can read nothing.
const PUBLISHABLE: &str = "pk_";
/// What a signing secret starts with.
const WEBHOOK_PREFIX: &str = "whsec_";

/// The Stripe account that usage is billed through.
#[derive(Args, Clone, Debug)]
pub struct StripeConfig {
    /// The secret key of the Stripe account, `sk_...` or `rk_...`. Without one, the service counts and shows usage but
    /// reports nothing.
    #[arg(long, env = "STRIPE_SECRET_KEY", hide_env_values = true)]
    pub stripe_secret_key: Option<Secret>,

    /// A file with the secret key, instead of `STRIPE_SECRET_KEY`.
    #[arg(long, env = "STRIPE_SECRET_KEY_FILE", value_name = "FILE")]
    pub stripe_secret_key_file: Option<PathBuf>,

    /// The base URL of Stripe's API; set it for a fake Stripe. Default: Stripe's own.
    #[arg(long, env = "STRIPE_API_BASE", value_parser = http_url)]
    pub stripe_api_base: Option<String>,

    /// `on` reports usage to Stripe. `shadow` runs beside another integration: usage is counted, closed and compared with
    /// what that one sent, and every request that would change something at Stripe is refused.
    #[arg(long, env = "REPORTING", default_value = "on", value_parser = parse_reporting)]
    pub reporting: Reporting,
}

/// Whether usage is reported to Stripe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reporting {
    /// It is.
    #[default]
    On,
    /// Another integration reports it: Stripe is only read.
    Shadow,
}

impl Reporting {
    /// As in the setting.
    pub fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Shadow => "shadow",
        }
    }

    /// Whether Stripe is only read.
    pub fn is_shadow(self) -> bool {
        self == Self::Shadow
    }
}

fn parse_reporting(text: &str) -> Result<Reporting, String> {
    let all = [Reporting::On, Reporting::Shadow];
    let found = all.into_iter().find(|one| one.name() == text);
    found.ok_or_else(|| "must be on or shadow".to_owned())
}

impl StripeConfig {
    /// The secret key, if one is set.
    ///
    /// # Errors
    /// The file cannot be read, or the key cannot be a secret key; the error does not repeat it.
    pub fn key(&self) -> Result<Option<String>, String> {
        const NAME: &str = "STRIPE_SECRET_KEY";
        let file = self.stripe_secret_key_file.as_deref();
        let Some(secret) = secret::read(NAME, self.stripe_secret_key.as_ref(), file)? else {
            return Ok(None);
        };
        let key = secret.expose();
        if !is_visible(key) {
            return Err(format!(
                "{NAME} must be visible ASCII characters without spaces"
            ));
        }
        if key.starts_with(PUBLISHABLE) {
            return Err(format!(
                "{NAME} is a publishable key (pk_...); set a secret key (sk_...) or a restricted key (rk_...)"
            ));
        }
        // A fake Stripe has keys of any form.
        let is_secret = KEY_PREFIXES.iter().any(|prefix| key.starts_with(prefix));
        if !is_secret && self.stripe_api_base.is_none() {
            return Err(format!("{NAME} must start with sk_ or rk_"));
        }
        Ok(Some(key.to_owned()))
    }
}

/// The webhooks of Stripe.
#[derive(Args, Clone, Debug)]
pub struct WebhookConfig {
    /// The signing secrets of the webhook endpoint, `whsec_...`, separated by commas. Up to four, so that secrets can
    /// rotate; all are valid.
    #[arg(
        long,
        env = "STRIPE_WEBHOOK_SECRETS",
        value_name = "SECRETS",
        hide_env_values = true
    )]
    pub stripe_webhook_secrets: Option<Secret>,

    /// A file with the signing secrets, one a line or separated by commas, instead of `STRIPE_WEBHOOK_SECRETS`.
    #[arg(long, env = "STRIPE_WEBHOOK_SECRETS_FILE", value_name = "FILE")]
    pub stripe_webhook_secrets_file: Option<PathBuf>,
}

impl WebhookConfig {
    /// The signing secrets; empty when webhooks are not accepted.
    ///
    /// # Errors
    /// One sentence that says what is wrong and contains no secret.
    pub(crate) fn secrets(&self) -> Result<Vec<String>, String> {
        const MAX_SECRETS: usize = 4;
        const NAME: &str = "STRIPE_WEBHOOK_SECRETS";
        let file = self.stripe_webhook_secrets_file.as_deref();
        let Some(all) = secret::read(NAME, self.stripe_webhook_secrets.as_ref(), file)? else {
            return Ok(Vec::new());
        };
        let secrets: Vec<&str> = all.expose().split([',', '\n']).map(str::trim).collect();
        let count = secrets.len();
        if count > MAX_SECRETS {
            return Err(format!(
                "{NAME} has {count} secrets; at most {MAX_SECRETS} are allowed"
            ));
        }
        for (nth, secret) in (1_usize..).zip(&secrets) {
            if !is_visible(secret) {
                return Err(format!(
                    "{NAME}: secret {nth} of {count} must be visible ASCII characters without spaces"
                ));
            }
            if !secret.starts_with(WEBHOOK_PREFIX) {
                return Err(format!(
                    "{NAME}: secret {nth} of {count} must start with {WEBHOOK_PREFIX}"
                ));
            }
        }
        Ok(secrets.into_iter().map(str::to_owned).collect())
    }
}

/// Whether a secret can be sent in a header.
fn is_visible(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn http_url(text: &str) -> Result<String, String> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
            Ok(text.to_owned())
        }
        Ok(_) => Err("must start with http:// or https:// and name a host".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(key: &str, base: Option<&str>) -> Result<Option<String>, String> {
        let config = StripeConfig {
            stripe_secret_key: Some(key.to_owned().into()),
            stripe_secret_key_file: None,
            stripe_api_base: base.map(str::to_owned),
            reporting: Reporting::On,
        };
        config.key()
    }

    #[test]
    fn what_cannot_be_a_secret_key_is_refused_and_not_repeated() {
        for valid in ["sk_test_1", "sk_live_1", "rk_test_1", "rk_live_1"] {
            assert_eq!(key(valid, None), Ok(Some(valid.to_owned())));
        }
        let fake = Some("http://127.0.0.1:1");
        assert_eq!(key("other", fake), Ok(Some("other".to_owned())));
        for (wrong, base) in [
            ("pk_test_recognisable", None),
            ("pk_test_recognisable", fake),
            ("recognisable", None),
            ("whsec_recognisable", None),
            ("sk_test recognisable", None),
            ("", None),
        ] {
            let refused = key(wrong, base).unwrap_err();
            assert!(refused.starts_with("STRIPE_SECRET_KEY "), "{refused}");
            assert!(!refused.contains("recognisable"), "{refused}");
        }
    }

    #[test]
    fn a_file_has_one_signing_secret_a_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "whsec_one\n whsec_two, whsec_three\n").unwrap();
        let config = WebhookConfig {
            stripe_webhook_secrets: None,
            stripe_webhook_secrets_file: Some(file.path().to_owned()),
        };
        let secrets = config.secrets().unwrap();
        assert_eq!(secrets, ["whsec_one", "whsec_two", "whsec_three"]);
    }
}
