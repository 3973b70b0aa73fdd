//! The end of a connection that cannot be used: says why in the protocol of the client, and reads what is still on its way,
//! because closing before that would destroy the answer.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, ReadBuf},
    net::TcpStream,
    time::Sleep,
};

/// How long the client may take to say what it speaks, and to read the answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The most that is read from it.
const MAX_BYTES: usize = 64 * 1024;
/// What tells HTTP/2 from HTTP/1.
const PREFACE_START: &[u8] = b"PRI";

const NEEDS_TLS: &str = "this port needs TLS: use https://";

/// An alert of TLS: fatal, `protocol_version`. The record says TLS 1.2, as every alert before a version is agreed on.
const NO_TLS: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x46];

#[derive(Debug)]
pub(super) struct Farewell {
    stream: TcpStream,
    /// What the answer depends on; afterwards what is read is not kept.
    begin: Option<Vec<u8>>,
    answer: Vec<u8>,
    written: usize,
    is_shut: bool,
    read: usize,
    timer: Pin<Box<Sleep>>,
}

impl Farewell {
    fn new(stream: TcpStream, begin: Option<Vec<u8>>, answer: Vec<u8>) -> Self {
        Self {
            stream,
            begin,
            answer,
            written: 0,
            is_shut: false,
            read: 0,
            timer: Box::pin(tokio::time::sleep(TIMEOUT)),
        }
    }

    /// To a client that speaks plain text where TLS is needed.
    pub(super) fn needs_tls(stream: TcpStream) -> Self {
        Self::new(stream, Some(Vec::new()), Vec::new())
    }

    /// To a client that speaks TLS where plain text is spoken.
    pub(super) fn speaks_no_tls(stream: TcpStream) -> Self {
        Self::new(stream, None, NO_TLS.to_vec())
    }

    /// After an alert, which has been written.
    pub(super) fn after_alert(stream: TcpStream) -> Self {
        Self::new(stream, None, Vec::new())
    }

    /// Resolves when the connection can be closed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.poll_end(cx) {
            Poll::Ready(_) => Poll::Ready(()),
            Poll::Pending => self.timer.as_mut().poll(cx),
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(begin) = &mut self.begin {
            if begin.len() >= PREFACE_START.len() {
                self.answer = needs_tls(begin);
                self.begin = None;
                break;
            }
            let mut bytes = [0; 64];
            let mut buffer = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            begin.extend_from_slice(buffer.filled());
        }
        while let Some(rest) = self
            .answer
            .get(self.written..)
            .filter(|rest| !rest.is_empty())
        {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            self.written = self.written.saturating_add(written);
        }
        if !self.is_shut {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.is_shut = true;
        }
        while self.read < MAX_BYTES {
            let mut bytes = [0; 1024];
            let mut buffer = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                break;
            }
            self.read = self.read.saturating_add(buffer.filled().len());
        }
        Poll::Ready(Ok(()))
    }
}

/// The answer to plain text: a GOAWAY in HTTP/2, which gRPC libraries show with its text; else an answer of HTTP/1.
fn needs_tls(begin: &[u8]) -> Vec<u8> {
    /// An empty frame of settings, which has to come first.
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GO_AWAY: u8 = 7;
    const INADEQUATE_SECURITY: u32 = 0xc;
    if !begin.starts_with(PREFACE_START) {
        let body = format!("{NEEDS_TLS}\n");
        let length = body.len();
        let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n";
        return format!("{head}content-length: {length}\r\n\r\n{body}").into_bytes();
    }
    // The last stream that was processed, none, and the code come before the text.
    let length = u8::try_from(NEEDS_TLS.len().saturating_add(8)).unwrap_or(8);
    let mut frames = SETTINGS.to_vec();
    frames.extend([0, 0, length, GO_AWAY, 0, 0, 0, 0, 0]);
    frames.extend(0_u32.to_be_bytes());
    frames.extend(INADEQUATE_SECURITY.to_be_bytes());
    frames.extend(NEEDS_TLS.as_bytes());
    frames
}
