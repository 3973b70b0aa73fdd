//! Strangers without a key, who open as many calls as they can that need none, beside callers with keys.

use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};
use usage_client::{Get, Granularity};

use crate::{
    connections::grpc_address,
    frames::{END_HEADERS, HEADERS, PREFACE, call_headers, frame},
    keyed::{self, Keys},
    process::within,
};

const CONNECTIONS: usize = 64;
/// As many calls as a connection may have.
const CALLS: u32 = 1_024;
const IN_FLIGHT: usize = 128;
/// What the process may grow by: the checks that fit, and what HTTP/2 keeps of the others.
const MAX_GROWTH: u64 = 256 * 1024 * 1024;
const CHECK: &str = "/grpc.health.v1.Health/Check";
const PING: u8 = 6;
const PONG: &[u8; 17] = b"\0\0\x08\x06\x01\0\0\0\0are here";

/// Begins as many health checks on a connection as it may have, and ends none. Keeps it open, and reads what comes.
async fn begin_checks(address: &str) -> JoinHandle<()> {
    let mut bytes = PREFACE.to_vec();
    for nth in 0..CALLS {
        let headers = call_headers(CHECK);
        bytes.extend(frame(HEADERS, END_HEADERS, nth * 2 + 1, &headers));
    }
    bytes.extend(frame(PING, 0, 0, b"are here"));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    // All that was sent before the ping was read.
    within("the answer of a ping", async {
        while !answer.windows(PONG.len()).any(|part| part == PONG) {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
        }
    })
    .await;
    tokio::spawn(async move {
        let mut rest = [0; 4_096];
        while let Ok(1..) = stream.read(&mut rest).await {}
    })
}

/// The checks that are never ended take a small part of the memory for answers, and none that callers with keys need.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_strangers_take_no_places_from_callers_with_keys() {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite://{}", folder.path().join("usage.db").display());
    let keys = Keys::create(&url);
    let process = keyed::serve(&url, None).await;
    let writer = keyed::client(&process, &keys.writer).await;
    let reader = keyed::client(&process, &keys.reader).await;
    writer.increment("acct").await.unwrap();
    let before = process.resident_bytes();
    let address = grpc_address(&process);
    let mut strangers = Vec::new();
    for _ in 0..CONNECTIONS {
        strangers.push(begin_checks(&address).await);
    }
    let calls = (0..IN_FLIGHT).map(|_| writer.increment("acct").into_future());
    for counted in join_all(calls).await {
        counted.expect("one of 128 calls on a connection");
    }
    // A large answer: each hour of two months.
    let hours = || {
        let get = Get::account("acct").granularity(Granularity::Hour);
        reader.get(get.last_days(60)).into_future()
    };
    for shown in join_all((0..8).map(|_| hours())).await {
        let shown = shown.expect("a large answer");
        assert_eq!(
            shown.meters[0].quantities.total,
            1 + i64::try_from(IN_FLIGHT).unwrap()
        );
    }
    // A load balancer is answered, on another connection.
    assert!(process.is_ready().await);
    assert!(
        strangers.iter().all(|stranger| !stranger.is_finished()),
        "the strangers are still there"
    );
    let growth = process.resident_bytes().saturating_sub(before);
    assert!(
        growth < MAX_GROWTH,
        "it grew by {} MiB",
        growth / 1024 / 1024
    );
    for stranger in strangers {
        stranger.abort();
    }
    process.kill();
}
