//! The errors of gRPC itself: deadlines, messages that cannot be read, unknown methods, other content types.

use std::io::Write as _;

use bytes::Bytes;
use fake_stripe::Fault;
use flate2::{Compression, write::GzEncoder};
use h2::RecvStream;
use http::{HeaderMap, Request, Response, StatusCode};
use prost::Message as _;
use tokio::net::TcpStream;
use tonic::{Code, Status, codec::CompressionEncoding};
use tonic_types::StatusExt as _;
use usage_client::{Error, ErrorKind, Reason};
use usage_proto::v1::{
    ERROR_DOMAIN, ForceReportRequest, ForceReportResponse, IncrementRequest,
    usage_service_client::UsageServiceClient,
};

use crate::support::{
    commit_lock::CommitLock,
    world::{TIMEOUT, World, hours_ago, on_sqlite, within},
};

on_sqlite!(
    a_deadline_that_passes_in_the_server_is_deadline_exceeded,
    a_deadline_ends_a_stream_with_deadline_exceeded,
    a_message_that_is_not_protobuf_is_an_invalid_argument,
    a_message_that_is_too_large_is_refused_for_good,
    an_unknown_method_or_compression_is_unimplemented,
    other_content_types_are_not_counted,
    compressed_messages_are_counted,
);

const INCREMENT: &str = "/usage.v1.UsageService/Increment";
const GRPC: (&str, &str) = ("content-type", "application/grpc");
/// The largest message.
const MAX_MESSAGE: usize = 2 * 1024 * 1024;
/// The flags before a message's length.
const PLAIN: u8 = 0;
const COMPRESSED: u8 = 1;

async fn a_deadline_that_passes_in_the_server_is_deadline_exceeded(world: World) {
    let lock = CommitLock::commits_of(&world).await;
    // From below a timer's tick to a time in which others commit.
    for timeout in ["1n", "900u", "1m", "30m", "200m"] {
        let headers = [GRPC, ("grpc-timeout", timeout)];
        let answer = post(&world, INCREMENT, &headers, frame(PLAIN, &increment())).await;
        let (code, reason) = code_and_reason(answer.headers());
        assert_eq!(code, Code::DeadlineExceeded, "{timeout}");
        assert_eq!(reason, "DEADLINE_EXCEEDED");
    }
    lock.release().await;
    world.finish().await;
}

async fn a_deadline_ends_a_stream_with_deadline_exceeded(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(1)).await;
    let gate = Fault::block_until_released("gate").on_path("/v1/billing/meter_events");
    world.stripe().script(gate).await.unwrap();
    let all = ForceReportRequest {
        all: true,
        ..ForceReportRequest::default()
    };
    let path = "/usage.v1.UsageService/ForceReport";
    let mut read = Vec::new();
    // On a busy machine even the first message can take longer than a second.
    for timeout in ["1S", "4S", "16S"] {
        let headers = [GRPC, ("grpc-timeout", timeout)];
        let answer = post(&world, path, &headers, frame(PLAIN, &all.encode_to_vec())).await;
        let ended_before = answer.headers().clone();
        let mut body = answer.into_body();
        while let Some(data) = within("a message", body.data()).await {
            read.extend_from_slice(&data.unwrap());
        }
        let trailers = within("trailers", body.trailers()).await.unwrap();
        let (code, reason) = code_and_reason(&trailers.unwrap_or(ended_before));
        assert_eq!(
            (code, &*reason),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED")
        );
        if !read.is_empty() {
            break;
        }
    }
    // The first message names the run; it goes on without its watcher.
    let started = ForceReportResponse::decode(&read[5..5 + usize::from(read[4])]).unwrap();
    assert!(started.event.is_some());
    let stripe = world.stripe();
    stripe.wait_for_blocked("gate", 1, TIMEOUT).await.unwrap();
    stripe.release("gate").await.unwrap();
    world.wait_until_sent("acct").await;
    world.finish().await;
}

async fn a_message_that_is_not_protobuf_is_an_invalid_argument(world: World) {
    let mut cut_short = frame(PLAIN, &increment());
    cut_short.pop();
    let gzip = [GRPC, ("grpc-encoding", "gzip")];
    for (headers, body) in [
        (&[GRPC][..], frame(PLAIN, b"no protobuf")),
        (&[GRPC], cut_short),
        (&[GRPC], Vec::new()),
        (&[GRPC], frame(7, &increment())),
        (&gzip, frame(COMPRESSED, b"no gzip")),
    ] {
        let answer = post(&world, INCREMENT, headers, body).await;
        let (code, reason) = code_and_reason(answer.headers());
        assert_eq!(
            (code, &*reason),
            (Code::InvalidArgument, "MALFORMED_MESSAGE")
        );
    }
    assert_eq!(world.count_rows("all_reports").await, 0);
    world.finish().await;
}

