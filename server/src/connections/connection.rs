//! A connection as the protocols see it.

use std::{
    fmt,
    future::Future as _,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{Protocol, Security, activity::Activity, opening::Transport, refusals::Reason};

/// A connection that fails with `TimedOut` after too long a silence, and with `ConnectionAborted` when it is closed for
/// another one.
pub(crate) struct Connection {
    transport: Transport,
    protocol: Protocol,
    timer: Pin<Box<Sleep>>,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    activity: Arc<Activity>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("activity", &self.activity)
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        security: Security,
        protocol: Protocol,
        activity: Arc<Activity>,
    ) -> Self {
        let first_deadline = activity.deadline(protocol).unwrap_or_else(Instant::now);
        Self {
            transport: Transport::Silent(stream, security),
            protocol,
            timer: Box::pin(tokio::time::sleep_until(first_deadline)),
            closed: Box::pin(activity.close.clone().cancelled_owned()),
            activity,
        }
    }

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

    /// Resolves when the connection can be used, or never can.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Transport::Plain(_) | Transport::Tls(_) = self.transport {
            return Poll::Ready(Ok(()));
        }
        if self.closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let opened = self.transport.poll_open(cx, self.protocol, &self.activity);
        if opened.is_ready() {
            return opened;
        }
        ready!(self.poll_silent(cx));
        if self.activity.is_opening() && !matches!(self.transport, Transport::Ending(_)) {
            self.activity.refused(Reason::HandshakeTimedOut, None);
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Calls a method of the stream of an open connection.
macro_rules! on_stream {
    ($connection:expr, $stream:ident => $call:expr) => {
        match &mut $connection.transport {
            Transport::Plain($stream) => $call,
            Transport::Tls($stream) => $call,
            // Not open.
            _ => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    };
}

impl tonic::transport::server::Connected for Connection {
    type ConnectInfo = Arc<Activity>;

    fn connect_info(&self) -> Arc<Activity> {
        self.activity()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.activity.leave();
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?;
        if self.closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buffer.filled().len();
        let read = on_stream!(self, stream => Pin::new(stream).poll_read(cx, buffer));
        if read.is_ready() {
            let bytes = buffer.filled().len().saturating_sub(before);
            self.activity.received(bytes, self.protocol);
            return read;
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
        ready!(self.poll_open(cx))?;
        on_stream!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?;
        on_stream!(self, stream => Pin::new(stream).poll_write_vectored(cx, bytes))
    }

    /// Both kinds of streams are, and the kind is not known at first.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
            // Nothing was written.
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            _ => Poll::Ready(Ok(())),
        }
    }
}
