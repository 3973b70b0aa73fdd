//! Why the demo failed.

use std::time::Duration;

use crate::ServeError;

/// Why the demo failed. The causes are in the sources.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A call to the demo's server failed.
    #[error("a call to the service failed")]
    Client(#[from] usage_client::Error),
    /// The fake Stripe rejected a request of the demo.
    #[error("a request to the fake Stripe failed")]
    FakeStripe(#[from] fake_stripe::ControlError),
    /// The demo's server failed.
    #[error("the server failed")]
    Server(#[from] ServeError),
    /// The demo's server or the terminal cannot be used.
    #[error("input or output failed")]
    Io(#[from] std::io::Error),
    /// A task panicked.
    #[error("the server panicked")]
    Panicked(#[from] tokio::task::JoinError),
    /// Something did not happen in time.
    #[error("timed out after {} s waiting for {what}", timeout.as_secs())]
    TimedOut {
        /// What the demo waited for.
        what: String,
        /// How long it waited.
        timeout: Duration,
    },
    /// A response was not as expected.
    #[error("{0}")]
    Unexpected(String),
}

impl DemoError {
    /// A response was not as expected.
    pub(super) fn unexpected(what: impl Into<String>) -> Self {
        Self::Unexpected(what.into())
    }
}

/// A result of the demo.
pub(super) type Result<T> = std::result::Result<T, DemoError>;
