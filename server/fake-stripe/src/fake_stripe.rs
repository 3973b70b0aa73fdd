//! Start and stop: the router, the server around it, and the handle for tests.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::control::client::Control;
use crate::listener::{BreakableListener, Breaker};
use crate::settings::Settings;
use crate::state::App;
use crate::{control, pipeline, webhook_sender};

/// How long running requests may take once the fake Stripe stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// A running fake Stripe, which stops when this is dropped.
#[derive(Debug)]
pub struct FakeStripe {
    base_url: String,
    secret_key: String,
    shutdown: DropGuard,
    server: JoinHandle<io::Result<()>>,
}

impl FakeStripe {
    /// Binds a free port of 127.0.0.1 and serves on it in a new task.
    ///
    /// # Errors
    /// Where no port can be bound.
    pub async fn start(settings: Settings) -> io::Result<FakeStripe> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let base_url = format!("http://{}", listener.local_addr()?);
        let secret_key = settings.secret_key.clone();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, settings, shutdown.clone()));
        Ok(FakeStripe {
            base_url,
            secret_key,
            shutdown: shutdown.drop_guard(),
            server,
        })
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// The accepted API key.
    pub fn secret_key(&self) -> &str {
        &self.secret_key
    }

    /// A client of the control endpoints.
    pub fn control(&self) -> Control {
        Control::new(&self.base_url)
    }

    /// Stops, breaks the connections of blocked requests, and waits until the port is free.
    pub async fn stop(self) {
        drop(self.shutdown);
        match self.server.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "fake Stripe stopped with an error"),
            Err(error) => tracing::warn!(%error, "fake Stripe task panicked"),
        }
    }
}

/// Serves a fake Stripe on a bound socket until `shutdown` is cancelled.
///
/// # Errors
/// Where the socket fails.
pub async fn serve(
    listener: TcpListener,
    settings: Settings,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let app = App::new(&settings, shutdown.clone());
    tokio::spawn(webhook_sender::run(Arc::clone(&app)));
    let router = Router::new()
        .nest("/control", control::router())
        .fallback(pipeline::handle)
        .with_state(app)
        .into_make_service_with_connect_info::<Breaker>();
    let serving = axum::serve(BreakableListener(listener), router)
        .with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let too_late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(SHUTDOWN_TIMEOUT).await;
    };
    tokio::select! {
        result = async { serving.await } => result,
        () = too_late => Ok(()),
    }
}
