//! Two replicas: one sends, and the other takes over when the first crashes or stops.

use fake_stripe::{FakeStripe, Fault, Settings};
use usage_client::{ForceReport, ReportState};

use crate::support::world::{Server, TIMEOUT, World, hours_ago, on_postgres};

on_postgres!(
    only_the_lease_holder_sends,
    reports_of_a_crashed_replica_are_sent_by_another,
    a_stopping_replica_releases_its_lease,
);

/// Starts a second replica with another fake Stripe, so that tests see which replica sent, and creates an account in
/// both.
async fn second(world: &World) -> (Server, FakeStripe) {
    let stripe = FakeStripe::start(Settings::default()).await.unwrap();
    // The same meter: the account is recognised by it.
    let meters = world.stripe().meters().await.unwrap();
    let meter = meters.iter().find(|meter| meter.event_name == "api_calls");
    let control = stripe.control();
    control
        .create_meter_with_id(&meter.unwrap().id, "api_calls")
        .await
        .unwrap();
    stripe
        .control()
        .create_subscribed_customer("cus_acct")
        .await
        .unwrap();
    world.link_to_new_customer("acct", "cus_acct").await;
    // The replica that sent has the lease.
    world.count("acct", 1, hours_ago(1)).await;
    assert_eq!(world.report_all().await.accepted.quantity, 1);
    let mut config = world.config();
    config.stripe.stripe_api_base = Some(stripe.base_url().to_owned());
    (Server::start(config, world.clock.clone()).await, stripe)
}

async fn only_the_lease_holder_sends(world: World) {
    let (replica, others) = second(&world).await;
    for round in 0..5 {
        world.count("acct", 5, hours_ago(1)).await;
        let client = if round % 2 == 0 {
            replica.client().await
        } else {
            world.client()
        };
        let run = client.force_report(ForceReport::all()).await.unwrap();
        assert_eq!(run.summary().await.unwrap().accepted.quantity, 5);
    }
    assert_eq!(others.control().stats().await.unwrap().events, 0);
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 26);
    replica.stop().await.unwrap();
    world.finish().await;
}

async fn reports_of_a_crashed_replica_are_sent_by_another(mut world: World) {
    let (replica, others) = second(&world).await;
    world.count("acct", 5, hours_ago(1)).await;
    world
        .stripe()
        .script(Fault::block_until_released("gate").on_path("/v1/billing/meter_events"))
        .await
        .unwrap();
    let run = world
        .client()
        .force_report(ForceReport::all())
        .await
        .unwrap();
    let id = run.run_id().unwrap().to_owned();
    world
        .stripe()
        .wait_for_blocked("gate", 1, TIMEOUT)
        .await
        .unwrap();
    world.crash();
    let watched = replica
        .client()
        .await
        .force_report(ForceReport::watch(id))
        .await
        .unwrap();
    assert_eq!(
        others.control().stats().await.unwrap().events,
        0,
        "the lease is still valid"
    );
    world.expire_leases().await;
    others.control().wait_for_events(1, TIMEOUT).await.unwrap();
    assert_eq!(watched.summary().await.unwrap().accepted.quantity, 5);
    let begun = world.attempts_for("cus_acct").await.pop().unwrap();
    let sent = others.control().events().await.unwrap().pop().unwrap();
    assert_eq!(begun.identifier, Some(sent.identifier), "the same event");
    replica.stop().await.unwrap();
    world.finish().await;
}

async fn a_stopping_replica_releases_its_lease(mut world: World) {
    let (replica, others) = second(&world).await;
    world.stop().await;
    world.start_server().await;
    world.count("acct", 5, hours_ago(1)).await;
    world.report_all().await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    // Either replica may have the lease.
    let here = world.stripe_total("cus_acct", "api_calls").await;
    let there = others.control().stats().await.unwrap().events;
    assert!(
        (here, there) == (6, 0) || (here, there) == (1, 1),
        "{here} {there}"
    );
    replica.stop().await.unwrap();
    world.finish().await;
}
