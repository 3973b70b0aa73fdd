//! `AccessService`: API keys, and what admins did.

use tonic::{Request, Response, Status};
use usage_proto::v1::{self, access_service_server::AccessService};
use uuid::Uuid;

use super::{
    actor::{actor, caller},
    audit_json,
    auditor::Auditor,
    page_token, to_its_end, wire,
};
use crate::{
    authentication::Authenticator,
    domain::{
        Millis,
        access::{Role, Scope},
        account_id::AccountId,
        api_key::{ApiKey, KeyId, NewKey, PresentedKey},
        audit::{Actor, ActorKind, Entry, EntryFilter, Outcome},
        violation::{Violation, quoted},
    },
    error::{Error, Result},
    new_key::draw,
    store::Store,
};

/// Serves `usage.v1.AccessService`.
#[derive(Clone, Debug)]
pub(crate) struct AccessRpc {
    pub(crate) store: Store,
    pub(crate) authenticator: Authenticator,
    pub(crate) auditor: Auditor,
}

/// The largest page of entries, in bytes of their texts: clients take 4 MiB by default.
const MAX_PAGE_BYTES: usize = 1024 * 1024;

const ROLES: [(Role, v1::KeyRole); 3] = [
    (Role::Writer, v1::KeyRole::Writer),
    (Role::Reader, v1::KeyRole::Reader),
    (Role::Admin, v1::KeyRole::Admin),
];

const OUTCOMES: [(Outcome, v1::AuditOutcome); 3] = [
    (Outcome::Begun, v1::AuditOutcome::Begun),
    (Outcome::Done, v1::AuditOutcome::Done),
    (Outcome::Failed, v1::AuditOutcome::Failed),
];

fn role(number: i32) -> Result<Role, Violation> {
    ROLES
        .iter()
        .find(|(_, wire)| i32::from(*wire) == number)
        .map(|(role, _)| *role)
        .ok_or_else(|| {
            let message = format!("role is {number}; it must be WRITER, READER or ADMIN");
            Violation::invalid("role", message)
        })
}

fn new_key(request: v1::CreateKeyRequest) -> Result<NewKey, Violation> {
    let scope = request.scope.unwrap_or_default();
    Ok(NewKey {
        name: request.name,
        role: role(request.role)?,
        scope: Scope::new(&scope.accounts, &scope.account_prefixes, &scope.meters)?,
        expires_at: request
            .expires_at
            .as_ref()
            .map(|at| wire::millis("expires_at", at))
            .transpose()?,
    })
}

fn api_key(key: ApiKey) -> v1::ApiKey {
    let role = ROLES.iter().find(|(known, _)| *known == key.key.role);
    let scope = (!key.key.scope.is_unlimited()).then(|| v1::KeyScope {
        accounts: key
            .key
            .scope
            .accounts()
            .iter()
            .map(ToString::to_string)
            .collect(),
        account_prefixes: key.key.scope.account_prefixes().to_vec(),
        meters: key.key.scope.meters().to_vec(),
    });
    v1::ApiKey {
        id: key.id.to_string(),
        name: key.key.name,
        role: role
            .map_or(v1::KeyRole::Unspecified, |(_, wire)| *wire)
            .into(),
        scope,
        created_at: Some(wire::timestamp(key.created_at)),
        expires_at: key.key.expires_at.map(wire::timestamp),
        revoked_at: key.revoked_at.map(wire::timestamp),
        last_used_at: key.last_used_at.map(wire::timestamp),
    }
}

fn audit_entry(entry: Entry) -> v1::AuditEntry {
    let Entry { id, at, entry } = entry;
    let outcome = OUTCOMES.iter().find(|(known, _)| *known == entry.outcome);
    let actor_kind = match entry.actor.kind {
        ActorKind::Anyone => v1::AuditActor::Anyone,
        ActorKind::Key => v1::AuditActor::Key,
        ActorKind::Certificate => v1::AuditActor::Certificate,
        ActorKind::Command => v1::AuditActor::Command,
    };
    v1::AuditEntry {
        id: id.to_string(),
        at: Some(wire::timestamp(at)),
        key_id: entry
            .actor
            .key
            .map(|key| key.to_string())
            .unwrap_or_default(),
        key_name: entry.actor.name,
        address: entry.actor.address,
        request_id: entry.actor.request_id,
        action_id: entry.actor.action_id.to_string(),
        actor: actor_kind.into(),
        action: entry.action,
        account_id: entry.account_id.unwrap_or_default(),
        request: entry.request.unwrap_or_default(),
        before: entry.before.unwrap_or_default(),
        after: entry.after.unwrap_or_default(),
        outcome: outcome
            .map_or(v1::AuditOutcome::Unspecified, |(_, wire)| *wire)
            .into(),
        message: entry.message.unwrap_or_default(),
    }
}

