//! API keys and the record of what admins did.

use crate::{
    Error, proto,
    wire::{self, non_empty, page_size_to_wire},
};
use chrono::{DateTime, Utc};
use proto::KeyRole as WireRole;
use std::fmt;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyRole {
    /// It counts usage.
    Writer,
    /// It shows usage, reports and accounts.
    Reader,
    /// It may do everything.
    Admin,
    /// A role that this version of the client does not know, by its number.
    Unrecognised(i32),
}

impl fmt::Display for KeyRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Writer => f.write_str("writer"),
            Self::Reader => f.write_str("reader"),
            Self::Admin => f.write_str("admin"),
            Self::Unrecognised(number) => write!(f, "{number}"),
        }
    }
}

impl KeyRole {
    fn to_wire(self) -> i32 {
        match self {
            Self::Writer => WireRole::Writer.into(),
            Self::Reader => WireRole::Reader.into(),
            Self::Admin => WireRole::Admin.into(),
            Self::Unrecognised(number) => number,
        }
    }

    fn from_wire(number: i32) -> Self {
        match WireRole::try_from(number) {
            Ok(WireRole::Writer) => Self::Writer,
            Ok(WireRole::Reader) => Self::Reader,
            Ok(WireRole::Admin) => Self::Admin,
            Ok(WireRole::Unspecified) | Err(_) => Self::Unrecognised(number),
        }
    }
}

/// A key to create.
///
/// ```
/// use usage_client::{CreateKey, KeyRole};
///
/// let key = CreateKey::new("dashboard", KeyRole::Reader).account_prefix("team-7:");
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "nothing is created until it is sent"]
pub struct CreateKey {
    name: String,
    role: KeyRole,
    scope: proto::KeyScope,
    expires_at: Option<DateTime<Utc>>,
}

impl CreateKey {
    /// A key with a name of 1 to 100 characters, without limits.
    pub fn new(name: impl Into<String>, role: KeyRole) -> Self {
        Self {
            name: name.into(),
            role,
            scope: proto::KeyScope::default(),
            expires_at: None,
        }
    }

    /// Limits it to this account, and to the others that it is limited to.
    pub fn account(mut self, account_id: impl Into<String>) -> Self {
        self.scope.accounts.push(account_id.into());
        self
    }

    /// Limits it to accounts whose ids begin with this, and to the others that it is limited to.
    pub fn account_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.scope.account_prefixes.push(prefix.into());
        self
    }

    /// Limits it to this meter, and to the others that it is limited to.
    pub fn meter(mut self, meter: impl Into<String>) -> Self {
        self.scope.meters.push(meter.into());
        self
    }

    /// From when on it is not valid; by default never.
    pub fn expires_at(mut self, at: impl Into<DateTime<Utc>>) -> Self {
        self.expires_at = Some(at.into());
        self
    }

    pub(crate) fn into_wire(self) -> Result<proto::CreateKeyRequest, Error> {
        let expires_at = wire::optional_time_to_wire(self.expires_at, "expires_at")?;
        let is_limited = self.scope != proto::KeyScope::default();
        Ok(proto::CreateKeyRequest {
            name: self.name,
            role: self.role.to_wire(),
            scope: is_limited.then_some(self.scope),
            expires_at,
        })
    }
}

/// A key, without its text.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApiKey {
    /// Its public id: 16 hexadecimal digits.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// What it is for.
    pub role: KeyRole,
    /// The accounts that it is limited to.
    pub accounts: Vec<String>,
    /// What the ids of further accounts begin with that it is limited to.
    pub account_prefixes: Vec<String>,
    /// The meters that it is limited to; none means all.
    pub meters: Vec<String>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// From when on it is not valid.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// When it was last used, to the hour.
    pub last_used_at: Option<DateTime<Utc>>,
}

