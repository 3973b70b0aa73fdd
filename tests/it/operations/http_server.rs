//! The HTTP server without the webhooks: health, metrics, and connections at the shutdown.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use usage_client::Increment;
use usage_server::Listeners;

use super::webhooks::{assert_status, event};
use crate::support::world::{
    World,
    http::{SECRET, http_get, http_post, metric},
    on_both_engines, on_postgres, on_sqlite, parse_config, within,
};

/// Less than a silent connection may take.
const HEALTH_LIMIT: Duration = Duration::from_secs(30);

on_sqlite!(
    webhooks_and_metrics_have_sockets_for_themselves,
    a_port_in_use_is_named_with_its_setting,
    a_large_head_is_refused,
);

on_both_engines!(
    health_and_metrics_are_served,
    an_idle_connection_does_not_delay_a_stop,
    unfinished_bodies_do_not_keep_a_webhook_out,
    silent_connections_do_not_keep_health_out,
);

on_postgres!(grpc_health_and_readiness_agree);

async fn health_and_metrics_are_served(world: World) {
    assert_eq!(world.http_get("/health/live").await.0, 200);
    assert_eq!(world.http_get("/health/ready").await.0, 200);
    assert_eq!(world.http_get("/elsewhere").await.0, 404);
    assert_eq!(world.http_get("/webhooks/stripe").await.0, 405);
    let grows = [
        r#"usage_increments_total{outcome="counted"}"#,
        r#"usage_calls_refused_total{reason="INVALID_FIELD"}"#,
        r#"usage_commit_increments_bucket{le="8192"}"#,
        "usage_commit_seconds_count",
        r#"usage_reports_total{transition="accepted"}"#,
        r#"usage_stripe_request_seconds_count{call="meter_event"}"#,
        r#"usage_webhooks_total{outcome="stored"}"#,
        r#"usage_webhooks_total{outcome="malformed_signature"}"#,
    ];
    let (_, before) = world.http_get("/metrics").await;
    world
        .link_to_new_customer("acct-in-no-label", "cus_in_no_label")
        .await;
    world
        .count("acct-in-no-label", 5, crate::support::world::hours_ago(1))
        .await;
    world.report_all().await;
    assert_status(
        &world.send_webhook(&event("evt_1", "invoice.created")).await,
        200,
    );
    assert_eq!(world.send_signed("{}", None).await.0, 400);
    let refused = world.client().increment(Increment::new("")).await;
    assert!(refused.is_err());
    let (status, metrics) = world.http_get("/metrics").await;
    assert_eq!(status, 200);
    for series in grows {
        let (before, after) = (metric(&before, series), metric(&metrics, series));
        assert!(after > before, "{series} is {after} and was {before}");
    }
    for line in [
        "# HELP usage_webhooks_total ",
        "# TYPE usage_commit_seconds histogram",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    for secret in ["in-no-label", "in_no_label", SECRET] {
        assert!(!metrics.contains(secret), "{secret} is in\n{metrics}");
    }
    world.finish().await;
}

async fn webhooks_and_metrics_have_sockets_for_themselves(mut world: World) {
    world
        .reconfigure(&[
            "--webhook-listen=127.0.0.1:0",
            "--metrics-listen=127.0.0.1:0",
        ])
        .await;
    let server = world.server();
    let (all, webhooks, metrics) = (
        server.http_url(),
        server.webhook_url(),
        server.metrics_url(),
    );
    let get = async |url: &str, path: &str| http_get(&format!("{url}{path}")).await;
    for url in [all, metrics] {
        assert_eq!(get(url, "/health/live").await, (200, "live\n".to_owned()));
        assert_eq!(get(url, "/health/ready").await, (200, "ready\n".to_owned()));
        assert_eq!(get(url, "/metrics").await.0, 200);
        let path = format!("{url}/webhooks/stripe");
        assert_eq!(http_post(&path).await.0, 404, "{url}");
    }
    for path in ["/health/live", "/health/ready", "/metrics", "/"] {
        assert_eq!(get(webhooks, path).await.0, 404, "{path}");
    }
    let path = format!("{webhooks}/webhooks/stripe");
    assert_eq!(http_post(&path).await.0, 400, "it has no signature");
    world.finish().await;
}

async fn a_port_in_use_is_named_with_its_setting(world: World) {
    let address = world.http_url().trim_start_matches("http://").to_owned();
    for setting in ["LISTEN", "HTTP_LISTEN", "WEBHOOK_LISTEN", "METRICS_LISTEN"] {
        let flag = setting.to_lowercase().replace('_', "-");
        let flags = [
            "--listen=127.0.0.1:0".to_owned(),
            "--http-listen=off".to_owned(),
            format!("--{flag}={address}"),
        ];
        // The last flag of a name is used.
        let flags: Vec<String> = flags
            .iter()
            .filter(|known| **known == flags[2] || !known.starts_with(&format!("--{flag}=")))
            .cloned()
            .collect();
        let config = parse_config(&flags).unwrap();
        let error = Listeners::bind(&config.addresses).await.unwrap_err();
        let error = error.to_string();
        let start = format!("cannot listen on {address} ({setting}): another program");
        assert!(error.starts_with(&start), "{error}");
    }
    world.finish().await;
}

/// Larger than any of Stripe's or of a browser.
async fn a_large_head_is_refused(world: World) {
    let line = format!(
        "GET /health/live HTTP/1.1\r\nx: {}\r\n\r\n",
        "a".repeat(40_000)
    );
    let answer = world.http_raw(line.into_bytes()).await;
    assert!(answer.contains(" 431 "), "{answer}");
    let many = "x: 1\r\n".repeat(1_000);
    let head = format!("GET /health/live HTTP/1.1\r\n{many}\r\n");
    let answer = world.http_raw(head.into_bytes()).await;
    assert!(answer.contains(" 431 "), "{answer}");
    assert_eq!(world.http_get("/health/live").await.0, 200);
    world.finish().await;
}

async fn grpc_health_and_readiness_agree(mut world: World) {
    let proxy = world.connect_through_proxy().await;
    let mut health = HealthClient::new(world.grpc_channel().await);
    let mut check = async || {
        let mut statuses = Vec::new();
        for service in ["", "usage.v1.UsageService", "usage.v1.AccountService"] {
            let service = service.to_owned();
            let answer = health.check(HealthCheckRequest { service }).await.unwrap();
            statuses.push(answer.into_inner().status());
        }
        statuses
    };
    assert_eq!(world.http_get("/health/ready").await.0, 200);
    assert_eq!(check().await, [ServingStatus::Serving; 3]);
    drop(proxy);
    let is_unready = async || world.http_get("/health/ready").await.0 == 503;
    world.wait_until("readiness to fail", is_unready).await;
    assert_eq!(check().await, [ServingStatus::NotServing; 3]);
    world.crash();
}

/// More than there are places for webhooks, and as many large ones as are read at once.
async fn unfinished_bodies_do_not_keep_a_webhook_out(mut world: World) {
    // As behind a proxy, whose address all callers have.
    world.reconfigure(&["--connections-per-address=0"]).await;
    let address = world.http_url().trim_start_matches("http://").to_owned();
    let mut unfinished = Vec::new();
    for place in 0..300 {
        let mut connection = TcpStream::connect(&address).await.unwrap();
        let length = if place < 32 { 500_000 } else { 100 };
        let head = format!(
            "POST /webhooks/stripe HTTP/1.1\r\nhost: localhost\r\n\
             stripe-signature: t=1,v1=00\r\ncontent-length: {length}\r\n\r\n{{"
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        unfinished.push(connection);
    }
    let body = event("evt_1", "invoice.created");
    assert_status(&world.send_webhook(&body).await, 200);
    drop(unfinished);
    world.finish().await;
}

/// More than there are places for connections, with and without the beginning of a request.
async fn silent_connections_do_not_keep_health_out(world: World) {
    let address = world.http_url().trim_start_matches("http://").to_owned();
    let mut busy = TcpStream::connect(&address).await.unwrap();
    let head = "POST /webhooks/stripe HTTP/1.1\r\nhost: localhost\r\n\
        stripe-signature: t=1,v1=00\r\ncontent-length: 100\r\n\r\n{";
    busy.write_all(head.as_bytes()).await.unwrap();
    let mut silent = Vec::new();
    for place in 0..600 {
        let mut connection = TcpStream::connect(&address).await.unwrap();
        if place % 2 == 0 {
            // The server may have closed it already.
            let _ = connection.write_all(b"GET /health/live HTTP/1.1\r\n").await;
        }
        silent.push(connection);
    }
    // Without a place it would wait until silent connections time out.
    let health = timeout(HEALTH_LIMIT, world.http_get("/health/live")).await;
    assert_eq!(health.expect("an answer in time").0, 200);
    let mut answer = vec![0; 12];
    within("an answer", busy.read_exact(&mut answer))
        .await
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&answer),
        "HTTP/1.1 408",
        "a request in progress keeps its connection"
    );
    drop(silent);
    world.finish().await;
}

async fn an_idle_connection_does_not_delay_a_stop(mut world: World) {
    let address = world.http_url().trim_start_matches("http://").to_owned();
    let idle = TcpStream::connect(address).await.unwrap();
    assert_eq!(world.http_get("/health/live").await.0, 200);
    world.stop().await;
    drop(idle);
    world.finish().await;
}