fn key_id(field: &str, text: &str) -> Result<KeyId, Violation> {
    KeyId::parse(text).ok_or_else(|| {
        let given = quoted(text);
        Violation::invalid(
            field,
            format!("{field} {given} is not the id of a key: 16 hexadecimal digits"),
        )
    })
}

fn filter(request: &v1::ListAuditEntriesRequest) -> Result<EntryFilter, Violation> {
    let millis = |field: &str, at: &Option<_>| {
        let at = at.as_ref().map(|at| wire::millis(field, at));
        at.transpose()
    };
    let key = (!request.key_id.is_empty()).then(|| key_id("key_id", &request.key_id));
    let account = (!request.account_id.is_empty()).then(|| AccountId::parse(&request.account_id));
    Ok(EntryFilter {
        from: millis("from", &request.from)?,
        until: millis("until", &request.until)?,
        key: key.transpose()?,
        account_id: account.transpose()?.map(String::from),
    })
}

/// How many of the first entries are in one page: at least one, however large.
fn fitting(entries: &[Entry]) -> usize {
    let mut bytes = 0_usize;
    let fitting = entries.iter().take_while(|entry| {
        bytes = bytes.saturating_add(entry.entry.bytes());
        bytes <= MAX_PAGE_BYTES
    });
    fitting.count().max(1)
}

/// The place of an entry in a page token.
fn place(entry: &Entry) -> String {
    format!("{} {}", entry.at, entry.id)
}

fn parse_place(text: &str) -> Option<(Millis, Uuid)> {
    let (at, id) = text.split_once(' ')?;
    Some((at.parse().ok()?, id.parse().ok()?))
}

impl AccessRpc {
    async fn create(
        &self,
        actor: &Actor,
        request: v1::CreateKeyRequest,
    ) -> Result<v1::CreateKeyResponse> {
        let new = new_key(request)?;
        let now = self.store.shared_now().await?;
        new.check(now)?;
        let text = draw()?;
        let presented = PresentedKey::parse(text.reveal())
            .ok_or_else(|| Error::Internal("a new key cannot be read".into()))?;
        let key = if self.store.has_api_keys().await? {
            self.store
                .create_api_key(&presented, &new, actor, now)
                .await?
        } else {
            if new.role != Role::Admin || !new.scope.is_unlimited() || new.expires_at.is_some() {
                let message = "the first key must be of an admin, without limits and without an end: with another one, no call could create the next";
                return Err(Violation::invalid("role", message).into());
            }
            let by = (actor, "CreateKey");
            let first = self.store.create_first_api_key(&presented, &new, by, now);
            // If there is another first key meanwhile, this call came without one.
            first.await?.ok_or(Error::Unauthenticated)?
        };
        self.authenticator.key_created();
        let (by, role) = (&actor.name, key.key.role.name());
        tracing::info!(key = by, created = %key.id, name = key.key.name, role, "an API key was created");
        Ok(v1::CreateKeyResponse {
            key: Some(api_key(key)),
            text: text.reveal().to_owned(),
        })
    }

    async fn revoke(&self, actor: &Actor, id: &str) -> Result<v1::RevokeKeyResponse> {
        let id = KeyId::parse(id).ok_or_else(|| Error::ApiKeyNotFound(id.to_owned()))?;
        let now = self.store.shared_now().await?;
        let (key, is_revoked_now) = self.store.revoke_api_key(id, actor, now).await?;
        self.authenticator.forget(id);
        if is_revoked_now {
            tracing::info!(key = actor.name, revoked = %key.id, name = key.key.name, "an API key was revoked");
        }
        Ok(v1::RevokeKeyResponse {
            key: Some(api_key(key)),
            duplicate: !is_revoked_now,
        })
    }
}

