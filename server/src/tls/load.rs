//! Reads the files of TLS.

use std::{fs, sync::Arc};

use rustls::{
    InconsistentKeys, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use sha2::{Digest as _, Sha256};

use super::certificate;
use crate::config::TlsFiles;

/// The SHA-256 of all files.
pub(super) type Digest = [u8; 32];

/// The largest file: lists of revoked certificates can be long.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
const CERTIFICATE: &str = "TLS_CERT_FILE";
const KEY: &str = "TLS_KEY_FILE";
const CLIENT_CA: &str = "TLS_CLIENT_CA_FILE";
const CLIENT_CRL: &str = "TLS_CLIENT_CRL_FILE";

/// What the files contain.
pub(super) struct Contents {
    pub(super) digest: Digest,
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
    client_crl: Option<Vec<u8>>,
}

/// What connections need of them.
pub(super) struct Loaded {
    pub(super) digest: Digest,
    pub(super) http2: Arc<ServerConfig>,
    /// For HTTP/2 and HTTP/1.
    pub(super) http: Arc<ServerConfig>,
    /// Without client certificates.
    pub(super) anonymous_http1: Arc<ServerConfig>,
    pub(super) verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// In seconds of Unix time.
    pub(super) expires_at: i64,
    /// When the first of the lists of revoked certificates is out of date, in seconds of Unix time; absent without lists.
    pub(super) lists_expire_at: Option<i64>,
}

/// Reads all files.
pub(super) fn read(files: &TlsFiles) -> Result<Contents, String> {
    let mut contents = Contents {
        digest: Digest::default(),
        certificate: Vec::new(),
        key: Vec::new(),
        client_ca: None,
        client_crl: None,
    };
    let mut digest = Sha256::new();
    for (setting, path) in files.all() {
        let wrong = |why: String| format!("{setting}: {}: {why}", path.display());
        let size = fs::metadata(path)
            .map_err(|error| wrong(error.to_string()))?
            .len();
        if size > MAX_FILE_BYTES {
            return Err(wrong(format!(
                "the file is larger than {MAX_FILE_BYTES} bytes"
            )));
        }
        let bytes = fs::read(path).map_err(|error| wrong(error.to_string()))?;
        // The sum says where each begins.
        digest.update(Sha256::digest(&bytes));
        match setting {
            CERTIFICATE => contents.certificate = bytes,
            KEY => contents.key = bytes,
            CLIENT_CA => contents.client_ca = Some(bytes),
            _ => contents.client_crl = Some(bytes),
        }
    }
    contents.digest = digest.finalize().into();
    Ok(contents)
}

/// Makes the settings of connections. The errors name a setting and nothing in its file.
pub(super) fn load(contents: &Contents) -> Result<Loaded, String> {
    let provider = Arc::new(ring::default_provider());
    let chain = certificates(CERTIFICATE, &contents.certificate)?;
    let own = chain
        .first()
        .ok_or_else(|| format!("{CERTIFICATE}: the file has no certificate"))?;
    let expires_at = certificate::expires_at(own).map_err(|why| format!("{CERTIFICATE}: {why}"))?;
    let key = PrivateKeyDer::from_pem_slice(&contents.key)
        .map_err(|error| pem_error(KEY, "private key", &error))?;
    let lists = lists(contents)?;
    let lists_expire_at = lists_expire_at(&lists)?;
    let verifier = verifier(contents, lists, &provider)?;
    let settings = |alpn: &[&[u8]], verifier: Option<&Arc<dyn ClientCertVerifier>>| {
        let (chain, key) = (chain.clone(), key.clone_key());
        server_config(&provider, (chain, key), verifier, alpn)
    };
    Ok(Loaded {
        digest: contents.digest,
        http2: settings(&[b"h2"], verifier.as_ref())?,
        http: settings(&[b"h2", b"http/1.1"], verifier.as_ref())?,
        anonymous_http1: settings(&[b"http/1.1"], None)?,
        verifier,
        expires_at,
        lists_expire_at,
    })
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    (chain, key): (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
    verifier: Option<&Arc<dyn ClientCertVerifier>>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, String> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                format!("{KEY} is not the key of the certificate in {CERTIFICATE}")
            }
            error => format!("{CERTIFICATE} and {KEY}: {error}"),
        })?;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    // A resumed session would not verify the client's certificate again. Connections are long, so little is saved.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Accepts clients of the authorities, but for those that are revoked. With lists, a certificate whose authority has none is
/// refused.
fn verifier(
    contents: &Contents,
    lists: Vec<CertificateRevocationListDer<'static>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let Some(authorities) = &contents.client_ca else {
        return Ok(None);
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(CLIENT_CA, authorities)? {
        roots
            .add(certificate)
            .map_err(|error| format!("{CLIENT_CA}: {error}"))?;
    }
    if roots.is_empty() {
        return Err(format!("{CLIENT_CA}: the file has no certificate"));
    }
    let mut builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if !lists.is_empty() {
        builder = builder.with_crls(lists);
    }
    let verifier = builder
        .build()
        .map_err(|error| format!("{CLIENT_CRL}: {error}"))?;
    Ok(Some(verifier))
}

/// The lists of revoked certificates; none without the setting.
fn lists(contents: &Contents) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let Some(pem) = &contents.client_crl else {
        return Ok(Vec::new());
    };
    let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| pem_error(CLIENT_CRL, "list", &error))?;
    if lists.is_empty() {
        return Err(format!("{CLIENT_CRL}: the file has no list"));
    }
    Ok(lists)
}

fn lists_expire_at(lists: &[CertificateRevocationListDer<'static>]) -> Result<Option<i64>, String> {
    let mut first: Option<i64> = None;
    for list in lists {
        let at = certificate::next_update(list).map_err(|why| format!("{CLIENT_CRL}: {why}"))?;
        first = [first, at].into_iter().flatten().min();
    }
    Ok(first)
}

fn certificates(setting: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| pem_error(setting, "certificate", &error))
}

/// The error of the parser can repeat a line of the file.
fn pem_error(setting: &str, what: &str, error: &pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => format!("{setting}: the file has no {what}"),
        _ => format!("{setting}: the file is not valid PEM"),
    }
}
