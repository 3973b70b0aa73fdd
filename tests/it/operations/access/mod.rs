//! Who may do what: API keys, roles, limits and the audit table, over real sockets.

mod append_only;
mod audit;
mod audit_changes;
mod audit_limits;
mod batches;
mod certificates;
pub(crate) mod commands;
mod fairness;
mod http;
mod keys;
mod limits;
mod rates;
pub(crate) mod roles;
mod scopes;

use prost_types::Timestamp;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};
use usage_client::{
    Retry, UsageClient,
    proto::{
        ApiKey, AuditEntry, CreateKeyRequest, CreateKeyResponse, KeyRole, KeyScope,
        ListAuditEntriesRequest, access_service_client::AccessServiceClient,
    },
};

use crate::support::world::{TIMEOUT, World};

/// Adds a key to each call, if there is one.
#[derive(Clone)]
pub(crate) struct WithKey(Option<MetadataValue<Ascii>>);

impl Interceptor for WithKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            let value = value.clone();
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// The calls of admins about keys, with a key or without.
pub(crate) type Access = AccessServiceClient<InterceptedService<Channel, WithKey>>;

fn authorization(key: &str) -> MetadataValue<Ascii> {
    format!("Bearer {key}").parse().unwrap()
}

pub(crate) async fn access(world: &World, key: Option<&str>) -> Access {
    let key = WithKey(key.map(authorization));
    AccessServiceClient::with_interceptor(world.grpc_channel().await, key)
}

/// A client with a key.
pub(crate) async fn client(endpoint: &str, key: &str) -> UsageClient {
    let builder = UsageClient::builder(endpoint).api_key(key);
    let client = builder.connect().await.unwrap();
    client.with_timeout(TIMEOUT).with_retry(Retry::never())
}

pub(crate) fn new_key(name: &str, role: KeyRole) -> CreateKeyRequest {
    CreateKeyRequest {
        name: name.to_owned(),
        role: role.into(),
        scope: None,
        expires_at: None,
    }
}

pub(crate) fn limited_key(
    name: &str,
    role: KeyRole,
    accounts: &[&str],
    meters: &[&str],
) -> CreateKeyRequest {
    let texts = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
    CreateKeyRequest {
        scope: Some(KeyScope {
            accounts: texts(accounts),
            account_prefixes: Vec::new(),
            meters: texts(meters),
        }),
        ..new_key(name, role)
    }
}

pub(crate) async fn create(access: &mut Access, request: CreateKeyRequest) -> CreateKeyResponse {
    access.create_key(request).await.unwrap().into_inner()
}

/// Creates the first key, an admin's.
pub(crate) async fn first_admin(world: &World) -> (ApiKey, String) {
    let mut open = access(world, None).await;
    let created = create(&mut open, new_key("root", KeyRole::Admin)).await;
    (created.key.unwrap(), created.text)
}

/// The text of a key that is limited to some meters. No key must exist yet.
pub(crate) async fn create_key_with_meters(
    world: &World,
    role: KeyRole,
    meters: &[&str],
) -> String {
    let (_, admin) = first_admin(world).await;
    let mut access = access(world, Some(&admin)).await;
    create(&mut access, limited_key("limited", role, &[], meters))
        .await
        .text
}

pub(crate) fn timestamp(millis: i64) -> Timestamp {
    Timestamp {
        seconds: millis.div_euclid(1_000),
        nanos: i32::try_from(millis.rem_euclid(1_000)).unwrap() * 1_000_000,
    }
}

/// All audit entries, oldest first.
async fn entries(access: &mut Access, request: ListAuditEntriesRequest) -> Vec<AuditEntry> {
    let listed = access.list_audit_entries(request).await.unwrap();
    let mut entries = listed.into_inner().entries;
    entries.reverse();
    entries
}
