//! Sessions of the console: the secret of a cookie, what is stored of it, and how long one lasts. Pure.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{
    HOUR_MS, Millis,
    api_key::KeyId,
    hex::{hex, unhex},
};

/// The random bytes of a cookie.
pub const SECRET_BYTES: usize = 32;
/// How long a session lasts, however much it is used.
pub const SESSION_MS: Millis = 8 * HOUR_MS;

/// The secret of a session, with the id of the key that began it. Its browser has both as a cookie, and this program has only
/// a hash of the secret.
///
/// The id is known to whoever has the key. So a cookie that was made up without one is refused without looking for a session.
#[derive(Clone, Copy)]
pub struct SessionSecret {
    key: KeyId,
    random: [u8; SECRET_BYTES],
}

impl SessionSecret {
    /// Of a key and random bytes.
    pub fn of(key: KeyId, random: [u8; SECRET_BYTES]) -> Self {
        Self { key, random }
    }

    /// As a cookie has it: the id of the key, `_`, and 64 lowercase hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let (key, digits) = text.split_once('_')?;
        let random: [u8; SECRET_BYTES] = unhex(digits)?.try_into().ok()?;
        let key = KeyId::parse(key).filter(|_| hex(&random) == digits)?;
        Some(Self { key, random })
    }

    /// For the cookie.
    pub fn reveal(&self) -> String {
        format!("{}_{}", self.key, hex(&self.random))
    }

    /// The key that the session is said to be of.
    pub fn key(&self) -> KeyId {
        self.key
    }

    /// For the database.
    pub fn hash(&self) -> SessionHash {
        SessionHash(Sha256::digest(self.random).into())
    }

    /// What forms of the session contain, so that no page of another origin can send one.
    pub fn form_token(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(b"console form ");
        digest.update(self.random);
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

    fn secret(key: u64, random: [u8; SECRET_BYTES]) -> SessionSecret {
        let key = KeyId::parse(&format!("{key:016x}")).unwrap();
        SessionSecret::of(key, random)
    }

    proptest! {
        #[test]
        fn a_secret_is_read_as_it_was_made_and_shown_nowhere(key in any::<u64>(), random in any::<[u8; SECRET_BYTES]>()) {
            let secret = secret(key, random);
            let read = SessionSecret::parse(&secret.reveal()).unwrap();
            prop_assert_eq!(read.hash(), secret.hash());
            prop_assert_eq!(read.key(), secret.key());
            prop_assert!(read.is_form_token(&secret.form_token()));
            for shown in [format!("{secret:?}"), secret.hash().to_text(), secret.form_token()] {
                prop_assert!(!shown.contains(&hex(&random)));
            }
        }

        #[test]
        fn another_text_is_no_secret(key in "[0-9A-Fa-f]{15,17}", between in "_{0,2}", digits in "[0-9A-Fa-f]{60,68}") {
            let text = format!("{key}{between}{digits}");
            let is_secret = SessionSecret::parse(&text).is_some();
            let is_valid = (key.len(), between.len(), digits.len()) == (16, 1, 64)
                && !text.bytes().any(|byte| byte.is_ascii_uppercase());
            prop_assert_eq!(is_secret, is_valid);
        }

        #[test]
        fn a_token_of_another_session_is_none(one in any::<[u8; SECRET_BYTES]>(), other in any::<[u8; SECRET_BYTES]>()) {
            prop_assume!(one != other);
            let (one, other) = (secret(1, one), secret(1, other));
            prop_assert!(!one.is_form_token(&other.form_token()));
            prop_assert!(!one.is_form_token(""));
        }
    }

    #[test]
    fn a_secret_has_the_id_of_its_key() {
        let text = format!("{:016x}_{}", 7, "0a".repeat(SECRET_BYTES));
        let secret = SessionSecret::parse(&text).unwrap();
        assert_eq!(secret.key().to_string(), "0000000000000007");
        for wrong in [
            &text[1..],
            &text.replace('_', ""),
            &text.replace('a', "A"),
            &text[..80],
            "",
        ] {
            assert!(SessionSecret::parse(wrong).is_none(), "{wrong}");
        }
    }
}
