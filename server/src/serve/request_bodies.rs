//! Bounds requests that have not arrived in full: a caller that begins many messages and ends none costs a limited amount
//! of memory, for a limited time, and none that other callers need.
//!
//! A message counts with the length that it begins with, for which memory is reserved at once, until it is complete or
//! given up. Past a limit the call is refused; nothing was done for it. The limit is that of a caller with a key or a
//! certificate over all its connections; others have one for each connection.

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

use super::{
    connect::ConnectCall,
    pools::{Limits, Pools, Share},
    sockets::MAX_MESSAGE_BYTES,
};
use crate::{connections::Activity, domain::access::Caller, error::Error};

/// Bytes of unfinished requests. The last part is kept for callers of small ones, so that callers of large requests leave
/// room for the others.
const OF_CALLERS: Limits = Limits {
    all: 128 * 1024 * 1024,
    of_caller: 32 * 1024 * 1024,
    small: SMALL_BYTES,
    kept_for_small: 16 * 1024 * 1024,
    always: 0,
};
/// Those of calls for which no caller is looked up, such as health checks.
const OF_STRANGERS: Limits = Limits {
    all: 8 * 1024 * 1024,
    of_caller: SMALL_BYTES,
    small: SMALL_BYTES,
    kept_for_small: 0,
    always: 0,
};
const SMALL_BYTES: usize = 64 * 1024;
/// What begins a message in gRPC.
const PREFIX_BYTES: usize = 5;
/// How long a message may take to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);

/// Limits the requests to the services that it wraps.
#[derive(Clone, Debug)]
pub(super) struct RequestLimit(Pools);

impl Default for RequestLimit {
    fn default() -> Self {
        Self(Pools::new(OF_CALLERS, OF_STRANGERS))
    }
}

impl<S> Layer<S> for RequestLimit {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited {
            inner,
            limit: self.clone(),
        }
    }
}

/// A service whose requests are limited.
#[derive(Clone, Debug)]
pub(super) struct Limited<S> {
    inner: S,
    limit: RequestLimit,
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
        // A caller of reflection asks when it likes.
        let is_stream = request.uri().path().starts_with("/grpc.reflection.");
        let call = request.extensions().get::<ConnectCall>();
        let is_message = call.is_some_and(|call| !call.has_envelopes);
        let caller = request.extensions().get::<Arc<Caller>>();
        let held = (self.limit.0).share(caller.map(AsRef::as_ref), connection.unfinished());
        let limited = |body| {
            let limited = LimitedBody::new(body, held, is_stream);
            Body::new(LimitedBody {
                is_message,
                ..limited
            })
        };
        self.inner.call(request.map(limited))
    }
}

/// A request whose bytes are counted.
struct LimitedBody {
    body: Body,
    held: Share,
    /// What has arrived of the message that is not complete.
    arrived: usize,
    /// What begins it: whether it is compressed, and its length.
    prefix: [u8; PREFIX_BYTES],
    /// Set when the rest of a message was first waited for. Most arrive whole.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Whether the caller may wait as long as it likes before the next message.
    is_stream: bool,
    /// Whether it is one message without a prefix: it counts with what has arrived, until it is read in full.
    is_message: bool,
}

impl LimitedBody {
    fn new(body: Body, held: Share, is_stream: bool) -> Self {
        Self {
            body,
            held,
            arrived: 0,
            prefix: [0; PREFIX_BYTES],
            deadline: None,
            is_stream,
            is_message: false,
        }
    }

    /// Holds at least this many bytes.
    fn hold(&mut self, size: usize) -> Result<(), Error> {
        let bytes = size.saturating_sub(self.held.bytes());
        self.held
            .try_add(bytes)
            .map_err(|full| Error::RequestsUnfinished {
                held: full.held,
                limit: full.limit,
            })
    }

