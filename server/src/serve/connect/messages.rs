//! The innermost layer: the messages of a Connect call as those of gRPC, and back. Calls of gRPC pass.
//!
//! It is inside all checks: nothing is read from whoever may not call, and what is read counts as any unfinished request.

use std::{
    convert::Infallible,
    future::ready,
    io::{Read as _, Write as _},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use futures_util::future::{BoxFuture, Either};
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use prost_reflect::MessageDescriptor;
use tonic::{Status, body::Body};
use tower_layer::Layer;
use tower_service::Service;

use super::request::{Codec, ConnectCall};
use crate::{
    contract::{Contract, JsonError, Method, to_json, to_protobuf},
    domain::violation::Violation,
    error::Error,
    serve::sockets::MAX_MESSAGE_BYTES,
};

/// What is read of a message that is too large, and dropped: its sender listens only after that.
const MAX_DROPPED_BYTES: usize = 32 * 1024 * 1024;
/// An answer that is smaller is not compressed.
const MIN_COMPRESSED_BYTES: usize = 1_024;
/// What is before a message: a flag and the length.
const PREFIX_BYTES: usize = 5;
const PLAIN: u8 = 0;
/// The flag of a compressed message.
pub(super) const COMPRESSED: u8 = 1;

/// Reads and writes the messages of Connect calls.
#[derive(Clone, Debug)]
pub(in crate::serve) struct Messages(pub(in crate::serve) Arc<Contract>);

impl<S> Layer<S> for Messages {
    type Service = Transcoded<S>;

    fn layer(&self, inner: S) -> Transcoded<S> {
        Transcoded {
            inner,
            contract: Arc::clone(&self.0),
        }
    }
}

/// Services of gRPC that also answer Connect calls.
#[derive(Clone, Debug)]
pub(in crate::serve) struct Transcoded<S> {
    inner: S,
    contract: Arc<Contract>,
}

impl<S> Service<Request<Body>> for Transcoded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(call) = request.extensions_mut().remove::<ConnectCall>() else {
            return Either::Left(self.inner.call(request));
        };
        let path = request.uri().path();
        let Some(method) = self.contract.method(path).cloned() else {
            let error = Error::Unimplemented(format!("{path} is served by gRPC alone"));
            let refused = Status::from(error).into_http();
            return Either::Right(Box::pin(ready(Ok(refused))));
        };
        // The one that is ready.
        let next = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, next);
        Either::Right(Box::pin(async move {
            let answer = answer(inner, request, call, method).await;
            Ok(answer.unwrap_or_else(Status::into_http))
        }))
    }
}

async fn answer<S>(
    mut inner: S,
    request: Request<Body>,
    mut call: ConnectCall,
    method: Method,
) -> Result<Response<Body>, Status>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    if let Some(refusal) = call.refusal.take() {
        return Err(refusal);
    }
    let (parts, body) = request.into_parts();
    let message = read(body, &call).await?;
    let message = match call.codec {
        Codec::Proto => message,
        Codec::Json => to_protobuf(&method.input, &message).map_err(refused)?,
    };
    let body = Body::new(Full::new(framed(PLAIN, &message)?));
    let Ok(answer) = inner.call(Request::from_parts(parts, body)).await;
    let converted = |body| {
        Body::new(Answer {
            body,
            output: (call.codec == Codec::Json).then_some(method.output),
            accepts_gzip: call.accepts_gzip,
            arrived: BytesMut::new(),
        })
    };
    if call.codec == Codec::Proto && !call.accepts_gzip {
        return Ok(answer);
    }
    Ok(answer.map(converted))
}

fn refused(error: JsonError) -> Status {
    match error {
        JsonError::Malformed(message) => Error::MalformedMessage(message).into(),
        JsonError::Field { field, message } => {
            Error::from(Violation::invalid(field, message)).into()
        }
    }
}

/// The message of a call, in full and not compressed.
async fn read(body: Body, call: &ConnectCall) -> Result<Vec<u8>, Status> {
    let malformed = |text: &str| Status::from(Error::MalformedMessage(text.to_owned()));
    if !call.has_envelopes {
        let bytes = read_all(body, MAX_MESSAGE_BYTES).await?;
        return if call.is_gzip {
            unzip(&bytes)
        } else {
            Ok(bytes)
        };
    }
    let bytes = read_all(body, MAX_MESSAGE_BYTES.saturating_add(PREFIX_BYTES)).await?;
    let mut bytes = BytesMut::from(&*bytes);
    let Some((flag, message)) = take_message(&mut bytes) else {
        return Err(malformed("the request has no message in an envelope"));
    };
    if !bytes.is_empty() {
        return Err(malformed("the request has more than one message"));
    }
    match flag {
        PLAIN => Ok(message.to_vec()),
        COMPRESSED if call.is_gzip => unzip(&message),
        COMPRESSED => Err(malformed(
            "the message is compressed, and connect-content-encoding does not say how",
        )),
        _ => Err(malformed("the flags of the message are not known")),
    }
}

