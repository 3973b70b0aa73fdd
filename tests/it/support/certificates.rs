//! Certificates made by the tests: authorities, what they sign, and the files of a server.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use usage_server::config::TlsConfig;

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
    der: CertificateDer<'static>,
}

/// A certificate and its key.
pub(crate) struct Identity {
    pub(crate) certificate: rcgen::Certificate,
    pub(crate) key: KeyPair,
    serial: SerialNumber,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).unwrap();
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate of a host or of a caller.
    pub(crate) fn sign(&self, name: &str) -> Identity {
        self.sign_as(CertificateParams::new(vec![name.to_owned()]).unwrap())
    }

    /// One that has expired.
    pub(crate) fn sign_expired(&self, name: &str) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        self.sign_as(params)
    }

    /// One of a caller with subjects of every kind.
    pub(crate) fn sign_subjects(
        &self,
        common_name: &str,
        dns: &str,
        uri: &str,
        email: &str,
    ) -> Identity {
        let mut params = CertificateParams::new(vec![dns.to_owned()]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.subject_alt_names.extend([
            SanType::URI(uri.try_into().unwrap()),
            SanType::Rfc822Name(email.try_into().unwrap()),
        ]);
        self.sign_as(params)
    }

    /// One that expires at a time, in seconds of Unix time.
    #[allow(dead_code, reason = "only the tests of the program use it")]
    pub(crate) fn sign_until(&self, name: &str, expires_at: u64) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(expires_at);
        self.sign_as(params)
    }

    fn sign_as(&self, mut params: CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let serial = SerialNumber::from(uuid::Uuid::new_v4().as_bytes().to_vec());
        params.serial_number = Some(serial.clone());
        Identity {
            certificate: params.signed_by(&key, &self.issuer).unwrap(),
            key,
            serial,
        }
    }

    /// The list of the certificates that it has revoked.
    pub(crate) fn revoke(&self, revoked: &[&Identity]) -> String {
        // In the year 2100.
        self.revoke_until(revoked, 4_102_444_800)
    }

    /// The same, which is out of date at a time, in seconds of Unix time.
    pub(crate) fn revoke_until(&self, revoked: &[&Identity], out_of_date_at: u64) -> String {
        let revoked_certs = revoked
            .iter()
            .map(|identity| RevokedCertParams {
                serial_number: identity.serial.clone(),
                revocation_time: date_time_ymd(2024, 1, 1),
                reason_code: None,
                invalidity_date: None,
            })
            .collect();
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(1970, 1, 1) + Duration::from_secs(out_of_date_at),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// The TLS settings of a server that accepts clients of this authority.
    pub(crate) fn server_config(&self, own: &Identity) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let callers =
            WebPkiClientVerifier::builder_with_provider(self.roots().into(), provider.clone());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(callers.build().unwrap())
            .with_single_cert(vec![own.certificate.der().clone()], own.private_key())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// The TLS settings of a client that trusts this authority.
    pub(crate) fn client_config(&self, own: Option<&Identity>, alpn: &[u8]) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => builder
                .with_client_auth_cert(vec![own.certificate.der().clone()], own.private_key())
                .unwrap(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        config
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        roots
    }
}

impl Identity {
    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }
}

/// The files of a server's TLS in a folder.
pub(crate) struct Files(PathBuf);

impl Files {
    pub(crate) fn new(folder: &Path, own: &Identity) -> Self {
        let files = Self(folder.to_owned());
        files.put(own);
        files
    }

    /// Puts a certificate and its key in place.
    pub(crate) fn put(&self, own: &Identity) {
        self.write("key.pem", &own.key.serialize_pem());
        self.write("cert.pem", &own.certificate.pem());
    }

    /// Replaces a file at once.
    pub(crate) fn write(&self, name: &str, contents: &str) {
        let new = self.0.join(format!("{name}.new"));
        fs::write(&new, contents).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The settings of a server for any client.
    pub(crate) fn config(&self) -> TlsConfig {
        TlsConfig {
            tls_cert_file: Some(self.path("cert.pem")),
            tls_key_file: Some(self.path("key.pem")),
            ..TlsConfig::default()
        }
    }

    /// The settings of a server for clients of an authority alone.
    pub(crate) fn mutual_config(&self, clients: &Authority) -> TlsConfig {
        self.write("clients.pem", &clients.pem);
        TlsConfig {
            tls_client_ca_file: Some(self.path("clients.pem")),
            ..self.config()
        }
    }
}
