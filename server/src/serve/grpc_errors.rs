//! The errors that come from gRPC itself, not from a method: a deadline that passes, a message that cannot be read, an
//! unknown method, a request that is not gRPC.
//!
//! tonic answers these with other codes than the contract's, without details, and reads a message of any content type
//! as protobuf. This layer is around everything else, so that each has its code and its `ErrorReason`.

use std::{
    convert::Infallible,
    future::ready,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tonic::{Code, Status, body::Body};
use tower_layer::Layer;
use tower_service::Service;

use crate::error::Error;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The media types of gRPC with protobuf, without parameters.
const MEDIA_TYPES: [&str; 2] = ["application/grpc", "application/grpc+proto"];
/// Present in every error that a method returns.
const DETAILS: &str = "grpc-status-details-bin";
/// Says which compressions are accepted.
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";
/// How much before its deadline a call ends here: a tenth of its time, within these limits. tonic's own timer, which
/// answers CANCELLED, must not be first, so it is at least the tick of timers.
const MIN_EARLIER: Duration = Duration::from_millis(1);
const MAX_EARLIER: Duration = Duration::from_millis(5);

/// Gives errors of gRPC itself the code and the reason of the contract.
#[derive(Clone, Copy, Debug)]
pub(super) struct GrpcErrors;

impl<S> Layer<S> for GrpcErrors {
    type Service = Corrected<S>;

    fn layer(&self, inner: S) -> Corrected<S> {
        Corrected { inner }
    }
}

/// A service whose errors are those of the contract.
#[derive(Clone, Debug)]
pub(super) struct Corrected<S> {
    inner: S,
}

impl<S, B> Service<Request<Body>> for Corrected<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if let Some(refusal) = not_grpc(&request) {
            return Box::pin(ready(Ok(refusal)));
        }
        let deadline = deadline(request.headers());
        if deadline.is_some_and(|at| at <= Instant::now()) {
            return Box::pin(ready(Ok(Status::from(Error::DeadlineExceeded).into_http())));
        }
        let path = request.uri().path().to_owned();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let Some(deadline) = deadline else {
                return Ok(corrected(answer.await?, &path).map(Body::new));
            };
            let Ok(answer) = timeout_at(deadline, answer).await else {
                return Ok(Status::from(Error::DeadlineExceeded).into_http());
            };
            let until_deadline = |body| UntilDeadline {
                body: Some(body),
                deadline,
                timer: None,
            };
            Ok(corrected(answer?, &path).map(|body| Body::new(until_deadline(body))))
        })
    }
}

/// The HTTP answer to a request that is not gRPC; its message is not read.
fn not_grpc(request: &Request<Body>) -> Option<Response<Body>> {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let media_type = content_type
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default()
        .trim();
    let mut response = Response::new(Body::empty());
    if request.method() != Method::POST {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        let allow = HeaderValue::from_static("POST");
        response.headers_mut().insert(header::ALLOW, allow);
        return Some(response);
    }
    if !MEDIA_TYPES
        .iter()
        .any(|known| media_type.eq_ignore_ascii_case(known))
    {
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Some(response);
    }
    None
}

/// When a call ends; absent without a deadline, or with one that is no `grpc-timeout`.
fn deadline(headers: &HeaderMap) -> Option<Instant> {
    let timeout = read_timeout(headers.get("grpc-timeout")?.to_str().ok()?)?;
    let earlier = timeout.checked_div(10)?.clamp(MIN_EARLIER, MAX_EARLIER);
    Instant::now().checked_add(timeout.saturating_sub(earlier))
}

/// Reads a `grpc-timeout`: up to eight digits and a unit.
fn read_timeout(text: &str) -> Option<Duration> {
    const MAX_DIGITS: usize = 8;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    if digits.len() > MAX_DIGITS || !is_number {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number.checked_mul(3_600)?)),
        "M" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// The answer, or the contract's error in place of one that tonic made.
fn corrected<B>(answer: Response<B>, path: &str) -> Response<Either<B>> {
    let headers = answer.headers();
    let made_by_tonic = (!headers.contains_key(DETAILS))
        .then(|| Status::from_header_map(headers))
        .flatten();
    let Some(error) = made_by_tonic.and_then(|status| error(&status, path)) else {
        return answer.map(Either::Answer);
    };
    let mut response = Status::from(error).into_http::<()>();
    if let Some(accepted) = headers.get(ACCEPT_ENCODING) {
        let accepted = accepted.clone();
        response.headers_mut().insert(ACCEPT_ENCODING, accepted);
    }
    response.map(|()| Either::Error)
}

/// The contract's error for one that tonic made before it called a method.
fn error(status: &Status, path: &str) -> Option<Error> {
    let text = status.message();
    match status.code() {
        Code::Unimplemented if text.is_empty() => Some(Error::unknown_method(path)),
        Code::Unimplemented => Some(Error::Unimplemented(text.to_owned())),
        Code::Internal => Some(Error::MalformedMessage(text.to_owned())),
        Code::OutOfRange | Code::ResourceExhausted => Some(Error::MessageTooLarge(text.to_owned())),
        _ => None,
    }
}

/// The body of an answer; an error has none.
enum Either<B> {
    Answer(B),
    Error,
}

impl<B: HttpBody + Unpin> HttpBody for Either<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match &mut *self {
            Self::Answer(body) => Pin::new(body).poll_frame(cx),
            Self::Error => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Answer(body) => body.is_end_stream(),
            Self::Error => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Answer(body) => body.size_hint(),
            Self::Error => SizeHint::with_exact(0),
        }
    }
}

/// A body that ends with `DEADLINE_EXCEEDED` if the deadline passes while it waits for its next part.
struct UntilDeadline<B> {
    /// Absent after the deadline.
    body: Option<B>,
    deadline: Instant,
    /// Made when the body first waits: most answers exist in full.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> HttpBody for UntilDeadline<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self {
            body,
            deadline,
            timer,
        } = &mut *self;
        let Some(waiting) = body else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(frame) = Pin::new(waiting).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(*deadline)));
        ready!(timer.as_mut().poll(cx));
        *body = None;
        let mut trailers = HeaderMap::new();
        let added = Status::from(Error::DeadlineExceeded).add_header(&mut trailers);
        Poll::Ready(Some(match added {
            Ok(()) => Ok(Frame::trailers(trailers)),
            Err(status) => Err(status.into()),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_up_to_eight_digits_and_a_unit() {
        for (text, timeout) in [
            ("1H", Some(Duration::from_hours(1))),
            ("2M", Some(Duration::from_mins(2))),
            ("3S", Some(Duration::from_secs(3))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("+1S", None),
            ("1", None),
            ("1s", None),
            ("123456789S", None),
            ("1\u{fc}", None),
        ] {
            assert_eq!(read_timeout(text), timeout, "{text}");
        }
    }
}
