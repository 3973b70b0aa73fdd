//! Deleting an account: the token that takes the place of its id, the digest by which the id is known for a while, and how
//! the id is replaced in texts.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::{
    DAY_MS, Millis,
    account_id::AccountId,
    hex::{hex, unhex},
    violation::{Reason, Violation},
};

/// How long the digest of a deleted account's id is kept: longer than the oldest increment that is accepted.
pub const DIGESTS_KEPT_MS: Millis = 36 * DAY_MS;
/// How long new digests are made with the same salt. Each salt that is in use costs one digest for each account that is
/// looked up.
pub const SALT_USED_MS: Millis = 7 * DAY_MS;
/// How the tokens begin that take the place of ids. No usage is counted under such a name.
const TOKEN_PREFIX: &str = "deleted:";
/// What stands for a deleted account whose token is not known.
pub const UNKNOWN_TOKEN: &str = "deleted:account";
/// The bytes of a token that are random.
pub const TOKEN_BYTES: usize = 16;
/// The bytes of a salt.
pub const SALT_BYTES: usize = 32;

/// The name of a deleted account's rows: random, so it cannot be found from the id.
///
/// # Errors
/// None: a token is a valid id.
pub fn token(random: [u8; TOKEN_BYTES]) -> Result<AccountId, Violation> {
    AccountId::parse(&format!("{TOKEN_PREFIX}{}", hex(&random)))
}

/// Whether an id is that of deleted accounts' rows.
pub fn is_token(id: &str) -> bool {
    id.starts_with(TOKEN_PREFIX)
}

/// The violation of an increment for a deleted account. It does not name the account: the results of batches are stored.
pub fn refusal() -> Violation {
    Violation::new(
        Reason::AccountDeleted,
        "account_id",
        "this account was deleted, and nothing is counted for it; use another id",
    )
}

/// A secret of the database, with which ids are digested. Without it a digest cannot be compared with guessed ids.
#[derive(Clone, PartialEq, Eq)]
pub struct Salt([u8; SALT_BYTES]);

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt")
    }
}

impl Salt {
    /// A salt of random bytes.
    pub fn new(random: [u8; SALT_BYTES]) -> Self {
        Self(random)
    }

    /// The salt that was stored as a text.
    pub fn from_text(text: &str) -> Option<Self> {
        unhex(text)?.try_into().ok().map(Self)
    }

    /// The salt as it is stored.
    pub fn to_text(&self) -> String {
        hex(&self.0)
    }

    /// The digest of an id.
    pub fn digest(&self, id: &str) -> String {
        // A key of any length is valid.
        let mac = Hmac::<Sha256>::new_from_slice(&self.0);
        mac.map(|mac| hex(&mac.chain_update(id).finalize().into_bytes()))
            .unwrap_or_default()
    }
}

/// A text in which an id may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// It is about this account alone.
    ThisAccount,
    /// It may be about others too, whose ids may contain this one.
    Others,
}

/// The text with another id in the place of one; absent if it does not stand there.
///
/// Letters, digits and `_` beside it make it a part of another word, which stays. In a text about others, a word without
/// spaces may be the id of another account, and stays too unless it is the id itself.
pub fn replaced(text: &str, id: &str, with: &str, about: About) -> Option<String> {
    if text == id {
        return Some(with.to_owned());
    }
    if about == About::Others && !text.contains(char::is_whitespace) {
        return None;
    }
    let is_word = |beside: Option<char>| {
        beside.is_some_and(|beside| beside.is_ascii_alphanumeric() || beside == '_')
    };
    let (mut done, mut rest, mut is_found) = (String::new(), text, false);
    while let Some((before, after)) = rest.split_once(id) {
        let previous = before.chars().next_back().or(done.chars().next_back());
        let is_whole = !is_word(previous) && !is_word(after.chars().next());
        done.push_str(before);
        done.push_str(if is_whole { with } else { id });
        is_found |= is_whole;
        rest = after;
    }
    is_found.then(|| done + rest)
}

/// Whether an id stands in a text about others.
pub fn names(text: &str, id: &str) -> bool {
    replaced(text, id, "", About::Others).is_some()
}

