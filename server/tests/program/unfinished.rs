//! Callers that begin many messages and end none.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::Request;
use http_body::Frame;
use http_body_util::StreamBody;
use tempfile::TempDir;
use tonic::{Code, body::Body, transport::Channel};
use tower_service::Service as _;

use crate::{
    connections::{Other, start},
    process::{Process, within},
};

const CONNECTIONS: usize = 8;
const MESSAGES: usize = 64;
/// Of a message that is said to have 2 MiB.
const ARRIVED: usize = 2 * 1024 * 1024 - 1_000;
/// What the process may grow by: all that may be unfinished, with what the allocator and HTTP/2 keep.
const MAX_GROWTH: u64 = 256 * 1024 * 1024;

/// The path of batches, and that of health checks.
const BATCHES: &str = "/usage.v1.UsageService/IncrementBatch";
const CHECKS: &str = "/grpc.health.v1.Health/Check";

/// The beginning of a message that is said to have this length.
fn beginning(length: u32, arrived: usize) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend(length.to_be_bytes());
    bytes.resize(arrived, 0);
    bytes.into()
}

/// A call whose message never ends. Returns the code of its answer.
async fn unfinished(mut channel: Channel, path: &'static str, beginning: Bytes) -> Code {
    let begun = stream::iter([Ok::<_, Infallible>(Frame::data(beginning))]);
    let body = Body::new(StreamBody::new(begun.chain(stream::pending())));
    let mut request = Request::post(path).body(body).unwrap();
    let headers = request.headers_mut();
    headers.insert("content-type", "application/grpc".parse().unwrap());
    headers.insert("te", "trailers".parse().unwrap());
    std::future::poll_fn(|cx| channel.poll_ready(cx))
        .await
        .unwrap();
    let answer = channel.call(request).await.unwrap();
    tonic::Status::from_header_map(answer.headers())
        .unwrap()
        .code()
}

async fn channel(process: &Process) -> Channel {
    let endpoint = Channel::from_shared(process.endpoint().to_owned()).unwrap();
    within("connecting", endpoint.connect()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_messages_cost_limited_memory_and_others_are_answered() {
    let folder = TempDir::new().unwrap();
    let process = start(&folder).await;
    let other = Other::start(&process).await;
    let before = process.resident_bytes();
    let beginning = beginning(2 * 1024 * 1024, ARRIVED);
    let mut calls = Vec::new();
    for _ in 0..CONNECTIONS {
        let channel = channel(&process).await;
        for _ in 0..MESSAGES {
            calls.push(tokio::spawn(unfinished(
                channel.clone(),
                BATCHES,
                beginning.clone(),
            )));
        }
    }
    let mut refused = 0;
    let mut largest = before;
    // Those that fit are ended after 30 seconds.
    for call in calls {
        let code = within("an answer", call).await.unwrap();
        assert!(
            matches!(code, Code::ResourceExhausted | Code::DeadlineExceeded),
            "{code:?}"
        );
        refused += usize::from(code == Code::ResourceExhausted);
        largest = largest.max(process.resident_bytes());
    }
    // 64 messages of 2 MiB fit at once.
    assert!(
        refused >= CONNECTIONS * MESSAGES - 70,
        "{refused} were refused"
    );
    assert!(refused < CONNECTIONS * MESSAGES, "none was begun");
    let growth = largest - before;
    assert!(
        growth < MAX_GROWTH,
        "it grew by {} MiB",
        growth / 1024 / 1024
    );
    other.stop().await;
    process.kill();
}

/// Whoever reaches the socket can send health checks, so a connection may have 64 of them at once, of 1 KiB each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_health_checks_have_a_small_limit_of_their_own() {
    const SENT: usize = 200;
    const LENGTH: u32 = 1_000;
    let folder = TempDir::new().unwrap();
    let process = start(&folder).await;
    let channel = channel(&process).await;
    let begun = beginning(LENGTH, 10);
    let calls: Vec<_> = (0..SENT)
        .map(|_| tokio::spawn(unfinished(channel.clone(), CHECKS, begun.clone())))
        .collect();
    let mut refused = 0;
    for call in calls {
        let code = within("an answer", call).await.unwrap();
        refused += usize::from(code == Code::ResourceExhausted);
    }
    assert_eq!(refused, SENT - 64, "64 of 1 KiB fit into 64 KiB");
    process.kill();
}
