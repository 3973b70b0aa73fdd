//! The services over HTTP/1.1 and HTTP/2 as JSON, by the Connect protocol (<https://connectrpc.com/docs/protocol>), and as
//! gRPC-Web.
//!
//! A request becomes one of gRPC, and goes through the same layers to the same services as on the port of gRPC: whoever
//! calls is authenticated, limited, counted, logged and audited in one way, and each method that exists is served. Only the
//! innermost layer, [`Messages`], reads and writes JSON, after it is known who calls.
//!
//! JSON is read and written by reflection on the descriptors (`prost-reflect`, which the build has anyway). Generated code
//! (`pbjson`) would need a table of methods beside the services. `connectrpc` has other messages and other handlers than
//! tonic and prost, and `connectrpc-axum` other handlers, and says itself that it is not for production yet.

mod answer;
mod error;
mod messages;
mod request;
mod request_end;

use std::sync::Arc;

use axum::body::Body as HttpBody;
use bytes::Bytes;
use http::{HeaderValue, Method as Verb, Request, Response, StatusCode, header};
use http_body_util::Full;
use tonic::body::Body;
use tonic_web::GrpcWebLayer;
use tower::{ServiceExt as _, service_fn, util::BoxCloneSyncService};
use tower_layer::Layer as _;

pub(crate) use self::error::http_status;
use self::{answer::Answers, request::Protocol, request_end::RequestEnd};
pub(super) use self::{messages::Messages, request::ConnectCall};
use super::requests::with_id;
use crate::{
    connections::Activity,
    console::Stack,
    contract::Contract,
    error::Error,
    http::RpcService,
    request_context::{REQUEST_ID, RequestContext},
};

/// The services of gRPC with all their layers.
pub(super) type RpcStack = Stack;

/// What is accepted, for a request that has another type.
const ACCEPTED: &str = "send a POST request with `content-type: application/json`; `application/proto`, gRPC-Web, and for \
streams `application/connect+json`, are accepted too\n";

/// Serves these services over HTTP.
pub(super) fn over_http(stack: RpcStack, contract: Arc<Contract>) -> RpcService {
    let answers = Answers::new(contract);
    BoxCloneSyncService::new(service_fn(move |request| {
        let (stack, answers) = (stack.clone(), answers.clone());
        async move { Ok(answer(stack, answers, request).await) }
    }))
}

async fn answer(
    stack: RpcStack,
    answers: Answers,
    request: Request<HttpBody>,
) -> Response<HttpBody> {
    // The caller is silent until it has its answer, however long that takes.
    let activity = request.extensions().get::<Arc<Activity>>().cloned();
    let waiting = activity.map(|activity| activity.begin_wait());
    let method = answers.contract.method(request.uri().path()).cloned();
    let is_get = request.method() == Verb::GET;
    let (request, end) = RequestEnd::watch(request);
    let mut answer = match Protocol::of(&request, method.as_ref()) {
        Protocol::Unary(codec) => {
            let request = request::unary(request, codec);
            let mut answer = answers.unary(call(stack, request).await, codec).await;
            if is_get {
                let no_store = HeaderValue::from_static("no-store");
                answer.headers_mut().insert(header::CACHE_CONTROL, no_store);
            }
            answer
        }
        Protocol::Stream(codec) => {
            let request = request::stream(request, codec);
            answers.stream(call(stack, request).await, codec, waiting)
        }
        Protocol::GrpcWeb => {
            let service = GrpcWebLayer::new().layer(stack);
            let Ok(answer) = service.oneshot(request).await;
            answer.map(|body| HttpBody::new(answer::Waited::new(body, waiting)))
        }
        Protocol::Other => refused(call(stack, request::unread(request)).await),
    };
    end.mark(&mut answer);
    answer
}

/// The answer to a request that is refused before it comes to the services. It has the form of their errors.
pub(crate) fn refusal(
    contract: &Arc<Contract>,
    error: Error,
    context: &RequestContext,
) -> Response<HttpBody> {
    let status = with_id(&error.into(), &context.id);
    let (mut parts, ()) = Response::new(()).into_parts();
    let id = context.header().map(|id| (REQUEST_ID, id));
    parts.headers.extend(id);
    Answers::new(Arc::clone(contract)).failed(&status, parts)
}

async fn call(stack: RpcStack, request: Request<Body>) -> Response<Body> {
    let Ok(answer) = stack.oneshot(request).await;
    answer
}

/// The answer to a request that is of no protocol: what the services say of it, and what to do.
fn refused(answer: Response<Body>) -> Response<HttpBody> {
    let (mut parts, body) = answer.into_parts();
    let is_refused = [
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        StatusCode::METHOD_NOT_ALLOWED,
    ]
    .contains(&parts.status);
    if !is_refused {
        return Response::from_parts(parts, HttpBody::new(body));
    }
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    parts.headers.insert(header::CONTENT_TYPE, text);
    let accepted = HeaderValue::from_static("application/json, application/proto");
    parts.headers.insert("accept-post", accepted);
    let text = Full::new(Bytes::from_static(ACCEPTED.as_bytes()));
    Response::from_parts(parts, HttpBody::new(text))
}
