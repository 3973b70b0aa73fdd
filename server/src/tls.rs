//! TLS of the sockets: the certificate, its key, and who may connect. The files are read again when they change; a new one
//! that cannot be used leaves the old one in place.

mod certificate;
mod load;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, UnixTime},
};

use self::load::{Digest, Loaded};
use crate::{
    config::TlsFiles, connections::Protocol, domain::client_certificate::ClientCertificate,
};

/// The files of TLS, and what was read from them.
pub(crate) struct Tls {
    files: TlsFiles,
    current: RwLock<Arc<Loaded>>,
    /// The contents that could not be used at the last attempt.
    refused: Mutex<Option<Digest>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clients {
    /// Where authorities of client certificates are set.
    Authenticated,
    /// Never.
    Anonymous,
}

/// What a client's certificate is for the service.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) certificate: ClientCertificate,
    /// In seconds of Unix time.
    expires_at: i64,
    chain: Vec<CertificateDer<'static>>,
}

impl Client {
    /// Whether its certificate has expired at `now` in seconds of Unix time.
    pub(crate) fn has_expired(&self, now: i64) -> bool {
        self.expires_at <= now
    }
}

/// What reading the files again resulted in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    Unchanged,
    Changed,
    /// The old files stay in use.
    Refused {
        why: String,
        /// Whether these contents were refused before.
        is_known: bool,
    },
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be read or used. The error names its setting, and nothing in it.
    pub(crate) fn load(files: TlsFiles) -> Result<Self, String> {
        let loaded = load::read(&files).and_then(|contents| load::load(&contents))?;
        Ok(Self {
            files,
            current: RwLock::new(Arc::new(loaded)),
            refused: Mutex::default(),
        })
    }

    fn current(&self) -> Arc<Loaded> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The settings for a new connection.
    pub(crate) fn settings(&self, protocol: Protocol, clients: Clients) -> Arc<ServerConfig> {
        let current = self.current();
        Arc::clone(match (protocol, clients) {
            (Protocol::Http2, _) => &current.http2,
            (_, Clients::Authenticated) => &current.http,
            (_, Clients::Anonymous) => &current.anonymous_http1,
        })
    }

    /// When the service's certificate expires, in seconds of Unix time.
    pub(crate) fn expires_at(&self) -> i64 {
        self.current().expires_at
    }

    /// When the first list of revoked certificates is out of date, in seconds of Unix time; absent without lists. It stays in
    /// use: without one, no client could connect.
    pub(crate) fn lists_expire_at(&self) -> Option<i64> {
        self.current().lists_expire_at
    }

    /// Reads the files again, at `now` in seconds of Unix time.
    pub(crate) fn reload(&self, now: i64) -> Reload {
        let (digest, loaded) = match load::read(&self.files) {
            Ok(contents) if contents.digest == self.current().digest => {
                self.set_refused(None);
                return Reload::Unchanged;
            }
            Ok(contents) => (Some(contents.digest), load::load(&contents)),
            Err(why) => (None, Err(why)),
        };
        let usable = loaded.and_then(|loaded| {
            if loaded.expires_at <= now && self.expires_at() > now {
                return Err("TLS_CERT_FILE: the new certificate has expired".to_owned());
            }
            Ok(loaded)
        });
        match usable {
            Ok(loaded) => {
                self.set_refused(None);
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
                Reload::Changed
            }
            Err(why) => {
                // A file that cannot be read has no contents: all such attempts are alike.
                let digest = digest.unwrap_or_default();
                let is_known = self.set_refused(Some(digest)) == Some(digest);
                Reload::Refused { why, is_known }
            }
        }
    }

    fn set_refused(&self, digest: Option<Digest>) -> Option<Digest> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *refused, digest)
    }

    /// What the chain of a client's certificates says, which the handshake has verified.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn client(chain: &[CertificateDer<'_>]) -> Result<Option<Client>, String> {
        let Some(own) = chain.first() else {
            return Ok(None);
        };
        let (certificate, expires_at) = certificate::client(own)?;
        Ok(Some(Client {
            certificate,
            expires_at,
            chain: chain.iter().map(|der| der.clone().into_owned()).collect(),
        }))
    }

    /// Whether a client that is connected would be accepted again, at `now` in seconds of Unix time.
    pub(crate) fn accepts(&self, client: &Client, now: i64) -> bool {
        let current = self.current();
        let (Some(verifier), Some((own, others))) = (&current.verifier, client.chain.split_first())
        else {
            return true;
        };
        let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or(0)));
        verifier.verify_client_cert(own, others, now).is_ok()
    }

    /// What the contents in use are; changes with them.
    pub(crate) fn version(&self) -> Digest {
        self.current().digest
    }
}

/// When the first list of revoked certificates in some files is out of date, in seconds of Unix time; absent without lists.
/// For a check of the files alone.
///
/// # Errors
/// A file cannot be read or used.
pub(crate) fn lists_expiry(files: &TlsFiles) -> Result<Option<i64>, String> {
    let contents = load::read(files)?;
    load::load(&contents).map(|loaded| loaded.lists_expire_at)
}

/// When the certificate of some files expires, in seconds of Unix time. For a check of the files alone.
///
/// # Errors
/// A file cannot be read or used.
pub(crate) fn expiry(files: &TlsFiles) -> Result<i64, String> {
    let contents = load::read(files)?;
    load::load(&contents).map(|loaded| loaded.expires_at)
}
