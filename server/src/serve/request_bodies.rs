//! Bounds requests that have not arrived in full: a caller that begins many messages and ends none costs a limited amount
//! of memory, for a limited time, and none that other callers need.
//!
//! A message counts with the length that it begins with, for which memory is reserved at once, until it is complete or
//! given up. Past a limit the call is refused; nothing was done for it.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::{Status, body::Body};
use tower_layer::Layer;
use tower_service::Service;

use super::sockets::MAX_MESSAGE_BYTES;
use crate::{
    connections::{Activity, HeldBytes},
    error::Error,
};

/// Bytes of unfinished requests over all connections, and of one connection.
const MAX_BYTES: usize = 128 * 1024 * 1024;
const MAX_OF_CONNECTION: usize = 32 * 1024 * 1024;
/// What every connection may have, whatever the others do.
const OWN_BYTES: usize = 64 * 1024;
/// What begins a message in gRPC.
const PREFIX_BYTES: usize = 5;
/// How long a request may take to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);

/// Limits the requests to the services that it wraps.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestLimit {
    all: Arc<HeldBytes>,
}

impl<S> Layer<S> for RequestLimit {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited {
            inner,
            all: Arc::clone(&self.all),
        }
    }
}

/// A service whose requests are limited.
#[derive(Clone, Debug)]
pub(super) struct Limited<S> {
    inner: S,
    all: Arc<HeldBytes>,
}

impl<S> Service<Request<Body>> for Limited<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        let Some(connection) = request.extensions().get::<Arc<Activity>>() else {
            return self.inner.call(request);
        };
        // A caller of reflection asks when it likes, so its messages have no time by which they must arrive.
        let is_stream = request.uri().path().starts_with("/grpc.reflection.");
        let held = Held {
            own: Arc::clone(connection.unfinished()),
            all: Arc::clone(&self.all),
            bytes: 0,
        };
        let limited = |body| Body::new(LimitedBody::new(body, held, is_stream));
        self.inner.call(request.map(limited))
    }
}

/// Bytes that count until this is dropped.
struct Held {
    own: Arc<HeldBytes>,
    all: Arc<HeldBytes>,
    bytes: usize,
}

impl Held {
    /// Counts at least this many bytes.
    fn grow(&mut self, size: usize) -> Result<(), Error> {
        let bytes = size.saturating_sub(self.bytes);
        let refused = |held, limit| Error::RequestsUnfinished { held, limit };
        let own = self
            .own
            .try_add(bytes, MAX_OF_CONNECTION)
            .map_err(|held| refused(held, MAX_OF_CONNECTION))?;
        if own <= OWN_BYTES {
            self.all.add(bytes);
        } else if let Err(held) = self.all.try_add(bytes, MAX_BYTES) {
            self.own.remove(bytes);
            return Err(refused(held, MAX_BYTES));
        }
        self.bytes = self.bytes.saturating_add(bytes);
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.own.remove(self.bytes);
        self.all.remove(self.bytes);
    }
}

/// A request whose bytes are counted. It is dropped once the message is read.
struct LimitedBody {
    body: Body,
    held: Held,
    arrived: usize,
    /// What begins the first message: whether it is compressed, and its length.
    prefix: [u8; PREFIX_BYTES],
    /// Set when the request was first waited for. Most arrive whole.
    deadline: Option<Pin<Box<Sleep>>>,
    is_stream: bool,
}

impl LimitedBody {
    fn new(body: Body, held: Held, is_stream: bool) -> Self {
        Self {
            body,
            held,
            arrived: 0,
            prefix: [0; PREFIX_BYTES],
            deadline: None,
            is_stream,
        }
    }

    fn count(&mut self, data: &[u8]) -> Result<(), Error> {
        let missing = self.prefix.iter_mut().skip(self.arrived);
        for (place, byte) in missing.zip(data) {
            *place = *byte;
        }
        self.arrived = self.arrived.saturating_add(data.len());
        let mut size = self.arrived;
        if size >= PREFIX_BYTES {
            let [_, length @ ..] = self.prefix;
            let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            // A larger one is refused when it is read.
            size = size.max(length.min(MAX_MESSAGE_BYTES));
        }
        self.held.grow(size)
    }
}

