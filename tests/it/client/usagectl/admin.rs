//! What only an admin does: a stuck change of a subscription is aborted, and a difference with invoices is acknowledged.

use chrono::TimeDelta;
use std::time::Duration;
use usage_client::{ChangePlan, PutAccount, Reason, ReportState};

use super::{json, usagectl, usagectl_on_terminal};
use crate::support::world::{
    World, at,
    billing::{BASIC, PRO},
    hours_ago, on_both_engines,
};

on_both_engines!(
    a_change_is_aborted_and_said,
    a_difference_is_acknowledged_once,
    an_account_is_exported_and_deleted,
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

async fn an_account_is_exported_and_deleted(world: World) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("acct.jsonl");
    let path = file.to_str().unwrap();
    world.count("acct", 12, hours_ago(2)).await;
    world.report_all().await;
    let dry = ["accounts", "delete", "acct", "--dry-run", "--json"];
    let ran = usagectl(world.endpoint(), &dry).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.err.contains("is no_customer: make the account free"),
        "{}",
        ran.err
    );
    let delete = ["accounts", "delete", "acct", "--export", path];
    let ran = usagectl(world.endpoint(), &delete).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("refused: report"), "{}", ran.err);
    assert!(!file.exists(), "nothing is exported if nothing is deleted");
    let free = PutAccount::free("acct");
    world.client().put_account(free).await.unwrap();
    world
        .wait_until_reports_are("acct", &[ReportState::NotBillable])
        .await;
    let printed = usagectl(world.endpoint(), &["accounts", "export", "acct"]).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
    assert!(
        printed
            .out
            .lines()
            .all(|line| line.starts_with(r#"{"row":"#)),
        "{}",
        printed.out
    );
    // It asks, and goes on only if told.
    let refused = usagectl(world.endpoint(), &delete).await;
    assert_eq!(refused.code, 1);
    assert!(
        refused.err.contains("nothing was deleted"),
        "{}",
        refused.err
    );
    let exported = std::fs::read_to_string(&file).unwrap();
    assert!(
        exported.contains(r#""table":"usage_reports""#),
        "{exported}"
    );
    let again = usagectl(world.endpoint(), &delete).await;
    assert_eq!(again.code, 1, "an export is never overwritten");
    assert!(again.err.contains("exists"), "{}", again.err);
    let without = ["accounts", "delete", "acct", "--without-export"];
    let asked = usagectl_on_terminal(world.endpoint(), &without, "y\n").await;
    assert_eq!(asked.code, 0, "{}", asked.err);
    assert!(asked.out.contains("deleted:"), "{}", asked.out);
    let yes = [
        "accounts",
        "delete",
        "acct",
        "--without-export",
        "--yes",
        "--json",
    ];
    let shown = json(&world, &yes).await;
    assert_eq!(shown[0]["duplicate"], true, "{shown}");
    world.finish().await;
}