async fn read_all(mut body: Body, limit: usize) -> Result<Vec<u8>, Status> {
    let (mut bytes, mut dropped) = (Vec::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        let is_too_large = dropped > 0 || bytes.len().saturating_add(data.len()) > limit;
        if is_too_large {
            dropped = dropped
                .saturating_add(bytes.len())
                .saturating_add(data.len());
            bytes = Vec::new();
        } else {
            bytes.extend_from_slice(&data);
        }
        if dropped > MAX_DROPPED_BYTES {
            break;
        }
    }
    if dropped > 0 {
        return Err(too_large().into());
    }
    Ok(bytes)
}

fn too_large() -> Error {
    Error::MessageTooLarge(format!("it has more than {MAX_MESSAGE_BYTES} bytes"))
}

fn unzip(bytes: &[u8]) -> Result<Vec<u8>, Status> {
    let limit = u64::try_from(MAX_MESSAGE_BYTES).unwrap_or(u64::MAX);
    let mut unzipped = Vec::new();
    let mut reader = GzDecoder::new(bytes).take(limit.saturating_add(1));
    reader.read_to_end(&mut unzipped).map_err(|error| {
        Status::from(Error::MalformedMessage(format!("not valid gzip: {error}")))
    })?;
    if unzipped.len() > MAX_MESSAGE_BYTES {
        return Err(too_large().into());
    }
    Ok(unzipped)
}

/// A message with its flag and its length.
pub(super) fn framed(flag: u8, message: &[u8]) -> Result<Bytes, Status> {
    let length = u32::try_from(message.len()).map_err(|_| Status::from(too_large()))?;
    let mut frame = BytesMut::with_capacity(message.len().saturating_add(PREFIX_BYTES));
    frame.put_u8(flag);
    frame.put_u32(length);
    frame.put_slice(message);
    Ok(frame.freeze())
}

/// The first message of these bytes, with its flag, if it has arrived in full.
pub(super) fn take_message(bytes: &mut BytesMut) -> Option<(u8, Bytes)> {
    let mut prefix = bytes.get(..PREFIX_BYTES)?;
    let flag = prefix.get_u8();
    let length = usize::try_from(prefix.get_u32()).ok()?;
    let whole = length.checked_add(PREFIX_BYTES)?;
    if bytes.len() < whole {
        return None;
    }
    let mut message = bytes.split_to(whole);
    message.advance(PREFIX_BYTES);
    Some((flag, message.freeze()))
}

/// The answer of gRPC with messages as the caller wants them. Each still has its flag and its length.
struct Answer {
    body: Body,
    /// The type of messages that become JSON.
    output: Option<MessageDescriptor>,
    accepts_gzip: bool,
    /// What has arrived of a message.
    arrived: BytesMut,
}

impl Answer {
    fn convert(&mut self) -> Result<Bytes, Status> {
        let mut converted = BytesMut::new();
        while let Some((_, message)) = take_message(&mut self.arrived) {
            let message = match &self.output {
                None => message,
                Some(output) => to_json(output, &message).map_err(Error::Internal)?.into(),
            };
            let frame = if self.accepts_gzip && message.len() >= MIN_COMPRESSED_BYTES {
                let zipped = zip(&message).map_err(|error| Error::Internal(error.into()))?;
                framed(COMPRESSED, &zipped)?
            } else {
                framed(PLAIN, &message)?
            };
            if converted.is_empty() && self.arrived.is_empty() {
                return Ok(frame);
            }
            converted.extend_from_slice(&frame);
        }
        Ok(converted.freeze())
    }
}

fn zip(message: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut writer = GzEncoder::new(Vec::new(), Compression::fast());
    writer.write_all(message)?;
    writer.finish()
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                ended => return Poll::Ready(ended),
            };
            match frame.into_data() {
                Ok(data) => {
                    self.arrived.extend_from_slice(&data);
                    let converted = self.convert();
                    if converted.as_ref().is_ok_and(Bytes::is_empty) {
                        continue;
                    }
                    return Poll::Ready(Some(converted.map(Frame::data)));
                }
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.arrived.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_only_in_full() {
        let mut bytes = BytesMut::new();
        let frame = framed(COMPRESSED, b"abc").unwrap();
        for byte in &frame[..7] {
            bytes.put_u8(*byte);
            assert_eq!(take_message(&mut bytes), None);
        }
        bytes.extend_from_slice(&frame[7..]);
        bytes.put_u8(9);
        let taken = take_message(&mut bytes).unwrap();
        assert_eq!(taken, (COMPRESSED, Bytes::from_static(b"abc")));
        assert_eq!(&*bytes, [9]);
    }

    #[test]
    fn what_becomes_too_large_is_refused() {
        let zeros = zip(&vec![0; MAX_MESSAGE_BYTES + 1]).unwrap();
        assert!(zeros.len() < 100_000);
        let refused = unzip(&zeros).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        let fits = zip(&vec![0; MAX_MESSAGE_BYTES]).unwrap();
        assert_eq!(unzip(&fits).unwrap().len(), MAX_MESSAGE_BYTES);
        unzip(b"no gzip").unwrap_err();
    }

    #[tokio::test]
    async fn no_more_than_the_limit_is_kept() {
        let body = |bytes: usize| Body::new(Full::new(Bytes::from(vec![7; bytes])));
        assert_eq!(read_all(body(10), 10).await.unwrap().len(), 10);
        assert!(read_all(body(11), 10).await.is_err());
        assert!(read_all(Body::empty(), 10).await.unwrap().is_empty());
    }
}
