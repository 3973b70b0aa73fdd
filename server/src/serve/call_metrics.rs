//! Records each gRPC call in the metrics: its method, its code, and the time until the end of its answer.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::grpc_status::code;
use crate::metrics::{CANCELLED, Calls, MethodCalls};

/// Records the calls of the services that it wraps.
#[derive(Clone, Debug)]
pub(super) struct CallMetrics(pub(super) Calls);

impl<S> Layer<S> for CallMetrics {
    type Service = Recorded<S>;

    fn layer(&self, inner: S) -> Recorded<S> {
        Recorded {
            inner,
            calls: self.0.clone(),
        }
    }
}

/// A service whose calls are recorded.
#[derive(Clone, Debug)]
pub(super) struct Recorded<S> {
    inner: S,
    calls: Calls,
}

impl<S, B> Service<Request<Body>> for Recorded<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = OpenCall {
            method: Some(self.calls.of(request.uri().path())),
            begun: Instant::now(),
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut call = call;
            let answer = answer.await?;
            if let Some(code) = code(answer.headers()) {
                // An error without a message.
                call.end(code);
            } else if !answer.status().is_success() {
                // A request that is not gRPC.
                call.method = None;
            }
            Ok(answer.map(|body| Body::new(RecordedBody { body, call })))
        })
    }
}

/// A call that is recorded when it ends. One that is dropped before was given up by its caller.
struct OpenCall {
    /// Absent once it is recorded.
    method: Option<MethodCalls>,
    begun: Instant,
}

impl OpenCall {
    fn end(&mut self, code: usize) {
        if let Some(method) = self.method.take() {
            method.record(code, self.begun.elapsed());
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.end(CANCELLED);
    }
}

/// A body whose trailer has the code.
struct RecordedBody<B> {
    body: B,
    call: OpenCall,
}

impl<B: HttpBody + Unpin> HttpBody for RecordedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(code) = frame.trailers_ref().and_then(code)
        {
            self.call.end(code);
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