/// The same as [`replaced`] for every text in a JSON value. Returns whether one was replaced.
pub fn replace_in_json(value: &mut serde_json::Value, id: &str, with: &str, about: About) -> bool {
    match value {
        serde_json::Value::String(text) => match replaced(text, id, with, about) {
            Some(other) => {
                *text = other;
                true
            }
            None => false,
        },
        serde_json::Value::Array(items) => items
            .iter_mut()
            .map(|item| replace_in_json(item, id, with, about))
            .fold(false, |left, right| left | right),
        serde_json::Value::Object(fields) => fields
            .values_mut()
            .map(|field| replace_in_json(field, id, with, about))
            .fold(false, |left, right| left | right),
        _ => false,
    }
}

/// The same as [`replaced`] for a text that may be JSON.
pub fn replaced_in_stored(text: &str, id: &str, with: &str, about: About) -> Option<String> {
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(mut value @ (serde_json::Value::Array(_) | serde_json::Value::Object(_))) => {
            replace_in_json(&mut value, id, with, about).then(|| value.to_string())
        }
        _ => replaced(text, id, with, about),
    }
}

/// Why an account cannot be deleted now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What kind of obstacle it is.
    pub kind: ObstacleKind,
    /// The id of the report, item or change; empty if it has none.
    pub id: String,
    /// What it is and what to do, in one sentence.
    pub message: String,
}

/// The kinds of obstacles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObstacleKind {
    /// A report is not invoiced, written off or not billable.
    Report,
    /// A billing period has not ended, or its invoice is not final.
    BillingPeriod,
    /// A subscription of the account's customer goes on.
    Subscription,
    /// A change of its subscription is in progress.
    Change,
    /// Reports of it are in archives.
    Archive,
    /// The database was restored or copied, and has not been compared with Stripe.
    Restore,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_id_is_replaced_where_it_is_a_whole_word() {
        let own = |text| replaced(text, "acct_4", "T", About::ThisAccount);
        assert_eq!(own("acct_4").as_deref(), Some("T"));
        assert_eq!(own("refund for acct_4.").as_deref(), Some("refund for T."));
        assert_eq!(own("acct_4-2026/acct_4").as_deref(), Some("T-2026/T"));
        assert_eq!(
            own("acct_4acct_4 acct_4").as_deref(),
            Some("acct_4acct_4 T")
        );
        for other in ["acct_42", "my_acct_4", "Xacct_4", "acct", ""] {
            assert_eq!(own(other), None, "{other}");
        }
    }

    #[test]
    fn in_a_text_about_others_their_ids_stay() {
        let other = |text| replaced(text, "acct-4", "T", About::Others);
        assert_eq!(other("acct-4").as_deref(), Some("T"));
        assert_eq!(other("acct-4-b"), None);
        assert_eq!(other("for acct-4, twice").as_deref(), Some("for T, twice"));
    }

    #[test]
    fn texts_within_json_are_replaced() {
        let stored = r#"{"a":["x","y"],"n":1,"reason":"for x"}"#;
        let done = replaced_in_stored(stored, "x", "T", About::ThisAccount).unwrap();
        assert_eq!(done, r#"{"a":["T","y"],"n":1,"reason":"for T"}"#);
        assert_eq!(
            replaced_in_stored(stored, "z", "T", About::ThisAccount),
            None
        );
        assert_eq!(
            replaced_in_stored("7", "7", "T", About::ThisAccount).as_deref(),
            Some("T"),
            "a text that happens to be a number"
        );
    }

    #[test]
    fn digests_depend_on_the_salt_and_the_id() {
        let [one, other] = [1, 2].map(|byte| Salt::new([byte; SALT_BYTES]));
        assert_eq!(one.digest("a"), one.digest("a"));
        assert_ne!(one.digest("a"), other.digest("a"));
        assert_ne!(one.digest("a"), one.digest("b"));
        assert_eq!(Salt::from_text(&one.to_text()), Some(one.clone()));
        assert_eq!(Salt::from_text("00"), None);
        assert_eq!(format!("{one:?}"), "Salt");
    }

    #[test]
    fn a_token_is_an_account_id_and_known_as_a_token() {
        let token = token([7; TOKEN_BYTES]).unwrap();
        assert!(is_token(&token) && is_token(UNKNOWN_TOKEN));
        assert!(!is_token("acct"));
        AccountId::parse(UNKNOWN_TOKEN).unwrap();
    }

    proptest! {
        #[test]
        fn a_replaced_text_has_no_whole_id_any_more(text in "[ab1_ -]{0,20}", id in "[ab1_]{1,3}") {
            let once = replaced(&text, &id, "T", About::ThisAccount);
            if let Some(once) = once {
                prop_assert_eq!(replaced(&once, &id, "T", About::ThisAccount), None);
            }
        }
    }
}
