//! Bounds the answers that wait to be read: a caller that does not read its answers costs a limited amount of memory,
//! and none that other callers need.
//!
//! HTTP/2 lets a caller open a thousand calls on one connection and read none of their answers. The bytes of an answer
//! count from the moment that it exists until the last of them is written to the connection. Past a limit a call is
//! refused before anything is done for it. An answer that only reads is refused too if it does not fit; one that
//! confirms a change is always kept, or its caller would not know that the change was made.
//!
//! The limits are those of a connection, of a caller over all its connections, and of all callers. So this is within the
//! check of who calls, and calls that need no key have a small pool of their own.

use std::{
    convert::Infallible,
    future::{poll_fn, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Status, body::Body};
use tower_layer::Layer;
use tower_service::Service;

use super::pools::{Full, Limits, Pools, Share};
use crate::{
    connections::{Activity, Call, Wait},
    domain::access::Caller,
    error::Error,
};

/// Unread bytes of one connection.
const MAX_UNREAD_OF_CONNECTION: usize = 8 * 1024 * 1024;
/// The largest answer of a call that only reads.
pub(crate) const MAX_ANSWER_BYTES: usize = MAX_UNREAD_OF_CONNECTION;
/// Unread bytes. The last part is kept for callers with small answers, so that those who read nothing leave room for others.
const OF_CALLERS: Limits = Limits {
    all: 64 * 1024 * 1024,
    of_caller: 16 * 1024 * 1024,
    small: 256 * 1024,
    kept_for_small: 16 * 1024 * 1024,
    always: 16 * 1024,
};
/// Those of calls that need no key, such as health checks. A few of each connection always fit: no flood of them makes a
/// load balancer believe that the service is down.
const OF_STRANGERS: Limits = Limits {
    all: 8 * 1024 * 1024,
    of_caller: 64 * 1024,
    small: 64 * 1024,
    kept_for_small: 0,
    always: 4 * 1024,
};
/// The least that is counted for a call, also before its answer exists: its stream takes memory too.
const MIN_BYTES: usize = 1_024;
/// Calls that change nothing. Their answers can be refused.
const READS: [&str; 20] = [
    "/usage.v1.UsageService/ListMeters",
    "/usage.v1.UsageService/Get",
    "/usage.v1.UsageService/ListUsage",
    "/usage.v1.UsageService/GetSummary",
    "/usage.v1.UsageService/ListReports",
    "/usage.v1.UsageService/Reconcile",
    "/usage.v1.UsageService/FindIncrement",
    "/usage.v1.UsageService/ExplainInvoice",
    "/usage.v1.AccountService/GetAccount",
    "/usage.v1.AccountService/ListAccounts",
    "/usage.v1.AccountService/ExportAccount",
    "/usage.v1.AccessService/ListKeys",
    "/usage.v1.AccessService/ListAuditEntries",
    "/usage.v1.OperationsService/Doctor",
    "/usage.v1.OperationsService/ListRuns",
    "/usage.v1.OperationsService/CompareShadow",
    "/usage.v1.OperationsService/GetSignOff",
    "/usage.v1.OperationsService/ExportSignOff",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Limits the answers of the services that it wraps.
#[derive(Clone, Debug)]
pub(super) struct AnswerLimit(Pools);

impl Default for AnswerLimit {
    fn default() -> Self {
        Self(Pools::new(OF_CALLERS, OF_STRANGERS))
    }
}

impl<S> Layer<S> for AnswerLimit {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited {
            inner,
            pools: self.0.clone(),
        }
    }
}

/// A service whose answers are limited.
#[derive(Clone, Debug)]
pub(super) struct Limited<S> {
    inner: S,
    pools: Pools,
}

impl<S, B> Service<Request<Body>> for Limited<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes, Error = Status> + Send + Unpin + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(connection) = request.extensions().get::<Arc<Activity>>().cloned() else {
            let answer = self.inner.call(request);
            return Box::pin(async { Ok(answer.await?.map(Body::new)) });
        };
        let call = request.extensions_mut().remove::<Arc<Call>>();
        let caller = request.extensions().get::<Arc<Caller>>();
        let share = self
            .pools
            .share(caller.map(AsRef::as_ref), connection.answers());
        let held = match Held::reserve(connection, share, MIN_BYTES) {
            Ok(held) => held,
            Err(error) => return Box::pin(ready(Ok(refused(error)))),
        };
        let may_refuse = READS.contains(&request.uri().path());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            Ok(limited(answer, held, call, may_refuse).await)
        })
    }
}

