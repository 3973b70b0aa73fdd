//! Who looks at a page, and what for.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use axum::http::{Extensions, request::Parts};
use prost_types::Timestamp;

use super::{calls::Calls, query::Query, zone::Choice};
use crate::{
    client_address::ClientAddress,
    connections::Activity,
    domain::{Millis, access::Caller, console_session::SessionSecret, http_paths::HttpPath},
};

/// Who looks at a page.
pub(super) struct Visitor {
    pub(super) caller: Arc<Caller>,
    /// Absent of a client certificate, a key in the headers, and while no key is needed.
    pub(super) session: Option<SessionSecret>,
    pub(super) calls: Calls,
    /// The page that is asked for.
    pub(super) path: Option<HttpPath>,
    pub(super) query: Query,
    /// The time zone of charts and days.
    pub(super) zone: Choice,
    /// Whether no page of another site asks.
    pub(super) is_own_request: bool,
    /// When it is asked for.
    pub(super) now: Millis,
    /// Whether pages have forms for it that change something.
    pub(super) may_change: bool,
}

impl Visitor {
    /// When the page is asked for.
    pub(super) fn timestamp(&self) -> Timestamp {
        Timestamp {
            seconds: self.now.div_euclid(1_000),
            nanos: 0,
        }
    }
}

/// What the connection of a request does.
pub(super) fn activity(head: &Parts) -> Option<Arc<Activity>> {
    head.extensions.get::<Arc<Activity>>().cloned()
}

/// The address that a request came from.
pub(super) fn address(of: &Extensions) -> IpAddr {
    let address = ClientAddress::find(of);
    address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), ClientAddress::ip)
}
