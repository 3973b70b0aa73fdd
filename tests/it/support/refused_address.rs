//! An address that refuses every connection.

use std::net::SocketAddr;

use tokio::net::TcpSocket;

/// A port that is taken and on which nothing listens, so that no other test's server gets it.
#[derive(Debug)]
pub(crate) struct RefusedAddress(TcpSocket);

impl RefusedAddress {
    pub(crate) fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
        Self(socket)
    }

    pub(crate) fn endpoint(&self) -> String {
        let address: SocketAddr = self.0.local_addr().expect("an address");
        format!("http://{address}")
    }
}
