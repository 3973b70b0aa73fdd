//! One server of a world, in a separate runtime, so that it can crash.

use tokio::{net::TcpListener, runtime::Runtime, sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use usage_client::{Error, ErrorKind, ListAccounts, Retry, UsageClient};
use usage_server::{Listeners, ServeError, clock::Clock, config::Config, serve};

use super::{TIMEOUT, engine::runtime, within};

/// A running server.
pub(crate) struct Server {
    runtime: Option<Runtime>,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
    urls: Urls,
}

/// Where it listens.
#[derive(Debug)]
struct Urls {
    grpc: String,
    http: Option<String>,
    webhooks: Option<String>,
    metrics: Option<String>,
}

impl Server {
    pub(crate) async fn start(config: Config, clock: Clock) -> Self {
        let runtime = runtime(2);
        let shutdown = CancellationToken::new();
        let (send_urls, urls) = oneshot::channel();
        let token = shutdown.clone();
        let serving = runtime.spawn(async move {
            let listeners = Listeners::bind(&config.addresses).await.expect("ports");
            let scheme = if config.tls.tls_cert_file.is_some() {
                "https"
            } else {
                "http"
            };
            let url = |listener: &TcpListener| {
                format!("{scheme}://{}", listener.local_addr().expect("an address"))
            };
            let urls = Urls {
                grpc: url(&listeners.grpc),
                http: listeners.http.as_ref().map(url),
                webhooks: listeners.webhooks.as_ref().map(url),
                metrics: listeners.metrics.as_ref().map(url),
            };
            send_urls.send(urls).expect("a test that waits");
            let ended = serve(listeners, config, clock, token).await;
            if let Err(error) = &ended {
                // Otherwise a test would see only refused connections.
                eprintln!("the server ended: {error}");
            }
            ended
        });
        let urls = urls.await.expect("an address");
        Self {
            runtime: Some(runtime),
            shutdown,
            serving,
            urls,
        }
    }

    /// A client of a server that is serving. The socket accepts connections before that.
    pub(crate) async fn client(&self) -> UsageClient {
        let client = within("connecting", UsageClient::connect(self.urls.grpc.clone()));
        // Without retries, so that a test sees each failure. The client has its own tests of retries.
        let client = client
            .await
            .expect("a connection")
            .with_timeout(TIMEOUT)
            .with_retry(Retry::never());
        let first = ListAccounts::new().page_size(1);
        let answer = within("starting", client.list_accounts(first)).await;
        // A test that created keys makes clients of its own.
        let is_closed = |error: &Error| error.kind() == ErrorKind::Unauthenticated;
        assert!(
            answer.as_ref().err().is_none_or(is_closed),
            "no answer: {answer:?}"
        );
        client
    }

    /// Waits until the server ends by itself.
    pub(crate) async fn ended(mut self) -> Result<(), ServeError> {
        let ended = within("the end of the server", &mut self.serving).await;
        ended.expect("no panic in the server")
    }

    /// Stops as on SIGTERM.
    pub(crate) async fn stop(mut self) -> Result<(), ServeError> {
        self.shutdown.cancel();
        let ended = within("stopping", &mut self.serving)
            .await
            .expect("no panic in the server");
        self.end_runtime();
        ended
    }

    /// Ends as on SIGKILL: every task stops immediately, and the sockets are closed.
    pub(crate) fn crash(mut self) {
        self.end_runtime();
    }

    /// Crashes, and waits until every task has ended, so that moving the clock afterwards wakes none.
    pub(crate) async fn kill_and_wait(mut self) {
        if let Some(runtime) = self.runtime.take() {
            let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(TIMEOUT));
            ended.await.expect("an end");
        }
    }

    fn end_runtime(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// The gRPC address.
    pub(crate) fn endpoint(&self) -> &str {
        &self.urls.grpc
    }

    /// The HTTP address.
    pub(crate) fn http_url(&self) -> &str {
        self.urls.http.as_deref().expect("HTTP_LISTEN")
    }

    /// The address of webhooks alone.
    pub(crate) fn webhook_url(&self) -> &str {
        self.urls.webhooks.as_deref().expect("WEBHOOK_LISTEN")
    }

    /// The address of metrics alone.
    pub(crate) fn metrics_url(&self) -> &str {
        self.urls.metrics.as_deref().expect("METRICS_LISTEN")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end_runtime();
    }
}