impl ApiKey {
    pub(crate) fn from_wire(key: Option<proto::ApiKey>) -> Result<Self, Error> {
        let key = key.ok_or_else(|| Error::malformed("`key` is missing"))?;
        let scope = key.scope.unwrap_or_default();
        let time = wire::optional_time;
        Ok(Self {
            id: key.id,
            name: key.name,
            role: KeyRole::from_wire(key.role),
            accounts: scope.accounts,
            account_prefixes: scope.account_prefixes,
            meters: scope.meters,
            created_at: wire::required_time(key.created_at, "key.created_at")?,
            expires_at: time(key.expires_at, "key.expires_at")?,
            revoked_at: time(key.revoked_at, "key.revoked_at")?,
            last_used_at: time(key.last_used_at, "key.last_used_at")?,
        })
    }
}

/// A new key with its text, which is shown once.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CreatedKey {
    /// The key.
    pub key: ApiKey,
    /// Its text, `ub_...`: a secret.
    pub text: String,
}

impl fmt::Debug for CreatedKey {
    /// Leaves out the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreatedKey")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// A page of keys, ordered by id.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyPage {
    /// The keys, also those that are not valid any more.
    pub keys: Vec<ApiKey>,
    /// The token of the next page; none on the last page.
    pub next_page_token: Option<String>,
}

impl KeyPage {
    pub(crate) fn from_wire(response: proto::ListKeysResponse) -> Result<Self, Error> {
        let keys = response
            .keys
            .into_iter()
            .map(|key| ApiKey::from_wire(Some(key)));
        Ok(Self {
            keys: keys.collect::<Result<_, _>>()?,
            next_page_token: non_empty(response.next_page_token),
        })
    }
}

/// Selects audit entries: by default all, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use = "nothing is listed until it is sent"]
pub struct ListAuditEntries {
    from: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    key_id: String,
    account_id: String,
    page_size: u32,
    page_token: String,
}

impl ListAuditEntries {
    /// All entries, at most 100 per page.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only entries of this time or later.
    pub fn from(mut self, at: impl Into<DateTime<Utc>>) -> Self {
        self.from = Some(at.into());
        self
    }

    /// Only entries before this time.
    pub fn until(mut self, at: impl Into<DateTime<Utc>>) -> Self {
        self.until = Some(at.into());
        self
    }

    /// Only entries of the key with this id.
    pub fn key(mut self, key_id: impl Into<String>) -> Self {
        self.key_id = key_id.into();
        self
    }

    /// Only entries about this account.
    pub fn account(mut self, account_id: impl Into<String>) -> Self {
        self.account_id = account_id.into();
        self
    }

    /// The maximum number of entries on the page, up to 1,000.
    pub fn page_size(mut self, page_size: u32) -> Self {
        self.page_size = page_size;
        self
    }

    /// The page that follows the one with this [`AuditPage::next_page_token`], for the same filter.
    pub fn page_token(mut self, page_token: impl Into<String>) -> Self {
        self.page_token = page_token.into();
        self
    }

    pub(crate) fn into_wire(self) -> Result<proto::ListAuditEntriesRequest, Error> {
        let time = wire::optional_time_to_wire;
        Ok(proto::ListAuditEntriesRequest {
            from: time(self.from, "from")?,
            until: time(self.until, "until")?,
            key_id: self.key_id,
            account_id: self.account_id,
            page_size: page_size_to_wire(self.page_size),
            page_token: self.page_token,
        })
    }
}

/// What is known of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuditOutcome {
    /// It began. Without another entry of the same request, its result is not known.
    Begun,
    /// It was done.
    Done,
    /// It failed, or was refused.
    Failed,
    /// An outcome that this version of the client does not know, by its number.
    Unrecognised(i32),
}

impl fmt::Display for AuditOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begun => f.write_str("begun"),
            Self::Done => f.write_str("done"),
            Self::Failed => f.write_str("failed"),
            Self::Unrecognised(number) => write!(f, "{number}"),
        }
    }
}

/// How it is known who acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuditActor {
    /// It is not: no call needed a key. Only the address is known.
    Anyone,
    /// By an API key.
    Key,
    /// By a client certificate.
    Certificate,
    /// It was a command on the database.
    Command,
    /// An actor that this version of the client does not know, by its number.
    Unrecognised(i32),
}

