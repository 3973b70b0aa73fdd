//! One meter on the items of two subscriptions of a customer: each unit belongs on one invoice. Where two charge it, that
//! is told; where one of them is in its trial or paused, nothing is.

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::NewSubscription;
use usage_client::{InvoiceFinding, Reconcile};
use usage_server::commands::doctor::Severity;

use crate::support::world::{World, at, billing::TOKENS, on_both_engines};

on_both_engines!(
    usage_that_two_items_charge_is_told_once,
    usage_that_two_items_charge_is_told_beside_late_usage,
    usage_beside_a_trial_is_on_the_other_invoice,
    usage_beside_a_pause_is_on_the_other_invoice,
);

const NOW: &str = "2027-03-20T08:30:10Z";
/// The period of the subscription `sub_other`.
const START: &str = "2027-03-04T09:20:30Z";
const END: &str = "2027-04-04T09:20:30Z";

/// A subscription of the customer, with the price of tokens.
fn with_tokens(id: &str) -> NewSubscription {
    NewSubscription {
        id: id.to_owned(),
        customer: "cus_acct".to_owned(),
        prices: vec![TOKENS.to_owned()],
        ..NewSubscription::default()
    }
}

/// Two subscriptions with an item of tokens; the link names the first one.
async fn begin(world: &mut World, own: NewSubscription) -> DateTime<Utc> {
    let now = at(NOW);
    world.with_prices_at(now).await;
    world.subscribe_as(own).await;
    let other = NewSubscription {
        anchor: Some(at(START).timestamp()),
        ..with_tokens("sub_other")
    };
    world.subscribe_as(other).await;
    let link = usage_client::PutAccount::stripe("acct", "cus_acct").subscription("sub_acct");
    let linked = world.client().put_account(link).await.unwrap().account;
    assert_eq!(linked.subscription.unwrap().id, "sub_acct");
    now
}

async fn send(world: &World, quantity: i64) {
    world
        .count_of("acct", "tokens", quantity, world.now())
        .await;
    world.report_all().await;
    world.wait_until_all_sent().await;
}

/// The findings and figures of tokens, by the periods' ends.
async fn found(world: &World) -> Vec<(InvoiceFinding, i64, Option<i64>)> {
    let all = Reconcile::new()
        .account("acct")
        .period(at(START), world.now());
    let page = world.client().reconcile(all).await.unwrap();
    let mut found: Vec<_> = page
        .rows
        .into_iter()
        .filter(|row| row.meter == "tokens")
        .flat_map(|row| row.invoices)
        .collect();
    found.sort_by_key(|one| (one.period.end, one.period.start));
    found
        .into_iter()
        .map(|one| (one.finding, one.reported, one.invoiced))
        .collect()
}

async fn assert_no_difference(world: &World) {
    let (severity, line) = world.doctor_says(None, "invoices").await;
    assert_eq!(severity, Severity::Ok, "{line}");
    let differences = "invoice_comparisons WHERE finding <> 'equal'";
    assert_eq!(world.count_rows(differences).await, 0);
}

