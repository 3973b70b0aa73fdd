//! Configures the connection: servers, TLS, API key and timeouts.

use crate::{Error, Retry, UsageClient};
use std::{fmt, time::Duration};
use tokio::task::JoinSet;
use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

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