    fn count(&mut self, mut data: &[u8]) -> Result<(), Error> {
        if self.is_message {
            self.arrived = self.arrived.saturating_add(data.len());
            return self.hold(self.arrived.min(MAX_MESSAGE_BYTES));
        }
        while !data.is_empty() {
            if self.arrived < PREFIX_BYTES {
                let missing = self.prefix.iter_mut().skip(self.arrived);
                let mut taken = 0_usize;
                for (place, byte) in missing.zip(data) {
                    *place = *byte;
                    taken = taken.saturating_add(1);
                }
                self.arrived = self.arrived.saturating_add(taken);
                data = data.get(taken..).unwrap_or_default();
            }
            if self.arrived < PREFIX_BYTES {
                return Ok(());
            }
            let [_, length @ ..] = self.prefix;
            let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            let whole = length.saturating_add(PREFIX_BYTES);
            let taken = whole.saturating_sub(self.arrived).min(data.len());
            self.arrived = self.arrived.saturating_add(taken);
            data = data.get(taken..).unwrap_or_default();
            if self.arrived == whole {
                self.held.release();
                self.arrived = 0;
                self.deadline = None;
            } else {
                // A larger one is refused when it is read.
                self.hold(length.min(MAX_MESSAGE_BYTES))?;
            }
        }
        Ok(())
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
            Poll::Pending if !self.is_stream || self.arrived > 0 => {
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

    use futures_util::stream;
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::time::Instant;
    use tonic::Code;

    use super::*;
    use crate::{connections::HeldBytes, serve::pools::Pool};

    type Frames = Vec<Result<Frame<Bytes>, Status>>;

    /// A message of this length, of which so much has arrived.
    fn begun(length: usize, arrived: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(length).unwrap().to_be_bytes());
        bytes.resize(PREFIX_BYTES + arrived, 1);
        bytes
    }

    fn of_callers() -> Arc<Pool> {
        RequestLimit::default().0.callers
    }

    /// A request of these frames, and then of nothing more.
    fn unfinished(frames: &[Vec<u8>], own: &Arc<HeldBytes>, all: &Arc<Pool>) -> LimitedBody {
        let frames: Frames = frames
            .iter()
            .map(|bytes| Ok(Frame::data(Bytes::copy_from_slice(bytes))))
            .collect();
        let frames = stream::iter(frames);
        let frames = futures_util::StreamExt::chain(frames, stream::pending());
        let held = Share::new(own, all);
        LimitedBody::new(Body::new(StreamBody::new(frames)), held, false)
    }

    async fn next(body: &mut LimitedBody) -> Result<(), Code> {
        let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
        frame.unwrap().map(drop).map_err(|status| status.code())
    }

    fn held(of: &HeldBytes) -> usize {
        of.try_add(0, usize::MAX).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_arrive_in_full_ends() {
        let (own, all) = (Arc::default(), of_callers());
        for is_stream in [false, true] {
            let mut body = unfinished(&[begun(20, 10)], &own, &all);
            body.is_stream = is_stream;
            next(&mut body).await.unwrap();
            let began = Instant::now();
            assert_eq!(next(&mut body).await, Err(Code::DeadlineExceeded));
            assert_eq!(began.elapsed().as_secs(), ARRIVES_WITHIN.as_secs());
        }
        let whole = begun(3, 3);
        let whole = LimitedBody {
            body: Body::new(
                http_body_util::Full::new(Bytes::from(whole.clone()))
                    .map_err(|_| Status::internal("never")),
            ),
            ..unfinished(&[], &own, &all)
        };
        assert_eq!(whole.collect().await.unwrap().to_bytes(), begun(3, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_may_be_silent_between_its_messages_and_holds_nothing_then() {
        let (own, all) = (Arc::<HeldBytes>::default(), of_callers());
        let two = [begun(5, 5), begun(7, 7)].concat();
        let mut body = unfinished(&[two], &own, &all);
        body.is_stream = true;
        next(&mut body).await.unwrap();
        assert_eq!(held(&own), 0);
        let silent = tokio::time::timeout(ARRIVES_WITHIN * 10, next(&mut body));
        assert!(silent.await.is_err(), "it goes on");
    }

    #[tokio::test]
    async fn a_message_counts_with_its_length_from_its_beginning_to_its_end() {
        let (own, all) = (Arc::<HeldBytes>::default(), of_callers());
        let mut body = unfinished(&[], &own, &all);
        // The length is in several frames.
        for part in [&[0_u8, 0][..], &[16, 0], &[0, 1, 2, 3]] {
            body.count(part).unwrap();
        }
        assert_eq!(held(&own), 1 << 20);
        body.count(&vec![0; (1 << 20) - 4]).unwrap();
        assert_eq!(held(&own), 1 << 20);
        body.count(&[9]).unwrap();
        assert_eq!((held(&own), held(&all.held)), (0, 0));
        // One that is too large is refused by its reader.
        body.count(&begun(usize::try_from(u32::MAX).unwrap(), 0))
            .unwrap();
        assert_eq!(held(&own), MAX_MESSAGE_BYTES);
        drop(body);
        assert_eq!(held(&own), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_without_a_prefix_counts_with_what_has_arrived_and_has_as_long() {
        let (own, all) = (Arc::<HeldBytes>::default(), of_callers());
        let parts = [vec![b' '; 1_000], vec![b' '; MAX_MESSAGE_BYTES]];
        let mut body = unfinished(&parts, &own, &all);
        body.is_message = true;
        next(&mut body).await.unwrap();
        assert_eq!(held(&own), 1_000);
        next(&mut body).await.unwrap();
        assert_eq!(held(&own), MAX_MESSAGE_BYTES);
        let began = Instant::now();
        assert_eq!(next(&mut body).await, Err(Code::DeadlineExceeded));
        assert_eq!(began.elapsed().as_secs(), ARRIVES_WITHIN.as_secs());
        drop(body);
        assert_eq!(held(&own), 0);
    }

    #[tokio::test]
    async fn a_caller_and_all_have_limits_and_large_messages_leave_room_for_small_ones() {
        let all = of_callers();
        let message = begun(MAX_MESSAGE_BYTES, 1);
        let mut bodies = Vec::new();
        while held(&all.held) + MAX_MESSAGE_BYTES <= OF_CALLERS.all - OF_CALLERS.kept_for_small {
            let own = Arc::default();
            let before = held(&all.held);
            let refused = loop {
                let mut body = unfinished(std::slice::from_ref(&message), &own, &all);
                match next(&mut body).await {
                    Ok(()) => bodies.push(body),
                    Err(code) => break code,
                }
            };
            assert_eq!(refused, Code::ResourceExhausted);
            let of_caller = held(&all.held) - before;
            assert!((MAX_MESSAGE_BYTES..=OF_CALLERS.of_caller).contains(&of_caller));
        }
        let (small, own) = (begun(SMALL_BYTES, 1), Arc::default());
        let mut first = unfinished(std::slice::from_ref(&small), &own, &all);
        next(&mut first).await.unwrap();
        let mut large = unfinished(std::slice::from_ref(&message), &own, &all);
        assert_eq!(next(&mut large).await, Err(Code::ResourceExhausted));
        for _ in 0..OF_CALLERS.all / SMALL_BYTES {
            let mut body = unfinished(std::slice::from_ref(&small), &Arc::default(), &all);
            if next(&mut body).await.is_err() {
                break;
            }
            bodies.push(body);
        }
        assert!(
            held(&all.held) <= OF_CALLERS.all,
            "however many callers there are"
        );
        drop(bodies);
        let mut large = unfinished(std::slice::from_ref(&message), &own, &all);
        next(&mut large).await.unwrap();
    }

    #[tokio::test]
    async fn those_who_are_not_looked_up_take_nothing_from_callers() {
        let limit = RequestLimit::default().0;
        let check = begun(1_000, 1);
        let mut bodies = Vec::new();
        let refused = loop {
            let own = Arc::default();
            let mut body = unfinished(std::slice::from_ref(&check), &own, &limit.strangers);
            match next(&mut body).await {
                Ok(()) => bodies.push(body),
                Err(code) => break code,
            }
        };
        assert_eq!(refused, Code::ResourceExhausted);
        assert_eq!(held(&limit.callers.held), 0);
        let message = begun(MAX_MESSAGE_BYTES, 1);
        let mut batch = unfinished(&[message], &Arc::default(), &limit.callers);
        next(&mut batch).await.unwrap();
    }
}
