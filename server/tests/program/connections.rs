//! Connections that strangers open: slow ones and many. Others are answered meanwhile.

use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use usage_client::UsageClient;

use crate::{
    frames::{DATA, END_HEADERS, HEADERS, PREFACE, call_headers, frame, frames},
    latency::{Latencies, MIN_CALLS},
    process::{HTTP, Process, wait_until, within},
};

/// The places of the two sockets.
pub(crate) const GRPC_PLACES: usize = 4_096;
const HTTP_PLACES: usize = 512;
/// The bytes that a slow connection sends, and their pace: together longer than a first request may take.
const ROUNDS: usize = 20;
const PACE: Duration = Duration::from_millis(600);

/// A process with an own database.
pub(crate) async fn start(folder: &TempDir) -> Process {
    let mut command = Process::binary();
    let url = format!("sqlite://{}", folder.path().join("usage.db").display());
    command
        .env("DATABASE_URL", url)
        .env("RUST_LOG", "info")
        // All callers are of this machine, and stand for those of many.
        .env("CONNECTIONS_PER_ADDRESS", "0")
        .env("STRIPE_WEBHOOK_SECRETS", "whsec_test");
    Process::start(command, &[HTTP.to_owned()]).await
}

/// Lets this process have as many open files as it may.
pub(crate) fn raise_file_limit() {
    let script = r#"prlimit --pid="$1" --nofile="$(ulimit -H -n)":"#;
    let id = std::process::id().to_string();
    let raised = Command::new("sh").args(["-c", script, "sh", &id]).status();
    assert!(raised.expect("prlimit, from util-linux").success());
}

/// Sends bytes and returns the answer until the server closes the connection.
pub(crate) async fn exchange(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may close it before it has read everything.
    let _ = stream.write_all(bytes).await;
    read_to_end(stream).await
}

/// The same, and the client is the first to end it.
pub(crate) async fn exchange_and_end(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    read_to_end(stream).await
}

async fn read_to_end(mut stream: TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut bytes = [0; 4_096];
    within("the end of a connection", async {
        // A reset is an end too.
        while let Ok(read @ 1..) = stream.read(&mut bytes).await {
            answer.extend_from_slice(&bytes[..read]);
        }
    })
    .await;
    answer
}

/// The address of the HTTP socket, which is served a moment after that of gRPC.
pub(crate) async fn http_address(process: &Process) -> String {
    wait_until("a socket for HTTP", || async {
        process.http_address().is_some()
    })
    .await;
    process.http_address().unwrap()
}

pub(crate) fn grpc_address(process: &Process) -> String {
    process.endpoint().trim_start_matches("http://").to_owned()
}

/// A caller that counts until it is stopped, and asks for the health. Every call must succeed, and take no longer than before.
pub(crate) struct Other {
    before: Latencies,
    calling: JoinHandle<Latencies>,
    stop: CancellationToken,
}

impl Other {
    pub(crate) async fn start(process: &Process) -> Self {
        let client = process.client();
        let http = http_address(process).await;
        let mut before = Latencies::default();
        while before.len() < 2 * MIN_CALLS {
            before.add(timed_call(&client).await);
        }
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let calling = tokio::spawn(async move {
            let mut calls = Latencies::default();
            // A short load is over before there are enough.
            while !stopped.is_cancelled() || calls.len() < MIN_CALLS {
                calls.add(timed_call(&client).await);
                if calls.len() % 10 == 0 {
                    let request =
                        b"GET /health/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
                    let answer = exchange(&http, request).await;
                    assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
                }
            }
            calls
        });
        Self {
            before,
            calling,
            stop,
        }
    }

    /// Ends it, and compares the times of its calls.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        let calls = within("the last call", self.calling).await;
        calls
            .expect("every call succeeds")
            .assert_kept(&self.before);
    }
}

async fn timed_call(client: &UsageClient) -> Duration {
    let begun = Instant::now();
    call(client).await;
    begun.elapsed()
}

pub(crate) async fn call(client: &UsageClient) {
    let counted = within("a call", client.increment("acct").into_future()).await;
    counted.expect("a counted increment");
}

/// Sends the beginning on each of many connections, and then slowly one byte after the other.
async fn trickle(
    address: &str,
    beginning: &[u8],
    bytes: &[u8],
    connections: usize,
) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for _ in 0..connections {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(beginning).await;
        open.push(stream);
    }
    let mut ticks = tokio::time::interval(PACE);
    for byte in &bytes[..ROUNDS] {
        ticks.tick().await;
        for stream in &mut open {
            // It may have lost its place.
            let _ = stream.write_all(&[*byte]).await;
        }
    }
    open
}

