//! Requests of the Connect protocol as requests of gRPC.

use axum::body::Body as HttpBody;
use base64::{
    Engine as _,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, Request, Uri, header};
use http_body_util::Full;
use tonic::{Status, body::Body};

use crate::{
    contract::Method,
    domain::violation::{Violation, quoted},
    error::Error,
};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");
const VERSION: HeaderName = HeaderName::from_static("connect-protocol-version");
const STREAM_ENCODING: HeaderName = HeaderName::from_static("connect-content-encoding");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Headers of HTTP or of this protocol, which mean something else to gRPC.
const DROPPED: [HeaderName; 11] = [
    header::ACCEPT_ENCODING,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::HOST,
    header::TRANSFER_ENCODING,
    TIMEOUT,
    VERSION,
    STREAM_ENCODING,
    GRPC_TIMEOUT,
    HeaderName::from_static("grpc-encoding"),
];

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    Json,
    Proto,
}

/// The protocol of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Connect, with one message in the body, or in the query of a GET request.
    Unary(Codec),
    /// Connect, with messages in envelopes.
    Stream(Codec),
    GrpcWeb,
    /// None that is served here, or not the one of the method.
    Other,
}

/// A call of Connect on its way through the layers of gRPC. Its body is still that of Connect.
#[derive(Clone, Debug)]
pub(in crate::serve) struct ConnectCall {
    pub(super) codec: Codec,
    /// Whether messages are in envelopes, as in gRPC. Otherwise the body is one message.
    pub(in crate::serve) has_envelopes: bool,
    /// Whether messages may be compressed, or the body is.
    pub(super) is_gzip: bool,
    pub(super) accepts_gzip: bool,
    /// Why it is not made. The caller is told only after it is known who calls.
    pub(super) refusal: Option<Status>,
}

impl Protocol {
    pub(super) fn of<B>(request: &Request<B>, method: Option<&Method>) -> Self {
        let content_type = request.headers().get(header::CONTENT_TYPE);
        let media_type = content_type
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        if request.method() == Verb::GET {
            let is_read =
                method.is_some_and(|method| method.has_no_side_effects && !method.is_stream);
            return match query(request.uri(), "encoding").as_deref() {
                Some("json") if is_read => Self::Unary(Codec::Json),
                Some("proto") if is_read => Self::Unary(Codec::Proto),
                _ => Self::Other,
            };
        }
        let protocol = match &*media_type {
            "application/json" => Self::Unary(Codec::Json),
            "application/proto" => Self::Unary(Codec::Proto),
            "application/connect+json" => Self::Stream(Codec::Json),
            "application/connect+proto" => Self::Stream(Codec::Proto),
            "application/grpc-web"
            | "application/grpc-web+proto"
            | "application/grpc-web-text"
            | "application/grpc-web-text+proto" => Self::GrpcWeb,
            _ => Self::Other,
        };
        match (protocol, method) {
            (_, _) if request.method() != Verb::POST => Self::Other,
            (Self::Unary(_), Some(method)) if method.is_stream => Self::Other,
            (Self::Stream(_), Some(method)) if !method.is_stream => Self::Other,
            (protocol, _) => protocol,
        }
    }
}

/// A call whose body is one message.
pub(super) fn unary(request: Request<HttpBody>, codec: Codec) -> Request<Body> {
    let is_get = request.method() == Verb::GET;
    let headers = request.headers();
    let encoding = if is_get {
        query(request.uri(), "compression")
    } else {
        text(headers, &header::CONTENT_ENCODING)
    };
    let accepted = text(headers, &header::ACCEPT_ENCODING).unwrap_or_default();
    let accepts_gzip = accepted.split(',').any(|one| {
        let mut parts = one.split(';').map(str::trim);
        parts.next() == Some("gzip") && parts.next() != Some("q=0")
    });
    let version = if is_get {
        query(request.uri(), "connect").map(|version| version.trim_start_matches('v').to_owned())
    } else {
        text(headers, &VERSION)
    };
    let message = is_get.then(|| message_of(request.uri()));
    let mut checked = check(headers, encoding.as_deref(), version.as_deref());
    let body = match message {
        None => None,
        Some(Ok(message)) => Some(message),
        Some(Err(error)) => {
            checked = checked.and(Err(error));
            Some(Vec::new())
        }
    };
    let call = ConnectCall {
        codec,
        has_envelopes: false,
        is_gzip: encoding.as_deref() == Some("gzip"),
        accepts_gzip,
        refusal: checked.err().map(Status::from),
    };
    let request = as_grpc(request, call);
    match body {
        Some(message) => request.map(|_| Body::new(Full::new(Bytes::from(message)))),
        None => request,
    }
}

