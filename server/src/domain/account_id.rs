//! The caller's id of an account. An `AccountId` is always valid.

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

use super::violation::{Violation, quoted};

/// The longest account id, in characters.
pub const MAX_ACCOUNT_CHARS: usize = 128;

/// A valid account id: 1 to 128 characters out of `A-Z a-z 0-9 . _ : @ / + = -`. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(Arc<str>);

impl AccountId {
    /// Parses an account id.
    ///
    /// # Errors
    /// A violation of the field `account_id`.
    pub fn parse(text: &str) -> Result<Self, Violation> {
        Self::parse_field("account_id", text)
    }

    /// Parses an account id that was sent in another field.
    ///
    /// # Errors
    /// A violation of that field.
    pub fn parse_field(field: &str, text: &str) -> Result<Self, Violation> {
        let is_valid = (1..=MAX_ACCOUNT_CHARS).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._:@/+=-".contains(&byte));
        if is_valid {
            return Ok(Self(text.into()));
        }
        Err(Violation::invalid(
            field,
            format!(
                "{field} {} ({} bytes) must be 1 to {MAX_ACCOUNT_CHARS} characters out of A-Z a-z 0-9 . _ : @ / + = -",
                quoted(text),
                text.len()
            ),
        ))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for AccountId {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for AccountId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for AccountId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<AccountId> for String {
    fn from(id: AccountId) -> Self {
        id.as_str().to_owned()
    }
}
