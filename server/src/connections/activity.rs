//! What a connection does: its calls, its silence, and who its client is.

use std::{
    fmt::Display,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{OwnBytes, Protocol, Unread, open::OpenConnections, refusals::Reason};
use crate::{domain::client_certificate::ClientCertificate, tls::Client};

/// How long the first bytes and the handshake of TLS may take together.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the first request of a connection, or HTTP/2's preface, may take to arrive.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be silent after that: longer than a usual scrape interval and than HTTP/2's keep-alive
/// pings are apart.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// The length of HTTP/2's preface.
const PREFACE_BYTES: u64 = 24;

/// What a connection does, shared with the handlers of its calls.
#[derive(Debug)]
pub(crate) struct Activity {
    pub(super) number: u64,
    peer: SocketAddr,
    times: Mutex<Times>,
    /// Answers that its caller has not read.
    unread: Unread,
    /// The bytes of these answers, where they count for the connection.
    answers: OwnBytes,
    /// The same of requests that have not arrived in full.
    unfinished: OwnBytes,
    /// What the certificate of its client says, after the handshake.
    client: OnceLock<Client>,
    /// Cancelled to close the connection.
    pub(super) close: CancellationToken,
    open: Arc<OpenConnections>,
}

/// How far a connection has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Nothing is known of it, or its handshake is not complete.
    Opening,
    /// The first request, or HTTP/2's preface, has not arrived.
    Open,
    Started,
}

#[derive(Clone, Copy, Debug)]
struct Times {
    stage: Stage,
    opened: Instant,
    /// Calls in progress.
    calls: usize,
    /// Those of them whose callers wait in silence for an answer.
    waits: usize,
    /// When the last call ended.
    quiet_since: Instant,
    received: u64,
    last_received: Instant,
}

/// A call in progress. Its connection keeps its place.
#[derive(Debug)]
pub(crate) struct Call(Arc<Activity>);

/// A call whose caller may be silent for as long as it has no answer.
#[derive(Debug)]
pub(crate) struct Wait(Arc<Activity>);

