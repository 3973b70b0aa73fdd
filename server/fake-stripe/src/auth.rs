//! Authentication: the secret key as a bearer token, or as the user name of basic authentication.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::errors::StripeError;

/// Checks requests against the one accepted key.
#[derive(Debug)]
pub(crate) struct Authorizer {
    secret_key: String,
}

impl Authorizer {
    pub(crate) fn new(secret_key: &str) -> Authorizer {
        Authorizer {
            secret_key: secret_key.to_owned(),
        }
    }

    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), StripeError> {
        match presented_key(headers) {
            None => Err(StripeError::invalid(
                "You did not provide an API key. You need to provide your API key in the Authorization header, using \
                 Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY'). See https://stripe.com/docs/api#authentication \
                 for details, or we can help at https://support.stripe.com/.",
            )
            .status(401)),
            Some(key) if key == self.secret_key => Ok(()),
            Some(key) => {
                Err(StripeError::invalid(format!("Invalid API Key provided: {}", masked(&key))).status(401))
            }
        }
    }
}

fn presented_key(headers: &HeaderMap) -> Option<String> {
    let (scheme, credentials) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let key = if scheme.eq_ignore_ascii_case("bearer") {
        credentials.trim().to_owned()
    } else if scheme.eq_ignore_ascii_case("basic") {
        let decoded = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
        decoded
            .split_once(':')
            .map_or(decoded.clone(), |(user, _)| user.to_owned())
    } else {
        return None;
    };
    Some(key).filter(|key| !key.is_empty())
}

/// A key as Stripe quotes it in errors: its prefix and its last four characters.
fn masked(key: &str) -> String {
    let characters: Vec<char> = key.chars().collect();
    let from = characters.len().saturating_sub(4);
    let shown: String = characters.get(from..).unwrap_or_default().iter().collect();
    let prefix = key
        .split_inclusive('_')
        .take(2)
        .filter(|part| part.ends_with('_'))
        .collect::<String>();
    if characters.len() <= 12 {
        "*".repeat(characters.len())
    } else {
        format!("{prefix}{}{shown}", "*".repeat(8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: Option<&str>) -> Result<(), StripeError> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(AUTHORIZATION, header.parse().unwrap());
        }
        Authorizer::new("sk_test_fake").check(&headers)
    }

    #[test]
    fn the_key_is_accepted_as_bearer_and_basic() {
        check(Some("Bearer sk_test_fake")).unwrap();
        check(Some("Basic c2tfdGVzdF9mYWtlOg==")).unwrap();
    }

    #[test]
    fn other_keys_are_rejected_and_not_repeated() {
        assert_eq!(check(None).unwrap_err().status, 401);
        assert_eq!(check(Some("Bearer ")).unwrap_err().status, 401);
        let error = check(Some("Bearer sk_test_ofsomeoneelse1234")).unwrap_err();
        assert_eq!(
            error.message,
            "Invalid API Key provided: sk_test_********1234"
        );
    }
}
