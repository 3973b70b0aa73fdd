//! Where a request comes from: the other end of its connection, or the client that a trusted proxy names.
//!
//! Everything that shows an address of a request or limits by one takes it from here. The limits of connections do not: a
//! connection has no client before its first request, so they are those of the other end.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use http::{Extensions, HeaderMap, HeaderValue};

use crate::domain::trusted_proxies::TrustedProxies;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The address of a client, in the extensions of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientAddress {
    /// Of the connection.
    Peer(SocketAddr),
    /// As a trusted proxy names it.
    Forwarded(IpAddr),
}

impl ClientAddress {
    /// That of a request with these headers, over a connection from `peer`.
    pub(crate) fn of(peer: SocketAddr, headers: &HeaderMap, proxies: &TrustedProxies) -> Self {
        let lines = headers.get_all(FORWARDED_FOR).iter();
        let client = proxies.client_of(peer.ip(), lines.map(HeaderValue::as_bytes));
        client.map_or(Self::Peer(peer), Self::Forwarded)
    }

    /// That of a request, which was stored in it when it arrived.
    pub(crate) fn find(extensions: &Extensions) -> Option<Self> {
        extensions.get::<Self>().copied()
    }

    /// The same for the record; empty if it is not known.
    pub(crate) fn text_of(extensions: &Extensions) -> String {
        Self::find(extensions).map_or_else(String::new, |address| address.to_string())
    }

    pub(crate) fn ip(self) -> IpAddr {
        match self {
            Self::Peer(peer) => peer.ip(),
            Self::Forwarded(client) => client,
        }
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(peer) => peer.fmt(f),
            Self::Forwarded(client) => client.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trusted_proxy_names_another_address() {
        let mut headers = HeaderMap::new();
        for line in ["198.51.100.1", "192.0.2.7, 10.0.0.2"] {
            headers.append(FORWARDED_FOR, HeaderValue::from_static(line));
        }
        let text = |peer: &str, trusted: &str| {
            let proxies = TrustedProxies::new(&[trusted.parse().unwrap()]);
            ClientAddress::of(peer.parse().unwrap(), &headers, &proxies).to_string()
        };
        assert_eq!(text("10.0.0.1:1234", "10.0.0.0/8"), "192.0.2.7");
        assert_eq!(text("10.0.0.1:1234", "10.0.0.1"), "10.0.0.2");
        assert_eq!(text("192.0.2.9:1234", "10.0.0.0/8"), "192.0.2.9:1234");
    }
}
