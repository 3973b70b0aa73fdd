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

/// What a client that speaks plain text is told.
#[derive(Clone, Copy, Debug)]
struct Words {
    text: &'static str,
    /// Of HTTP/1.
    status: &'static str,
    /// Of HTTP/2.
    code: u32,
}

const NEEDS_TLS: Words = Words {
    text: "this port needs TLS: use https://",
    status: "400 Bad Request",
    // INADEQUATE_SECURITY
    code: 0xc,
};
const TOO_MANY: Words = Words {
    text: "this address has too many connections; close some, or use them for more calls",
    status: "503 Service Unavailable",
    // ENHANCE_YOUR_CALM
    code: 0xb,
};

/// Alerts of TLS: fatal, `protocol_version` and `user_canceled`. The record says TLS 1.2, as every alert before a version
/// is agreed on. No alert says that there are too many connections.
const NO_TLS: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x46];
const CANCELLED: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x5a];

#[derive(Debug)]
pub(super) struct Farewell {
    stream: TcpStream,
    /// What the answer depends on, and what it says; afterwards what is read is not kept.
    begin: Option<(Vec<u8>, Words)>,
    answer: Vec<u8>,
    written: usize,
    is_shut: bool,
    read: usize,
    timer: Pin<Box<Sleep>>,
}

impl Farewell {
    fn new(stream: TcpStream, words: Option<Words>, answer: Vec<u8>) -> Self {
        Self {
            stream,
            begin: words.map(|words| (Vec::new(), words)),
            answer,
            written: 0,
            is_shut: false,
            read: 0,
            timer: Box::pin(tokio::time::sleep(TIMEOUT)),
        }
    }

    /// To a client that speaks plain text where TLS is needed.
    pub(super) fn needs_tls(stream: TcpStream) -> Self {
        Self::new(stream, Some(NEEDS_TLS), Vec::new())
    }

    /// To a client whose address has too many connections.
    pub(super) fn too_many(stream: TcpStream, is_secure: bool) -> Self {
        if is_secure {
            Self::new(stream, None, CANCELLED.to_vec())
        } else {
            Self::new(stream, Some(TOO_MANY), Vec::new())
        }
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
        while let Some((begin, words)) = &mut self.begin {
            if begin.len() >= PREFACE_START.len() {
                self.answer = plain(begin, *words);
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

/// The answer in plain text: a GOAWAY in HTTP/2, which gRPC libraries show with its text; else an answer of HTTP/1.
fn plain(begin: &[u8], words: Words) -> Vec<u8> {
    /// An empty frame of settings, which has to come first.
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GO_AWAY: u8 = 7;
    let Words { text, status, code } = words;
    if !begin.starts_with(PREFACE_START) {
        let body = format!("{text}\n");
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-type: text/plain\r\nconnection: close\r\n");
        return format!("{head}content-length: {length}\r\n\r\n{body}").into_bytes();
    }
    // The last stream that was processed, none, and the code come before the text.
    let length = u8::try_from(text.len().saturating_add(8)).unwrap_or(8);
    let mut frames = SETTINGS.to_vec();
    frames.extend([0, 0, length, GO_AWAY, 0, 0, 0, 0, 0]);
    frames.extend(0_u32.to_be_bytes());
    frames.extend(code.to_be_bytes());
    frames.extend(text.as_bytes());
    frames
}
