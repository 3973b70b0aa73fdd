//! Audit entries: what admins did, tried to do or were refused.
//!
//! An action that is done in a transaction of its own writes one entry in it. Any other writes one before it begins, and
//! one with its result; both have the same action id. Entries are never changed.

use std::borrow::Cow;

use serde_json::json;
use uuid::Uuid;

use super::{
    Millis,
    access::{Caller, CallerKind},
    account_deletion::{About, replaced_in_stored},
    account_id::AccountId,
    api_key::KeyId,
    names::names,
};

/// The longest JSON of an entry, in bytes, but for a few that say that it was cut.
pub const MAX_JSON_BYTES: usize = 8 * 1024;
/// The longest message of an entry, in bytes, but for a few that say that it was cut.
pub const MAX_MESSAGE_BYTES: usize = 1024;

/// How it is known who acted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActorKind {
    /// It is not: no call needed a key. All that the entry says of its sender is self-asserted, but for the address.
    Anyone,
    /// By an API key.
    Key,
    /// By a client certificate.
    Certificate,
    /// It was a command on the database.
    Command,
}

names!(ActorKind {
    Anyone = "anyone",
    Key = "key",
    Certificate = "certificate",
    Command = "command",
});

/// Who acted, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// How it is known.
    pub kind: ActorKind,
    /// The key, if it is known by one.
    pub key: Option<KeyId>,
    /// The name of the key, or the subject of the certificate; `command` for commands on the database.
    pub name: String,
    /// The caller's network address, which a trusted proxy may have named; empty for commands.
    pub address: String,
    /// Names the call, and no caller can choose it.
    pub action_id: Uuid,
    /// Names the call in the caller's words, if it did.
    pub request_id: String,
    /// Whether a page of the console made the call. It is part of the stored request, and of no entry that was read.
    pub is_in_console: bool,
}

impl Actor {
    /// A caller.
    pub fn caller(caller: &Caller, address: String, action_id: Uuid, request_id: String) -> Self {
        Self {
            kind: match caller.kind() {
                CallerKind::Anyone => ActorKind::Anyone,
                CallerKind::Key(_) => ActorKind::Key,
                CallerKind::Certificate => ActorKind::Certificate,
            },
            key: caller.key,
            name: caller.name.clone(),
            address,
            action_id,
            request_id,
            is_in_console: false,
        }
    }

    /// The same, who acts in the console or not.
    #[must_use]
    pub fn in_console(self, is_in_console: bool) -> Self {
        Self {
            is_in_console,
            ..self
        }
    }

    /// A command on the database.
    pub fn command(action_id: Uuid) -> Self {
        Self {
            kind: ActorKind::Command,
            key: None,
            name: "command".to_owned(),
            address: String::new(),
            action_id,
            request_id: String::new(),
            is_in_console: false,
        }
    }

    /// Who requested a change, for the record of the change. What the request says is self-asserted, so what is known comes
    /// after it, in the last parentheses.
    pub fn requester(&self, stated: &str) -> String {
        // A name with parentheses could look like another one.
        let name = if self.name.contains(['(', ')']) {
            format!("{:?}", self.name.replace(['(', ')'], "?"))
        } else {
            self.name.clone()
        };
        let known = match self.kind {
            ActorKind::Anyone => format!("no key, {}", self.address),
            ActorKind::Key => format!("key {name}"),
            ActorKind::Certificate => format!("certificate {name}"),
            ActorKind::Command => self.name.clone(),
        };
        match stated {
            "" => known,
            // It looks as if it were known.
            stated if stated.contains('(') => format!("{stated:?} ({known})"),
            stated => format!("{stated} ({known})"),
        }
    }
}

/// JSON as it is stored: one that is too long is replaced by its beginning and its length.
pub fn bounded_json(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_JSON_BYTES {
        return Cow::Borrowed(text);
    }
    // The quotes of the beginning are escaped.
    let (beginning, _) = text.split_at(text.floor_char_boundary(MAX_JSON_BYTES / 2));
    let cut = json!({ "cut_from_bytes": text.len(), "beginning": beginning });
    Cow::Owned(cut.to_string())
}

/// A message as it is stored.
pub fn bounded_message(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_MESSAGE_BYTES {
        return Cow::Borrowed(text);
    }
    let (beginning, _) = text.split_at(text.floor_char_boundary(MAX_MESSAGE_BYTES));
    Cow::Owned(format!("{beginning}... (cut from {} bytes)", text.len()))
}

/// What is known of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It begins. Without a later entry of the same action, its result is not known.
    Begun,
    /// It was done.
    Done,
    /// It failed or was refused; the message says why.
    Failed,
}

names!(Outcome {
    Begun = "begun",
    Done = "done",
    Failed = "failed",
});

/// An entry to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    /// Who acted.
    pub actor: Actor,
    /// The method's name, such as `PutAccount`.
    pub action: String,
    /// The account, if the action is about one.
    pub account_id: Option<String>,
    /// The request, as JSON.
    pub request: Option<String>,
    /// What the action changed, before it, as JSON.
    pub before: Option<String>,
    /// The same after it.
    pub after: Option<String>,
    /// What is known of it.
    pub outcome: Outcome,
    /// Why it failed; or what failed after it was done.
    pub message: Option<String>,
}

impl NewEntry {
    /// An entry of an action that was done.
    pub fn done(actor: Actor, action: &str) -> Self {
        Self {
            actor,
            action: action.to_owned(),
            account_id: None,
            request: None,
            before: None,
            after: None,
            outcome: Outcome::Done,
            message: None,
        }
    }

