//! The sockets that have the services over HTTP, and the protocols below: HTTP/1.1, HTTP/2 and TLS.

use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    super::{access::first_admin, tls::Secure},
    GET, INCREMENT, JSON, call, envelope, post, send,
};
use crate::support::world::{World, on_both_engines, on_sqlite, within};

on_both_engines!(http_2_without_tls_is_served);

on_sqlite!(
    sockets_of_webhooks_and_metrics_have_no_services,
    tls_has_http_2_and_http_1,
    a_certificate_has_its_role_over_http,
    a_stop_answers_what_was_begun,
    a_body_in_chunks_is_read,
);

async fn sockets_of_webhooks_and_metrics_have_no_services(mut world: World) {
    world
        .reconfigure(&[
            "--webhook-listen=127.0.0.1:0",
            "--metrics-listen=127.0.0.1:0",
        ])
        .await;
    let server = world.server();
    let message = r#"{"accountId":"acct"}"#;
    for url in [server.webhook_url(), server.metrics_url()] {
        for path in [INCREMENT, GET, "/grpc.health.v1.Health/Check"] {
            let answer = send("POST", &format!("{url}{path}"), &[JSON], message).await;
            assert_eq!(answer.status, 404, "{url}{path}");
            let web = [("content-type", "application/grpc-web")];
            let answer = send("POST", &format!("{url}{path}"), &web, envelope(0, b"")).await;
            assert_eq!(answer.status, 404, "{url}{path}");
        }
        let answer = send("GET", &format!("{url}/openapi.json"), &[], "").await;
        assert_eq!(answer.status, 404, "{url}");
        // Nor do they speak HTTP/2.
        let address = url.trim_start_matches("http://");
        let stream = TcpStream::connect(address).await.unwrap();
        let spoken = h2_call(stream, GET, &json!({ "accountId": "acct" })).await;
        assert!(spoken.is_err(), "{spoken:?}");
    }
    assert_eq!(world.count_rows("all_reports").await, 0);
    let on_http = call(&world, INCREMENT, None, &json!({ "accountId": "acct" })).await;
    assert_eq!(on_http.status, 200);
    world.finish().await;
}

/// Calls a method over HTTP/2.
async fn h2_call<T>(stream: T, path: &str, message: &Value) -> Result<(u16, Value), h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    within("an answer over HTTP/2", async {
        let (sender, connection) = h2::client::handshake(stream).await?;
        tokio::spawn(connection);
        let mut sender = sender.ready().await?;
        let request = Request::builder()
            .method("POST")
            .uri(format!("http://localhost{path}"))
            .header("content-type", "application/json");
        let (response, mut body) = sender.send_request(request.body(()).unwrap(), false)?;
        // A server that answers without the message ends the stream, so only the answer says whether it failed.
        let _ = body.send_data(Bytes::from(message.to_string()), true);
        let response: Response<h2::RecvStream> = response.await?;
        let status = response.status().as_u16();
        let (mut text, mut body) = (Vec::new(), response.into_body());
        while let Some(data) = body.data().await {
            text.extend(data?);
        }
        Ok((status, serde_json::from_slice(&text).unwrap_or_default()))
    })
    .await
}

async fn http_2_without_tls_is_served(world: World) {
    let address = world.http_url().trim_start_matches("http://").to_owned();
    let connect = async || TcpStream::connect(&address).await.unwrap();
    let increment = json!({ "accountId": "acct", "quantity": 4 });
    let counted = h2_call(connect().await, INCREMENT, &increment)
        .await
        .unwrap();
    assert_eq!(counted, (200, json!({})));
    let account = json!({ "accountId": "acct" });
    let (status, got) = h2_call(connect().await, GET, &account).await.unwrap();
    assert_eq!(status, 200);
    assert_eq!(got["meters"][0]["quantities"]["total"], "4");
    // Another path of the same socket.
    let (status, _) = h2_call(connect().await, "/health/live", &account)
        .await
        .unwrap();
    assert_eq!(status, 405);
    world.finish().await;
}

async fn tls_has_http_2_and_http_1(mut world: World) {
    let secure = Secure::start(&mut world, false).await;
    let increment = json!({ "accountId": "acct" });
    let stream = secure.http_handshake(None, b"h2").await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let counted = h2_call(stream, INCREMENT, &increment).await.unwrap();
    assert_eq!(counted, (200, json!({})));
    let mut stream = secure.http_handshake(None, b"http/1.1").await;
    let text = increment.to_string();
    let request = format!(
        "POST {INCREMENT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    secure.stop(world).await;
}

async fn a_certificate_has_its_role_over_http(mut world: World) {
    let roles = ["CN:dash=reader"];
    let secure = Secure::start_with_roles(&mut world, &roles).await;
    let clients = secure.clients.as_ref().unwrap();
    let own = clients.sign_subjects("dash", "any", "spiffe://example.com/any", "any@example.com");
    let account = json!({ "accountId": "acct" });
    let stream = secure.http_handshake(Some(&own), b"h2").await;
    let got = h2_call(stream, GET, &account).await.unwrap();
    assert_eq!(got.0, 200, "{}", got.1);
    let stream = secure.http_handshake(Some(&own), b"h2").await;
    let refused = h2_call(stream, INCREMENT, &account).await.unwrap();
    assert_eq!(
        (refused.0, &refused.1["code"]),
        (403, &json!("permission_denied"))
    );
    secure.stop(world).await;
}

async fn a_stop_answers_what_was_begun(mut world: World) {
    let (_, admin) = first_admin(&world).await;
    let address = world.http_url().trim_start_matches("http://").to_owned();
    let stream = TcpStream::connect(&address).await.unwrap();
    let (idle, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let list = "/usage.v1.UsageService/ListMeters";
    assert_eq!(
        call(&world, list, Some(&admin), &json!({})).await.status,
        200
    );
    world.stop().await;
    // The idle connection was told, and closed.
    drop(idle);
    within("the end of the connection", connection)
        .await
        .unwrap()
        .unwrap();
    world.finish().await;
}

async fn a_body_in_chunks_is_read(world: World) {
    let address = world.http_url().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {INCREMENT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    for part in ["{\"account", "Id\":\"acct\"", "}"] {
        let chunk = format!("{:x}\r\n{part}\r\n", part.len());
        stream.write_all(chunk.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.ends_with("{}"), "{answer}");
    let again = post(&world, GET, &[JSON], r#"{"accountId":"acct"}"#).await;
    assert_eq!(again.json()["meters"][0]["quantities"]["total"], "1");
    world.finish().await;
}
