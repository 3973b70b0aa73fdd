//! Before the first API key: stores that of a file, and serves all only where no other machine can reach the service.

use std::{net::SocketAddr, path::Path};

use tracing::warn;
use uuid::Uuid;

use super::error::ServeError;
use crate::{
    config::AccessConfig,
    domain::{
        access::{Role, Scope},
        api_key::{NewKey, PresentedKey},
        audit::Actor,
    },
    error::Error,
    store::Store,
};

/// The name of the key of `BOOTSTRAP_ADMIN_KEY_FILE`.
const BOOTSTRAP: &str = "bootstrap";

/// Stores the first key if a file has it, and checks that the service is not open to all.
///
/// # Errors
/// The file cannot be used, the database does not respond, or others reach the address and need neither a key nor a
/// certificate.
pub(super) async fn check(
    store: &Store,
    config: &AccessConfig,
    addresses: &[SocketAddr],
    needs_client_certificates: bool,
) -> Result<(), ServeError> {
    if has_keys(store).await? {
        return Ok(());
    }
    if let Some(path) = &config.bootstrap_admin_key_file {
        let presented = read_key(path).map_err(ServeError::Config)?;
        if store_first(store, &presented).await.map_err(failed)? {
            tracing::info!(key = %presented.id, "the key of BOOTSTRAP_ADMIN_KEY_FILE is the first: an admin's");
        }
        return Ok(());
    }
    if needs_client_certificates {
        return Ok(());
    }
    let exposed = addresses
        .iter()
        .find(|address| !address.ip().to_canonical().is_loopback());
    let Some(&address) = exposed else {
        warn!(
            "there is no API key: every program on this machine may do everything; create one with `usage-server keys create`"
        );
        return Ok(());
    };
    if config.insecure {
        warn!(%address, "there is no API key, and --insecure: everyone who reaches the address may do everything");
        return Ok(());
    }
    Err(ServeError::OpenToAll(address))
}

async fn has_keys(store: &Store) -> Result<bool, ServeError> {
    store.has_api_keys().await.map_err(failed)
}

fn failed(error: Error) -> ServeError {
    ServeError::Io(Box::new(error))
}

async fn store_first(store: &Store, presented: &PresentedKey) -> crate::error::Result<bool> {
    let now = store.shared_now().await?;
    let key = NewKey {
        name: BOOTSTRAP.to_owned(),
        role: Role::Admin,
        scope: Scope::default(),
        expires_at: None,
    };
    let actor = Actor::command(Uuid::now_v7());
    let by = (&actor, "BootstrapKey");
    let first = store.create_first_api_key(presented, &key, by, now).await?;
    Ok(first.is_some())
}

/// The key in a file. The error does not repeat it.
fn read_key(path: &Path) -> Result<PresentedKey, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("BOOTSTRAP_ADMIN_KEY_FILE {shown} cannot be read: {error}"))?;
    PresentedKey::parse(text.trim()).ok_or_else(|| {
        format!("BOOTSTRAP_ADMIN_KEY_FILE {shown} has no API key; make one with `usage-server keys generate`")
    })
}
