//! The gRPC socket: connections that never begin, and callers that do not read their answers.

use std::{fmt::Write as _, time::Instant};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use prost::Message as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    net::TcpStream,
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use usage_client::{ListReports, UsageClient, proto::KeyRole};
use usage_proto::v1::ListReportsRequest;

use super::{
    access::{access, client, create, first_admin, new_key},
    tls::Secure,
};
use crate::support::{
    latency::{Latencies, MIN_CALLS},
    world::{World, on_sqlite, within},
};

on_sqlite!(
    a_connection_without_a_preface_is_closed,
    callers_that_read_no_answers_cost_a_limited_amount_of_memory,
    callers_that_read_no_answers_do_not_refuse_others,
    a_key_that_reads_no_answers_leaves_room_for_other_keys,
    callers_that_read_no_answers_over_tls_do_not_slow_others,
);

/// The calls on each connection, all without reading.
const CALLS: usize = 100;
/// The answers of a megabyte that may wait on one connection.
const MAX_UNREAD: usize = 8;

async fn a_connection_without_a_preface_is_closed(world: World) {
    let address = world.endpoint().trim_start_matches("http://").to_owned();
    let mut silent = TcpStream::connect(address).await.unwrap();
    // Its settings, and then nothing until the end. A reset is an end too.
    let mut read = Vec::new();
    let _ = within("the end", silent.read_to_end(&mut read)).await;
    world.finish().await;
}

async fn callers_that_read_no_answers_cost_a_limited_amount_of_memory(world: World) {
    insert_long_reports(&world).await;
    let mut connections = Vec::new();
    for _ in 0..3 {
        let mut sender = connect(&world).await;
        let calls: Vec<_> = (0..CALLS).map(|_| list_reports(&mut sender)).collect();
        let mut kept = Vec::new();
        for call in calls {
            let answer = within("an answer", call).await.unwrap();
            if answer.headers().get("grpc-status").is_none() {
                kept.push(answer);
            } else {
                assert_eq!(answer.headers()["grpc-status"], "8", "RESOURCE_EXHAUSTED");
            }
        }
        assert!(
            (1..=MAX_UNREAD).contains(&kept.len()),
            "{} answers wait",
            kept.len()
        );
        connections.push((sender, kept));
    }
    // Another caller gets its answers meanwhile.
    let page = world.client().list_reports(ListReports::new()).await;
    assert_eq!(page.unwrap().reports.len(), 100);
    // And so does one of these, when it no longer wants the others.
    let (mut sender, kept) = connections.remove(0);
    drop(kept);
    world
        .wait_until("an answer", async || {
            let mut sender = sender.clone();
            let answer = list_reports(&mut sender).await.unwrap();
            answer.headers().get("grpc-status").is_none()
        })
        .await;
    let _ = &mut sender;
    drop(connections);
    world.finish().await;
}

async fn callers_that_read_no_answers_do_not_refuse_others(world: World) {
    insert_long_reports(&world).await;
    let mut connections = Vec::new();
    let mut kept = Vec::new();
    // More than all connections together may leave unread.
    for _ in 0..12 {
        let mut sender = connect(&world).await;
        for _ in 0..MAX_UNREAD {
            kept.push(list_reports(&mut sender).await.unwrap());
        }
        connections.push(sender);
    }
    // One of them fills the rest with smaller and smaller answers.
    let filling = connections.last_mut().unwrap();
    for page_size in [30, 5, 1] {
        while let Some(answer) = unread_page(filling, page_size, "").await {
            kept.push(answer);
            assert!(kept.len() < 1_000, "nothing is refused");
        }
    }
    while let Some(answer) = unread_page(filling, 1, "no-reports").await {
        kept.push(answer);
        assert!(kept.len() < 1_000, "nothing is refused");
    }
    // Small answers always fit.
    let mut health = HealthClient::new(world.grpc_channel().await);
    let asked = health.check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(asked.into_inner().status(), ServingStatus::Serving);
    world.count("acct", 7, world.now()).await;
    // Larger ones do when the stalled connections are closed.
    let client = world.client();
    world
        .wait_until("an answer", async || {
            client.list_reports(ListReports::new()).await.is_ok()
        })
        .await;
    drop(kept);
    drop(connections);
    world.finish().await;
}

