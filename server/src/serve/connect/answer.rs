//! Answers of gRPC as answers of the Connect protocol.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::body::Body as HttpBody;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, response::Parts};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use tonic::{Code, Status, body::Body};

use super::{
    error::{End, ErrorJson, http_status},
    messages::{COMPRESSED, framed, take_message},
    request::Codec,
};
use crate::{connections::Wait, contract::Contract, error::Error};

/// The flag of the last message of a stream.
const END: u8 = 2;
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Makes answers. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    pub(super) contract: Arc<Contract>,
}

impl Answers {
    pub(super) fn new(contract: Arc<Contract>) -> Self {
        Self { contract }
    }

    /// The answer of a call with one message, once it is there in full.
    pub(super) async fn unary(&self, answer: Response<Body>, codec: Codec) -> Response<HttpBody> {
        let (parts, body) = answer.into_parts();
        if let Some(status) = Status::from_header_map(&parts.headers) {
            return self.failed(&status, parts);
        }
        match collect(body).await {
            Ok((flag, message, trailers)) => succeeded(parts, codec, flag, message, &trailers),
            Err(status) => self.failed(&status, parts),
        }
    }

    /// The answer of a call with a stream of messages, which begins before they are there.
    pub(super) fn stream(
        &self,
        answer: Response<Body>,
        codec: Codec,
        waiting: Option<Wait>,
    ) -> Response<HttpBody> {
        let (mut parts, body) = answer.into_parts();
        let ended = Status::from_header_map(&parts.headers);
        clean(&mut parts.headers);
        parts.status = StatusCode::OK;
        let media_type = HeaderValue::from_static(match codec {
            Codec::Json => "application/connect+json",
            Codec::Proto => "application/connect+proto",
        });
        parts.headers.insert(header::CONTENT_TYPE, media_type);
        let body = Stream {
            answers: self.clone(),
            body: ended.is_none().then_some(body),
            ended,
        };
        Response::from_parts(parts, HttpBody::new(Waited::new(body, waiting)))
    }

    /// The answer of a call that failed.
    pub(super) fn failed(&self, status: &Status, mut parts: Parts) -> Response<HttpBody> {
        clean(&mut parts.headers);
        parts.status = http_status(status.code());
        parts.headers.insert(header::CONTENT_TYPE, JSON);
        if status.code() == Code::Unauthenticated {
            let bearer = HeaderValue::from_static("Bearer");
            parts.headers.insert(header::WWW_AUTHENTICATE, bearer);
        }
        let error = ErrorJson::of(&self.contract, status);
        // It cannot fail: all keys are texts.
        let json = serde_json::to_vec(&error).unwrap_or_default();
        Response::from_parts(parts, HttpBody::from(json))
    }

    /// The last message of a stream.
    fn end(&self, status: &Status) -> Result<Bytes, Status> {
        let end = serde_json::to_vec(&End::of(&self.contract, status));
        let end = end.map_err(|error| Status::from(Error::Internal(error.into())))?;
        framed(END, &end)
    }
}

fn succeeded(
    mut parts: Parts,
    codec: Codec,
    flag: u8,
    message: Bytes,
    trailers: &HeaderMap,
) -> Response<HttpBody> {
    clean(&mut parts.headers);
    let media_type = match codec {
        Codec::Json => JSON,
        Codec::Proto => HeaderValue::from_static("application/proto"),
    };
    parts.headers.insert(header::CONTENT_TYPE, media_type);
    let by_encoding = HeaderValue::from_static("accept-encoding");
    parts.headers.insert(header::VARY, by_encoding);
    if flag == COMPRESSED {
        let gzip = HeaderValue::from_static("gzip");
        parts.headers.insert(header::CONTENT_ENCODING, gzip);
    }
    for (name, value) in trailers {
        if !is_of_grpc(name)
            && let Ok(name) = HeaderName::try_from(format!("trailer-{name}"))
        {
            parts.headers.append(name, value.clone());
        }
    }
    Response::from_parts(parts, HttpBody::new(Full::new(message)))
}

/// The one message of an answer, with its flag, and the trailers.
async fn collect(mut body: Body) -> Result<(u8, Bytes, HeaderMap), Status> {
    let (mut parts, mut trailers) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => parts.push(data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    let broken = |text: &'static str| Status::from(Error::Internal(text.into()));
    let trailers = trailers.unwrap_or_default();
    match Status::from_header_map(&trailers) {
        Some(status) if status.code() == Code::Ok => {}
        Some(status) => return Err(status),
        None => return Err(broken("an answer without a status")),
    }
    let (flag, message) = match parts.as_slice() {
        // The usual one. Its bytes are not copied, because they count until they are written.
        [whole] => whole
            .split_first()
            .map(|(flag, _)| (*flag, whole.slice(whole.len().min(5)..))),
        parts => take_message(&mut BytesMut::from(&*parts.concat())),
    }
    .ok_or_else(|| broken("an answer without a message"))?;
    Ok((flag, message, trailers))
}

/// Removes what is of gRPC, or of its message.
fn clean(headers: &mut HeaderMap) {
    let of_grpc: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_of_grpc(name))
        .cloned()
        .collect();
    for name in of_grpc {
        headers.remove(name);
    }
    headers.remove(header::CONTENT_LENGTH);
}

fn is_of_grpc(name: &HeaderName) -> bool {
    name.as_str().starts_with("grpc-")
}

/// The messages of a stream, which have the same form as in gRPC, and the end in place of trailers.
struct Stream {
    answers: Answers,
    /// Absent once it has ended.
    body: Option<Body>,
    /// How it has ended, until the last message is sent.
    ended: Option<Status>,
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(body) = &mut self.body {
            let status = match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        Status::from_header_map(&trailers)
                    }
                },
                Some(Err(status)) => Some(status),
                None => None,
            };
            self.body = None;
            let broken = || Error::Internal("a stream without a status".into()).into();
            self.ended = Some(status.unwrap_or_else(broken));
        }
        let ended = self.ended.take();
        Poll::Ready(ended.map(|status| self.answers.end(&status).map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none() && self.ended.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A body whose caller waits in silence for its end.
pub(super) struct Waited<B> {
    body: B,
    _waiting: Option<Wait>,
}

impl<B> Waited<B> {
    pub(super) fn new(body: B, waiting: Option<Wait>) -> Self {
        Self {
            body,
            _waiting: waiting,
        }
    }
}

impl<B: http_body::Body + Unpin> http_body::Body for Waited<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
