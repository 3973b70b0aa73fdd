//! The client: its connection, its settings, and how one call is sent.
//!
//! The calls themselves are in [`usage_calls`], [`account_calls`], [`access_calls`] and [`operations_calls`], one method for each method of the proto.

mod access_calls;
mod account_calls;
mod operations_calls;
#[cfg(test)]
mod tests;
mod usage_calls;

use crate::{
    Error, Retry, UsageClientBuilder, proto,
    retry::{Repeatable, call_with_retry},
};
use proto::{
    access_service_client::AccessServiceClient, account_service_client::AccountServiceClient,
    operations_service_client::OperationsServiceClient, usage_service_client::UsageServiceClient,
};
use std::time::Duration;
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer deadlines do not fit into the `grpc-timeout` header.
const MAX_TIMEOUT: Duration = Duration::from_hours(24);

/// Adds the `authorization` header to each call.
#[derive(Clone)]
struct Authorize(Option<MetadataValue<Ascii>>);

impl Interceptor for Authorize {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(authorization) = &self.0 {
            let value = authorization.clone();
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

type Connection = InterceptedService<Channel, Authorize>;

/// A connection to usage-billing.
///
/// Cloning is cheap, and all clones share the connection: keep one client and clone it where you need it. A lost
/// connection is made again by the next call, and failed calls are [retried](Retry).
#[derive(Clone)]
pub struct UsageClient {
    usage: UsageServiceClient<Connection>,
    accounts: AccountServiceClient<Connection>,
    access: AccessServiceClient<Connection>,
    operations: OperationsServiceClient<Connection>,
    timeout: Duration,
    retry: Retry,
}

impl std::fmt::Debug for UsageClient {
    /// Leaves out the API key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UsageClient")
            .field("timeout", &self.timeout)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

impl UsageClient {
    /// Connects to a server, such as `http://127.0.0.1:50051`, and fails if the server cannot be reached.
    ///
    /// An address without a scheme uses `http://`. For several servers, TLS or an API key use
    /// [`builder`](Self::builder).
    pub async fn connect(endpoint: impl Into<String>) -> Result<Self, Error> {
        Self::builder(endpoint).connect().await
    }

    /// Like [`connect`](Self::connect), but connects with the first call, so that the server may start later than
    /// its caller.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn connect_lazy(endpoint: impl Into<String>) -> Result<Self, Error> {
        Self::builder(endpoint).connect_lazy()
    }

    /// A client of the servers, the API key and the TLS files that the environment names; see
    /// [`UsageClientBuilder::from_env`]. It connects with its first call.
    ///
    /// # Errors
    /// A variable or a file cannot be used.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn from_env() -> Result<Self, Error> {
        UsageClientBuilder::from_env()?.connect_lazy()
    }

    /// Configures a client for this server.
    pub fn builder(endpoint: impl Into<String>) -> UsageClientBuilder {
        UsageClientBuilder::new(endpoint.into())
    }

    /// A client that uses an existing channel.
    pub fn from_channel(channel: Channel) -> Self {
        Self::with_authorization(channel, None)
    }

    pub(crate) fn with_authorization(
        channel: Channel,
        authorization: Option<MetadataValue<Ascii>>,
    ) -> Self {
        let connection = InterceptedService::new(channel, Authorize(authorization));
        Self {
            usage: UsageServiceClient::new(connection.clone()),
            accounts: AccountServiceClient::new(connection.clone()),
            access: AccessServiceClient::new(connection.clone()),
            operations: OperationsServiceClient::new(connection),
            timeout: DEFAULT_TIMEOUT,
            retry: Retry::default(),
        }
    }

    /// Sets how failed calls are retried. Existing clones are not affected.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Sets the deadline of each call, including all retries: at most a day, 10 seconds by default. Existing clones
    /// are not affected.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(MAX_TIMEOUT);
        self
    }

    /// Sends a message with the client's deadline and retries. `call` is given a clone of `service`.
    async fn unary<S, Q, A, F>(
        &self,
        service: &S,
        repeatable: Repeatable,
        message: Q,
        call: impl Fn(S, Request<Q>) -> F,
    ) -> Result<A, Error>
    where
        S: Clone,
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        self.unary_within(self.timeout, service, repeatable, message, call)
            .await
    }

    /// Like [`unary`](Self::unary), with another deadline.
    async fn unary_within<S, Q, A, F>(
        &self,
        timeout: Duration,
        service: &S,
        repeatable: Repeatable,
        message: Q,
        call: impl Fn(S, Request<Q>) -> F,
    ) -> Result<A, Error>
    where
        S: Clone,
        Q: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let attempt = |remaining| {
            let mut request = Request::new(message.clone());
            // The server stops working on a call whose deadline has passed.
            request.set_timeout(remaining);
            let answer = call(service.clone(), request);
            // The header is not enough: it is not sent while there is no connection.
            async move {
                match tokio::time::timeout(remaining, answer).await {
                    Ok(answer) => Ok(answer?.into_inner()),
                    Err(_elapsed) => Err(Error::deadline(timeout)),
                }
            }
        };
        call_with_retry(self.retry, timeout, repeatable, attempt).await
    }
}
