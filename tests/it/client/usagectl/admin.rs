//! What only an admin does: a stuck change of a subscription is aborted, and a difference with invoices is acknowledged.

use chrono::TimeDelta;
use std::time::Duration;
use usage_client::{ChangePlan, Reason};

use super::{json, usagectl};
use crate::support::world::{
    World, at,
    billing::{BASIC, PRO},
    on_both_engines,
};

on_both_engines!(
    a_change_is_aborted_and_said,
    a_difference_is_acknowledged_once,
);

const START: &str = "2027-03-10T13:12:34Z";
const END: &str = "2027-04-10T13:12:34Z";

async fn a_change_is_aborted_and_said(mut world: World) {
    let now = at(END) - TimeDelta::days(5);
    world.start_subscribed(now, &[BASIC], at(START)).await;
    let nothing = ["accounts", "abort-change", "acct"];
    let ran = usagectl(world.endpoint(), &nothing).await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(
        ran.err.contains("no change of the subscription"),
        "{}",
        ran.err
    );
    // The change waits until Stripe's totals show the usage.
    let delay = Duration::from_hours(5);
    world.stripe().set_summary_delay(delay).await.unwrap();
    world.count("acct", 4, world.now()).await;
    let client = world.client();
    let change =
        tokio::spawn(async move { client.change_plan(ChangePlan::new("acct", PRO)).await });
    world.advance_once_change_begins().await;
    let abort = [
        "accounts",
        "abort-change",
        "acct",
        "--requested-by",
        "ada",
        "--json",
    ];
    let ran = usagectl(world.endpoint(), &abort).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("of sub_acct was aborted"), "{}", ran.err);
    let shown: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(shown[0]["account_id"], "acct", "{shown}");
    let refused = change.await.unwrap().unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::ChangeAborted));
    let kept = "subscription_changes WHERE step = 'aborted' AND error LIKE '%ada%'";
    assert_eq!(world.count_rows(kept).await, 1);
    world.finish().await;
}

async fn a_difference_is_acknowledged_once(mut world: World) {
    let now = at(END) - TimeDelta::days(1);
    world.start_subscribed(now, &[BASIC], at(START)).await;
    world.stripe().set_hide_quantities(true).await.unwrap();
    world.count("acct", 12, world.now()).await;
    world.advance_past_draft(at(END)).await;
    world
        .advance_until_found("invoice_comparisons WHERE finding = 'unreadable'")
        .await;
    let (_, line) = world.doctor_says(None, "invoices").await;
    let name = line.split(['[', ']']).nth(1).expect("a name").to_owned();
    let call = [
        "acknowledge",
        "acct",
        &name,
        "--reason",
        "seen",
        "--requested-by",
        "ada",
        "--json",
    ];
    let shown = json(&world, &call).await;
    assert_eq!(shown[0]["reason"], "seen", "{shown}");
    let by = shown[0]["requested_by"].as_str().unwrap();
    assert!(by.starts_with("ada (no key, "), "{by}");
    assert_eq!(shown[0]["reported"], 12);
    let ran = usagectl(world.endpoint(), &call).await;
    assert_eq!(ran.code, 0);
    assert!(ran.err.contains("acknowledged already"), "{}", ran.err);
    let unknown = ["acknowledge", "acct", "1:2:si:m", "--reason", "seen"];
    assert_eq!(usagectl(world.endpoint(), &unknown).await.code, 1);
    world.finish().await;
}
