//! The doctor's checks of Stripe: meters, prices, customers and their subscriptions.

use fake_stripe::{Fault, NewPrice};
use usage_client::PutAccount;
use usage_server::commands::doctor::Severity;

use super::{
    assert_bad, assert_finding, assert_only_bad, examine, healthy, meter_id, subscribe,
    subscribe_in, volume_price,
};
use crate::support::world::{World, hours_ago, on_both_engines};

on_both_engines!(
    doctor_reports_missing_archived_or_differently_summed_meters,
    doctor_reports_prices_without_volume_tiers,
    doctor_reports_deleted_or_unsubscribed_customers,
    doctor_reports_subscriptions_without_a_metered_item,
    doctor_reports_usage_billed_twice,
    doctor_reports_classic_subscriptions_on_every_page,
);

async fn doctor_reports_missing_archived_or_differently_summed_meters(mut world: World) {
    let base = world.config().stripe.stripe_api_base.unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let form = [
        ("display_name", "Calls"),
        ("event_name", "counted"),
        ("default_aggregation[formula]", "count"),
    ];
    let made = http
        .post(format!("{base}/v1/billing/meters"))
        .bearer_auth("sk_test_fake")
        .form(&form);
    assert!(made.send().await.unwrap().status().is_success());
    world.stripe().deactivate_meter("llm_tokens").await.unwrap();
    let meters = "--meters=api_calls,tokens=llm_tokens,counted,none";
    world.reconfigure(&[meters]).await;
    let diagnosis = examine(&world).await;
    assert_finding(&diagnosis, Severity::Ok, "meter", &["api_calls"]);
    assert_bad(&diagnosis, "meter", &["tokens", "archived"]);
    assert_bad(&diagnosis, "meter", &["counted", "aggregation is count"]);
    assert_bad(&diagnosis, "meter", &["none", "Stripe has no meter"]);
    world.finish().await;
}

async fn doctor_reports_prices_without_volume_tiers(world: World) {
    healthy(&world).await;
    let meter = meter_id(&world, "api_calls").await;
    let stripe = world.stripe();
    for price in [
        NewPrice::per_unit("price_unit", "prod_calls", &meter, "1"),
        NewPrice {
            tiers_mode: Some("graduated".to_owned()),
            ..NewPrice::volume("price_grad", "prod_calls", &meter, &[(None, "1")])
        },
        // Neither is a metered price of a product in use.
        NewPrice::per_unit("price_else", "prod_else", &meter, "1"),
        NewPrice::licensed("price_seat", "prod_calls", "100"),
    ] {
        stripe.create_price(&price).await.unwrap();
    }
    world
        .link_to_unsubscribed_customer("other", "cus_other")
        .await;
    subscribe(
        &world,
        "cus_other",
        "sub_other",
        &["price_unit", "price_seat"],
    )
    .await;
    let diagnosis = examine(&world).await;
    let unit = "price_unit of prod_calls (on sub_other)";
    let graduated = "price_grad of prod_calls (on no subscription)";
    assert_only_bad(&diagnosis, "prices", &[unit, graduated]);
    let text = diagnosis.to_string();
    assert!(
        !text.contains("price_else") && !text.contains("price_seat"),
        "{text}"
    );
    world.finish().await;
}

async fn doctor_reports_deleted_or_unsubscribed_customers(world: World) {
    healthy(&world).await;
    for number in 0..7 {
        let customer = format!("cus_deleted_{number}");
        world
            .link_to_unsubscribed_customer(&format!("deleted_{number}"), &customer)
            .await;
        world.stripe().delete_customer(&customer).await.unwrap();
    }
    // It was linked while Stripe did not answer.
    let silent = Fault::status(503).on_method("GET").always();
    world.stripe().script(silent).await.unwrap();
    let ghost = PutAccount::stripe("ghost", "cus_ghost");
    let ghost = world.client().put_account(ghost).await.unwrap();
    assert!(ghost.is_unverified);
    world.stripe().clear_faults().await.unwrap();
    world
        .link_to_unsubscribed_customer("idle", "cus_idle")
        .await;
    let diagnosis = examine(&world).await;
    assert_bad(
        &diagnosis,
        "customers",
        &["deleted", "cus_deleted_0 (deleted_0)", "and 2 more"],
    );
    assert_bad(
        &diagnosis,
        "customers",
        &["not found at Stripe", "cus_ghost (ghost)"],
    );
    assert_finding(
        &diagnosis,
        Severity::Warn,
        "customers",
        &["without a subscription", "cus_idle (idle)"],
    );
    assert!(!diagnosis.to_string().contains("cus_acct"), "{diagnosis}");
    world.finish().await;
}

async fn doctor_reports_subscriptions_without_a_metered_item(world: World) {
    healthy(&world).await;
    let seat = NewPrice::licensed("price_seat", "prod_seats", "100");
    world.stripe().create_price(&seat).await.unwrap();
    world
        .link_to_unsubscribed_customer("seats", "cus_seats")
        .await;
    subscribe(&world, "cus_seats", "sub_seats", &["price_seat"]).await;
    let diagnosis = examine(&world).await;
    assert_only_bad(
        &diagnosis,
        "subscriptions",
        &["no item of any", "cus_seats (seats)"],
    );

    // A plan without the meter `tokens` is no problem until there is usage of that meter.
    world.count_of("acct", "tokens", 9, hours_ago(1)).await;
    world.report_all().await;
    let diagnosis = examine(&world).await;
    assert_bad(
        &diagnosis,
        "subscriptions",
        &[
            "usage of meter tokens, but no item of it",
            "cus_acct (acct)",
        ],
    );
    world.finish().await;
}

async fn doctor_reports_usage_billed_twice(world: World) {
    healthy(&world).await;
    let meter = meter_id(&world, "api_calls").await;
    let other = NewPrice::volume("price_more", "prod_calls", &meter, &[(None, "2")]);
    world.stripe().create_price(&other).await.unwrap();
    world.link_to_unsubscribed_customer("two", "cus_two").await;
    subscribe(&world, "cus_two", "sub_two", &["price_calls", "price_more"]).await;
    let words = [
        "more than once",
        "cus_two (two) 2 items of api_calls on sub_two",
    ];
    assert_only_bad(&examine(&world).await, "subscriptions", &words);

    subscribe(&world, "cus_acct", "sub_again", &["price_more"]).await;
    let words = ["cus_acct (acct) 2 items of api_calls on sub_acct and sub_again"];
    assert_only_bad(&examine(&world).await, "subscriptions", &words);
    world.finish().await;
}

async fn doctor_reports_classic_subscriptions_on_every_page(world: World) {
    volume_price(&world).await;
    world
        .link_to_unsubscribed_customer("acct", "cus_acct")
        .await;
    subscribe_in(&world, "cus_acct", "sub_classic", &["price_calls"], true).await;
    world.stripe().create_customer("cus_many").await.unwrap();
    for number in 0..101 {
        // A customer without an account is ignored.
        let id = format!("sub_{number}");
        subscribe_in(&world, "cus_many", &id, &["price_calls"], true).await;
    }
    let diagnosis = examine(&world).await;
    assert_only_bad(
        &diagnosis,
        "subscriptions",
        &["classic", "refused: sub_classic"],
    );
    assert!(
        diagnosis
            .findings
            .iter()
            .all(|finding| !finding.fact.contains("sub_1"))
    );
    world.finish().await;
}
