//! API keys: their text, what is stored of them, and when one is valid.
//!
//! The text is `ub_`, 16 hexadecimal digits of the public id, `_`, and 64 of the secret. Only the SHA-256 of the secret is
//! stored: it is 256 random bits, so a slow hash would protect nothing more.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{
    Millis,
    access::{Caller, Role, Scope},
    hex::{hex, unhex},
    violation::Violation,
};

/// What every key begins with.
const PREFIX: &str = "ub_";
const ID_CHARS: usize = 16;
const SECRET_BYTES: usize = 32;
/// The bytes of a random number that a key is made of.
pub const RANDOM_BYTES: usize = 8 + SECRET_BYTES;
/// The longest name of a key, in characters.
pub const MAX_KEY_NAME_CHARS: usize = 100;

/// The public id of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(u64);

impl KeyId {
    /// Parses an id: 16 lowercase hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let is_valid = text.len() == ID_CHARS && is_hex(text);
        is_valid
            .then(|| u64::from_str_radix(text, 16).ok().map(Self))
            .flatten()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The SHA-256 of a key's secret.
#[derive(Clone, Copy)]
pub struct SecretHash([u8; SECRET_BYTES]);

impl SecretHash {
    fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// Whether both are of the same secret; takes the same time for all.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// As it is stored.
    pub fn to_text(self) -> String {
        hex(&self.0)
    }

    /// As it was stored.
    pub fn from_text(text: &str) -> Option<Self> {
        Some(Self(unhex(text)?.try_into().ok()?))
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hash)")
    }
}

/// A key as a caller sends it.
#[derive(Clone, Copy, Debug)]
pub struct PresentedKey {
    /// Its public id.
    pub id: KeyId,
    /// The hash of its secret.
    pub hash: SecretHash,
}

impl PresentedKey {
    /// Parses the text of a key. Every key has exactly one text.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let is_valid = secret.len() == SECRET_BYTES.checked_mul(2)? && is_hex(secret);
        is_valid.then_some(Self {
            id: KeyId::parse(id)?,
            hash: SecretHash::of(secret),
        })
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The text of a new key, which is shown once.
pub struct KeyText(String);

impl KeyText {
    /// The key of random bytes.
    pub fn of(random: [u8; RANDOM_BYTES]) -> Self {
        let (id, secret) = random.split_at(RANDOM_BYTES.saturating_sub(SECRET_BYTES));
        Self(format!("{PREFIX}{}_{}", hex(id), hex(secret)))
    }

    /// To show it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(key)")
    }
}

/// What a key is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// For people.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// What it is limited to.
    pub scope: Scope,
    /// From when on it is not valid.
    pub expires_at: Option<Millis>,
}

impl NewKey {
    /// Validates the name, and that it does not expire before it exists.
    ///
    /// # Errors
    /// A violation of `name` or `expires_at`.
    pub fn check(&self, now: Millis) -> Result<(), Violation> {
        let chars = self.name.chars().count();
        let is_valid = (1..=MAX_KEY_NAME_CHARS).contains(&chars)
            && !self.name.trim().is_empty()
            && !self.name.chars().any(char::is_control);
        if !is_valid {
            return Err(Violation::invalid(
                "name",
                format!(
                    "name has {chars} characters; it must have 1 to {MAX_KEY_NAME_CHARS}, not only spaces, none of them control characters"
                ),
            ));
        }
        if self.expires_at.is_some_and(|at| at <= now) {
            return Err(Violation::invalid(
                "expires_at",
                "expires_at must be in the future",
            ));
        }
        Ok(())
    }
}

/// A key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Its public id.
    pub id: KeyId,
    /// What it is.
    pub key: NewKey,
    /// When it was created.
    pub created_at: Millis,
    /// From when on it is not valid, because someone revoked it.
    pub revoked_at: Option<Millis>,
    /// When it was used, to the hour.
    pub last_used_at: Option<Millis>,
}

impl ApiKey {
    /// Whether it is valid at a time.
    pub fn is_valid_at(&self, now: Millis) -> bool {
        self.revoked_at.is_none() && self.key.expires_at.is_none_or(|at| now < at)
    }

    /// Who calls with it.
    pub fn caller(&self) -> Caller {
        Caller {
            key: Some(self.id),
            name: self.key.name.clone(),
            role: self.key.role,
            scope: self.key.scope.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(expires_at: Option<Millis>, revoked_at: Option<Millis>) -> ApiKey {
        ApiKey {
            id: KeyId(1),
            key: NewKey {
                name: "backend".to_owned(),
                role: Role::Writer,
                scope: Scope::default(),
                expires_at,
            },
            created_at: 0,
            revoked_at,
            last_used_at: None,
        }
    }

    #[test]
    fn a_key_is_valid_until_it_expires_or_is_revoked() {
        assert!(key(None, None).is_valid_at(Millis::MAX));
        assert!(key(Some(10), None).is_valid_at(9));
        assert!(!key(Some(10), None).is_valid_at(10));
        // By any clock: another replica may be behind the one that revoked it.
        assert!(!key(None, Some(10)).is_valid_at(9));
    }

    #[test]
    fn a_name_and_an_expiry_have_limits() {
        let mut new = key(Some(11), None).key;
        assert_eq!(new.check(10), Ok(()));
        assert_eq!(new.check(11).unwrap_err().field, "expires_at");
        for name in ["", " ", "a\nb", &"x".repeat(MAX_KEY_NAME_CHARS + 1)] {
            name.clone_into(&mut new.name);
            assert_eq!(new.check(0).unwrap_err().field, "name", "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn a_key_is_read_as_it_was_made(random in proptest::collection::vec(any::<u8>(), RANDOM_BYTES)) {
            let random: [u8; RANDOM_BYTES] = random.try_into().unwrap();
            let text = KeyText::of(random);
            let read = PresentedKey::parse(text.reveal()).unwrap();
            prop_assert_eq!(KeyId::parse(&read.id.to_string()), Some(read.id));
            let stored = SecretHash::from_text(&read.hash.to_text()).unwrap();
            prop_assert!(stored.matches(&read.hash));
            let secret = text.reveal().rsplit('_').next().unwrap();
            for shown in [format!("{text:?}"), format!("{read:?}"), read.hash.to_text()] {
                prop_assert!(!shown.contains(secret));
            }
        }

        #[test]
        fn a_changed_key_is_another_one_or_none(
            random in proptest::collection::vec(any::<u8>(), RANDOM_BYTES), at in 0_usize..84, to in "[0-9A-Fa-f_ub]",
        ) {
            let random: [u8; RANDOM_BYTES] = random.try_into().unwrap();
            let text = KeyText::of(random);
            let key = PresentedKey::parse(text.reveal()).unwrap();
            let mut changed = text.reveal().to_owned();
            changed.replace_range(at..=at, &to);
            if changed != text.reveal()
                && let Some(other) = PresentedKey::parse(&changed)
            {
                prop_assert!(other.id != key.id || !other.hash.matches(&key.hash));
            }
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in ".*") {
            let _ = PresentedKey::parse(&text);
            let _ = PresentedKey::parse(&format!("ub_{text}"));
        }
    }
}
