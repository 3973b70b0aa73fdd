//! Thousands of malformed inputs, chosen by a seed, on both sockets: no panic, bounded memory, and others are answered.

use std::sync::Arc;

use prost::Message as _;
use tempfile::TempDir;
use tokio::task::JoinSet;
use usage_proto::v1::{
    ForceReportRequest, GetRequest, IncrementBatchRequest, IncrementRequest, ListReportsRequest,
};

use crate::{
    connections::{Other, call, exchange_and_end, grpc_address, http_address, start},
    frames::{DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, call_headers, frame},
    random::Random,
};

const INPUTS: u64 = 4_000;
/// The connections at a time.
const PARALLEL: usize = 64;
const SEED: u64 = 20_261_129;
/// What the process may keep of all of them. A new process grows by some megabytes in any case.
const MAX_GROWTH: u64 = 128 * 1024 * 1024;
const PATHS: [&str; 11] = [
    "/usage.v1.UsageService/Increment",
    "/usage.v1.UsageService/IncrementBatch",
    "/usage.v1.UsageService/Get",
    "/usage.v1.UsageService/ListReports",
    "/usage.v1.UsageService/Reconcile",
    "/usage.v1.UsageService/FindIncrement",
    "/usage.v1.UsageService/ExplainInvoice",
    "/usage.v1.AccountService/PutAccount",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "//%00\u{7f}",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_inputs_end_no_process_and_keep_no_one_out() {
    let folder = TempDir::new().unwrap();
    let process = start(&folder).await;
    call(&process.client()).await;
    let addresses = Arc::new([grpc_address(&process), http_address(&process).await]);
    let before = process.resident_bytes();
    let other = Other::start(&process).await;
    let mut sending = JoinSet::new();
    for nth in 0..INPUTS {
        if sending.len() >= PARALLEL {
            sending.join_next().await.unwrap().unwrap();
        }
        let addresses = Arc::clone(&addresses);
        sending.spawn(async move {
            let mut random = Random(SEED.wrapping_add(nth));
            let (socket, bytes) = input(&mut random);
            exchange_and_end(&addresses[socket], &bytes).await;
        });
    }
    while let Some(sent) = sending.join_next().await {
        sent.unwrap();
    }
    other.stop().await;
    call(&process.client()).await;
    let log = process.log();
    assert!(!log.contains("panicked"), "{log}");
    let growth = process.resident_bytes().saturating_sub(before);
    assert!(growth < MAX_GROWTH, "the process grew by {growth} bytes");
    process.kill();
}

/// Bytes for one of the sockets.
fn input(random: &mut Random) -> (usize, Vec<u8>) {
    match random.below(6) {
        0 => (usize::from(random.one_in(2)), noise(random, 400)),
        1 => (0, [PREFACE, &noise(random, 400)].concat()),
        2 => (0, frames_of_noise(random)),
        3 => (1, damaged(random, http_request())),
        4 => {
            let call = call_of_noise(random);
            (0, damaged(random, call))
        }
        _ => (0, call_of_noise(random)),
    }
}

fn noise(random: &mut Random, max: i64) -> Vec<u8> {
    let length = random.below(max);
    (0..length).map(|_| byte(random)).collect()
}

fn byte(random: &mut Random) -> u8 {
    random.next().to_le_bytes()[0]
}

/// Frames with a right length and anything else.
fn frames_of_noise(random: &mut Random) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    for _ in 0..=random.below(8) {
        let payload = noise(random, 100);
        let kind = u8::try_from(random.below(12)).unwrap();
        let stream = u32::try_from(random.below(6)).unwrap();
        bytes.extend(frame(kind, byte(random), stream, &payload));
    }
    bytes
}

/// Calls whose messages are damaged, cut short, or of another call.
fn call_of_noise(random: &mut Random) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    for nth in 0..=u32::try_from(random.below(3)).unwrap() {
        let stream = nth * 2 + 1;
        let path = random.pick(&PATHS);
        bytes.extend(frame(HEADERS, END_HEADERS, stream, &call_headers(path)));
        let message = message(random);
        let message = if random.one_in(3) {
            noise(random, 200)
        } else {
            damaged(random, message)
        };
        let length = match random.below(4) {
            0 => u32::from_le_bytes([byte(random), byte(random), byte(random), byte(random)]),
            _ => u32::try_from(message.len()).unwrap(),
        };
        let compressed = u8::from(random.one_in(6));
        let mut data = vec![compressed];
        data.extend(length.to_be_bytes());
        data.extend(message);
        bytes.extend(frame(DATA, END_STREAM, stream, &data));
    }
    bytes
}

fn message(random: &mut Random) -> Vec<u8> {
    let increment = IncrementRequest {
        account_id: "acct".to_owned(),
        quantity: Some(7),
        ..IncrementRequest::default()
    };
    match random.below(5) {
        0 => increment.encode_to_vec(),
        1 => IncrementBatchRequest {
            increments: vec![increment; 5],
            ..IncrementBatchRequest::default()
        }
        .encode_to_vec(),
        2 => GetRequest {
            account_id: "acct".to_owned(),
            ..GetRequest::default()
        }
        .encode_to_vec(),
        3 => ListReportsRequest {
            page_size: 10,
            ..ListReportsRequest::default()
        }
        .encode_to_vec(),
        _ => ForceReportRequest {
            all: true,
            ..ForceReportRequest::default()
        }
        .encode_to_vec(),
    }
}

fn http_request() -> Vec<u8> {
    b"POST /webhooks/stripe HTTP/1.1\r\nhost: localhost\r\nstripe-signature: t=1,v1=00\r\n\
      transfer-encoding: chunked\r\n\r\n5\r\n{\"id\"\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n"
        .to_vec()
}

/// Changes, removes and repeats some bytes.
fn damaged(random: &mut Random, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..=random.below(6) {
        let Ok(length @ 1..) = i64::try_from(bytes.len()) else {
            break;
        };
        let place = usize::try_from(random.below(length)).unwrap();
        match random.below(4) {
            0 => bytes[place] = byte(random),
            1 => bytes.truncate(place),
            2 => bytes.insert(place, byte(random)),
            _ => bytes[place] ^= 1 << random.below(8),
        }
    }
    bytes
}
