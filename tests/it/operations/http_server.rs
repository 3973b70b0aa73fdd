//! The HTTP server without the webhooks: health, metrics, and connections at the shutdown.

use usage_client::Increment;

use super::webhooks::{assert_status, event};
use crate::support::world::{World, http::SECRET, on_both_engines};

on_both_engines!(
    health_and_metrics_are_served,
    an_idle_connection_does_not_delay_a_stop,
);

async fn health_and_metrics_are_served(world: World) {
    assert_eq!(world.http_get("/health/live").await.0, 200);
    assert_eq!(world.http_get("/health/ready").await.0, 200);
    assert_eq!(world.http_get("/elsewhere").await.0, 404);
    assert_eq!(world.http_get("/webhooks/stripe").await.0, 405);
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
    for line in [
        r#"usage_increments_total{outcome="counted"} "#,
        r#"usage_calls_refused_total{reason="INVALID_FIELD"} "#,
        r#"usage_commit_increments_bucket{le="8192"} "#,
        "usage_commit_seconds_count ",
        r#"usage_reports_total{transition="accepted"} "#,
        r#"usage_stripe_request_seconds_count{call="meter_event"} "#,
        r#"usage_webhooks_total{outcome="stored"} "#,
        r#"usage_webhooks_total{outcome="malformed_signature"} "#,
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

async fn an_idle_connection_does_not_delay_a_stop(mut world: World) {
    let address = world.http_url().trim_start_matches("http://").to_owned();
    let idle = tokio::net::TcpStream::connect(address).await.unwrap();
    assert_eq!(world.http_get("/health/live").await.0, 200);
    world.stop().await;
    drop(idle);
    world.finish().await;
}