/// Counts an answer. One that exists in full counts now, even if HTTP/2 does not ask for it yet.
async fn limited<B>(
    answer: Response<B>,
    mut held: Held,
    call: Option<Arc<Call>>,
    may_refuse: bool,
) -> Response<Body>
where
    B: HttpBody<Data = Bytes, Error = Status> + Send + Unpin + 'static,
{
    let (parts, mut body) = answer.into_parts();
    let first = poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
        Poll::Ready(Some(frame)) => Poll::Ready(Some(frame)),
        Poll::Ready(None) | Poll::Pending => Poll::Ready(None),
    })
    .await;
    if let Some(Ok(frame)) = &first
        && let Some(data) = frame.data_ref()
        && let Err(error) = held.grow(data.len(), may_refuse)
    {
        return refused(error);
    }
    let body = LimitedBody {
        first,
        body,
        held: Some(held),
        _call: call,
        _waiting: None,
    };
    Response::from_parts(parts, Body::new(body))
}

fn refused(error: Error) -> Response<Body> {
    Status::from(error).into_http()
}

/// Bytes that count as unread until this is dropped.
pub(super) struct Held {
    connection: Arc<Activity>,
    share: Share,
    is_answer: bool,
}

impl Held {
    fn new(connection: Arc<Activity>, share: Share) -> Self {
        Self {
            connection,
            share,
            is_answer: false,
        }
    }

    /// Reserves the least that a call counts.
    pub(super) fn reserve(
        connection: Arc<Activity>,
        share: Share,
        least: usize,
    ) -> Result<Self, Error> {
        let mut held = Self::new(connection, share);
        held.try_add(least)?;
        Ok(held)
    }

    fn try_add(&mut self, bytes: usize) -> Result<(), Error> {
        let unread = self.connection.unread();
        let refused = |unread, limit| Error::AnswersUnread { unread, limit };
        unread
            .try_add(bytes, MAX_UNREAD_OF_CONNECTION)
            .map_err(|unread| refused(unread, MAX_UNREAD_OF_CONNECTION))?;
        self.share.try_add(bytes).map_err(|Full { held, limit }| {
            unread.remove(bytes);
            refused(held, limit)
        })
    }

    /// Counts an answer of this size.
    pub(super) fn grow(&mut self, size: usize, may_refuse: bool) -> Result<(), Error> {
        let more = size.saturating_sub(self.share.bytes());
        if may_refuse {
            self.try_add(more)?;
        } else {
            self.connection.unread().add(more);
            self.share.add(more);
        }
        if !self.is_answer {
            self.is_answer = true;
            self.connection.unread().begin_answer();
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.connection.unread().remove(self.share.bytes());
        if self.is_answer {
            self.connection.unread().end_answer();
        }
    }
}

/// The bytes of an answer. HTTP/2 drops them once they are written, or when the call is cancelled.
pub(super) struct AnswerBytes {
    bytes: Bytes,
    _held: Held,
}

impl AnswerBytes {
    pub(super) fn new(bytes: Bytes, held: Held) -> Self {
        Self { bytes, _held: held }
    }
}

impl AsRef<[u8]> for AnswerBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// An answer whose bytes are counted.
struct LimitedBody<B> {
    /// The part that existed when the call ended.
    first: Option<Result<Frame<Bytes>, Status>>,
    body: B,
    /// What is counted for the next bytes.
    held: Option<Held>,
    /// The connection keeps its place until the answer has ended.
    _call: Option<Arc<Call>>,
    /// Its caller may be silent until then.
    _waiting: Option<Wait>,
}

/// An answer that is made while it is read: each of its parts counts until it is read.
pub(super) fn streamed<B>(
    body: B,
    held: Held,
) -> impl HttpBody<Data = Bytes, Error = Status> + Send + 'static
where
    B: HttpBody<Data = Bytes, Error = Status> + Send + Unpin + 'static,
{
    let waiting = held.connection.begin_wait();
    LimitedBody {
        first: None,
        body,
        held: Some(held),
        _call: None,
        _waiting: Some(waiting),
    }
}

impl<B> LimitedBody<B> {
    fn counted(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let Some(mut held) = self.held.take() else {
            return frame;
        };
        frame.map_data(|bytes| {
            // Cannot fail: only an answer that may be refused can exceed a limit, and it was counted before.
            let _ = held.grow(bytes.len(), false);
            let next = Held::new(Arc::clone(&held.connection), held.share.another());
            self.held = Some(next);
            Bytes::from_owner(AnswerBytes::new(bytes, held))
        })
    }
}

impl<B> HttpBody for LimitedBody<B>
where
    B: HttpBody<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let next = match self.first.take() {
            Some(first) => Some(first),
            None => ready!(Pin::new(&mut self.body).poll_frame(cx)),
        };
        Poll::Ready(next.map(|frame| Ok(self.counted(frame?))))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
