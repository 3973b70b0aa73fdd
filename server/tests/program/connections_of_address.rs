//! Many connections of one address: others are answered, and what needs no key keeps no place.

use std::{net::IpAddr, process::Command, time::Duration};

use futures_util::{StreamExt as _, stream};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    sync::oneshot,
};
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, ServerReflectionResponse,
    server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
};

use crate::{
    connections::{call, exchange, grpc_address, http_address},
    frames::{ENHANCE_YOUR_CALM, PREFACE, end_code, frames},
    process::{HTTP, Process, wait_until, within},
};

/// Another address of this machine than that of the other callers.
const GREEDY: &str = "127.0.0.2";
/// The connections that each may have. The client and the health check of a process are two.
const PLACES: usize = 3;

async fn start(folder: &TempDir) -> Process {
    let mut command: Command = Process::binary();
    let url = format!("sqlite://{}", folder.path().join("usage.db").display());
    command
        .env("DATABASE_URL", url)
        .env("CONNECTIONS_PER_ADDRESS", PLACES.to_string());
    Process::start(command, &[HTTP.to_owned()]).await
}

/// For connections from the other address.
fn endpoint(process: &Process) -> Endpoint {
    let endpoint = Endpoint::from_shared(process.endpoint().to_owned()).unwrap();
    let from: IpAddr = GREEDY.parse().unwrap();
    endpoint.local_address(Some(from))
}

async fn connect(process: &Process) -> Channel {
    let connected = within("connecting", endpoint(process).connect()).await;
    connected.unwrap()
}

/// What is answered to bytes from the other address.
async fn exchange_from_greedy(process: &Process, bytes: &[u8]) -> Vec<u8> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{GREEDY}:0").parse().unwrap()).unwrap();
    let address = grpc_address(process).parse().unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    // A reset is an end too.
    let _ = within("the end of a connection", read).await;
    answer
}

/// A call that has begun, and goes on until this is dropped.
struct Open {
    answers: Streaming<ServerReflectionResponse>,
    _end: oneshot::Sender<()>,
}

/// A call whose first answer is there.
async fn reflection(channel: Channel) -> Open {
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let (end, ended) = oneshot::channel();
    // No more of them, and no end before the other side is dropped.
    let rest = stream::once(ended).filter_map(|_| async { None });
    let questions = stream::iter([question]).chain(rest);
    let mut client = ServerReflectionClient::new(channel);
    let asked = within("an answer", client.server_reflection_info(questions)).await;
    let mut answers = asked.unwrap().into_inner();
    within("an answer", answers.message())
        .await
        .unwrap()
        .unwrap();
    Open { answers, _end: end }
}

/// The same of a call that needs no key.
async fn watch(channel: Channel) -> Streaming<HealthCheckResponse> {
    let mut client = HealthClient::new(channel);
    let asked = within("an answer", client.watch(HealthCheckRequest::default())).await;
    let mut answers = asked.unwrap().into_inner();
    within("an answer", answers.message())
        .await
        .unwrap()
        .unwrap();
    answers
}

/// A call over another connection from there.
async fn check(process: &Process) -> Result<(), Status> {
    let mut client = HealthClient::new(endpoint(process).connect_lazy());
    let checking = client.check(HealthCheckRequest::default());
    within("an answer", checking).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_cannot_take_all_connections() {
    let folder = TempDir::new().unwrap();
    let process = start(&folder).await;
    let mut busy = Vec::new();
    for _ in 0..PLACES {
        busy.push(reflection(connect(&process).await).await);
    }
    let refused = exchange_from_greedy(&process, PREFACE).await;
    assert_eq!(end_code(&frames(&refused)), Some(ENHANCE_YOUR_CALM));
    let text = String::from_utf8_lossy(&refused).into_owned();
    assert!(
        text.contains("this address has too many connections"),
        "{text}"
    );
    let refused =
        exchange_from_greedy(&process, b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let text = String::from_utf8(refused).unwrap();
    assert!(
        text.starts_with("HTTP/1.1 503 Service Unavailable"),
        "{text}"
    );
    check(&process).await.unwrap_err();
    // Others have their places, and those that were first keep theirs.
    call(&process.client()).await;
    for open in &mut busy {
        let next = tokio::time::timeout(Duration::ZERO, open.answers.message());
        assert!(next.await.is_err(), "it goes on");
    }
    let http = http_address(&process).await;
    let request = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let metrics = String::from_utf8(exchange(&http, request).await).unwrap();
    let refused = "usage_connections_refused_total{reason=\"too_many_of_address\"} ";
    let refused = metrics.lines().find_map(|line| line.strip_prefix(refused));
    let refused: u32 = refused.unwrap().parse().unwrap();
    // The client may have connected again.
    assert!(refused >= 3, "{refused}");
    // A connection that has no call any more gives way.
    drop(busy.pop());
    wait_until("a place", || async { check(&process).await.is_ok() }).await;
    process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_need_no_key_keep_no_place() {
    let folder = TempDir::new().unwrap();
    let process = start(&folder).await;
    let mut watching = Vec::new();
    for _ in 0..PLACES {
        watching.push(watch(connect(&process).await).await);
    }
    // One of them gives way, although its call goes on.
    check(&process).await.unwrap();
    let ends = watching.iter_mut().map(|open| Box::pin(open.message()));
    let (ended, ..) = within("an end", futures_util::future::select_all(ends)).await;
    assert!(ended.is_err(), "{ended:?}");
    process.kill();
}
