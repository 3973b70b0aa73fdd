//! TLS of the sockets of HTTP.

use usage_server::commands::health::{self, HealthCommand};

use super::*;
use crate::support::world::http::metric;

on_sqlite!(
    http_has_tls_and_webhooks_need_no_client_certificate,
    webhooks_that_share_a_socket_with_client_certificates_are_refused,
    the_command_health_asks_over_tls,
);

async fn http_has_tls_and_webhooks_need_no_client_certificate(mut world: World) {
    let flags = [
        "--webhook-listen=127.0.0.1:0",
        "--metrics-listen=127.0.0.1:0",
    ];
    let secure = Secure::start_with(&mut world, true, &flags).await;
    let own = secure.clients.as_ref().unwrap().sign("dashboard");
    first_call(&secure.client(Some(&own))).await;
    assert_eq!(
        secure.get("/health/live", Some(&own)).await.0,
        "HTTP/1.1 200 OK"
    );
    let anonymous = secure.authority.client_config(None, b"http/1.1");
    let http = secure.server.http_url();
    let refused = get(http, anonymous.clone(), "/health/live").await;
    assert!(refused.is_err(), "{refused:?}");
    let webhooks = secure.server.webhook_url();
    let answered = get(webhooks, anonymous.clone(), "/webhooks/stripe")
        .await
        .unwrap();
    assert_eq!(answered.0, "HTTP/1.1 405 Method Not Allowed");
    let metrics = secure.server.metrics_url();
    let answered = get(metrics, anonymous, "/metrics").await.unwrap();
    assert_eq!(answered.0, "HTTP/1.1 200 OK");
    // Their values are tested in a process that no other test shares.
    let expires = "usage_tls_certificate_expires_timestamp_seconds";
    assert!(metric(&answered.1, expires) > 0);
    secure.stop(world).await;
}

async fn webhooks_that_share_a_socket_with_client_certificates_are_refused(mut world: World) {
    world.stop().await;
    let folder = tempfile::tempdir().unwrap();
    let files = Files::new(folder.path(), &Authority::new().sign("127.0.0.1"));
    let server = start(&world, files.mutual_config(&Authority::new())).await;
    let refused = server.ended().await.unwrap_err().to_string();
    assert!(refused.contains("set WEBHOOK_LISTEN"), "{refused}");
    world.finish().await;
}

async fn the_command_health_asks_over_tls(mut world: World) {
    let flags = [
        "--webhook-listen=127.0.0.1:0",
        "--metrics-listen=127.0.0.1:0",
    ];
    let secure = Secure::start_with(&mut world, true, &flags).await;
    let metrics = address_of(secure.server.metrics_url()).parse().unwrap();
    let mut command = HealthCommand {
        addresses: world.config().addresses,
        tls: secure.files.mutual_config(secure.clients.as_ref().unwrap()),
        live: false,
        timeout: 60,
    };
    command.addresses.metrics_listen = Some(metrics);
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    let is_well = health::run(&command, &mut out, &mut notes).await.unwrap();
    let notes = String::from_utf8(notes).unwrap();
    assert_eq!(
        (is_well, out.as_slice()),
        (true, &b"ready\n"[..]),
        "{notes}"
    );
    secure.stop(world).await;
}

impl Secure {
    /// A GET request to the HTTP socket.
    pub(super) async fn get(&self, path: &str, own: Option<&Identity>) -> (String, String) {
        let config = self.authority.client_config(own, b"http/1.1");
        get(self.server.http_url(), config, path).await.unwrap()
    }
}

/// The first line of the answer, and all of it.
async fn get(url: &str, config: ClientConfig, path: &str) -> std::io::Result<(String, String)> {
    let mut stream = handshake(url, config).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    within("an answer", stream.read_to_string(&mut text)).await?;
    Ok((text.lines().next().unwrap_or_default().to_owned(), text))
}