async fn usage_that_two_items_charge_is_told_once(mut world: World) {
    // From 2027-03-12 and from 2027-03-04.
    let own = NewSubscription {
        anchor: Some(at("2027-03-12T13:12:34Z").timestamp()),
        ..with_tokens("sub_acct")
    };
    let now = begin(&mut world, own).await;
    let (severity, told) = world.doctor_says(None, "subscriptions").await;
    assert_eq!(severity, Severity::Bad, "{told}");
    assert!(told.contains("billed more than once"), "{told}");
    send(&world, 9).await;
    world.advance_past_draft(at(END)).await;
    send(&world, 4).await;
    let own_end = at("2027-04-12T13:12:34Z");
    world.advance_past_draft(own_end).await;
    let twice =
        "invoice_comparisons WHERE finding = 'charged_twice' AND reported = 4 AND invoiced = 13";
    world.advance_until_found(twice).await;
    assert_eq!(
        found(&world).await,
        [
            (InvoiceFinding::Equal, 9, Some(9)),
            (InvoiceFinding::ChargedTwice, 4, Some(13)),
        ]
    );
    // The 4 units too, at the end of the other one's next period.
    world.advance_past_draft(at("2027-05-04T09:20:30Z")).await;
    let again =
        "invoice_comparisons WHERE finding = 'charged_twice' AND reported = 0 AND invoiced = 4";
    world.advance_until_found(again).await;
    let (severity, line) = world.doctor_says(None, "charged twice").await;
    assert_eq!(severity, Severity::Bad, "{line}");
    for part in [
        "charged_twice: 4 reported, 13 invoiced",
        "remove one of the items",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    assert_eq!(world.stripe_total("cus_acct", "llm_tokens").await, 13);
    assert!(now < own_end);
    world.finish().await;
}

async fn usage_that_two_items_charge_is_told_beside_late_usage(mut world: World) {
    let own = NewSubscription {
        anchor: Some(at("2027-03-12T13:12:34Z").timestamp()),
        ..with_tokens("sub_acct")
    };
    begin(&mut world, own).await;
    send(&world, 9).await;
    world.advance_past_draft(at(END)).await;
    world
        .advance_until_found(
            "invoice_comparisons WHERE finding = 'equal' AND reported = 9 AND invoiced = 9",
        )
        .await;
    // The other subscription's invoice of March is final.
    let late = at("2027-04-03T12:00:00Z");
    world.count_of("acct", "tokens", 2, late).await;
    world.report_all().await;
    world.wait_until_all_sent().await;
    world.advance_past_draft(at("2027-04-12T13:12:34Z")).await;
    let twice =
        "invoice_comparisons WHERE finding = 'charged_twice' AND reported = 2 AND invoiced = 11";
    world.advance_until_found(twice).await;
    world.wait_until_compared().await;
    assert_eq!(
        found(&world).await,
        [
            (InvoiceFinding::Equal, 9, Some(9)),
            (InvoiceFinding::ChargedTwice, 2, Some(11)),
        ]
    );
    world.finish().await;
}

async fn usage_beside_a_trial_is_on_the_other_invoice(mut world: World) {
    let trial_end = at(NOW) + TimeDelta::days(3);
    let own = NewSubscription {
        trial_end: Some(trial_end.timestamp()),
        ..with_tokens("sub_acct")
    };
    let now = begin(&mut world, own).await;
    world.move_clocks(now + TimeDelta::hours(1)).await;
    send(&world, 5).await;
    assert_eq!(world.stripe_total("cus_acct", "llm_tokens").await, 5);
    world.move_clocks(now + TimeDelta::hours(3)).await;
    world
        .call_stripe("DELETE", "/v1/subscriptions/sub_acct", &[])
        .await;
    world.advance_past(at(END), TimeDelta::days(2)).await;
    world
        .advance_until_found("invoice_comparisons WHERE subscription = 'sub_acct'")
        .await;
    assert_eq!(
        found(&world).await,
        [
            (InvoiceFinding::Equal, 0, Some(0)),
            (InvoiceFinding::Equal, 5, Some(5)),
        ]
    );
    assert_no_difference(&world).await;
    world.finish().await;
}

async fn usage_beside_a_pause_is_on_the_other_invoice(mut world: World) {
    let trial_end = at(NOW) + TimeDelta::hours(2);
    let own = NewSubscription {
        trial_end: Some(trial_end.timestamp()),
        missing_payment_method: Some("pause".to_owned()),
        ..with_tokens("sub_acct")
    };
    let now = begin(&mut world, own).await;
    world.move_clocks(now + TimeDelta::hours(1)).await;
    send(&world, 3).await;
    let paused = trial_end + TimeDelta::hours(1);
    world.advance_to(paused, TimeDelta::hours(1)).await;
    world
        .wait_until_subscription("acct", |known| known.status == "paused")
        .await;
    send(&world, 5).await;
    assert_eq!(world.stripe_total("cus_acct", "llm_tokens").await, 8);
    world.advance_past_draft(at(END)).await;
    world
        .advance_until_found(
            "invoice_comparisons WHERE finding = 'equal' AND reported = 8 AND invoiced = 8",
        )
        .await;
    // Resumed, it begins a period of its own.
    let resumed = at("2027-04-06T10:00:00Z");
    world.advance_to(resumed, TimeDelta::hours(6)).await;
    world
        .call_stripe("POST", "/v1/subscriptions/sub_acct/resume", &[])
        .await;
    world
        .advance_past(at("2027-04-28T09:00:00Z"), TimeDelta::days(25))
        .await;
    world
        .advance_until_found("invoice_comparisons WHERE subscription = 'sub_acct'")
        .await;
    assert_no_difference(&world).await;
    world.finish().await;
}
