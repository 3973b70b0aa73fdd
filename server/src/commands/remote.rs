//! Commands that ask a running server: its address, the key, and TLS. They need none of the server's secrets.

use std::{io::Write, net::IpAddr, path::PathBuf, time::Duration};

use clap::Args;
use http::Uri;
use tokio::time::timeout;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::config::{Secret, read_secret, read_text_file};

/// For TCP and the handshake of TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that breaks is noticed while a call waits for its answer.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A running server.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "A running server")]
pub struct RemoteConfig {
    /// Ask the server at this address, such as `https://usage.internal:50051`, with its own settings. The database and the
    /// Stripe account are not opened here.
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,

    /// The API key for `--server`, `ub_...`, of a reader without limits.
    #[arg(
        long,
        env = "USAGE_API_KEY",
        value_name = "KEY",
        hide_env_values = true
    )]
    pub api_key: Option<Secret>,

    /// A file with the API key, instead of `USAGE_API_KEY`.
    #[arg(long, env = "USAGE_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,

    /// Trust only a certificate of `--server` that is signed by this authority, a PEM file. Default: the system's
    /// authorities.
    #[arg(long, env = "USAGE_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,

    /// The client certificate for `--server`, a PEM file.
    #[arg(
        long,
        env = "USAGE_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,

    /// The private key of the client certificate, a PEM file.
    #[arg(
        long,
        env = "USAGE_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,

    /// The name in the certificate of `--server`, if it differs from its address.
    #[arg(long, env = "USAGE_TLS_DOMAIN", value_name = "NAME")]
    pub tls_domain: Option<String>,
}

/// Why a server could not be asked, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RemoteError(String);

/// A connection that sends the key with each call.
pub(super) type Connection = InterceptedService<Channel, Authorize>;

/// Adds the key to each call.
#[derive(Clone, Debug)]
pub(super) struct Authorize(Option<MetadataValue<Ascii>>);

impl Interceptor for Authorize {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(authorization) = &self.0 {
            let value = authorization.clone();
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

impl RemoteConfig {
    /// Connects to the server, if one is named. Says on `notes` if the key is sent unencrypted to another machine.
    pub(super) async fn connect(
        &self,
        notes: &mut impl Write,
    ) -> Result<Option<Connection>, RemoteError> {
        let Some(server) = &self.server else {
            return Ok(None);
        };
        let failed = |why: &str| RemoteError(format!("{server}: {why}"));
        let authorization = self.authorization().map_err(RemoteError)?;
        let endpoint = self.endpoint(server).map_err(|why| failed(&why))?;
        if authorization.is_some() && is_exposed(endpoint.uri()) {
            // The command goes on, whether or not this can be said.
            let _ = writeln!(
                notes,
                "warning: the API key is sent unencrypted to {server}; use https://"
            );
        }
        let unreachable = |why: &str| failed(&format!("the server cannot be reached: {why}"));
        // The endpoint's own limit is one for TCP alone.
        let Ok(connected) = timeout(CONNECT_TIMEOUT, endpoint.connect()).await else {
            let secs = CONNECT_TIMEOUT.as_secs();
            return Err(unreachable(&format!("it did not answer within {secs} s")));
        };
        let channel = connected.map_err(|error| unreachable(&root_cause(&error)))?;
        Ok(Some(InterceptedService::new(
            channel,
            Authorize(authorization),
        )))
    }

    /// What a status of the server means for a person.
    pub(super) fn error(&self, status: &Status) -> RemoteError {
        let server = self.server.as_deref().unwrap_or_default();
        let advice = match status.code() {
            tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => {
                "; set USAGE_API_KEY or USAGE_API_KEY_FILE to the key of a reader without limits"
            }
            tonic::Code::Unimplemented => "; is the server older than this program?",
            _ => "",
        };
        RemoteError(format!("{server}: {}{advice}", status.message()))
    }

    fn authorization(&self) -> Result<Option<MetadataValue<Ascii>>, String> {
        const NAME: &str = "USAGE_API_KEY";
        let file = self.api_key_file.as_deref();
        let Some(key) = read_secret(NAME, self.api_key.as_ref(), file)? else {
            return Ok(None);
        };
        let value = MetadataValue::try_from(format!("Bearer {key}"));
        // The message must not contain the key.
        let mut value =
            value.map_err(|_| format!("{NAME} must consist of visible ASCII characters"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn endpoint(&self, server: &str) -> Result<Endpoint, String> {
        let address = if server.contains("://") {
            server.to_owned()
        } else {
            format!("http://{server}")
        };
        let endpoint = Endpoint::from_shared(address)
            .map_err(|_| "is not an address, such as http://127.0.0.1:50051".to_owned())?;
        let endpoint = match endpoint.uri().scheme_str() {
            Some("http") => endpoint,
            Some("https") => endpoint
                .tls_config(self.tls()?)
                .map_err(|error| format!("TLS: {}", root_cause(&error)))?,
            _ => return Err("must start with http:// or https://".to_owned()),
        };
        Ok(endpoint
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT))
    }

    fn tls(&self) -> Result<ClientTlsConfig, String> {
        let mut tls = ClientTlsConfig::new();
        tls = match &self.tls_ca {
            Some(path) => {
                let pem = read_text_file("USAGE_TLS_CA", path)?;
                tls.ca_certificate(Certificate::from_pem(pem))
            }
            None => tls.with_native_roots(),
        };
        if let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) {
            let certificate = read_text_file("USAGE_TLS_CERT", certificate)?;
            let key = read_text_file("USAGE_TLS_KEY", key)?;
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        Ok(match &self.tls_domain {
            Some(name) => tls.domain_name(name),
            None => tls,
        })
    }
}

/// Whether an address is of another machine, and without TLS.
fn is_exposed(address: &Uri) -> bool {
    let host = address.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ip: Option<IpAddr> = host.parse().ok();
    let is_own = host.eq_ignore_ascii_case("localhost")
        || ip.is_some_and(|ip| ip.to_canonical().is_loopback());
    address.scheme_str() == Some("http") && !is_own
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_text_to_another_machine_is_exposed() {
        for (address, is_so) in [
            ("http://usage.internal:50051", true),
            ("http://10.0.0.1:1", true),
            ("http://[2001:db8::1]:1", true),
            ("https://usage.internal", false),
            ("http://127.9.9.9:1", false),
            ("http://[::1]:1", false),
            ("http://[::ffff:127.0.0.1]:1", false),
            ("http://LOCALHOST", false),
        ] {
            assert_eq!(is_exposed(&address.parse().unwrap()), is_so, "{address}");
        }
    }
}
