//! Validates all requests of the service against Stripe's API description, from setup to the last cancellation.

mod description;
mod detection;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use clap::Parser;
use fake_stripe::{Fault, LoggedRequest, NewPrice, NewSubscription};
use usage_client::{CancelSubscription, ChangePlan, Reconcile, ReportState};
use usage_server::{
    commands::doctor::diagnose,
    commands::setup::{SetupConfig, set_up},
};

use crate::support::world::{
    World, at,
    billing::{BASIC, PRO, SEATS},
    on_both_engines, within,
};
use description::Description;

on_both_engines!(every_request_matches_stripes_description);

const START: &str = "2027-03-10T13:12:34Z";
const END: &str = "2027-04-10T13:12:34Z";
const EVENTS: &str = "/v1/billing/meter_events";

/// All endpoints that the service calls, and the top-level parameters that it sends. The test must observe each of
/// them, so that none is dropped from the check unnoticed, and no others.
const CALLED: [(&str, &[&str]); 20] = [
    ("DELETE /v1/subscriptions/{id}", &["invoice_now", "prorate"]),
    ("GET /v1/account", &[]),
    ("GET /v1/balance", &[]),
    ("GET /v1/billing/meters", &["limit"]),
    ("GET /v1/billing/meters/{id}", &[]),
    (
        "GET /v1/billing/meters/{id}/event_summaries",
        &[
            "customer",
            "end_time",
            "limit",
            "start_time",
            "value_grouping_window",
        ],
    ),
    ("GET /v1/customers/{id}", &[]),
    ("GET /v1/invoices", &["created", "limit", "subscription"]),
    ("GET /v1/invoices/{id}/lines", &["limit"]),
    (
        "GET /v1/prices",
        &["active", "expand", "limit", "lookup_keys", "recurring"],
    ),
    ("GET /v1/prices/{id}", &[]),
    ("GET /v1/products/{id}", &[]),
    (
        "GET /v1/subscriptions",
        &["customer", "limit", "starting_after", "status"],
    ),
    ("GET /v1/subscriptions/{id}", &[]),
    (
        "POST /v1/billing/meter_events",
        &["event_name", "identifier", "payload", "timestamp"],
    ),
    (
        "POST /v1/billing/meters",
        &[
            "customer_mapping",
            "default_aggregation",
            "display_name",
            "event_name",
            "value_settings",
        ],
    ),
    (
        "POST /v1/prices",
        &[
            "billing_scheme",
            "currency",
            "lookup_key",
            "nickname",
            "product",
            "recurring",
            "tiers",
            "tiers_mode",
        ],
    ),
    ("POST /v1/products", &["id", "name", "unit_label"]),
    ("POST /v1/products/{id}", &["metadata"]),
    (
        "POST /v1/subscriptions/{id}",
        &[
            "cancel_at_period_end",
            "items",
            "metadata",
            "proration_behavior",
        ],
    ),
];

async fn every_request_matches_stripes_description(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world.with_prices_at(now).await;
    link(&mut world).await;
    send(&world, now).await;
    change(&world).await;
    lose_one(&world).await;
    let end = at(END);
    world.move_clocks(end).await;
    world.advance_past_draft(end).await;
    let client = world.client();
    let month = Reconcile::new().period(at(START), end);
    let found = client.reconcile(month).await.unwrap().rows;
    assert!(
        found.iter().any(|row| row.stripe_total == Ok(13)),
        "{found:?}"
    );
    let cancel = CancelSubscription::now("acct").prorate(true);
    world
        .while_clock_moves(client.cancel_subscription(cancel))
        .await
        .unwrap();
    set_up_twice(&world).await;
    let config = world.doctor_config();
    within("a diagnosis", diagnose(&config, &world.clock))
        .await
        .unwrap();

    let later = world.now() + TimeDelta::seconds(10);
    world.advance_to(later, TimeDelta::seconds(10)).await;
    // A request that the service makes meanwhile only adds to the log.
    let total = world.stripe().stats().await.unwrap().requests;
    let requests = world.stripe().requests().await.unwrap();
    assert!(total <= requests.len() as u64, "the log holds all of them");
    assert_eq!(
        seen(&requests),
        CALLED
            .map(|(endpoint, params)| (
                endpoint.to_owned(),
                params.iter().map(|name| (*name).to_owned()).collect()
            ))
            .into()
    );
    world.finish().await;
}

