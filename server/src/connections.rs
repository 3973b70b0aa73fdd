//! Limits on the connections of a socket: how many are open, and how long one may be silent.
//!
//! A new connection never waits for silent ones: if all places are taken, the one that has been without a call for the
//! longest time is closed. Only connections with a call in progress keep their places.

mod unread;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::stream::{self, Stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::{Instant, Sleep},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

pub(crate) use unread::Unread;

/// How long the first request of a connection, or HTTP/2's preface, may take to arrive.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be silent after that: longer than a usual scrape interval and than HTTP/2's keep-alive
/// pings are apart.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a caller may leave all its answers unread, and how long while others may need the memory.
const STALL_TIMEOUT: Duration = Duration::from_mins(2);
const STALL_TIMEOUT_WHEN_FULL: Duration = Duration::from_secs(10);
/// The unread bytes over all connections from which others may need the memory.
const FULL_BYTES: usize = 32 * 1024 * 1024;
const STALL_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// The length of HTTP/2's preface.
const PREFACE_BYTES: u64 = 24;

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
}

/// What a connection does, shared with the handlers of its calls.
#[derive(Debug)]
pub(crate) struct Activity {
    number: u64,
    peer: SocketAddr,
    times: Mutex<Times>,
    /// Answers that its caller has not read.
    unread: Unread,
    /// Cancelled to close the connection.
    close: CancellationToken,
    open: Arc<OpenConnections>,
}

#[derive(Clone, Copy, Debug)]
struct Times {
    opened: Instant,
    /// Whether the first request, or HTTP/2's preface, has arrived.
    is_started: bool,
    /// Calls in progress.
    calls: usize,
    /// When the last call ended.
    quiet_since: Instant,
    received: u64,
    last_received: Instant,
}

/// A call in progress. Its connection keeps its place.
#[derive(Debug)]
pub(crate) struct Call(Arc<Activity>);

impl LimitedListener {
    pub(crate) fn new(listener: TcpListener, protocol: Protocol, max: usize) -> Self {
        let open = OpenConnections {
            max,
            next: AtomicU64::new(0),
            connections: Mutex::default(),
            freed: Notify::new(),
        };
        Self {
            listener,
            protocol,
            open: Arc::new(open),
        }
    }

    /// Gives an accepted connection a place.
    async fn admit(&self, stream: TcpStream, peer: SocketAddr) -> Connection {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let activity = self.open.admit(peer).await;
        Connection {
            stream,
            protocol: self.protocol,
            timer: Box::pin(tokio::time::sleep(START_TIMEOUT)),
            closed: Box::pin(activity.close.clone().cancelled_owned()),
            activity,
        }
    }

    /// Closes connections whose callers read no answer, forever.
    pub(crate) fn close_stalled(&self) -> impl Future<Output = Infallible> + use<> {
        let open = Arc::clone(&self.open);
        async move {
            let mut tick = tokio::time::interval(STALL_CHECK_INTERVAL);
            loop {
                tick.tick().await;
                open.close_stalled();
            }
        }
    }

    /// The connections, one after the other, for as long as the service accepts any.
    pub(crate) fn into_stream(self) -> impl Stream<Item = io::Result<Connection>> {
        stream::unfold(self, async |mut listener| {
            let (connection, _) = axum::serve::Listener::accept(&mut listener).await;
            Some((Ok(connection), listener))
        })
    }
}

impl axum::serve::Listener for LimitedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // Retries after errors, such as too many open files.
        let (stream, peer) = axum::serve::Listener::accept(&mut self.listener).await;
        (self.admit(stream, peer).await, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl OpenConnections {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Activity>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place, which a silent connection gives up at once.
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
            let longest = connections
                .values()
                .filter_map(|activity| {
                    activity
                        .silent_since()
                        .map(|since| (since, activity.number))
                })
                .min()?;
            if let Some(closed) = connections.remove(&longest.1) {
                tracing::debug!(
                    max = self.max,
                    "closing the longest silent connection for a new one"
                );
                closed.close.cancel();
            }
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let activity = Arc::new(Activity {
            number,
            peer,
            unread: Unread::default(),
            times: Mutex::new(Times {
                opened: now,
                is_started: false,
                calls: 0,
                quiet_since: now,
                received: 0,
                last_received: now,
            }),
            close: CancellationToken::new(),
            open: Arc::clone(self),
        });
        connections.insert(number, Arc::clone(&activity));
        Some(activity)
    }
}

