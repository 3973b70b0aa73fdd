//! Clients that speak the other thing, or do not end their handshake.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use usage_client::UsageClient;

use super::{PREFACE, Secure, address_of, assert_tls, first_call, handshake};
use crate::support::{
    certificates::Authority,
    python,
    world::{World, http::metric, on_sqlite, within},
};

on_sqlite!(
    plain_text_at_a_port_with_tls_is_told_so,
    grpcs_own_library_is_told_of_tls,
    a_handshake_that_does_not_end_is_closed,
    tls_at_a_port_without_it_is_told_so,
    silent_handshakes_lose_their_places_first,
);

/// How long a client may wait until it is told that it speaks the wrong thing.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// The places of the HTTP socket.
const HTTP_PLACES: usize = 512;

async fn plain_text_at_a_port_with_tls_is_told_so(mut world: World) {
    let secure = Secure::start(&mut world, false).await;
    first_call(&secure.client(None)).await;
    let grpc = address_of(secure.server.endpoint());
    let http = address_of(secure.server.http_url());
    // A library that speaks HTTP/2 shows this text.
    let refused = UsageClient::connect(format!("http://{grpc}")).await;
    let refused = match refused {
        Ok(plain) => tokio::time::timeout(TOLD_WITHIN, plain.increment("acct"))
            .await
            .expect("an answer")
            .unwrap_err(),
        Err(error) => error,
    };
    assert_tls(&refused, "this port needs TLS: use https://");
    for address in [grpc, http] {
        let text = answer(
            address,
            b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n",
        )
        .await;
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
        assert!(
            text.ends_with("this port needs TLS: use https://\n"),
            "{text}"
        );
    }
    let frames = answer(grpc, PREFACE).await;
    let text = b"this port needs TLS: use https://";
    assert!(frames.ends_with(text), "{frames:?}");
    secure.stop(world).await;
}

/// `GRPC_PYTHON` names a Python with gRPC's library, as in `.ci/run`.
async fn grpcs_own_library_is_told_of_tls(mut world: World) {
    let Some(python) = python::python("GRPC_PYTHON") else {
        return world.finish().await;
    };
    let secure = Secure::start(&mut world, false).await;
    first_call(&secure.client(None)).await;
    let address = address_of(secure.server.endpoint());
    let text = python::run(python, "grpc_plain_text.py", &[address]).await;
    assert!(text.contains("UNAVAILABLE"), "{text}");
    assert!(text.contains("this port needs TLS: use https://"), "{text}");
    secure.stop(world).await;
}

/// Silent, or in the middle of its first message.
async fn a_handshake_that_does_not_end_is_closed(mut world: World) {
    let secure = Secure::start(&mut world, false).await;
    first_call(&secure.client(None)).await;
    let timed_out = async || {
        let (_, metrics) = secure.get("/metrics", None).await;
        metric(
            &metrics,
            "usage_connections_refused_total{reason=\"handshake_timed_out\"}",
        )
    };
    let before = timed_out().await;
    for begin in [&[][..], &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]] {
        for url in [secure.server.endpoint(), secure.server.http_url()] {
            let mut stream = TcpStream::connect(address_of(url)).await.unwrap();
            stream.write_all(begin).await.unwrap();
            let mut rest = Vec::new();
            // A reset is an end too.
            let _ = within("the end", stream.read_to_end(&mut rest)).await;
        }
    }
    assert!(timed_out().await >= before + 4);
    secure.stop(world).await;
}

async fn tls_at_a_port_without_it_is_told_so(world: World) {
    let authority = Authority::new();
    let grpc = world.endpoint().to_owned();
    let http = world.http_url().to_owned();
    for (url, alpn) in [(&grpc, &b"h2"[..]), (&http, b"http/1.1")] {
        let config = authority.client_config(None, alpn);
        let connecting = tokio::time::timeout(TOLD_WITHIN, handshake(url, config));
        let error = connecting
            .await
            .expect("an answer")
            .unwrap_err()
            .to_string();
        assert!(error.contains("ProtocolVersion"), "{error}");
    }
    let client = UsageClient::builder(grpc.replace("http:", "https:"))
        .ca_certificate(&authority.pem)
        .connect_lazy()
        .unwrap();
    let refused = tokio::time::timeout(TOLD_WITHIN, client.increment("acct"));
    let refused = refused.await.expect("an answer").unwrap_err();
    assert_tls(&refused, "if it serves without TLS, use http://");
    world.count("acct", 1, world.now()).await;
    world.finish().await;
}

/// More than there are places, silent, or in the middle of a handshake.
async fn silent_handshakes_lose_their_places_first(mut world: World) {
    let secure = Secure::start(&mut world, false).await;
    let config = secure.authority.client_config(None, b"http/1.1");
    let mut open = handshake(secure.server.http_url(), config).await.unwrap();
    let mut ask = async || {
        let request = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n";
        open.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"live\n") {
            answer.push(within("an answer", open.read_u8()).await.unwrap());
        }
    };
    ask().await;
    let mut silent = Vec::new();
    for place in 0..HTTP_PLACES + 100 {
        let address = address_of(secure.server.http_url());
        let mut stream = TcpStream::connect(address).await.unwrap();
        if place % 2 == 0 {
            // The first bytes of a handshake. The server may have closed it already.
            let _ = stream
                .write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01])
                .await;
        }
        silent.push(stream);
        if place % 50 == 0 {
            // A new caller is answered meanwhile.
            assert_eq!(secure.get("/health/live", None).await.0, "HTTP/1.1 200 OK");
        }
    }
    // It is the oldest one, and kept its place.
    ask().await;
    drop(silent);
    secure.stop(world).await;
}

/// What a socket answers to bytes in plain text before it closes the connection.
async fn answer(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut read = Vec::new();
    let reading = tokio::time::timeout(TOLD_WITHIN, async {
        let mut byte = [0];
        while stream.read(&mut byte).await.unwrap() == 1 {
            read.push(byte[0]);
        }
    });
    reading.await.expect("an answer in time");
    read
}
