//! Configures the connection: servers, TLS, API key and timeouts.

use crate::{Error, Retry, UsageClient};
use std::{ffi::OsString, fmt, path::Path, time::Duration};
use tokio::task::JoinSet;
use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A broken connection is detected while a call still has time for a retry.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_ENDPOINTS: usize = 64;

/// Configures a [`UsageClient`] and connects it.
///
/// ```no_run
/// # use std::time::Duration;
/// # use usage_client::{Error, UsageClient};
/// # async fn example(key: String) -> Result<(), Error> {
/// let client = UsageClient::builder("http://usage-1.internal:50051")
///     .endpoint("http://usage-2.internal:50051")
///     .api_key(key)
///     .timeout(Duration::from_secs(2))
///     .connect_lazy()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a client is only created by `connect` or `connect_lazy`"]
pub struct UsageClientBuilder {
    endpoints: Vec<String>,
    timeout: Option<Duration>,
    retry: Retry,
    api_key: Option<ApiKey>,
    #[cfg(feature = "tls")]
    tls: Tls,
}

/// A key that is never printed.
#[derive(Clone)]
struct ApiKey(String);

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey")
    }
}

/// The TLS settings.
#[cfg(feature = "tls")]
#[derive(Clone, Default)]
struct Tls {
    ca: Option<String>,
    identity: Option<(String, String)>,
    domain: Option<String>,
}

#[cfg(feature = "tls")]
impl fmt::Debug for Tls {
    /// Leaves out the client's private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("has_ca", &self.ca.is_some())
            .field("has_identity", &self.identity.is_some())
            .field("domain", &self.domain)
            .finish()
    }
}

impl UsageClientBuilder {
    pub(crate) fn new(endpoint: String) -> Self {
        Self {
            endpoints: vec![endpoint],
            timeout: None,
            retry: Retry::default(),
            api_key: None,
            #[cfg(feature = "tls")]
            tls: Tls::default(),
        }
    }

