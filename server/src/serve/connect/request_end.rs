//! Whether a request was read to its end. hyper closes a connection of HTTP/1 on which a request was answered before: such an
//! answer has to say so, or the client sends its next request into a closed connection.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use axum::body::Body as HttpBody;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header};
use http_body::{Body, Frame, SizeHint};

/// Tells whether the request was read to its end.
pub(super) struct RequestEnd {
    is_http1: bool,
    is_read: Arc<AtomicBool>,
}

/// The body of a request that is watched.
struct Watched {
    body: HttpBody,
    is_read: Arc<AtomicBool>,
}

impl RequestEnd {
    /// Watches the body of a request.
    pub(super) fn watch(request: Request<HttpBody>) -> (Request<HttpBody>, Self) {
        let is_http1 = request.version() < Version::HTTP_2;
        let is_read = Arc::new(AtomicBool::new(request.body().is_end_stream()));
        let end = Self {
            is_http1,
            is_read: Arc::clone(&is_read),
        };
        (
            request.map(|body| HttpBody::new(Watched { body, is_read })),
            end,
        )
    }

    /// Tells the client if its connection will be closed.
    pub(super) fn mark(&self, answer: &mut Response<HttpBody>) {
        if self.is_http1 && !self.is_read.load(Ordering::Relaxed) {
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(header::CONNECTION, close);
        }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.is_read.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
