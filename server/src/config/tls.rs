//! The settings of TLS.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::domain::client_certificate::{ClientRole, ClientRoles};

/// TLS on every socket, and client certificates.
#[derive(Args, Clone, Debug, Default)]
pub struct TlsConfig {
    /// The certificate of the service and those of the authorities between, a PEM file. With it, every socket speaks TLS and
    /// nothing else. Read again when it changes.
    #[arg(long, env = "TLS_CERT_FILE", value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,

    /// The private key of the certificate, a PEM file.
    #[arg(long, env = "TLS_KEY_FILE", value_name = "FILE")]
    pub tls_key_file: Option<PathBuf>,

    /// The authorities of client certificates, a PEM file. With it, gRPC and `HTTP_LISTEN` need a certificate of one of them;
    /// `WEBHOOK_LISTEN` and `METRICS_LISTEN` do not.
    #[arg(long, env = "TLS_CLIENT_CA_FILE", value_name = "FILE")]
    pub tls_client_ca_file: Option<PathBuf>,

    /// The client certificates that the authorities have revoked, a PEM file of lists (CRL), one of each authority.
    #[arg(long, env = "TLS_CLIENT_CRL_FILE", value_name = "FILE")]
    pub tls_client_crl_file: Option<PathBuf>,

    /// The roles of client certificates by a subject, separated by commas: `SUBJECT=ROLE`. A subject is `CN:` and a
    /// common name, `DNS:` and a DNS name, `URI:` and a URI, or `email:` and an address; a role is `writer`, `reader` or `admin`.
    #[arg(
        long,
        env = "TLS_CLIENT_ROLES",
        value_name = "SUBJECT=ROLE",
        value_delimiter = ','
    )]
    pub tls_client_roles: Vec<ClientRole>,
}

/// The files of a complete configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) client_ca: Option<PathBuf>,
    pub(crate) client_crl: Option<PathBuf>,
}

impl TlsConfig {
    /// The files; none without TLS.
    ///
    /// # Errors
    /// A setting needs another one. The error names both.
    pub(crate) fn files(&self) -> Result<Option<TlsFiles>, String> {
        let needs =
            |setting: &str, other: &str| Err(format!("{setting} is set and {other} is not"));
        let files = [
            ("TLS_KEY_FILE", self.tls_key_file.is_some()),
            ("TLS_CLIENT_CA_FILE", self.tls_client_ca_file.is_some()),
            ("TLS_CLIENT_CRL_FILE", self.tls_client_crl_file.is_some()),
            ("TLS_CLIENT_ROLES", !self.tls_client_roles.is_empty()),
        ];
        let Some(certificate) = &self.tls_cert_file else {
            let set = files.into_iter().find(|(_, is_set)| *is_set);
            return set.map_or(Ok(None), |(setting, _)| needs(setting, "TLS_CERT_FILE"));
        };
        let Some(key) = &self.tls_key_file else {
            return needs("TLS_CERT_FILE", "TLS_KEY_FILE");
        };
        if self.tls_client_ca_file.is_none() {
            let of_clients = files.into_iter().skip(2).find(|(_, is_set)| *is_set);
            if let Some((setting, _)) = of_clients {
                return needs(setting, "TLS_CLIENT_CA_FILE");
            }
        }
        self.client_roles()?;
        Ok(Some(TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
            client_ca: self.tls_client_ca_file.clone(),
            client_crl: self.tls_client_crl_file.clone(),
        }))
    }

    /// The roles of client certificates.
    ///
    /// # Errors
    /// A subject has two of them.
    pub(crate) fn client_roles(&self) -> Result<ClientRoles, String> {
        ClientRoles::new(&self.tls_client_roles).map_err(|why| format!("TLS_CLIENT_ROLES: {why}"))
    }

    /// Whether clients need a certificate.
    pub(crate) fn needs_client_certificates(&self) -> bool {
        self.tls_client_ca_file.is_some()
    }
}

impl TlsFiles {
    /// All of them, with their settings.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        [
            Some(("TLS_CERT_FILE", &self.certificate)),
            Some(("TLS_KEY_FILE", &self.key)),
            self.client_ca
                .as_ref()
                .map(|path| ("TLS_CLIENT_CA_FILE", path)),
            self.client_crl
                .as_ref()
                .map(|path| ("TLS_CLIENT_CRL_FILE", path)),
        ]
        .into_iter()
        .flatten()
        .map(|(setting, path)| (setting, path.as_path()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_of_tls_names_the_one_that_it_needs() {
        let file = || Some(PathBuf::from("file"));
        let role = || vec!["DNS:backend=writer".parse().unwrap()];
        let none = TlsConfig::default;
        for (config, words) in [
            (
                TlsConfig {
                    tls_cert_file: file(),
                    ..none()
                },
                "TLS_KEY_FILE is not",
            ),
            (
                TlsConfig {
                    tls_key_file: file(),
                    ..none()
                },
                "TLS_CERT_FILE is not",
            ),
            (
                TlsConfig {
                    tls_client_ca_file: file(),
                    ..none()
                },
                "TLS_CERT_FILE is not",
            ),
            (
                TlsConfig {
                    tls_client_roles: role(),
                    ..none()
                },
                "TLS_CERT_FILE is not",
            ),
            (
                TlsConfig {
                    tls_cert_file: file(),
                    tls_key_file: file(),
                    tls_client_crl_file: file(),
                    ..none()
                },
                "TLS_CLIENT_CRL_FILE is set and TLS_CLIENT_CA_FILE is not",
            ),
            (
                TlsConfig {
                    tls_cert_file: file(),
                    tls_key_file: file(),
                    tls_client_roles: role(),
                    ..none()
                },
                "TLS_CLIENT_ROLES is set and TLS_CLIENT_CA_FILE is not",
            ),
        ] {
            let error = config.files().unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(none().files(), Ok(None));
        let whole = TlsConfig {
            tls_cert_file: file(),
            tls_key_file: file(),
            tls_client_ca_file: file(),
            tls_client_roles: role(),
            ..none()
        };
        assert_eq!(whole.files().unwrap().unwrap().all().count(), 3);
    }
}