    /// The servers, the API key and TLS from the environment: `USAGE_SERVER` (one address, or several separated by commas;
    /// default `http://127.0.0.1:50051`), `USAGE_API_KEY` or `USAGE_API_KEY_FILE`, and with the feature `tls` `USAGE_TLS_CA`,
    /// `USAGE_TLS_CERT`, `USAGE_TLS_KEY` (files) and `USAGE_TLS_DOMAIN`. They are the variables of `usagectl`. An empty one
    /// counts as unset.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid): a file cannot be read, or a variable is not text. The message names the
    /// variable and the file, and not the key.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(&|name| std::env::var_os(name))
    }

    fn from_variables(read: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let variable = |name: &'static str| {
            let value = read(name).filter(|value| !value.is_empty());
            let value = value.map(OsString::into_string);
            value
                .transpose()
                .map_err(|_| Error::invalid(name, format!("{name} is not text")))
        };
        let servers = variable("USAGE_SERVER")?;
        let servers = servers.unwrap_or_else(|| DEFAULT_SERVER.to_owned());
        let mut servers = servers.split(',').map(str::trim);
        let mut builder = Self::new(servers.next().unwrap_or_default().to_owned());
        for server in servers {
            builder = builder.endpoint(server);
        }
        // A key itself comes before a file with one.
        match (variable("USAGE_API_KEY")?, variable("USAGE_API_KEY_FILE")?) {
            (Some(key), _) => builder = builder.api_key(key.trim()),
            (None, Some(file)) => builder = builder.api_key_file(file)?,
            (None, None) => {}
        }
        #[cfg(feature = "tls")]
        {
            let text_of = |name: &'static str| {
                let file = variable(name)?;
                file.map(|file| read_file(name, file.as_ref())).transpose()
            };
            if let Some(pem) = text_of("USAGE_TLS_CA")? {
                builder = builder.ca_certificate(pem);
            }
            match (text_of("USAGE_TLS_CERT")?, text_of("USAGE_TLS_KEY")?) {
                (Some(certificate), Some(key)) => {
                    builder = builder.client_certificate(certificate, key);
                }
                (None, None) => {}
                _ => {
                    let why = "one of USAGE_TLS_CERT and USAGE_TLS_KEY is set; both are needed";
                    return Err(Error::invalid("USAGE_TLS_CERT", why));
                }
            }
            if let Some(domain) = variable("USAGE_TLS_DOMAIN")? {
                builder = builder.domain_name(domain);
            }
        }
        Ok(builder)
    }

    /// The API key in a file, without the white space around it. The file is read now.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid): it cannot be read, or is empty. The message names the file.
    pub fn api_key_file(self, path: impl AsRef<Path>) -> Result<Self, Error> {
        const NAME: &str = "api_key_file";
        let key = read_file(NAME, path.as_ref())?;
        match key.trim() {
            "" => {
                let why = format!("{}: the file has no API key", path.as_ref().display());
                Err(Error::invalid(NAME, why))
            }
            key => Ok(self.api_key(key)),
        }
    }

    /// Adds a server; calls are spread over all servers that can be reached. At most 64.
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoints.push(endpoint.into());
        self
    }

    /// The deadline of each call, including all retries; see [`UsageClient::with_timeout`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How failed calls are retried; see [`Retry`].
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The API key, `ub_...`, which is sent with each call as `authorization: Bearer KEY`. It is not encrypted over `http://`.
    /// A proxy in front of the server may take another token.
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(ApiKey(key.into()));
        self
    }

    /// Trusts servers whose certificates this authority signed, in PEM, and no others. Without one the
    /// system's authorities are trusted.
    #[cfg(feature = "tls")]
    pub fn ca_certificate(mut self, pem: impl Into<String>) -> Self {
        self.tls.ca = Some(pem.into());
        self
    }

    /// Shows servers who is calling: a certificate and its key, in PEM.
    #[cfg(feature = "tls")]
    pub fn client_certificate(
        mut self,
        certificate_pem: impl Into<String>,
        key_pem: impl Into<String>,
    ) -> Self {
        self.tls.identity = Some((certificate_pem.into(), key_pem.into()));
        self
    }

    /// The name in the servers' certificates, if it differs from their addresses.
    #[cfg(feature = "tls")]
    pub fn domain_name(mut self, domain: impl Into<String>) -> Self {
        self.tls.domain = Some(domain.into());
        self
    }

    /// Connects, and fails if no server can be reached.
    pub async fn connect(self) -> Result<UsageClient, Error> {
        let endpoints = self.parse()?;
        let channel = if let [only] = &endpoints[..] {
            only.connect().await?
        } else {
            connect_any(&endpoints).await?;
            Channel::balance_list(endpoints.into_iter())
        };
        self.finish(channel)
    }

    /// Connects with the first call, so that the server may start later than its caller.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn connect_lazy(self) -> Result<UsageClient, Error> {
        let endpoints = self.parse()?;
        let channel = match &endpoints[..] {
            [only] => only.connect_lazy(),
            _ => Channel::balance_list(endpoints.into_iter()),
        };
        self.finish(channel)
    }

    fn finish(self, channel: Channel) -> Result<UsageClient, Error> {
        let authorization = self.authorization()?;
        let client = UsageClient::with_authorization(channel, authorization).with_retry(self.retry);
        Ok(match self.timeout {
            Some(timeout) => client.with_timeout(timeout),
            None => client,
        })
    }

    fn authorization(&self) -> Result<Option<MetadataValue<Ascii>>, Error> {
        let Some(ApiKey(key)) = &self.api_key else {
            return Ok(None);
        };
        let value = MetadataValue::try_from(format!("Bearer {key}"));
        let mut value = value.map_err(|_invalid| {
            // The message must not contain the key.
            Error::invalid(
                "api_key",
                "the key must consist of visible ASCII characters",
            )
        })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn parse(&self) -> Result<Vec<Endpoint>, Error> {
        if self.endpoints.len() > MAX_ENDPOINTS {
            let many = self.endpoints.len();
            let why = format!("{many} endpoints exceed the limit of {MAX_ENDPOINTS}");
            return Err(Error::invalid("endpoint", why));
        }
        let endpoints = self.endpoints.iter();
        endpoints.map(|endpoint| self.parse_one(endpoint)).collect()
    }

    fn parse_one(&self, endpoint: &str) -> Result<Endpoint, Error> {
        let endpoint = if endpoint.contains("://") {
            endpoint.to_owned()
        } else {
            format!("http://{endpoint}")
        };
        let invalid = |why: &str| Error::invalid("endpoint", format!("`{endpoint}` {why}"));
        let parsed = Endpoint::from_shared(endpoint.clone())
            .map_err(|_uri| invalid("is not a valid address, such as `http://127.0.0.1:50051`"))?;
        let parsed = match parsed.uri().scheme_str() {
            Some("http") => parsed,
            Some("https") => self.secure(&parsed)?,
            _ => return Err(invalid("must start with `http://` or `https://`")),
        };
        Ok(parsed
            .user_agent(concat!("usage-client/", env!("CARGO_PKG_VERSION")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true))
    }

    #[cfg(feature = "tls")]
    fn secure(&self, endpoint: &Endpoint) -> Result<Endpoint, Error> {
        use tonic::transport::{Certificate, ClientTlsConfig, Identity};
        let mut tls = ClientTlsConfig::new();
        tls = match &self.tls.ca {
            Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
            None => tls.with_native_roots(),
        };
        if let Some((certificate, key)) = &self.tls.identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        if let Some(domain) = &self.tls.domain {
            tls = tls.domain_name(domain);
        }
        endpoint.clone().tls_config(tls).map_err(|error| {
            let why = crate::status::root_cause(&error);
            Error::invalid("tls", why)
        })
    }

    #[cfg(not(feature = "tls"))]
    #[allow(
        clippy::unused_self,
        reason = "the same signature as with the feature `tls`"
    )]
    fn secure(&self, endpoint: &Endpoint) -> Result<Endpoint, Error> {
        let address = endpoint.uri();
        let why = format!("`{address}` needs the feature `tls` of usage-client");
        Err(Error::invalid("endpoint", why))
    }
}