/// A call with envelopes.
pub(super) fn stream(request: Request<HttpBody>, codec: Codec) -> Request<Body> {
    let encoding = text(request.headers(), &STREAM_ENCODING);
    let version = text(request.headers(), &VERSION);
    let checked = check(request.headers(), encoding.as_deref(), version.as_deref());
    let call = ConnectCall {
        codec,
        has_envelopes: true,
        is_gzip: encoding.as_deref() == Some("gzip"),
        accepts_gzip: false,
        refusal: checked.err().map(Status::from),
    };
    as_grpc(request, call)
}

/// A request of another protocol, which the layers refuse by its type or its method.
pub(super) fn unread(request: Request<HttpBody>) -> Request<Body> {
    let mut request = request.map(Body::new);
    request.headers_mut().remove(header::CONTENT_TYPE);
    request
}

fn as_grpc(request: Request<HttpBody>, call: ConnectCall) -> Request<Body> {
    let (mut parts, body) = request.into_parts();
    let timeout = text(&parts.headers, &TIMEOUT);
    for name in DROPPED {
        parts.headers.remove(name);
    }
    parts.headers.insert(header::CONTENT_TYPE, GRPC);
    let trailers = HeaderValue::from_static("trailers");
    parts.headers.insert(header::TE, trailers);
    let timeout = timeout.and_then(|text| grpc_timeout(&text));
    parts
        .headers
        .extend(timeout.map(|value| (GRPC_TIMEOUT, value)));
    parts.method = Verb::POST;
    parts.extensions.insert(call);
    Request::from_parts(parts, Body::new(body))
}

fn check(headers: &HeaderMap, encoding: Option<&str>, version: Option<&str>) -> Result<(), Error> {
    let wrong = |field: &HeaderName, message: String| {
        Error::from(Violation::invalid(field.as_str(), message))
    };
    if let Some(version) = version.filter(|version| *version != "1") {
        let message = format!("the version of Connect is 1, not {}", quoted(version));
        return Err(wrong(&VERSION, message));
    }
    if let Some(encoding) = encoding.filter(|one| !["gzip", "identity", ""].contains(one)) {
        let message = format!("the compression {} is not known: gzip is", quoted(encoding));
        return Err(Error::Unimplemented(message));
    }
    if headers.contains_key(TIMEOUT) {
        let timeout = text(headers, &TIMEOUT).unwrap_or_default();
        if grpc_timeout(&timeout).is_none() {
            let message = format!(
                "connect-timeout-ms is {}, and must be a number of up to ten digits",
                quoted(&timeout)
            );
            return Err(wrong(&TIMEOUT, message));
        }
    }
    Ok(())
}

/// The timeout as gRPC writes it, with eight digits at most: beyond a day, in whole seconds.
fn grpc_timeout(millis: &str) -> Option<HeaderValue> {
    const MAX_DIGITS: usize = 10;
    const MAX_GRPC: u64 = 99_999_999;
    let is_number = !millis.is_empty() && millis.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number || millis.len() > MAX_DIGITS {
        return None;
    }
    let millis: u64 = millis.parse().ok()?;
    let text = if millis <= MAX_GRPC {
        format!("{millis}m")
    } else {
        format!("{}S", millis.div_euclid(1_000))
    };
    HeaderValue::try_from(text).ok()
}

/// The message in the query of a GET request.
fn message_of(uri: &Uri) -> Result<Vec<u8>, Error> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &URL_SAFE,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let Some(message) = query(uri, "message") else {
        let missing = Violation::invalid("message", "the query has no message");
        return Err(missing.into());
    };
    if query(uri, "base64").as_deref() != Some("1") {
        return Ok(message.into_bytes());
    }
    LENIENT.decode(message).map_err(|error| {
        let message = format!("the message is not base64 for URLs: {error}");
        Violation::invalid("message", message).into()
    })
}

fn query(uri: &Uri, name: &str) -> Option<String> {
    let pairs = url::form_urlencoded::parse(uri.query()?.as_bytes());
    let mut found = pairs.filter(|(known, _)| known == name);
    found.next().map(|(_, value)| value.into_owned())
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_up_to_ten_digits() {
        for (text, expected) in [
            ("0", Some("0m")),
            ("99999999", Some("99999999m")),
            ("100000000", Some("100000S")),
            ("9999999999", Some("9999999S")),
            ("10000000000", None),
            ("", None),
            ("-1", None),
            ("1.5", None),
        ] {
            let timeout = grpc_timeout(text);
            assert_eq!(timeout.as_ref().map(|one| one.to_str().unwrap()), expected);
        }
    }

    #[test]
    fn the_message_of_a_query_is_text_or_base64() {
        let message = |query: &str| {
            let uri: Uri = format!("/usage.v1.UsageService/Get?{query}")
                .parse()
                .unwrap();
            message_of(&uri).map(|bytes| String::from_utf8(bytes).unwrap())
        };
        assert_eq!(message("message=%7B%7D").unwrap(), "{}");
        assert_eq!(message("base64=1&message=e30").unwrap(), "{}");
        assert_eq!(message("base64=1&message=e30%3D").unwrap(), "{}");
        message("base64=1&message=%7B%7D").unwrap_err();
        message("").unwrap_err();
    }
}
