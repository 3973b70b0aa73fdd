//! Names each request of gRPC: in its answer, in the details of its error, and in each line of the log that it causes.
//!
//! This layer is around all others, so that no error is without a name.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use prost::Message as _;
use tonic::{Status, body::Body};
use tonic_types::pb;
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Instrument as _, Span};

use super::grpc_status::{STATUS, code};
use crate::{
    domain::{method_roles::method_name, request_id::RequestId},
    metrics::code_name,
    request_context::{REQUEST_ID, RequestContext},
    request_log::{OpenRequest, RequestLog},
};

/// The type of the detail with the id.
const REQUEST_INFO: &str = "type.googleapis.com/google.rpc.RequestInfo";

/// Names the requests of the services that it wraps.
#[derive(Clone, Debug)]
pub(super) struct NameRequests(pub(super) RequestLog);

impl<S> Layer<S> for NameRequests {
    type Service = Named<S>;

    fn layer(&self, inner: S) -> Named<S> {
        Named {
            inner,
            log: self.0.clone(),
        }
    }
}

/// A service whose requests have names.
#[derive(Clone, Debug)]
pub(super) struct Named<S> {
    inner: S,
    log: RequestLog,
}

impl<S, B> Service<Request<Body>> for Named<S>
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

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let context = RequestContext::of(request.headers());
        let span = context.span(method_name(request.uri().path()));
        request.extensions_mut().insert(context.clone());
        let answer = span.in_scope(|| self.inner.call(request));
        let handled = context.clone().scope(answer).instrument(span.clone());
        let mut open = self.log.begin(span.clone());
        Box::pin(async move {
            let mut answer = handled.await?;
            if let Some(code) = code(answer.headers()) {
                // An error without a message.
                open.end(code_name(code));
            } else if !answer.status().is_success() {
                // A request that is not gRPC.
                open.end(answer.status().as_str());
            }
            let headers = answer.headers_mut();
            headers.extend(context.header().map(|value| (REQUEST_ID, value)));
            name_error(headers, &context.id);
            Ok(answer.map(|body| {
                Body::new(NamedBody {
                    body,
                    span,
                    id: context.id,
                    open,
                })
            }))
        })
    }
}

/// Adds the id to the details of an error, if these headers or trailers have one.
fn name_error(headers: &mut HeaderMap, id: &RequestId) {
    let is_error = headers.get(STATUS).is_some_and(|code| code != "0");
    if !is_error {
        return;
    }
    let Some(status) = Status::from_header_map(headers) else {
        return;
    };
    if let Err(error) = with_id(&status, id).add_header(headers) {
        // It had been a header before.
        tracing::error!(%error, "an error could not be named");
    }
}

/// The status with the id in its details.
pub(super) fn with_id(status: &Status, id: &RequestId) -> Status {
    let info = pb::RequestInfo {
        request_id: id.to_string(),
        serving_data: String::new(),
    };
    let info = prost_types::Any {
        type_url: REQUEST_INFO.to_owned(),
        value: info.encode_to_vec(),
    };
    let mut details = if status.details().is_empty() {
        let code = i32::from(status.code());
        let message = status.message().to_owned();
        pb::Status {
            code,
            message,
            details: Vec::new(),
        }
        .encode_to_vec()
    } else {
        status.details().to_vec()
    };
    // Encoded messages that follow each other are merged, and a repeated field gets the items of all.
    let more = pb::Status {
        details: vec![info],
        ..pb::Status::default()
    };
    details.extend(more.encode_to_vec());
    Status::with_details(status.code(), status.message(), details.into())
}

/// A body whose trailers have the id. What it does is in the span of the request.
struct NamedBody<B> {
    body: B,
    span: Span,
    id: RequestId,
    open: OpenRequest,
}

impl<B: HttpBody + Unpin> HttpBody for NamedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let Self {
            body,
            span,
            id,
            open,
        } = &mut *self;
        let polled = span.in_scope(|| Pin::new(body).poll_frame(cx));
        let mut frame = ready!(polled);
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            name_error(trailers, id);
            if let Some(code) = code(trailers) {
                open.end(code_name(code));
            }
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

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::StatusExt as _;

    use super::*;
    use crate::error::Error;

    fn named(status: &Status) -> Status {
        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        name_error(&mut headers, &RequestId::parse("r-1").unwrap());
        Status::from_header_map(&headers).unwrap()
    }

    fn id_of(status: &Status) -> Option<String> {
        status
            .get_details_request_info()
            .map(|info| info.request_id)
    }

    #[test]
    fn an_error_keeps_its_details_and_gets_the_id() {
        let status = Status::from(Error::ShuttingDown);
        let named = named(&status);
        assert_eq!(named.code(), status.code());
        assert_eq!(named.message(), status.message());
        let info = named.get_details_error_info().unwrap();
        assert_eq!(info.reason, "SHUTTING_DOWN");
        assert!(named.get_details_retry_info().is_some());
        assert_eq!(id_of(&named).unwrap(), "r-1");
    }

    #[test]
    fn an_error_without_details_gets_them() {
        let named = named(&Status::cancelled("a reason"));
        assert_eq!(named.code(), Code::Cancelled);
        let details = pb::Status::decode(named.details()).unwrap();
        assert_eq!(details.code, i32::from(Code::Cancelled));
        assert_eq!(details.message, "a reason");
        assert_eq!(id_of(&named).unwrap(), "r-1");
    }

    #[test]
    fn a_success_has_no_details() {
        let named = named(&Status::ok(""));
        assert!(named.details().is_empty());
        let mut headers = HeaderMap::new();
        name_error(&mut headers, &RequestId::parse("r-1").unwrap());
        assert!(headers.is_empty());
    }
}
