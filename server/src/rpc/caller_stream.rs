//! A response stream that ends when its caller may not call any more.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

use crate::{
    authentication::Authenticator,
    domain::access::Caller,
    error::{Error, Result},
};

/// How often it is checked whether the caller may still read.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Events as messages. Dropping it stops whoever waits for its reader.
pub(crate) struct CallerStream<E, M> {
    events: mpsc::Receiver<Result<E>>,
    message: fn(E) -> M,
    /// Ends when the caller may not read any more; absent once it has.
    refused: Option<BoxFuture<'static, ()>>,
}

impl<E, M> std::fmt::Debug for CallerStream<E, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CallerStream")
    }
}

impl<E, M> CallerStream<E, M> {
    pub(super) fn new(
        events: mpsc::Receiver<Result<E>>,
        message: fn(E) -> M,
        authenticator: Authenticator,
        caller: Arc<Caller>,
    ) -> Self {
        let refused = async move {
            loop {
                tokio::time::sleep(CHECK_INTERVAL).await;
                // While the database does not answer, there is nothing to see either.
                if let Ok(false) = authenticator.is_still_valid(&caller).await {
                    return;
                }
            }
        };
        Self {
            events,
            message,
            refused: Some(Box::pin(refused)),
        }
    }
}

impl<E, M> Stream for CallerStream<E, M> {
    type Item = std::result::Result<M, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(refused) = &mut self.refused else {
            return Poll::Ready(None);
        };
        if refused.as_mut().poll(cx).is_ready() {
            self.refused = None;
            return Poll::Ready(Some(Err(Error::Unauthenticated.into())));
        }
        let message = self.message;
        self.events
            .poll_recv(cx)
            .map(|event| event.map(|event| Ok(message(event?))))
    }
}