impl HttpBody for LimitedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let counted = frame.data_ref().map_or(Ok(()), |data| self.count(data));
                Poll::Ready(Some(counted.map(|()| frame).map_err(Status::from)))
            }
            Poll::Pending if !self.is_stream => {
                let deadline = self
                    .deadline
                    .get_or_insert_with(|| Box::pin(sleep(ARRIVES_WITHIN)));
                let too_slow = || Status::from(Error::MessageTooSlow(ARRIVES_WITHIN));
                deadline.as_mut().poll(cx).map(|()| Some(Err(too_slow())))
            }
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::time::Instant;
    use tonic::Code;

    use super::*;

    type Frames = Vec<Result<Frame<Bytes>, Status>>;

    /// A request of these sizes, and then of nothing more.
    fn unfinished(sizes: &[usize], own: &Arc<HeldBytes>, all: &Arc<HeldBytes>) -> LimitedBody {
        let frames: Frames = sizes
            .iter()
            .map(|size| Ok(Frame::data(Bytes::from(vec![0; *size]))))
            .collect();
        let frames = futures_util::stream::iter(frames);
        let frames = futures_util::StreamExt::chain(frames, futures_util::stream::pending());
        let held = Held {
            own: Arc::clone(own),
            all: Arc::clone(all),
            bytes: 0,
        };
        LimitedBody::new(Body::new(StreamBody::new(frames)), held, false)
    }

    async fn next(body: &mut LimitedBody) -> Result<usize, Code> {
        let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
        let frame = frame.unwrap().map_err(|status| status.code())?;
        Ok(frame.into_data().unwrap().len())
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_arrive_in_full_ends() {
        let (own, all) = (Arc::default(), Arc::default());
        let mut body = unfinished(&[10], &own, &all);
        assert_eq!(next(&mut body).await, Ok(10));
        let began = Instant::now();
        assert_eq!(next(&mut body).await, Err(Code::DeadlineExceeded));
        assert_eq!(began.elapsed().as_secs(), ARRIVES_WITHIN.as_secs());
        let whole = Body::new(http_body_util::Full::new(Bytes::from_static(b"whole")));
        let whole = LimitedBody {
            body: Body::new(whole.map_err(|_| Status::internal("never"))),
            ..unfinished(&[], &own, &all)
        };
        assert_eq!(whole.collect().await.unwrap().to_bytes(), "whole");
    }

    #[tokio::test]
    async fn a_message_counts_with_its_length_from_its_beginning() {
        let (own, all) = (Arc::<HeldBytes>::default(), Arc::default());
        let mut body = unfinished(&[], &own, &all);
        // The length is in several frames.
        for part in [&[0_u8, 0][..], &[16, 0], &[0, 1, 2, 3]] {
            body.count(part).unwrap();
        }
        assert_eq!(own.try_add(0, usize::MAX), Ok(1 << 20));
        body.count(&vec![0; 2 << 20]).unwrap();
        assert_eq!(own.try_add(0, usize::MAX), Ok((2 << 20) + 8));
        drop(body);
        assert_eq!(own.try_add(0, usize::MAX), Ok(0));
    }

    #[tokio::test]
    async fn bytes_count_until_the_request_is_given_up_and_a_few_always_fit() {
        let (own, all) = (Arc::default(), Arc::default());
        let mut first = unfinished(&[MAX_OF_CONNECTION, 1], &own, &all);
        assert_eq!(next(&mut first).await, Ok(MAX_OF_CONNECTION));
        assert_eq!(next(&mut first).await, Err(Code::ResourceExhausted));
        let others: Vec<LimitedBody> = {
            let mut others = Vec::new();
            for _ in 1..MAX_BYTES / MAX_OF_CONNECTION {
                let mut other = unfinished(&[MAX_OF_CONNECTION], &Arc::default(), &all);
                next(&mut other).await.unwrap();
                others.push(other);
            }
            others
        };
        // Nothing is left for all, and a connection has its own.
        let mut small = unfinished(&[OWN_BYTES, 1], &Arc::default(), &all);
        assert_eq!(next(&mut small).await, Ok(OWN_BYTES));
        assert_eq!(next(&mut small).await, Err(Code::ResourceExhausted));
        drop(others);
        drop(first);
        let mut again = unfinished(&[MAX_OF_CONNECTION], &own, &all);
        assert_eq!(next(&mut again).await, Ok(MAX_OF_CONNECTION));
    }
}