impl AuditActor {
    fn from_wire(number: i32) -> Self {
        use proto::AuditActor as Wire;
        match Wire::try_from(number) {
            Ok(Wire::Anyone) => Self::Anyone,
            Ok(Wire::Key) => Self::Key,
            Ok(Wire::Certificate) => Self::Certificate,
            Ok(Wire::Command) => Self::Command,
            Ok(Wire::Unspecified) | Err(_) => Self::Unrecognised(number),
        }
    }
}

impl fmt::Display for AuditActor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("anyone"),
            Self::Key => f.write_str("key"),
            Self::Certificate => f.write_str("certificate"),
            Self::Command => f.write_str("command"),
            Self::Unrecognised(number) => write!(f, "{number}"),
        }
    }
}

/// What an admin did, tried to do or was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditEntry {
    /// Its id.
    pub id: String,
    /// When it was written.
    pub at: DateTime<Utc>,
    /// How it is known who acted.
    pub actor: AuditActor,
    /// The id of the key, if there was one.
    pub key_id: Option<String>,
    /// The name of the key, the subject of a client certificate, or `command`.
    pub key_name: Option<String>,
    /// The caller's network address; none for commands on the database.
    pub address: Option<String>,
    /// Names the call, and no caller can choose it: entries of one call have the same.
    pub action_id: String,
    /// Names the call in the caller's words, if it did.
    pub request_id: Option<String>,
    /// The method's name, such as `PutAccount`.
    pub action: String,
    /// The account, if it is about one.
    pub account_id: Option<String>,
    /// What was requested, as JSON.
    pub request: Option<String>,
    /// What it changed, before it, as JSON.
    pub before: Option<String>,
    /// The same after it, as JSON.
    pub after: Option<String>,
    /// What is known of it.
    pub outcome: AuditOutcome,
    /// Why it failed, if it did; or what failed after it was done.
    pub message: Option<String>,
}

impl AuditEntry {
    fn from_wire(entry: proto::AuditEntry) -> Result<Self, Error> {
        use proto::AuditOutcome as Wire;
        Ok(Self {
            outcome: match Wire::try_from(entry.outcome) {
                Ok(Wire::Begun) => AuditOutcome::Begun,
                Ok(Wire::Done) => AuditOutcome::Done,
                Ok(Wire::Failed) => AuditOutcome::Failed,
                Ok(Wire::Unspecified) | Err(_) => AuditOutcome::Unrecognised(entry.outcome),
            },
            actor: AuditActor::from_wire(entry.actor),
            id: entry.id,
            at: wire::required_time(entry.at, "entries.at")?,
            key_id: non_empty(entry.key_id),
            key_name: non_empty(entry.key_name),
            address: non_empty(entry.address),
            action_id: entry.action_id,
            request_id: non_empty(entry.request_id),
            action: entry.action,
            account_id: non_empty(entry.account_id),
            request: non_empty(entry.request),
            before: non_empty(entry.before),
            after: non_empty(entry.after),
            message: non_empty(entry.message),
        })
    }
}

/// A page of audit entries, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditPage {
    /// The entries.
    pub entries: Vec<AuditEntry>,
    /// The token of the next page; none on the last page.
    pub next_page_token: Option<String>,
}

impl AuditPage {
    pub(crate) fn from_wire(response: proto::ListAuditEntriesResponse) -> Result<Self, Error> {
        let entries = response.entries.into_iter().map(AuditEntry::from_wire);
        Ok(Self {
            entries: entries.collect::<Result<_, _>>()?,
            next_page_token: non_empty(response.next_page_token),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_proto_role_is_known() {
        let known = (1..)
            .take_while(|number| WireRole::try_from(*number).is_ok())
            .inspect(|number| {
                let role = KeyRole::from_wire(*number);
                assert!(!matches!(role, KeyRole::Unrecognised(_)), "{number}");
                assert_eq!(role.to_wire(), *number);
            })
            .count();
        assert_eq!(known, 3);
    }

    #[test]
    fn the_text_of_a_key_is_not_in_its_debug_output() {
        let created = CreatedKey {
            key: ApiKey::from_wire(Some(proto::ApiKey {
                created_at: Some(prost_types::Timestamp::default()),
                ..Default::default()
            }))
            .unwrap(),
            text: "ub_secret".to_owned(),
        };
        assert!(!format!("{created:?}").contains("ub_secret"));
    }
}
