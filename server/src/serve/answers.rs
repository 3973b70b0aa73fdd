//! Bounds the answers that wait to be read: a caller that does not read its answers costs a limited amount of memory,
//! and none that other callers need.
//!
//! HTTP/2 lets a caller open a thousand calls on one connection and read none of their answers. The bytes of an answer
//! count from the moment that it exists until the last of them is written to the connection. Past a limit a call is
//! refused before anything is done for it. An answer that only reads is refused too if it does not fit; one that
//! confirms a change is always kept, or its caller would not know that the change was made.

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
use tonic::{Status, body::Body, transport::server::TcpConnectInfo};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    connections::{Activity, Call, Unread},
    domain::{access::Requirement, method_roles::requirement},
    error::Error,
};

/// Unread bytes over all connections, and of one connection.
const MAX_UNREAD_BYTES: usize = 64 * 1024 * 1024;
const MAX_UNREAD_OF_CONNECTION: usize = 8 * 1024 * 1024;
/// What every connection may leave unread, whatever the others do: connections that read nothing do not refuse the small
/// answers of others, such as health.
const OWN_BYTES: usize = 16 * 1024;
/// The least that is counted for a call, also before its answer exists: its stream takes memory too.
const MIN_BYTES: usize = 1_024;
/// Calls that change nothing. Their answers can be refused.
const READS: [&str; 13] = [
    "/usage.v1.UsageService/ListMeters",
    "/usage.v1.UsageService/Get",
    "/usage.v1.UsageService/ListReports",
    "/usage.v1.UsageService/Reconcile",
    "/usage.v1.AccountService/GetAccount",
    "/usage.v1.AccountService/ListAccounts",
    "/usage.v1.AccountService/ExportAccount",
    "/usage.v1.AccessService/ListKeys",
    "/usage.v1.AccessService/ListAuditEntries",
    "/usage.v1.OperationsService/Doctor",
    "/usage.v1.OperationsService/ListRuns",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Limits the answers of the services that it wraps.
#[derive(Clone, Debug, Default)]
pub(super) struct AnswerLimit {
    all: Arc<Unread>,
}

impl<S> Layer<S> for AnswerLimit {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited {
            inner,
            all: Arc::clone(&self.all),
        }
    }
}

/// A service whose answers are limited.
#[derive(Clone, Debug)]
pub(super) struct Limited<S> {
    inner: S,
    all: Arc<Unread>,
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
        // What tonic stores for a plain TCP connection.
        request.extensions_mut().insert(TcpConnectInfo {
            local_addr: None,
            remote_addr: Some(connection.peer()),
        });
        // What needs no key keeps no place from those who have one.
        let needs_key = requirement(request.uri().path()) != Some(Requirement::Nothing);
        let call = needs_key.then(|| connection.begin_call());
        let held = match Held::reserve(connection, Arc::clone(&self.all)) {
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
    call: Option<Call>,
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
    };
    Response::from_parts(parts, Body::new(body))
}

fn refused(error: Error) -> Response<Body> {
    Status::from(error).into_http()
}

/// Bytes that count as unread until this is dropped.
struct Held {
    connection: Arc<Activity>,
    all: Arc<Unread>,
    bytes: usize,
    is_answer: bool,
}

impl Held {
    /// Reserves the least that a call counts.
    fn reserve(connection: Arc<Activity>, all: Arc<Unread>) -> Result<Self, Error> {
        let mut held = Self {
            connection,
            all,
            bytes: 0,
            is_answer: false,
        };
        held.try_add(MIN_BYTES)?;
        Ok(held)
    }

    fn try_add(&mut self, bytes: usize) -> Result<(), Error> {
        let unread = self.connection.unread();
        let own = unread
            .try_add(bytes, MAX_UNREAD_OF_CONNECTION)
            .map_err(|unread| Error::AnswersUnread {
                unread,
                limit: MAX_UNREAD_OF_CONNECTION,
            })?;
        if own <= OWN_BYTES {
            self.all.add(bytes);
        } else if let Err(sum) = self.all.try_add(bytes, MAX_UNREAD_BYTES) {
            unread.remove(bytes);
            return Err(Error::AnswersUnread {
                unread: sum,
                limit: MAX_UNREAD_BYTES,
            });
        }
        self.bytes = self.bytes.saturating_add(bytes);
        Ok(())
    }

    /// Counts an answer of this size.
    fn grow(&mut self, size: usize, may_refuse: bool) -> Result<(), Error> {
        let more = size.saturating_sub(self.bytes);
        if may_refuse {
            self.try_add(more)?;
        } else {
            self.connection.unread().add(more);
            self.all.add(more);
            self.bytes = self.bytes.saturating_add(more);
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
        self.connection.unread().remove(self.bytes);
        self.all.remove(self.bytes);
        if self.is_answer {
            self.connection.unread().end_answer();
        }
    }
}

/// The bytes of an answer. HTTP/2 drops them once they are written, or when the call is cancelled.
struct AnswerBytes {
    bytes: Bytes,
    _held: Held,
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
    _call: Option<Call>,
}

impl<B> LimitedBody<B> {
    fn counted(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let Some(mut held) = self.held.take() else {
            return frame;
        };
        frame.map_data(|bytes| {
            // Cannot fail: only an answer that may be refused can exceed a limit, and it was counted before.
            let _ = held.grow(bytes.len(), false);
            self.held = Some(Held {
                connection: Arc::clone(&held.connection),
                all: Arc::clone(&held.all),
                bytes: 0,
                is_answer: false,
            });
            Bytes::from_owner(AnswerBytes { bytes, _held: held })
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
