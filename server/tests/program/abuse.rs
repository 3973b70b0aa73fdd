//! Callers that do what HTTP/2 allows, and too much of it.

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    connections::{Other, call, exchange_and_end, grpc_address, start},
    frames::{
        CONTINUATION, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, PREFACE, RESET,
        SETTINGS, call_headers, end_code, frame, frames, header,
    },
    process::within,
};

const INCREMENT: &str = "/usage.v1.UsageService/Increment";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limits_are_told_to_every_client() {
    let folder = TempDir::new().unwrap();
    let process = start(&folder).await;
    let answer = exchange_and_end(&grpc_address(&process), PREFACE).await;
    let answer = frames(&answer);
    assert_eq!(answer[0].kind, SETTINGS, "{answer:?}");
    let settings: Vec<(u16, u32)> = answer[0]
        .payload
        .chunks_exact(6)
        .map(|setting| {
            let id = u16::from_be_bytes([setting[0], setting[1]]);
            (id, u32::from_be_bytes(setting[2..6].try_into().unwrap()))
        })
        .collect();
    // Streams, the size of a frame and that of all headers.
    for limit in [(3, 1_024), (5, 16 * 1024), (6, 16 * 1024)] {
        assert!(
            settings.contains(&limit),
            "{limit:?} is not in {settings:?}"
        );
    }
    process.kill();
}

/// Calls that are begun and reset at once cost the server work, and their caller nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_resets_its_calls_is_disconnected() {
    /// Each needs a stream.
    const MAX_RESETS: u32 = 20_000;
    let folder = TempDir::new().unwrap();
    let process = start(&folder).await;
    let other = Other::start(&process).await;
    let stream = TcpStream::connect(grpc_address(&process)).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let reading = tokio::spawn(async move {
        let mut answer = Vec::new();
        let mut bytes = [0; 4_096];
        while let Ok(length @ 1..) = read.read(&mut bytes).await {
            answer.extend_from_slice(&bytes[..length]);
        }
        answer
    });
    write.write_all(PREFACE).await.unwrap();
    let headers = call_headers(INCREMENT);
    for nth in 0..MAX_RESETS {
        let stream = nth * 2 + 1;
        let mut bytes = frame(HEADERS, END_HEADERS, stream, &headers);
        bytes.extend(frame(RESET, 0, stream, &8_u32.to_be_bytes()));
        // It fails once the server has closed the connection.
        if write.write_all(&bytes).await.is_err() {
            break;
        }
    }
    let _ = write.shutdown().await;
    let answer = within("the end", reading).await.unwrap();
    let code = end_code(&frames(&answer));
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    other.stop().await;
    process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_headers_are_refused() {
    let folder = TempDir::new().unwrap();
    let process = start(&folder).await;
    let address = grpc_address(&process);
    let large = header("x-large", &"a".repeat(15_000));
    // In one frame that is larger than any may be.
    let mut bytes = PREFACE.to_vec();
    let mut headers = call_headers(INCREMENT);
    headers.extend(header("x-large", &"a".repeat(40_000)));
    bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &headers));
    let answer = exchange_and_end(&address, &bytes).await;
    assert!(end_code(&frames(&answer)).is_some_and(|code| code != 0));
    // In as many frames as it likes.
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(HEADERS, END_STREAM, 1, &call_headers(INCREMENT)));
    for _ in 0..1_000 {
        bytes.extend(frame(CONTINUATION, 0, 1, &large));
    }
    let answer = exchange_and_end(&address, &bytes).await;
    assert!(end_code(&frames(&answer)).is_some_and(|code| code != 0));
    call(&process.client()).await;
    process.kill();
}

/// More calls at once than the server allows on a connection are refused; it does not hold them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_beyond_the_limit_of_streams_are_refused() {
    const STREAMS: u32 = 1_024;
    const REFUSED_STREAM: u32 = 7;
    let folder = TempDir::new().unwrap();
    let process = start(&folder).await;
    let mut bytes = PREFACE.to_vec();
    // Their messages never come.
    for nth in 0..STREAMS + 10 {
        bytes.extend(frame(
            HEADERS,
            END_HEADERS,
            nth * 2 + 1,
            &call_headers(INCREMENT),
        ));
    }
    let answer = exchange_and_end(&grpc_address(&process), &bytes).await;
    let refused = frames(&answer)
        .iter()
        .filter(|frame| frame.kind == RESET && frame.payload == REFUSED_STREAM.to_be_bytes())
        .count();
    assert_eq!(refused, 10);
    call(&process.client()).await;
    process.kill();
}
