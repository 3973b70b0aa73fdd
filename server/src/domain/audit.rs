//! Audit entries: what admins did, tried to do or were refused.
//!
//! An action that is done in a transaction of its own writes one entry in it. Any other writes one before it begins, and
//! one with its result; both have the same request id. Entries are never changed.

use uuid::Uuid;

use super::{
    Millis,
    account_deletion::{About, replaced_in_stored},
    account_id::AccountId,
    api_key::KeyId,
    names::names,
};

/// Who acted, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// The key; absent while there are no keys, and for commands.
    pub key: Option<KeyId>,
    /// The name of the key; `command` for commands on the database, empty while there are no keys.
    pub name: String,
    /// The caller's network address; empty for commands.
    pub address: String,
    /// Names the request, in the caller's words or as a UUID.
    pub request_id: String,
}

impl Actor {
    /// A command on the database.
    pub fn command(request_id: Uuid) -> Self {
        Self {
            key: None,
            name: "command".to_owned(),
            address: String::new(),
            request_id: request_id.to_string(),
        }
    }

    /// Who requested a change, for the record of the change: what the request says is never alone.
    pub fn requester(&self, stated: &str) -> String {
        match (stated, self.name.as_str()) {
            ("", "") => self.address.clone(),
            ("", name) => format!("key {name}"),
            (stated, "") => stated.to_owned(),
            (stated, name) => format!("{stated} (key {name})"),
        }
    }
}

/// What is known of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It begins. Without a later entry of the same request, its result is not known.
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
    /// Why it failed.
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
        let mut actor = Actor {
            address: "10.0.0.7:1234".to_owned(),
            ..Actor::command(Uuid::nil())
        };
        actor.name.clear();
        assert_eq!(actor.requester(""), "10.0.0.7:1234");
        assert_eq!(actor.requester("ann"), "ann");
        "ops".clone_into(&mut actor.name);
        assert_eq!(actor.requester(""), "key ops");
        assert_eq!(actor.requester("ann"), "ann (key ops)");
    }
}