#[tonic::async_trait]
impl AccessService for AccessRpc {
    async fn create_key(
        &self,
        request: Request<v1::CreateKeyRequest>,
    ) -> std::result::Result<Response<v1::CreateKeyResponse>, Status> {
        let (caller, actor) = (caller(&request)?, actor(&request)?);
        let (rpc, request) = (self.clone(), request.into_inner());
        let action = audit_json::create_key(actor.clone(), &request);
        let created = to_its_end(async move {
            let created = async {
                caller.check_everything()?;
                rpc.create(&actor, request).await
            };
            // One that was done has recorded itself.
            rpc.auditor.checked(&action, created.await).await
        });
        Ok(Response::new(created.await?))
    }

    async fn list_keys(
        &self,
        request: Request<v1::ListKeysRequest>,
    ) -> std::result::Result<Response<v1::ListKeysResponse>, Status> {
        const FILTER: &str = "keys";
        let (caller, actor) = (caller(&request)?, actor(&request)?);
        let allowed = caller.check_everything().map_err(Error::from);
        let action = audit_json::list_keys(actor);
        self.auditor.checked(&action, allowed).await?;
        let request = request.into_inner();
        let limit = page_token::page_size(request.page_size).map_err(Error::from)?;
        let after = page_token::decode_as(FILTER, &request.page_token, KeyId::parse)
            .map_err(Error::from)?;
        let mut keys = self
            .store
            .list_api_keys(after, limit.saturating_add(1))
            .await?;
        let has_more = u64::try_from(keys.len()).is_ok_and(|len| len > limit);
        if has_more {
            keys.pop();
        }
        let next_page_token = match keys.last() {
            Some(last) if has_more => page_token::encode(FILTER, &last.id.to_string()),
            _ => String::new(),
        };
        Ok(Response::new(v1::ListKeysResponse {
            keys: keys.into_iter().map(api_key).collect(),
            next_page_token,
        }))
    }

    async fn revoke_key(
        &self,
        request: Request<v1::RevokeKeyRequest>,
    ) -> std::result::Result<Response<v1::RevokeKeyResponse>, Status> {
        let (caller, actor) = (caller(&request)?, actor(&request)?);
        let (rpc, request) = (self.clone(), request.into_inner());
        let action = audit_json::revoke_key(actor.clone(), &request);
        let revoked = to_its_end(async move {
            let revoked = async {
                caller.check_everything()?;
                rpc.revoke(&actor, &request.id).await
            };
            rpc.auditor.checked(&action, revoked.await).await
        });
        Ok(Response::new(revoked.await?))
    }

    async fn list_audit_entries(
        &self,
        request: Request<v1::ListAuditEntriesRequest>,
    ) -> std::result::Result<Response<v1::ListAuditEntriesResponse>, Status> {
        let (caller, actor) = (caller(&request)?, actor(&request)?);
        let request = request.into_inner();
        let allowed = caller.check_everything().map_err(Error::from);
        let action = audit_json::list_audit_entries(actor, &request);
        self.auditor.checked(&action, allowed).await?;
        let limit = page_token::page_size(request.page_size).map_err(Error::from)?;
        let filter = filter(&request).map_err(Error::from)?;
        let name = format!("audit {filter:?}");
        let after =
            page_token::decode_as(&name, &request.page_token, parse_place).map_err(Error::from)?;
        let mut entries = self
            .store
            .list_audit_entries(&filter, after, limit.saturating_add(1))
            .await?;
        let limit = usize::try_from(limit)
            .unwrap_or(usize::MAX)
            .min(fitting(&entries));
        let has_more = entries.len() > limit;
        entries.truncate(limit);
        let next_page_token = match entries.last() {
            Some(last) if has_more => page_token::encode(&name, &place(last)),
            _ => String::new(),
        };
        Ok(Response::new(v1::ListAuditEntriesResponse {
            entries: entries.into_iter().map(audit_entry).collect(),
            next_page_token,
        }))
    }
}