async fn assert_all_end(open: Vec<TcpStream>) {
    for mut stream in open {
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        // A reset is an end too.
        let _ = within("the end of a slow connection", ended).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_connections_keep_no_one_out_and_are_closed() {
    raise_file_limit();
    let folder = TempDir::new().unwrap();
    let process = start(&folder).await;
    let grpc = grpc_address(&process);
    let http = http_address(&process).await;
    let other = Other::start(&process).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let head = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n";
    let (slow_grpc, slow_http) = tokio::join!(
        trickle(&grpc, b"", preface, GRPC_PLACES + 100),
        trickle(&http, b"", head, HTTP_PLACES + 100),
    );
    // Each of them is closed by the server, however slowly it goes on.
    assert_all_end(slow_grpc).await;
    assert_all_end(slow_http).await;
    other.stop().await;
    process.kill();
}

/// Requests whose heads arrive at once, and their bodies slowly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_bodies_keep_no_one_out_and_are_given_up() {
    const CALLS: usize = 500;
    raise_file_limit();
    let folder = TempDir::new().unwrap();
    let process = start(&folder).await;
    let grpc = grpc_address(&process);
    let http = http_address(&process).await;
    let other = Other::start(&process).await;
    let post =
        b"POST /webhooks/stripe HTTP/1.1\r\nhost: localhost\r\nstripe-signature: t=1,v1=00\r\n\
        content-length: 1000\r\n\r\n";
    // A frame of a message of 100 bytes.
    let mut increment = PREFACE.to_vec();
    let headers = call_headers("/usage.v1.UsageService/Increment");
    increment.extend(frame(HEADERS, END_HEADERS, 1, &headers));
    let message = [&[0, 0, 0, 0, 100][..], &[b'a'; 100]].concat();
    let data = frame(DATA, 0, 1, &message);
    let (beginning, rest) = data.split_at(20);
    increment.extend(beginning);
    let (slow_grpc, slow_http) = tokio::join!(
        trickle(&grpc, &increment, rest, CALLS),
        // A request keeps its place, so others need some.
        trickle(&http, post, &[b'a'; ROUNDS], HTTP_PLACES - 100),
    );
    assert_all_end(slow_http).await;
    // The call ends, and its connection may be used for another one.
    for mut stream in slow_grpc {
        let mut answer = Vec::new();
        within("the end of a slow call", async {
            while !frames(&answer).iter().any(|frame| frame.kind == HEADERS) {
                let read = stream.read_buf(&mut answer).await.unwrap();
                assert_ne!(read, 0, "{answer:?}");
            }
        })
        .await;
    }
    other.stop().await;
    process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_connections_keeps_no_one_out_and_costs_little_memory() {
    /// Far more than places.
    const CONNECTIONS: usize = 20_000;
    /// What a process may keep of them.
    const MAX_GROWTH: u64 = 64 * 1024 * 1024;
    raise_file_limit();
    let folder = TempDir::new().unwrap();
    let process = start(&folder).await;
    call(&process.client()).await;
    let before = process.resident_bytes();
    let other = Other::start(&process).await;
    let addresses = Arc::new([grpc_address(&process), http_address(&process).await]);
    let flood: Vec<_> = (0..4)
        .map(|_| {
            let addresses = Arc::clone(&addresses);
            tokio::spawn(async move {
                for nth in 0..CONNECTIONS / 4 {
                    let address = &addresses[nth % 2];
                    let mut stream = TcpStream::connect(address).await.unwrap();
                    if nth % 3 == 0 {
                        let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
                    }
                }
            })
        })
        .collect();
    for flooding in flood {
        within("the flood", flooding).await.unwrap();
    }
    other.stop().await;
    let growth = process.resident_bytes().saturating_sub(before);
    assert!(growth < MAX_GROWTH, "the process grew by {growth} bytes");
    process.kill();
}

/// A request over HTTP/1, or the preface of HTTP/2, and then nothing: pings are not answered either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_fall_silent_are_closed() {
    /// More than the limit of 75 s.
    const CLOSED_WITHIN: Duration = Duration::from_mins(3);
    let folder = TempDir::new().unwrap();
    let process = start(&folder).await;
    let http = http_address(&process).await;
    let silence = async |address: &str, begin: &[u8]| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(begin).await.unwrap();
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(CLOSED_WITHIN, stream.read_to_end(&mut answer));
        // A reset is an end too.
        let _ = closed.await.expect("a closed connection");
        answer
    };
    let request = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let grpc = grpc_address(&process);
    let (answer, _) = tokio::join!(silence(&http, request), silence(&grpc, PREFACE));
    assert!(answer.ends_with(b"live\n"), "{answer:?}");
    call(&process.client()).await;
    process.kill();
}
