//! Connecting: where the servers are, how the connection is secured and how long it is waited for.

use crate::{Error, Retry, UsageClient};
use std::{fmt, time::Duration};
use tokio::task::JoinSet;
use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that went silent is noticed while a call still has time for another attempt.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// As many as a list of servers reasonably has.
const MAX_ENDPOINTS: usize = 64;

/// Sets a [`UsageClient`] up.
///
/// ```no_run
/// # use std::time::Duration;
/// # use usage_client::{Error, UsageClient};
/// # async fn example(token: String) -> Result<(), Error> {
/// let client = UsageClient::builder("http://usage-1.internal:50051")
///     .endpoint("http://usage-2.internal:50051")
///     .bearer_token(token)
///     .timeout(Duration::from_secs(2))
///     .connect_lazy()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is connected before it is asked to"]
pub struct UsageClientBuilder {
    endpoints: Vec<String>,
    timeout: Option<Duration>,
    retry: Retry,
    token: Option<Token>,
    #[cfg(feature = "tls")]
    tls: Tls,
}

/// A token that is never shown.
#[derive(Clone)]
struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// What secures the connection.
#[cfg(feature = "tls")]
#[derive(Clone, Default)]
struct Tls {
    ca: Option<String>,
    identity: Option<(String, String)>,
    domain: Option<String>,
}

#[cfg(feature = "tls")]
impl fmt::Debug for Tls {
    /// Never shows the client's key.
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
            token: None,
            #[cfg(feature = "tls")]
            tls: Tls::default(),
        }
    }

    /// Another server; calls are spread over all that answer. At most 64.
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoints.push(endpoint.into());
        self
    }

    /// The deadline of each call, all its attempts included; see [`UsageClient::with_timeout`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How calls that failed are made again; see [`Retry`].
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// A token that is sent with each call as `authorization: Bearer TOKEN`. Over `http://` everybody on
    /// the way reads it.
    pub fn bearer_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(Token(token.into()));
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

    /// The name that servers' certificates are for, where it is not the one in their addresses.
    #[cfg(feature = "tls")]
    pub fn domain_name(mut self, domain: impl Into<String>) -> Self {
        self.tls.domain = Some(domain.into());
        self
    }

    /// Connects, and fails if no server is there.
    pub async fn connect(self) -> Result<UsageClient, Error> {
        let endpoints = self.parse()?;
        let channel = if let [only] = &endpoints[..] {
            only.connect().await?
        } else {
            find_one(&endpoints).await?;
            Channel::balance_list(endpoints.into_iter())
        };
        self.finish(channel)
    }

    /// The first call makes the connection, so that the server may start later than its caller.
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
        let Some(Token(token)) = &self.token else {
            return Ok(None);
        };
        let value = MetadataValue::try_from(format!("Bearer {token}"));
        let mut value = value.map_err(|_invalid| {
            // The value itself is a secret.
            Error::invalid("bearer_token", "the token is not visible ASCII")
        })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn parse(&self) -> Result<Vec<Endpoint>, Error> {
        if self.endpoints.len() > MAX_ENDPOINTS {
            let many = self.endpoints.len();
            let why = format!("{many} endpoints are more than {MAX_ENDPOINTS}");
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
        let refusal = |why: &str| Error::invalid("endpoint", format!("`{endpoint}` {why}"));
        let parsed = Endpoint::from_shared(endpoint.clone())
            .map_err(|_uri| refusal("is no address such as `http://127.0.0.1:50051`"))?;
        let parsed = match parsed.uri().scheme_str() {
            Some("http") => parsed,
            Some("https") => self.secure(&parsed)?,
            _ => return Err(refusal("must begin with `http://` or `https://`")),
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
    #[allow(clippy::unused_self, reason = "as with the feature `tls`")]
    fn secure(&self, endpoint: &Endpoint) -> Result<Endpoint, Error> {
        let address = endpoint.uri();
        let why = format!("`{address}` needs the feature `tls` of usage-client");
        Err(Error::invalid("endpoint", why))
    }
}

/// Fails where none of several servers is there.
async fn find_one(endpoints: &[Endpoint]) -> Result<(), Error> {
    let mut asked = JoinSet::new();
    for endpoint in endpoints {
        let endpoint = endpoint.clone();
        asked.spawn(async move { endpoint.connect().await });
    }
    let mut last = None;
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => last = Some(error.into()),
            Err(error) => last = Some(Error::cut_off(error.to_string())),
        }
    }
    last.map_or(Ok(()), Err)
}
