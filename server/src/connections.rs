//! Limits on the connections of a socket: how many are open, and how long one may be silent.
//!
//! A new connection never waits for silent ones: if all places are taken, one is closed that has no call. First those go
//! whose handshake is not complete, then those without a first request, then the others; of each the longest silent one.

mod activity;
mod connection;
mod farewell;
mod held_bytes;
mod opening;
mod refusals;
mod unread;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::stream::{self, Stream};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use self::refusals::{Reason, Refusals};
pub(crate) use self::{
    activity::{Activity, Call},
    connection::Connection,
    held_bytes::{HeldBytes, OwnBytes},
    opening::Security,
    unread::Unread,
};
use crate::{clock::Clock, domain::SECOND_MS, tls::Tls};

/// How long a caller may leave all its answers unread, and how long while others may need the memory.
const STALL_TIMEOUT: Duration = Duration::from_mins(2);
const STALL_TIMEOUT_WHEN_FULL: Duration = Duration::from_secs(10);
/// The unread bytes over all connections from which others may need the memory.
const FULL_BYTES: usize = 32 * 1024 * 1024;
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How often certificates are checked after new files: a handshake that began with the old ones ends within an interval.
const CHECKS_AFTER_RELOAD: u8 = 3;

/// The protocol of a socket. It decides when a connection counts as silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1: silent without a request.
    Http1,
    /// HTTP/2: it is started by its preface, and answers pings while it has no calls.
    Http2,
}

/// A listener with a limit of open connections.
#[derive(Debug)]
pub(crate) struct LimitedListener {
    listener: TcpListener,
    protocol: Protocol,
    security: Security,
    open: Arc<OpenConnections>,
}

/// The open connections of a listener.
#[derive(Debug)]
struct OpenConnections {
    max: usize,
    next: AtomicU64,
    connections: Mutex<BTreeMap<u64, Arc<Activity>>>,
    /// Notified when a connection closes or has no more calls.
    freed: Notify,
    refusals: Refusals,
}

impl LimitedListener {
    pub(crate) fn new(
        listener: TcpListener,
        protocol: Protocol,
        security: Security,
        max: usize,
    ) -> Self {
        let open = OpenConnections {
            max,
            next: AtomicU64::new(0),
            connections: Mutex::default(),
            freed: Notify::new(),
            refusals: Refusals::default(),
        };
        Self {
            listener,
            protocol,
            security,
            open: Arc::new(open),
        }
    }

    /// Gives an accepted connection a place.
    async fn admit(&self, stream: TcpStream, peer: SocketAddr) -> Connection {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let activity = self.open.admit(peer).await;
        Connection::new(stream, self.security.clone(), self.protocol, activity)
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
        // Retries after errors, such as too many open files.
        let (stream, peer) = axum::serve::Listener::accept(&mut self.listener).await;
        self.admit(stream, peer).await
    }
}

impl OpenConnections {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Activity>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place, which a connection without a call gives up at once.
    async fn admit(self: &Arc<Self>, peer: SocketAddr) -> Arc<Activity> {
        loop {
            let freed = self.freed.notified();
            if let Some(activity) = self.try_admit(peer) {
                return activity;
            }
            freed.await;
        }
    }

    fn try_admit(self: &Arc<Self>, peer: SocketAddr) -> Option<Arc<Activity>> {
        let mut connections = self.lock();
        if connections.len() >= self.max {
            let least = connections
                .values()
                .filter_map(|activity| activity.worth().map(|worth| (worth, activity.number)))
                .min()?;
            if let Some(closed) = connections.remove(&least.1) {
                tracing::debug!(max = self.max, "closing a silent connection for a new one");
                closed.close.cancel();
            }
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let activity = Arc::new(Activity::new(number, peer, Arc::clone(self)));
        connections.insert(number, Arc::clone(&activity));
        Some(activity)
    }

    /// Closes the connections whose callers read no answer for longer than the limit.
    fn close_stalled(&self) {
        let connections = self.lock();
        let unread = connections
            .values()
            .map(|activity| activity.unread().bytes())
            .fold(0, usize::saturating_add);
        let limit = if unread < FULL_BYTES {
            STALL_TIMEOUT
        } else {
            STALL_TIMEOUT_WHEN_FULL
        };
        for activity in connections.values() {
            let stalled_since = activity.unread().stalled_since();
            if stalled_since.is_some_and(|since| since.elapsed() > limit) {
                tracing::warn!(peer = %activity.peer(), limit_secs = limit.as_secs(), "closing a connection whose caller reads no answer");
                activity.close.cancel();
            }
        }
    }

    /// Closes the connections whose client's certificate has expired, and after new files those whose certificate was revoked
    /// or whose authority is no longer one.
    fn close_refused(&self, tls: &Tls, are_files_new: bool) {
        let now = Clock::system().now().div_euclid(SECOND_MS);
        let with_client: Vec<Arc<Activity>> = self
            .lock()
            .values()
            .filter(|activity| activity.client().is_some())
            .cloned()
            .collect();
        for activity in with_client {
            let is_refused = activity.client().is_some_and(|client| {
                client.has_expired(now) || are_files_new && !tls.accepts(client, now)
            });
            if is_refused {
                activity.refused(Reason::CertificateRefused, None);
                activity.close.cancel();
            }
        }
    }
}
