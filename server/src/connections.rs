//! Limits on the connections of a socket: how many are open, of all addresses and of one, and how long one may be silent.
//! Which one gives up its place to another is in [`open`].

mod activity;
mod connection;
mod farewell;
mod held_bytes;
mod open;
mod opening;
mod refusals;
mod unread;

use std::{convert::Infallible, future::poll_fn, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::stream::{self, Stream};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

pub(crate) use self::{
    activity::{Activity, Call, Wait},
    connection::Connection,
    held_bytes::{HeldBytes, OwnBytes},
    open::host_of,
    opening::Security,
    unread::Unread,
};
use self::{farewell::Farewell, open::OpenConnections};

/// Connections of addresses that have too many which are told so at once. More are closed without a word.
const MAX_FAREWELLS: usize = 64;
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How often certificates are checked after new files: a handshake that began with the old ones ends within an interval.
const CHECKS_AFTER_RELOAD: u8 = 3;

/// The protocol of a socket. It decides when a connection counts as silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1: silent without a request.
    Http1,
    /// HTTP/1 or HTTP/2, as the client begins: silent without a request.
    Http,
    /// HTTP/2: it is started by its preface, and answers pings while it has no calls.
    Http2,
}

/// How many connections may be open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    /// In all.
    pub(crate) all: usize,
    /// Of one address, if that is limited.
    pub(crate) of_address: Option<usize>,
}

/// A listener with a limit of open connections.
#[derive(Debug)]
pub(crate) struct LimitedListener {
    listener: TcpListener,
    protocol: Protocol,
    security: Security,
    open: Arc<OpenConnections>,
    farewells: Arc<Semaphore>,
}

impl LimitedListener {
    pub(crate) fn new(
        listener: TcpListener,
        protocol: Protocol,
        security: Security,
        places: Places,
    ) -> Self {
        Self {
            listener,
            protocol,
            security,
            open: Arc::new(OpenConnections::new(places)),
            farewells: Arc::new(Semaphore::new(MAX_FAREWELLS)),
        }
    }

    /// Gives an accepted connection a place, unless its address has too many.
    async fn admit(&self, stream: TcpStream, peer: SocketAddr) -> Option<Connection> {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let Some(activity) = self.open.admit(peer).await else {
            self.turn_away(stream);
            return None;
        };
        let connection = Connection::new(stream, self.security.clone(), self.protocol, activity);
        Some(connection)
    }

    /// Says why the connection gets no place, in a task by itself: no client can keep another one waiting.
    fn turn_away(&self, stream: TcpStream) {
        let Ok(permit) = Arc::clone(&self.farewells).try_acquire_owned() else {
            return;
        };
        let is_secure = matches!(self.security, Security::Tls(..));
        let mut farewell = Farewell::too_many(stream, is_secure);
        tokio::spawn(async move {
            poll_fn(|cx| farewell.poll(cx)).await;
            drop(permit);
        });
    }

    /// Closes connections whose callers read no answer, and those whose client's certificate is no longer accepted, forever.
    pub(crate) fn close_unwanted(&self) -> impl Future<Output = Infallible> + use<> {
        let open = Arc::clone(&self.open);
        let tls = match &self.security {
            Security::Tls(tls, _) => Some(Arc::clone(tls)),
            Security::Plain => None,
        };
        async move {
            let mut tick = tokio::time::interval(CHECK_INTERVAL);
            let mut version = tls.as_ref().map(|tls| tls.version());
            let mut checks_due = 0;
            loop {
                tick.tick().await;
                open.close_stalled();
                let Some(tls) = &tls else { continue };
                if version.replace(tls.version()) != version {
                    checks_due = CHECKS_AFTER_RELOAD;
                }
                open.close_refused(tls, checks_due > 0);
                checks_due = checks_due.saturating_sub(1);
            }
        }
    }

    /// The connections, one after the other, for as long as the service accepts any.
    pub(crate) fn into_stream(self) -> impl Stream<Item = io::Result<Connection>> {
        stream::unfold(self, async |mut listener| {
            let connection = listener.accept().await;
            Some((Ok(connection), listener))
        })
    }

    /// The next connection.
    pub(crate) async fn accept(&mut self) -> Connection {
        loop {
            // Retries after errors, such as too many open files.
            let (stream, peer) = axum::serve::Listener::accept(&mut self.listener).await;
            if let Some(connection) = self.admit(stream, peer).await {
                return connection;
            }
        }
    }
}