/// The endpoints of these requests, each with its top-level parameters. Panics if a request does not match the
/// description.
fn seen(requests: &[LoggedRequest]) -> BTreeMap<String, BTreeSet<String>> {
    let description = Description::new();
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut wrong = BTreeSet::new();
    for request in requests {
        let names = request.params.iter().map(|(name, _)| name);
        let outermost = names.map(|name| name.split('[').next().unwrap().to_owned());
        match description.check(request) {
            Ok(endpoint) => seen.entry(endpoint).or_default().extend(outermost),
            Err(why) => {
                let LoggedRequest {
                    method,
                    path,
                    params,
                    ..
                } = request;
                wrong.insert(format!("{method} {path} {params:?}: {why}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    seen
}

/// Creates accounts whose customers have many prices on one invoice, one price, and no subscription, and enough other
/// subscriptions for a list of two pages.
async fn link(world: &mut World) {
    let stripe = world.stripe();
    let seats: Vec<String> = (0..10)
        .map(|number| format!("price_seats_{number}"))
        .collect();
    for price in &seats {
        let price = NewPrice::licensed(price, "prod_seats", "100");
        stripe.create_price(&price).await.unwrap();
    }
    let mut prices = vec![BASIC, SEATS];
    prices.extend(seats.iter().map(String::as_str));
    world.subscribe("acct", &prices, at(START)).await;
    world.subscribe("ending", &[BASIC], at(START)).await;
    world.subscribe("gone", &[BASIC], at(START)).await;
    for customer in ["cus_bare", "cus_others"] {
        stripe.create_subscribed_customer(customer).await.unwrap();
    }
    for number in 0..100 {
        let other = NewSubscription {
            id: format!("sub_other_{number}"),
            customer: "cus_others".to_owned(),
            prices: vec![SEATS.to_owned()],
            anchor: Some(at(START).timestamp()),
            ..NewSubscription::default()
        };
        stripe.create_subscription(&other).await.unwrap();
    }
    world.receive_webhooks().await;
    for account in ["acct", "ending", "gone", "bare"] {
        world.link_to_subscription(account).await;
    }
}

/// Sends usage, some of it twice under one identifier, and deletes a customer.
async fn send(world: &World, now: DateTime<Utc>) {
    world.count("acct", 11, now - TimeDelta::days(1)).await;
    world.count("acct", 2, now).await;
    world.count("ending", 7, now).await;
    let lost_answer = Fault::accept_then_drop().on_path(EVENTS);
    world.stripe().script(lost_answer).await.unwrap();
    world.report_all().await;
    world
        .advance_to(now + TimeDelta::minutes(2), TimeDelta::minutes(1))
        .await;
    for account in ["acct", "ending"] {
        let done = [ReportState::Accepted, ReportState::Confirmed];
        world.wait_until_reports_are(account, &done).await;
    }
    let sent = world.all_attempts().await;
    let identifiers: BTreeSet<_> = sent.iter().map(|one| one.identifier.clone()).collect();
    assert!(identifiers.len() < sent.len(), "one was sent twice");
    world.stripe().delete_customer("cus_gone").await.unwrap();
    world
        .wait_until_subscription("gone", |known| known.ended_at.is_some())
        .await;
}

/// Changes one plan, and lets another subscription end with its period.
async fn change(world: &World) {
    let client = world.client();
    let change = ChangePlan::new("acct", PRO);
    world
        .while_clock_moves(client.change_plan(change))
        .await
        .unwrap();
    let cancel = CancelSubscription::at_period_end("ending");
    client.cancel_subscription(cancel).await.unwrap();
}

/// Stripe loses an event, so that verification compares hours and minutes.
async fn lose_one(world: &World) {
    let lose = Fault::lose().on_path(EVENTS);
    world.stripe().script(lose).await.unwrap();
    let now = world.now();
    world.count("ending", 3, now).await;
    world.report_all().await;
    world
        .advance_to(now + TimeDelta::days(2), TimeDelta::hours(6))
        .await;
    world
        .wait_until("verification has found it missing", async || {
            world
                .reports("ending")
                .await
                .iter()
                .any(|one| one.state == ReportState::Missing)
        })
        .await;
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: SetupConfig,
}

/// Runs setup for an existing meter and a new one, with every kind of tier and a unit that is too long for Stripe. A
/// second run finds them.
async fn set_up_twice(world: &World) {
    let (base, key) = world.stripe_address();
    let address = [
        format!("--stripe-secret-key={key}"),
        format!("--stripe-api-base={base}"),
    ];
    let flags = [
        "setup",
        "--meters=api_calls:call,seconds=cpu_seconds:second of a processor",
        "--default-meter=api_calls",
        "--tier=api_calls:1000=0.50+2000",
        "--tier=api_calls:inf=0.25",
        "--tier=seconds:inf=+99",
    ];
    let all = flags.map(str::to_owned).into_iter().chain(address);
    let config = Cli::try_parse_from(all).unwrap().config;
    for _ in 0..2 {
        let report = within("a set-up", set_up(&config)).await.unwrap();
        assert!(report.is_healthy(), "{report}");
    }
}
