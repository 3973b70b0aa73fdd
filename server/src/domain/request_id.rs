//! What names a request in the log, in its error and in the audit table.

use std::{fmt, sync::Arc};

use uuid::Uuid;

/// The longest id that a caller may give.
pub const MAX_REQUEST_ID_BYTES: usize = 128;

/// Names one request: in the caller's words, or as a UUID. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// The id that a caller gives: 1 to 128 letters, digits and `- _ . ~ : / + = @`. So it can stand in a line of a log
    /// and in a header as it is.
    pub fn parse(text: &str) -> Option<Self> {
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~:/+=@".contains(&byte);
        let is_valid =
            (1..=MAX_REQUEST_ID_BYTES).contains(&text.len()) && text.bytes().all(is_known);
        is_valid.then(|| Self(text.into()))
    }

    /// The id of a request whose caller gives none.
    pub fn new(id: Uuid) -> Self {
        let mut buffer = Uuid::encode_buffer();
        Self(Arc::from(&*id.hyphenated().encode_lower(&mut buffer)))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_short_and_fits_into_a_line() {
        for good in ["7", "a-b_c.d~e:f/g+h=i@j", &"x".repeat(128)] {
            assert_eq!(RequestId::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "a b",
            "a\"b",
            "a}b",
            "a\u{1b}[31m",
            "\u{fc}",
            &"x".repeat(129),
        ] {
            assert_eq!(RequestId::parse(bad), None, "{bad:?}");
        }
        let id = Uuid::now_v7();
        assert_eq!(RequestId::new(id).to_string(), id.to_string());
    }
}