impl OpenConnections {
    /// Closes the connections whose callers read no answer for longer than the limit.
    fn close_stalled(&self) {
        let connections = self.lock();
        let unread = connections
            .values()
            .map(|activity| activity.unread.bytes())
            .fold(0, usize::saturating_add);
        let limit = if unread < FULL_BYTES {
            STALL_TIMEOUT
        } else {
            STALL_TIMEOUT_WHEN_FULL
        };
        for activity in connections.values() {
            let stalled_since = activity.unread.stalled_since();
            if stalled_since.is_some_and(|since| since.elapsed() > limit) {
                tracing::warn!(peer = %activity.peer, limit_secs = limit.as_secs(), "closing a connection whose caller reads no answer");
                activity.close.cancel();
            }
        }
    }
}

impl Activity {
    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks a call as in progress until the result is dropped.
    pub(crate) fn begin_call(self: &Arc<Self>) -> Call {
        let mut times = self.times();
        times.is_started = true;
        times.calls = times.calls.saturating_add(1);
        Call(Arc::clone(self))
    }

    /// The address of the other end.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Answers that the caller has not read.
    pub(crate) fn unread(&self) -> &Unread {
        &self.unread
    }

    /// Since when it has no call; `None` while it has one.
    fn silent_since(&self) -> Option<Instant> {
        let times = self.times();
        (times.calls == 0).then_some(times.quiet_since)
    }

    fn received(&self, bytes: usize, protocol: Protocol) {
        let mut times = self.times();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        times.received = times.received.saturating_add(bytes);
        times.last_received = Instant::now();
        if protocol == Protocol::Http2 && times.received >= PREFACE_BYTES {
            times.is_started = true;
        }
    }

    /// When the connection has been silent for too long.
    fn deadline(&self, protocol: Protocol) -> Option<Instant> {
        let times = self.times();
        let (since, limit) = match protocol {
            _ if !times.is_started => (times.opened, START_TIMEOUT),
            // Bytes of an unfinished request prove nothing.
            Protocol::Http1 if times.calls == 0 => (times.quiet_since, IDLE_TIMEOUT),
            Protocol::Http1 | Protocol::Http2 => (times.last_received, IDLE_TIMEOUT),
        };
        since.checked_add(limit)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut times = self.0.times();
        times.calls = times.calls.saturating_sub(1);
        times.quiet_since = Instant::now();
        let is_silent = times.calls == 0;
        drop(times);
        if is_silent {
            self.0.open.freed.notify_one();
        }
    }
}

/// A connection that fails with `TimedOut` after too long a silence, and with `ConnectionAborted` when it is closed for
/// another one.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    protocol: Protocol,
    timer: Pin<Box<Sleep>>,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    activity: Arc<Activity>,
}

impl Connection {
    pub(crate) fn activity(&self) -> Arc<Activity> {
        Arc::clone(&self.activity)
    }

    /// Resolves when the connection has been silent for too long.
    fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            match self.activity.deadline(self.protocol) {
                Some(deadline) if deadline > Instant::now() => self.timer.as_mut().reset(deadline),
                _ => return Poll::Ready(()),
            }
        }
    }
}

impl tonic::transport::server::Connected for Connection {
    type ConnectInfo = Arc<Activity>;

    fn connect_info(&self) -> Arc<Activity> {
        self.activity()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.activity.open.lock().remove(&self.activity.number);
        self.activity.open.freed.notify_one();
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buffer) {
            let bytes = buffer.filled().len().saturating_sub(before);
            self.activity.received(bytes, self.protocol);
            return Poll::Ready(read);
        }
        ready!(self.poll_silent(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
