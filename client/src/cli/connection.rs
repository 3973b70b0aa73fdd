//! The connection flags, shared by all commands.

use super::exit::Failure;
use crate::UsageClient;
use clap::Args;
use std::{fs, path::PathBuf, time::Duration};

#[derive(Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct Connection {
    /// The server's address; calls are spread over several addresses separated by commas
    #[arg(
        long,
        global = true,
        env = "USAGE_SERVER",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:50051"
    )]
    server: Vec<String>,
    /// The deadline of a call including its retries, in seconds
    #[arg(
        long,
        global = true,
        env = "USAGE_TIMEOUT_SECS",
        value_name = "SECS",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    timeout: u64,
    /// The API key, ub_...; other users of this machine can see it here: prefer the variable or a file
    #[arg(
        long,
        global = true,
        env = "USAGE_API_KEY",
        value_name = "KEY",
        hide_env_values = true
    )]
    api_key: Option<String>,
    /// A file with the API key
    #[arg(long, global = true, env = "USAGE_API_KEY_FILE", value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Trust only server certificates signed by this authority, a PEM file; for `https://`
    #[arg(long, global = true, env = "USAGE_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// The client certificate, a PEM file; for `https://`
    #[arg(
        long,
        global = true,
        env = "USAGE_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,
    /// The private key of the client certificate, a PEM file
    #[arg(
        long,
        global = true,
        env = "USAGE_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,
    /// The name in the servers' certificates, if it differs from their addresses
    #[arg(long, global = true, env = "USAGE_TLS_DOMAIN", value_name = "NAME")]
    tls_domain: Option<String>,
}

impl std::fmt::Debug for Connection {
    /// Leaves out the API key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("server", &self.server)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Creates the client; it connects with its first call.
    pub(super) fn client(self) -> Result<UsageClient, Failure> {
        let read =
            |path: PathBuf| fs::read_to_string(&path).map_err(|error| Failure::file(&path, error));
        let mut servers = self.server.into_iter();
        let first = servers.next().unwrap_or_default();
        let mut builder = UsageClient::builder(first).timeout(Duration::from_secs(self.timeout));
        for server in servers {
            builder = builder.endpoint(server);
        }
        // A key itself comes before a file with one.
        let key = match (self.api_key, self.api_key_file) {
            (Some(key), _) if !key.is_empty() => Some(key),
            (_, Some(path)) => {
                let key = read(path.clone())?;
                if key.trim().is_empty() {
                    return Err(Failure::file(&path, "the file has no API key"));
                }
                Some(key)
            }
            (_, None) => None,
        };
        if let Some(key) = key {
            builder = builder.api_key(key.trim());
        }
        if let Some(path) = self.tls_ca {
            builder = builder.ca_certificate(read(path)?);
        }
        if let (Some(certificate), Some(key)) = (self.tls_cert, self.tls_key) {
            builder = builder.client_certificate(read(certificate)?, read(key)?);
        }
        if let Some(name) = self.tls_domain {
            builder = builder.domain_name(name);
        }
        Ok(builder.connect_lazy()?)
    }
}
