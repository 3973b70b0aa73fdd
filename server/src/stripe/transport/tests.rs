use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
};

use super::*;

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-length: 2\r\n\r\n{}";

fn transport(base: &str) -> Transport {
    Transport::new("sk_test_x", Some(base), Reporting::On).unwrap()
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A socket that is bound and does not listen, so that nothing else gets its port.
fn nowhere() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

async fn read_request(stream: &mut TcpStream) {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "closed");
    }
}

async fn why_not_sent(transport: &Transport) -> String {
    match transport.get("/v1/balance").await {
        Err(RequestError::NotSent(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_refused_connection_sends_nothing() {
    let (_socket, address) = nowhere();
    let why = why_not_sent(&transport(&format!("http://{address}"))).await;
    assert!(why.contains("refused"), "{why}");
}

#[tokio::test]
async fn an_unknown_name_sends_nothing() {
    // No name below `.invalid` exists.
    why_not_sent(&transport("http://stripe.invalid")).await;
}

#[tokio::test]
async fn a_failed_tls_handshake_sends_nothing() {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"this is not TLS").await.unwrap();
    });
    why_not_sent(&transport(&format!("https://{address}"))).await;
    server.await.unwrap();
}

#[tokio::test]
async fn a_silent_tls_handshake_sends_nothing() {
    let (listener, address) = listen().await;
    let mut transport = transport(&format!("https://{address}"));
    transport.http = client(Duration::from_millis(50));
    let why = why_not_sent(&transport).await;
    assert!(why.contains("no connection within 50ms"), "{why}");
    drop(listener);
}

#[tokio::test]
async fn a_connection_that_ends_after_the_request_leaves_it_open_whether_it_arrived() {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
    });
    let answer = transport(&format!("http://{address}"))
        .get("/v1/balance")
        .await;
    assert!(
        matches!(answer, Err(RequestError::NoAnswer(_))),
        "{answer:?}"
    );
    server.await.unwrap();
}

#[tokio::test]
async fn connections_are_kept_and_dates_are_read() {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        // All requests come over the first connection.
        let (mut stream, _) = listener.accept().await.unwrap();
        for _ in 0..3 {
            read_request(&mut stream).await;
            stream.write_all(ANSWER).await.unwrap();
        }
    });
    let transport = transport(&format!("http://{address}/"));
    assert!(transport.last_date().is_none());
    for _ in 0..3 {
        let answer = transport.get("/v1/balance").await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert_eq!(transport.last_date().unwrap().date, 784_111_777_000);
    server.await.unwrap();
}

#[tokio::test]
async fn one_request_at_a_time_tries_to_reach_stripe() {
    let (socket, address) = nowhere();
    let mut transport = transport(&format!("http://{address}"));
    transport.try_interval = Duration::MAX;
    let why = why_not_sent(&transport).await;
    // It can be reached again, but it is too early to try.
    let listener = socket.listen(8).unwrap();
    assert_eq!(why_not_sent(&transport).await, why);
    transport.try_interval = Duration::ZERO;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for _ in 0..2 {
            read_request(&mut stream).await;
            stream.write_all(ANSWER).await.unwrap();
        }
    });
    transport.get("/v1/balance").await.unwrap();
    transport.try_interval = Duration::MAX;
    transport.get("/v1/balance").await.unwrap();
    server.await.unwrap();
}

#[tokio::test]
async fn refusals_of_too_many_meter_events_are_counted() {
    use stripe_billing::{billing_meter::ListBillingMeter, invoice::ListInvoice};

    let (listener, address) = listen().await;
    let answers = ["rate_limit", "lock_timeout", "rate_limit"].map(|code| {
        let body = format!("{{\"error\":{{\"code\":\"{code}\"}}}}");
        let length = body.len();
        format!("HTTP/1.1 429 Too Many Requests\r\ncontent-length: {length}\r\n\r\n{body}")
    });
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for answer in answers {
            read_request(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let transport = transport(&format!("http://{address}/"));
    for _ in 0..2 {
        let refused = ListBillingMeter::new().send(&transport).await;
        assert!(refused.is_err());
        assert_eq!(transport.throttled(), 1, "a locked customer is no limit");
    }
    // Other requests have another limit.
    let refused = ListInvoice::new().send(&transport).await;
    assert!(refused.is_err());
    assert_eq!(transport.throttled(), 1);
    server.await.unwrap();
}

#[test]
fn an_invalid_url_or_key_is_named() {
    let error = |key, base| {
        Transport::new(key, Some(base), Reporting::On)
            .err()
            .unwrap()
    };
    assert!(error("sk_test_x", "stripe").contains("\"stripe\""));
    assert!(!error("sk_test\n", "http://127.0.0.1").contains("sk_test"));
}

#[test]
fn an_http_date_is_parsed() {
    let parse = |text| parse_date(&HeaderValue::from_static(text));
    assert_eq!(
        parse("Sun, 06 Nov 1994 08:49:37 GMT"),
        Some(784_111_777_000)
    );
    assert_eq!(parse("yesterday"), None);
}

#[tokio::test]
async fn in_shadow_mode_only_reading_reaches_stripe() {
    let (listener, address) = listen().await;
    let shadow = Transport::new(
        "sk_test_x",
        Some(&format!("http://{address}")),
        Reporting::Shadow,
    )
    .unwrap();
    for method in [Method::POST, Method::DELETE, Method::PUT, Method::PATCH] {
        let refused = shadow.ask(method.clone(), "/v1/invoices?limit=1").await;
        let Err(RequestError::InShadow(what)) = refused else {
            panic!("{method}: {refused:?}")
        };
        assert_eq!(what, format!("{method} /v1/invoices"));
    }
    // The first connection is that of the reading request.
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "closed");
        }
        stream.write_all(ANSWER).await.unwrap();
        String::from_utf8(seen).unwrap()
    });
    shadow.get("/v1/balance").await.unwrap();
    assert!(server.await.unwrap().starts_with("GET /v1/balance "));
}