fn read_file(name: &'static str, path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::invalid(name, format!("{}: {error}", path.display())))
}

/// Fails if none of the servers can be reached.
async fn connect_any(endpoints: &[Endpoint]) -> Result<(), Error> {
    let mut attempts = JoinSet::new();
    for endpoint in endpoints {
        let endpoint = endpoint.clone();
        attempts.spawn(async move { endpoint.connect().await });
    }
    let mut last = None;
    while let Some(answer) = attempts.join_next().await {
        match answer {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => last = Some(error.into()),
            Err(error) => last = Some(Error::cut_off(error.to_string())),
        }
    }
    last.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<UsageClientBuilder, Error> {
        UsageClientBuilder::from_variables(&|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    fn key(builder: &UsageClientBuilder) -> Option<&str> {
        builder.api_key.as_ref().map(|ApiKey(key)| key.as_str())
    }

    #[test]
    fn a_client_is_configured_by_the_environment() {
        let none = from(&[("USAGE_SERVER", ""), ("USAGE_API_KEY", "")]).unwrap();
        assert_eq!(none.endpoints, [DEFAULT_SERVER]);
        assert_eq!(key(&none), None);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("usage.key");
        std::fs::write(&file, "ub_file\n").unwrap();
        let path = file.to_str().unwrap();
        let in_file = [
            ("USAGE_SERVER", "http://a:1, http://b:2"),
            ("USAGE_API_KEY_FILE", path),
        ];
        let found = from(&in_file).unwrap();
        assert_eq!(found.endpoints, ["http://a:1", "http://b:2"]);
        assert_eq!(key(&found), Some("ub_file"));
        let both = [in_file[1], ("USAGE_API_KEY", "ub_text")];
        assert_eq!(key(&from(&both).unwrap()), Some("ub_text"));
        assert!(!format!("{:?}", from(&both).unwrap()).contains("ub_text"));
    }

    #[test]
    fn a_file_that_has_no_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let empty = folder.path().join("empty.key");
        std::fs::write(&empty, "\n").unwrap();
        for path in [empty.to_str().unwrap(), "/nowhere/usage.key"] {
            let error = from(&[("USAGE_API_KEY_FILE", path)]).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Invalid);
            assert!(error.to_string().contains(path), "{error}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn a_client_certificate_needs_its_key() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let error = from(&[("USAGE_TLS_CERT", path)]).unwrap_err();
        assert!(error.to_string().contains("USAGE_TLS_KEY"), "{error}");
        let both = [("USAGE_TLS_CERT", path), ("USAGE_TLS_KEY", path)];
        assert!(from(&both).is_ok());
    }
}