/// However many connections it has.
async fn a_key_that_reads_no_answers_leaves_room_for_other_keys(world: World) {
    /// The answers of a megabyte that a key may leave unread.
    const OF_KEY: usize = 16;
    insert_long_reports(&world).await;
    let (_, admin) = first_admin(&world).await;
    let mut access = access(&world, Some(&admin)).await;
    let greedy = create(&mut access, new_key("greedy", KeyRole::Reader)).await;
    let modest = create(&mut access, new_key("modest", KeyRole::Reader)).await;
    let modest = client(world.endpoint(), &modest.text).await;
    modest.list_meters().await.unwrap();
    let mut connections = Vec::new();
    let mut kept = Vec::new();
    for _ in 0..12 {
        let mut sender = connect(&world).await;
        for _ in 0..MAX_UNREAD {
            let key = Some(greedy.text.as_str());
            let answer = list_page(&mut sender, key, 100, "").await.unwrap();
            match answer.headers().get("grpc-status") {
                None => kept.push(answer),
                Some(status) => assert_eq!(status, "8", "RESOURCE_EXHAUSTED"),
            }
        }
        connections.push(sender);
    }
    assert_eq!(kept.len(), OF_KEY);
    for _ in 0..5 {
        let page = modest.list_reports(ListReports::new()).await;
        assert_eq!(page.unwrap().reports.len(), 100);
    }
    drop(kept);
    drop(connections);
    world.finish().await;
}

async fn timed_calls(client: &UsageClient) -> Latencies {
    let mut calls = Latencies::default();
    for number in 0..2 * MIN_CALLS {
        let begun = Instant::now();
        let counted = within("a call", client.increment("acct").into_future());
        counted.await.unwrap();
        calls.add(begun.elapsed());
        if number % 50 == 0 {
            let page = client.list_reports(ListReports::new().page_size(1));
            within("a page", page).await.unwrap();
        }
    }
    calls
}

async fn callers_that_read_no_answers_over_tls_do_not_slow_others(mut world: World) {
    insert_long_reports(&world).await;
    let secure = Secure::start(&mut world, false).await;
    let client = secure.client(None);
    let before = timed_calls(&client).await;
    let mut connections = Vec::new();
    let mut kept = Vec::new();
    for _ in 0..12 {
        let stream = secure.handshake(None, b"h2").await;
        let mut sender = begin(stream).await;
        for _ in 0..MAX_UNREAD {
            let answer = list_reports(&mut sender).await.unwrap();
            if answer.headers().get("grpc-status").is_none() {
                kept.push(answer);
            }
        }
        connections.push(sender);
    }
    assert!(kept.len() >= 40, "{} answers wait", kept.len());
    timed_calls(&client).await.assert_kept(&before);
    drop(kept);
    drop(connections);
    secure.stop(world).await;
}

/// A connection that allows the server to send no byte of an answer.
async fn connect(world: &World) -> SendRequest<Bytes> {
    let address = world.endpoint().trim_start_matches("http://").to_owned();
    begin(TcpStream::connect(address).await.unwrap()).await
}

async fn begin(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> SendRequest<Bytes> {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0);
    let (sender, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

/// An answer that is kept unread; `None` if the call was refused.
async fn unread_page(
    sender: &mut SendRequest<Bytes>,
    page_size: i32,
    account: &str,
) -> Option<http::Response<h2::RecvStream>> {
    let answer = list_page(sender, None, page_size, account).await.unwrap();
    let is_refused = answer.headers().get("grpc-status").is_some();
    (!is_refused).then_some(answer)
}

fn list_reports(sender: &mut SendRequest<Bytes>) -> ResponseFuture {
    list_page(sender, None, 100, "")
}

fn list_page(
    sender: &mut SendRequest<Bytes>,
    key: Option<&str>,
    page_size: i32,
    account: &str,
) -> ResponseFuture {
    let message = ListReportsRequest {
        account_id: account.to_owned(),
        page_size,
        ..ListReportsRequest::default()
    };
    let mut body = vec![0];
    let length = u32::try_from(message.encoded_len()).unwrap();
    body.extend(length.to_be_bytes());
    body.extend(message.encode_to_vec());
    let mut request = Request::post("http://localhost/usage.v1.UsageService/ListReports")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let request = request.body(()).unwrap();
    let (response, mut stream) = sender.send_request(request, false).unwrap();
    stream.send_data(body.into(), true).unwrap();
    response
}

/// A hundred corrections, ten kilobytes each.
async fn insert_long_reports(world: &World) {
    let note = "n".repeat(10_000);
    let mut sql = "INSERT INTO usage_reports (account_id, id, meter, window_start, window_end, period_end, closed_at, \
        quantity, first_at, last_at, state, kind, note) VALUES "
        .to_owned();
    for place in 0..100 {
        let comma = if place == 0 { "" } else { "," };
        write!(
            sql,
            "{comma} ('acct', unhex(printf('%032x', {place})), 'api_calls', 0, 3600000, 3600000, 0, 1, 0, 0, \
             'no_customer', 'correction', '{note}')"
        )
        .unwrap();
    }
    world.execute_sql(&sql).await;
}
