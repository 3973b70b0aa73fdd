//! The audit entries of API keys, which are written with the keys.

use serde_json::{Value, json};

use crate::domain::{
    Millis,
    account_id::AccountId,
    api_key::{ApiKey, KeyId, NewKey},
    audit::{Actor, NewEntry},
    period::rfc3339,
};

/// The entry of a key that is created.
pub(super) fn created(actor: &Actor, action: &str, id: KeyId, key: &NewKey) -> NewEntry {
    NewEntry {
        after: Some(shown(id, key, None).to_string()),
        ..NewEntry::done(actor.clone(), action)
    }
}

/// The entry of a key that is revoked, also if it was revoked before.
pub(super) fn revoked(actor: &Actor, key: &ApiKey, now: Millis) -> NewEntry {
    let revoked_at = key.revoked_at.or(Some(now));
    NewEntry {
        before: Some(shown(key.id, &key.key, key.revoked_at).to_string()),
        after: Some(shown(key.id, &key.key, revoked_at).to_string()),
        ..NewEntry::done(actor.clone(), "RevokeKey")
    }
}

fn shown(id: KeyId, key: &NewKey, revoked_at: Option<Millis>) -> Value {
    let scope = &key.scope;
    let accounts: Vec<&str> = scope.accounts().iter().map(AccountId::as_str).collect();
    json!({
        "id": id.to_string(),
        "name": key.name,
        "role": key.role.name(),
        "accounts": accounts,
        "account_prefixes": scope.account_prefixes(),
        "meters": scope.meters(),
        "expires_at": key.expires_at.map(rfc3339),
        "revoked_at": revoked_at.map(rfc3339),
    })
}
