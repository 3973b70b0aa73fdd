//! Before the first API key: stores that of a file, and serves all only where no other machine can reach the service.

use std::{net::SocketAddr, path::Path};

use tracing::warn;
use uuid::Uuid;

use super::error::ServeError;
use crate::{
    config::{AccessConfig, TlsConfig},
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
    tls: &TlsConfig,
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
    let certificates = tls
        .needs_client_certificates()
        .then_some(!tls.tls_client_roles.is_empty());
    match warning(addresses, config.insecure, certificates) {
        Ok(None) => Ok(()),
        Ok(Some(warning)) => {
            warn!("there is no API key{warning}");
            Ok(())
        }
        Err(address) => Err(ServeError::OpenToAll(address)),
    }
}

/// What the log says of a service without keys, if anything. `certificates` says whether client certificates have roles,
/// if clients need one.
///
/// # Errors
/// Other machines reach this address, and need nothing.
fn warning(
    addresses: &[SocketAddr],
    is_insecure: bool,
    certificates: Option<bool>,
) -> Result<Option<String>, SocketAddr> {
    match certificates {
        Some(true) => return Ok(None),
        Some(false) => {
            let all = " and no TLS_CLIENT_ROLES: every client certificate of TLS_CLIENT_CA_FILE may do everything";
            return Ok(Some(all.to_owned()));
        }
        None => {}
    }
    let mut addresses = addresses.iter();
    match addresses.find(|address| !address.ip().to_canonical().is_loopback()) {
        None => Ok(Some(
            ": every program on this machine may do everything; create one with `usage-server keys create`"
                .to_owned(),
        )),
        Some(address) if is_insecure => Ok(Some(format!(
            ", and --insecure: everyone who reaches {address} may do everything"
        ))),
        Some(address) => Err(*address),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_may_do_everything_is_named_in_the_log() {
        let local: SocketAddr = "127.0.0.1:50051".parse().unwrap();
        let open: SocketAddr = "0.0.0.0:50051".parse().unwrap();
        let said = |addresses: &[SocketAddr], is_insecure, certificates| {
            let warning = warning(addresses, is_insecure, certificates);
            warning.map(Option::unwrap_or_default)
        };
        for (addresses, is_insecure, certificates, words) in [
            (&[local][..], false, None, "this machine"),
            (&[local, open], true, None, "0.0.0.0:50051"),
            (&[open], false, Some(false), "no TLS_CLIENT_ROLES"),
            (&[local], false, Some(false), "no TLS_CLIENT_ROLES"),
        ] {
            let warning = said(addresses, is_insecure, certificates).unwrap();
            assert!(warning.contains(words), "{warning}");
        }
        assert_eq!(said(&[local, open], false, None), Err(open));
        assert_eq!(said(&[open], false, Some(true)), Ok(String::new()));
    }
}
