//! The open connections of a socket: which one gets a place, and which one gives up its own.
//!
//! A new connection never waits for silent ones: if all places are taken, one is closed that has no call. First those go
//! whose handshake is not complete, then those without a first request, then the others; of each the longest silent one.
//! One address may have a part of all places. Beyond it, one of its own connections is closed in the same way, and if all
//! of them have calls, the new one is refused: whoever opens many takes nothing from others.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::{
    Activity, Places,
    refusals::{Reason, Refusals},
};
use crate::{clock::Clock, domain::SECOND_MS, tls::Tls};

/// How long a caller may leave all its answers unread, and how long while others may need the memory.
const STALL_TIMEOUT: Duration = Duration::from_mins(2);
const STALL_TIMEOUT_WHEN_FULL: Duration = Duration::from_secs(10);
/// The unread bytes over all connections from which others may need the memory.
const FULL_BYTES: usize = 32 * 1024 * 1024;

/// The open connections of a listener.
#[derive(Debug)]
pub(super) struct OpenConnections {
    places: Places,
    next: AtomicU64,
    connections: Mutex<BTreeMap<u64, Arc<Activity>>>,
    /// Notified when a connection closes or has no more calls.
    pub(super) freed: Notify,
    pub(super) refusals: Refusals,
}

/// What becomes of a new connection.
enum Admission {
    Admitted(Arc<Activity>),
    /// All places are taken, by connections with calls.
    Full,
    /// Its address has all places that it may have, and calls on each of them.
    Refused,
}

impl OpenConnections {
    pub(super) fn new(places: Places) -> Self {
        Self {
            places,
            next: AtomicU64::new(0),
            connections: Mutex::default(),
            freed: Notify::new(),
            refusals: Refusals::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Activity>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up the place of a connection.
    pub(super) fn leave(&self, number: u64) {
        self.lock().remove(&number);
        self.freed.notify_one();
    }

    /// Waits for a place, which a connection without a call gives up at once. `None` if its address has too many.
    pub(super) async fn admit(self: &Arc<Self>, peer: SocketAddr) -> Option<Arc<Activity>> {
        loop {
            let freed = self.freed.notified();
            match self.try_admit(peer) {
                Admission::Admitted(activity) => return Some(activity),
                Admission::Full => freed.await,
                Admission::Refused => {
                    self.refusals.record(Reason::TooMany, peer, None);
                    return None;
                }
            }
        }
    }

    fn try_admit(self: &Arc<Self>, peer: SocketAddr) -> Admission {
        let mut connections = self.lock();
        let host = host_of(peer.ip());
        let is_own = |activity: &Activity| host_of(activity.peer().ip()) == host;
        let own = || connections.values().filter(|activity| is_own(activity));
        if let Some(max) = self.places.of_address
            && own().count() >= max
        {
            if !close_least(&mut connections, is_own) {
                return Admission::Refused;
            }
        } else if connections.len() >= self.places.all && !close_least(&mut connections, |_| true) {
            return Admission::Full;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let activity = Arc::new(Activity::new(number, peer, Arc::clone(self)));
        connections.insert(number, Arc::clone(&activity));
        Admission::Admitted(activity)
    }

    /// Closes the connections whose callers read no answer for longer than the limit.
    pub(super) fn close_stalled(&self) {
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
    pub(super) fn close_refused(&self, tls: &Tls, are_files_new: bool) {
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

/// Closes the connection without a call that is worth least, of some. Returns whether there is one.
fn close_least(
    connections: &mut BTreeMap<u64, Arc<Activity>>,
    is_one: impl Fn(&Activity) -> bool,
) -> bool {
    let some = connections.values().filter(|activity| is_one(activity));
    let least = some
        .filter_map(|activity| activity.worth().map(|worth| (worth, activity.number)))
        .min();
    let Some(closed) = least.and_then(|(_, number)| connections.remove(&number)) else {
        return false;
    };
    tracing::debug!(peer = %closed.peer(), "closing a silent connection for a new one");
    closed.close.cancel();
    true
}

/// What counts as one address: a host usually has a whole /64 of IPv6.
pub(crate) fn host_of(address: IpAddr) -> IpAddr {
    const NETWORK: u128 = 0xffff_ffff_ffff_ffff_0000_0000_0000_0000;
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connections by places, with numbers from 0.
    fn open(all: usize, of_address: Option<usize>) -> Arc<OpenConnections> {
        Arc::new(OpenConnections::new(Places { all, of_address }))
    }

    fn admitted(open: &Arc<OpenConnections>, peer: &str) -> Option<Arc<Activity>> {
        match open.try_admit(SocketAddr::new(peer.parse().unwrap(), 1)) {
            Admission::Admitted(activity) => Some(activity),
            Admission::Full | Admission::Refused => None,
        }
    }

    #[tokio::test]
    async fn an_address_with_too_many_calls_takes_no_place_of_others() {
        let open = open(3, Some(2));
        let busy = [(); 2].map(|()| admitted(&open, "192.0.2.1").unwrap());
        let calls = busy.each_ref().map(Activity::begin_call);
        assert!(admitted(&open, "192.0.2.1").is_none());
        // The same host over IPv6.
        assert!(admitted(&open, "::ffff:192.0.2.1").is_none());
        let other = admitted(&open, "192.0.2.2").unwrap();
        drop(calls);
        // Its own silent one gives way, not the other's that is silent for longer.
        assert!(admitted(&open, "192.0.2.1").is_some());
        assert!(busy[0].close.is_cancelled());
        assert!(!busy[1].close.is_cancelled() && !other.close.is_cancelled());
    }

    #[tokio::test]
    async fn without_a_limit_of_its_own_an_address_may_have_all() {
        let open = open(3, None);
        let all = [(); 3].map(|()| admitted(&open, "192.0.2.1").unwrap());
        let calls = all.each_ref().map(Activity::begin_call);
        assert!(admitted(&open, "192.0.2.2").is_none());
        drop(calls);
        assert!(admitted(&open, "192.0.2.2").is_some());
    }

    #[test]
    fn a_network_of_ipv6_is_one_host() {
        let host = |address: &str| host_of(address.parse().unwrap());
        assert_eq!(host("2001:db8::1"), host("2001:db8::ffff:1"));
        assert_ne!(host("2001:db8::1"), host("2001:db8:0:1::1"));
        assert_eq!(host("::ffff:192.0.2.1"), host("192.0.2.1"));
        assert_ne!(host("192.0.2.1"), host("192.0.2.2"));
    }
}