async fn a_message_that_is_too_large_is_refused_for_good(world: World) {
    // A few kilobytes that become more than the limit.
    let mut zeros = GzEncoder::new(Vec::new(), Compression::best());
    zeros.write_all(&vec![0; MAX_MESSAGE + 1]).unwrap();
    let gzip = [GRPC, ("grpc-encoding", "gzip")];
    for (headers, body) in [
        (&[GRPC][..], frame(PLAIN, &vec![0; MAX_MESSAGE + 1])),
        (&gzip, frame(COMPRESSED, &zeros.finish().unwrap())),
    ] {
        let answer = post(&world, INCREMENT, headers, body).await;
        let (code, reason) = code_and_reason(answer.headers());
        assert_eq!(
            (code, &*reason),
            (Code::ResourceExhausted, "MESSAGE_TOO_LARGE")
        );
    }
    // The shipped client does not send it again.
    let account = "a".repeat(MAX_MESSAGE);
    let refused = world.client().increment(&*account).await.unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::MessageTooLarge));
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(!refused.is_retryable() && !refused.may_have_taken_effect());
    assert_eq!(world.count_rows("all_reports").await, 0);
    world.finish().await;
}

async fn an_unknown_method_or_compression_is_unimplemented(world: World) {
    let body = || frame(PLAIN, &increment());
    for path in ["/usage.v1.UsageService/Nothing", "/usage.v2.Other/Get"] {
        let answer = post(&world, path, &[GRPC], body()).await;
        let (code, reason) = code_and_reason(answer.headers());
        assert_eq!((code, &*reason), (Code::Unimplemented, "UNIMPLEMENTED"));
        let status = Status::from_header_map(answer.headers()).unwrap();
        assert!(status.message().contains(path), "{status}");
        assert_eq!(Error::from(status).kind(), ErrorKind::Unimplemented);
    }
    let brotli = [GRPC, ("grpc-encoding", "br")];
    let answer = post(&world, INCREMENT, &brotli, body()).await;
    let (code, reason) = code_and_reason(answer.headers());
    assert_eq!((code, &*reason), (Code::Unimplemented, "UNIMPLEMENTED"));
    let accepted = &answer.headers()["grpc-accept-encoding"];
    assert_eq!(accepted, "gzip,zstd,identity");
    assert_eq!(world.count_rows("all_reports").await, 0);
    world.finish().await;
}

async fn other_content_types_are_not_counted(world: World) {
    let body = || frame(PLAIN, &increment());
    for other in [
        "application/json",
        "application/x-protobuf",
        "application/grpc-web",
        "application/grpc+json",
        "application/grpcx",
        "",
    ] {
        let answer = post(&world, INCREMENT, &[("content-type", other)], body()).await;
        assert_eq!(
            answer.status(),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "{other}"
        );
        assert!(!answer.headers().contains_key("grpc-status"));
    }
    let none = post(&world, INCREMENT, &[], body()).await;
    assert_eq!(none.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let got = send(&world, "GET", INCREMENT, &[GRPC], body()).await;
    assert_eq!(got.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(got.headers()["allow"], "POST");
    assert_eq!(world.count_rows("all_reports").await, 0);

    for ours in [
        "application/grpc",
        "application/grpc+proto",
        "Application/gRPC; charset=utf-8",
    ] {
        let answer = post(&world, INCREMENT, &[("content-type", ours)], body()).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(!answer.headers().contains_key("grpc-status"), "{ours}");
    }
    assert_eq!(world.usage_of("acct", "api_calls").await.0, 3);
    world.finish().await;
}

async fn compressed_messages_are_counted(world: World) {
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let channel = world.grpc_channel().await;
        let mut usage = UsageServiceClient::new(channel).send_compressed(encoding);
        let request = IncrementRequest {
            account_id: "acct".to_owned(),
            quantity: Some(10),
            ..IncrementRequest::default()
        };
        usage.increment(request).await.unwrap();
    }
    assert_eq!(world.usage_of("acct", "api_calls").await.0, 20);
    world.finish().await;
}

fn increment() -> Vec<u8> {
    let message = IncrementRequest {
        account_id: "acct".to_owned(),
        ..IncrementRequest::default()
    };
    message.encode_to_vec()
}

/// A message as gRPC sends it: a flag, its length and its bytes.
fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    let mut frame = vec![flag];
    frame.extend(length.to_be_bytes());
    frame.extend(message);
    frame
}

async fn post(
    world: &World,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Response<RecvStream> {
    send(world, "POST", path, headers, body).await
}

/// Sends a request on a connection of its own.
async fn send(
    world: &World,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Response<RecvStream> {
    let address = world.endpoint().trim_start_matches("http://");
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://localhost{path}"))
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(()).unwrap();
    let (response, mut stream) = sender.send_request(request, false).unwrap();
    // Fails if the answer is there already: a refusal does not wait for the message.
    let _ = stream.send_data(Bytes::from(body), true);
    within("an answer", response).await.unwrap()
}

/// What an error says: its code, and the reason in its details.
fn code_and_reason(headers: &HeaderMap) -> (Code, String) {
    let status = Status::from_header_map(headers).unwrap();
    let details = status.get_error_details();
    let info = details.error_info();
    let info = info.unwrap_or_else(|| panic!("no ErrorInfo in {status}"));
    assert_eq!(info.domain, ERROR_DOMAIN);
    (status.code(), info.reason.clone())
}
