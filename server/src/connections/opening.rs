//! How a connection begins: whether the client speaks TLS, and its handshake.
//!
//! The task of the connection does this, not that which accepts others: no client can keep another one waiting.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{io::ReadBuf, net::TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    server::{FallibleAccept, TlsStream},
};

use super::{Protocol, activity::Activity, farewell::Farewell, refusals::Reason};
use crate::tls::{Clients, Tls};

/// What a record of TLS begins with that holds a handshake.
const HANDSHAKE: u8 = 0x16;

/// What a socket speaks.
#[derive(Clone, Debug)]
pub(crate) enum Security {
    /// Plain text.
    Plain,
    /// TLS and nothing else.
    Tls(Arc<Tls>, Clients),
}

/// The state of a connection's bytes.
pub(super) enum Transport {
    /// Nothing has arrived.
    Silent(TcpStream, Security),
    Handshake(Box<FallibleAccept<TcpStream>>),
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// It cannot be used.
    Ending(Box<Farewell>),
    Ended,
}

impl Transport {
    /// Resolves when the connection can be used.
    pub(super) fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
        protocol: Protocol,
        activity: &Activity,
    ) -> Poll<io::Result<()>> {
        loop {
            match self {
                Self::Plain(_) | Self::Tls(_) => return Poll::Ready(Ok(())),
                Self::Ended => return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
                Self::Silent(stream, security) => {
                    let mut first = [0];
                    let seen = ready!(stream.poll_peek(cx, &mut ReadBuf::new(&mut first)))?;
                    if seen == 0 && matches!(security, Security::Tls(..)) {
                        *self = Self::Ended;
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    let is_tls = seen > 0 && first == [HANDSHAKE];
                    if let Self::Silent(stream, security) = std::mem::replace(self, Self::Ended) {
                        *self = Self::begin(stream, security, is_tls, protocol, activity);
                    }
                }
                Self::Handshake(accept) => {
                    let accepted = ready!(Pin::new(accept).poll(cx));
                    *self = Self::after_handshake(accepted, activity);
                }
                Self::Ending(farewell) => {
                    ready!(farewell.poll(cx));
                    *self = Self::Ended;
                }
            }
        }
    }

    fn begin(
        stream: TcpStream,
        security: Security,
        is_tls: bool,
        protocol: Protocol,
        activity: &Activity,
    ) -> Self {
        match (security, is_tls) {
            (Security::Plain, false) => {
                activity.opened(None);
                Self::Plain(stream)
            }
            (Security::Plain, true) => {
                activity.refused(Reason::SpeaksNoTls, None);
                Self::Ending(Box::new(Farewell::speaks_no_tls(stream)))
            }
            (Security::Tls(..), false) => {
                activity.refused(Reason::NeedsTls, None);
                Self::Ending(Box::new(Farewell::needs_tls(stream)))
            }
            (Security::Tls(tls, clients), true) => {
                let settings = tls.settings(protocol, clients);
                let accept = TlsAcceptor::from(settings).accept(stream);
                Self::Handshake(Box::new(accept.into_fallible()))
            }
        }
    }

    fn after_handshake(
        accepted: Result<TlsStream<TcpStream>, (io::Error, TcpStream)>,
        activity: &Activity,
    ) -> Self {
        let stream = match accepted {
            Ok(stream) => stream,
            Err((error, stream)) => {
                activity.refused(Reason::HandshakeFailed, Some(&error));
                return Self::Ending(Box::new(Farewell::after_alert(stream)));
            }
        };
        match Tls::client(stream.get_ref().1.peer_certificates().unwrap_or_default()) {
            Ok(client) => {
                activity.opened(client);
                Self::Tls(Box::new(stream))
            }
            Err(why) => {
                activity.refused(Reason::HandshakeFailed, Some(&why));
                let (stream, _) = stream.into_inner();
                Self::Ending(Box::new(Farewell::after_alert(stream)))
            }
        }
    }
}