impl Activity {
    pub(super) fn new(number: u64, peer: SocketAddr, open: Arc<OpenConnections>) -> Self {
        let now = Instant::now();
        Self {
            number,
            peer,
            unread: Unread::default(),
            answers: OwnBytes::default(),
            unfinished: OwnBytes::default(),
            client: OnceLock::new(),
            times: Mutex::new(Times {
                stage: Stage::Opening,
                opened: now,
                calls: 0,
                waits: 0,
                quiet_since: now,
                received: 0,
                last_received: now,
            }),
            close: CancellationToken::new(),
            open,
        }
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks a call as in progress until the result is dropped.
    pub(crate) fn begin_call(self: &Arc<Self>) -> Call {
        let mut times = self.times();
        times.stage = Stage::Started;
        times.calls = times.calls.saturating_add(1);
        Call(Arc::clone(self))
    }

    /// Marks that a caller waits for an answer, until the result is dropped. HTTP/1 has no pings: its silence says nothing
    /// then. Whoever marks it bounds the time in which the request has to arrive.
    pub(crate) fn begin_wait(self: &Arc<Self>) -> Wait {
        let mut times = self.times();
        times.waits = times.waits.saturating_add(1);
        Wait(Arc::clone(self))
    }

    /// The address of the other end.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Answers that the caller has not read.
    pub(crate) fn unread(&self) -> &Unread {
        &self.unread
    }

    /// The bytes of these answers, where they count for the connection.
    pub(crate) fn answers(&self) -> &OwnBytes {
        &self.answers
    }

    /// Bytes of requests that have not arrived in full, where they count for the connection.
    pub(crate) fn unfinished(&self) -> &OwnBytes {
        &self.unfinished
    }

    /// Whom the client's certificate names; none without one.
    pub(crate) fn client_certificate(&self) -> Option<&ClientCertificate> {
        self.client.get().map(|client| &client.certificate)
    }

    /// Counts that it is refused, and logs it now and then.
    pub(super) fn refused(&self, reason: Reason, cause: Option<&dyn Display>) {
        self.open.refusals.record(reason, self.peer, cause);
    }

    /// Gives up its place.
    pub(super) fn leave(&self) {
        self.open.leave(self.number);
    }

    pub(super) fn client(&self) -> Option<&Client> {
        self.client.get()
    }

    /// Notes that the connection can be used, and by which client.
    pub(super) fn opened(&self, client: Option<Client>) {
        if let Some(client) = client {
            // It has one handshake.
            let _ = self.client.set(client);
        }
        let mut times = self.times();
        times.stage = times.stage.max(Stage::Open);
    }

    /// How little is lost with it, the least first: how far it has got, and since when it has no call. `None` while it has
    /// one.
    pub(super) fn worth(&self) -> Option<impl Ord + use<>> {
        let times = self.times();
        (times.calls == 0).then_some((times.stage, times.quiet_since))
    }

    pub(super) fn received(&self, bytes: usize, protocol: Protocol) {
        let mut times = self.times();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        times.received = times.received.saturating_add(bytes);
        times.last_received = Instant::now();
        if protocol == Protocol::Http2 && times.received >= PREFACE_BYTES {
            times.stage = Stage::Started;
        }
    }

    /// Whether its handshake is not complete.
    pub(super) fn is_opening(&self) -> bool {
        self.times().stage == Stage::Opening
    }

    /// When the connection has been silent for too long.
    pub(super) fn deadline(&self, protocol: Protocol) -> Option<Instant> {
        let times = self.times();
        let (since, limit) = match (times.stage, protocol) {
            (Stage::Opening, _) => (times.opened, HANDSHAKE_TIMEOUT),
            (Stage::Open, _) => (times.opened, START_TIMEOUT),
            (Stage::Started, _) if times.waits > 0 => (Instant::now(), IDLE_TIMEOUT),
            // Bytes of an unfinished request prove nothing.
            (Stage::Started, Protocol::Http1 | Protocol::Http) if times.calls == 0 => {
                (times.quiet_since, IDLE_TIMEOUT)
            }
            (Stage::Started, _) => (times.last_received, IDLE_TIMEOUT),
        };
        since.checked_add(limit)
    }
}

#[cfg(test)]
impl Activity {
    /// Of a connection that no socket has.
    pub(crate) fn unconnected() -> Arc<Self> {
        let places = super::Places {
            all: 1,
            of_address: None,
        };
        let open = Arc::new(OpenConnections::new(places));
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        Arc::new(Self::new(0, peer, open))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut times = self.0.times();
        times.waits = times.waits.saturating_sub(1);
        // It has been silent since now, whatever it was before.
        times.last_received = Instant::now();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::Places;

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_waits_for_its_answer_may_be_silent() {
        let open = Arc::new(OpenConnections::new(Places {
            all: 1,
            of_address: None,
        }));
        let peer = "127.0.0.1:1".parse().unwrap();
        let activity = Arc::new(Activity::new(0, peer, open));
        activity.opened(None);
        let is_over = |protocol| activity.deadline(protocol).unwrap() <= Instant::now();
        for protocol in [Protocol::Http, Protocol::Http1] {
            let call = activity.begin_call();
            activity.received(10, protocol);
            tokio::time::advance(IDLE_TIMEOUT).await;
            assert!(is_over(protocol), "bytes of a request that does not end");
            let wait = activity.begin_wait();
            tokio::time::advance(IDLE_TIMEOUT * 100).await;
            assert!(!is_over(protocol));
            drop(wait);
            assert!(!is_over(protocol), "it was silent for good reason");
            tokio::time::advance(IDLE_TIMEOUT).await;
            assert!(is_over(protocol));
            drop(call);
        }
    }
}