    /// Says in the request that a page of the console made it, if one did.
    pub fn say_where_from(&mut self) {
        if !self.actor.is_in_console {
            return;
        }
        let request = self.request.as_deref().unwrap_or("{}");
        if let Ok(serde_json::Value::Object(mut fields)) = serde_json::from_str(request) {
            fields.insert("via".to_owned(), json!("console"));
            self.request = Some(serde_json::Value::Object(fields).to_string());
        }
    }

    /// The accounts that the entry names as such: its own, and those of its request.
    pub fn accounts(&self) -> Vec<AccountId> {
        let request: Option<serde_json::Value> = self
            .request
            .as_deref()
            .and_then(|request| serde_json::from_str(request).ok());
        let request = request.as_ref();
        let one = request.and_then(|request| request.get("account_id")?.as_str());
        let several = request.and_then(|request| request.get("account_ids")?.as_array());
        let several = several.into_iter().flatten().filter_map(|one| one.as_str());
        let mut accounts: Vec<AccountId> = self
            .account_id
            .as_deref()
            .into_iter()
            .chain(one)
            .chain(several)
            .filter_map(|id| AccountId::parse(id).ok())
            .collect();
        accounts.sort_unstable();
        accounts.dedup();
        accounts
    }

    /// Writes another name in the place of an account's id.
    pub fn rename_account(&mut self, id: &str, with: &str) {
        let is_own = self.account_id.as_deref() == Some(id);
        let about = if is_own {
            About::ThisAccount
        } else {
            About::Others
        };
        if is_own {
            self.account_id = Some(with.to_owned());
        }
        for text in [
            &mut self.request,
            &mut self.before,
            &mut self.after,
            &mut self.message,
        ] {
            let other = text
                .as_deref()
                .and_then(|text| replaced_in_stored(text, id, with, about));
            *text = other.or_else(|| text.take());
        }
    }
}

impl NewEntry {
    /// The bytes of its texts.
    pub fn bytes(&self) -> usize {
        let Actor {
            name,
            address,
            request_id,
            ..
        } = &self.actor;
        let texts = [name, address, request_id, &self.action];
        let texts = texts.into_iter().map(String::len);
        let more = [
            &self.account_id,
            &self.request,
            &self.before,
            &self.after,
            &self.message,
        ];
        let more = more.into_iter().flatten().map(String::len);
        texts.chain(more).fold(0, usize::saturating_add)
    }
}

/// A written entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// A `UUIDv7`.
    pub id: Uuid,
    /// When it was written.
    pub at: Millis,
    /// What was written.
    pub entry: NewEntry,
}

/// Which entries are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryFilter {
    /// Not earlier than this.
    pub from: Option<Millis>,
    /// Earlier than this.
    pub until: Option<Millis>,
    /// Only of this key.
    pub key: Option<KeyId>,
    /// Only about this account.
    pub account_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_can_lose_the_id_of_its_account() {
        let mut entry = NewEntry {
            account_id: Some("acct".to_owned()),
            request: Some(r#"{"account_id":"acct","account_ids":["b","acct"]}"#.to_owned()),
            message: Some("NOT_FOUND: account acct".to_owned()),
            ..NewEntry::done(Actor::command(Uuid::nil()), "PutAccount")
        };
        let accounts = entry.accounts();
        let names: Vec<&str> = accounts.iter().map(AccountId::as_str).collect();
        assert_eq!(names, ["acct", "b"]);
        entry.rename_account("acct", "T");
        let expected = NewEntry {
            account_id: Some("T".to_owned()),
            request: Some(r#"{"account_id":"T","account_ids":["b","T"]}"#.to_owned()),
            message: Some("NOT_FOUND: account T".to_owned()),
            ..NewEntry::done(Actor::command(Uuid::nil()), "PutAccount")
        };
        assert_eq!(entry, expected);
    }

    #[test]
    fn what_a_request_says_of_its_sender_is_never_alone() {
        let actor = |kind, name: &str| Actor {
            kind,
            name: name.to_owned(),
            address: "10.0.0.7:1234".to_owned(),
            ..Actor::command(Uuid::nil())
        };
        let anyone = actor(ActorKind::Anyone, "");
        assert_eq!(anyone.requester(""), "no key, 10.0.0.7:1234");
        assert_eq!(anyone.requester("ann"), "ann (no key, 10.0.0.7:1234)");
        assert_eq!(
            anyone.requester("ann (key ops)"),
            "\"ann (key ops)\" (no key, 10.0.0.7:1234)"
        );
        let key = actor(ActorKind::Key, "ops");
        assert_eq!(key.requester(""), "key ops");
        assert_eq!(key.requester("ann"), "ann (key ops)");
        let forged = actor(ActorKind::Key, "x) (key root");
        assert_eq!(forged.requester("ann"), "ann (key \"x? ?key root\")");
        let certificate = actor(ActorKind::Certificate, "DNS:ops");
        assert_eq!(certificate.requester("ann"), "ann (certificate DNS:ops)");
    }

    #[test]
    fn what_is_too_long_is_cut_and_says_so() {
        let short = json!({ "reason": "short" }).to_string();
        assert_eq!(bounded_json(&short), short);
        for text in ["\"".repeat(100_000), "\u{e4}\\".repeat(100_000)] {
            let long = json!({ "reason": text }).to_string();
            let cut = bounded_json(&long);
            assert!(cut.len() < MAX_JSON_BYTES + 100, "{}", cut.len());
            let value: serde_json::Value = serde_json::from_str(&cut).unwrap();
            assert_eq!(value["cut_from_bytes"], long.len());
            assert!(long.starts_with(value["beginning"].as_str().unwrap()));
            let message = bounded_message(&text);
            assert!(message.len() < MAX_MESSAGE_BYTES + 50);
            assert!(message.ends_with(&format!("(cut from {} bytes)", text.len())));
        }
        assert_eq!(bounded_message("short"), "short");
    }
}
