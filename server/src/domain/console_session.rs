//! Sessions of the console: the secret of a cookie, what is stored of it, and how long one lasts. Pure.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{
    HOUR_MS, Millis,
    hex::{hex, unhex},
};

/// The random bytes of a cookie.
pub const SECRET_BYTES: usize = 32;
/// How long a session lasts, however much it is used.
pub const SESSION_MS: Millis = 8 * HOUR_MS;

/// The secret of a session. Its browser has it as a cookie, and this program has only its hash.
#[derive(Clone, Copy)]
pub struct SessionSecret([u8; SECRET_BYTES]);

impl SessionSecret {
    /// Of random bytes.
    pub fn of(random: [u8; SECRET_BYTES]) -> Self {
        Self(random)
    }

    /// As a cookie has it: 64 lowercase hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; SECRET_BYTES] = unhex(text)?.try_into().ok()?;
        (hex(&bytes) == text).then_some(Self(bytes))
    }

    /// For the cookie.
    pub fn reveal(&self) -> String {
        hex(&self.0)
    }

    /// For the database.
    pub fn hash(&self) -> SessionHash {
        SessionHash(Sha256::digest(self.0).into())
    }

    /// What forms of the session contain, so that no page of another origin can send one.
    pub fn form_token(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(b"console form ");
        digest.update(self.0);
        hex(&digest.finalize())
    }

    /// Whether a form has the token of this session; takes the same time for all.
    pub fn is_form_token(&self, token: &str) -> bool {
        self.form_token().as_bytes().ct_eq(token.as_bytes()).into()
    }
}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(session)")
    }
}

/// The SHA-256 of the secret of a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionHash([u8; SECRET_BYTES]);

impl SessionHash {
    /// As it is stored.
    pub fn to_text(self) -> String {
        hex(&self.0)
    }
}

impl fmt::Debug for SessionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hash)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_secret_is_read_as_it_was_made_and_shown_nowhere(random in any::<[u8; SECRET_BYTES]>()) {
            let secret = SessionSecret::of(random);
            let read = SessionSecret::parse(&secret.reveal()).unwrap();
            prop_assert_eq!(read.hash(), secret.hash());
            prop_assert!(read.is_form_token(&secret.form_token()));
            for shown in [format!("{secret:?}"), secret.hash().to_text(), secret.form_token()] {
                prop_assert!(!shown.contains(&secret.reveal()));
            }
        }

        #[test]
        fn another_text_is_no_secret(text in "[0-9A-Fa-f]{0,70}") {
            let is_secret = SessionSecret::parse(&text).is_some();
            let is_valid = text.len() == 64 && !text.bytes().any(|byte| byte.is_ascii_uppercase());
            prop_assert_eq!(is_secret, is_valid);
        }

        #[test]
        fn a_token_of_another_session_is_none(one in any::<[u8; SECRET_BYTES]>(), other in any::<[u8; SECRET_BYTES]>()) {
            prop_assume!(one != other);
            let (one, other) = (SessionSecret::of(one), SessionSecret::of(other));
            prop_assert!(!one.is_form_token(&other.form_token()));
            prop_assert!(!one.is_form_token(""));
        }
    }
}
