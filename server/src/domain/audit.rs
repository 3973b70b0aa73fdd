//! Audit entries: what admins did, tried to do or were refused.
//!
//! An action that is done in a transaction of its own writes one entry in it. Any other writes one before it begins, and
//! one with its result; both have the same request id. Entries are never changed.

use uuid::Uuid;

use super::{Millis, api_key::KeyId, names::names};

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
