//! What people who run the service do from the command line: they look an account up, correct it, compare its figures, and
//! decide on reports that are stuck.

use chrono::TimeDelta;
use fake_stripe::Fault;
use serde_json::Value;
use usage_client::ReportState;

use super::{done, json, usagectl};
use crate::support::world::{
    World, at,
    billing::{BASIC, PRO},
    hours_ago, on_both_engines,
};

on_both_engines!(
    a_stuck_report_is_resolved,
    usage_is_corrected_once,
    figures_are_compared,
    a_plan_is_changed_and_a_subscription_cancelled,
    everything_of_an_account_is_shown,
    a_week_is_the_sum_of_its_days,
    an_account_that_was_never_counted_is_told,
);

const START: &str = "2027-03-10T13:12:34Z";

async fn a_stuck_report_is_resolved(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(30)).await;
    let refuse = Fault::status(400).on_path("/v1/billing/meter_events");
    world.stripe().script(refuse).await.unwrap();
    let ran = usagectl(world.endpoint(), &["report", "acct"]).await;
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.contains("`usagectl resolve`"), "{}", ran.err);
    // The command that the message names lists it.
    let hint = ran.err.split("see `usagectl ").nth(1).unwrap();
    let hint = hint.split('`').next().unwrap();
    let hint: Vec<&str> = hint.split_whitespace().chain(["--json"]).collect();
    let stuck = json(&world, &hint).await;
    let report = &stuck[0];
    assert_eq!(report["customer"], "cus_acct");
    assert_eq!(report["attempts"], 1);
    assert!(report["last_error"].is_string(), "{report}");
    let resolve = [
        "resolve",
        "acct",
        report["id"].as_str().unwrap(),
        "--action",
        "write-off",
        "--reason",
        "a test customer",
        "--requested-by",
        "ada",
        "--json",
    ];
    let resolved = json(&world, &resolve).await;
    assert_eq!(resolved[0]["state"], "written_off", "{resolved}");
    assert_eq!(resolved[0]["decisions"], "write-off: a test customer");
    let again = usagectl(world.endpoint(), &resolve).await;
    assert_eq!(again.code, 0);
    assert!(again.err.contains("nothing was changed"), "{}", again.err);
    world.finish().await;
}

async fn usage_is_corrected_once(world: World) {
    world.count("acct", 10, hours_ago(1)).await;
    let correct = [
        "correct",
        "acct",
        "-4",
        "--reason",
        "counted twice",
        "--key",
        "k",
        "--json",
    ];
    let entered = json(&world, &correct).await;
    assert_eq!(entered[0]["quantity"], -4);
    let again = usagectl(world.endpoint(), &correct).await;
    assert!(again.err.contains("entered before"), "{}", again.err);
    assert_eq!(world.usage("acct").await.0, 6);
    let more = done(&world, &["correct", "acct", "3", "--reason", "forgotten"]).await;
    assert!(more.contains("acct"), "{more}");
    assert_eq!(world.usage("acct").await.0, 9);
    let wrong = usagectl(
        world.endpoint(),
        &["correct", "acct", "-99", "--reason", "x"],
    )
    .await;
    assert_eq!(wrong.code, 1);
    assert!(wrong.err.contains("BELOW_ZERO"), "{}", wrong.err);
    let id = wrong
        .err
        .split("The request's id in the server's log: ")
        .nth(1);
    let id = id.and_then(|id| id.lines().next()).unwrap();
    let audited = done(&world, &["audit", "--json"]).await;
    assert!(audited.contains(id), "{id} is not in {audited}");
    let wrong = usagectl(world.endpoint(), &["correct", "acct", "0", "--reason", "x"]).await;
    assert_eq!(
        wrong.err.matches("quantity is 0").count(),
        1,
        "{}",
        wrong.err
    );
    world.finish().await;
}

async fn figures_are_compared(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 7, hours_ago(3)).await;
    let before = usagectl(world.endpoint(), &["reconcile", "acct", "--json"]).await;
    assert_eq!(before.code, 4, "{}", before.err);
    let rows: Value = serde_json::from_str(&before.out).unwrap();
    assert_eq!(
        (&rows[0]["counted"], &rows[0]["reported"]),
        (&7.into(), &0.into())
    );
    done(&world, &["report", "acct"]).await;
    world.wait_until_sent("acct").await;
    let rows = json(&world, &["reconcile", "acct", "--json"]).await;
    assert_eq!(
        (&rows[0]["reported"], &rows[0]["stripe_total"]),
        (&7.into(), &7.into())
    );
    let none = done(&world, &["reconcile", "--differing", "--csv"]).await;
    assert_eq!(none.lines().count(), 1, "{none}");
    world.finish().await;
}

async fn a_plan_is_changed_and_a_subscription_cancelled(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world.start_subscribed(now, &[BASIC], at(START)).await;
    world.count("acct", 11, now - TimeDelta::days(1)).await;
    let plan = ["accounts", "plan", "acct", PRO, "--requested-by", "ada"];
    let ran = world
        .while_clock_moves(usagectl(world.endpoint(), &plan))
        .await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("changed sub_acct"), "{}", ran.err);
    let again = usagectl(world.endpoint(), &plan).await;
    assert_eq!(again.code, 0, "{}", again.err);
    let later = ["account", "cancel", "acct", "--at-period-end"];
    let ran = usagectl(world.endpoint(), &later).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(
        ran.err.contains("ends with its billing period"),
        "{}",
        ran.err
    );
    let now = ["accounts", "cancel", "acct", "--now", "--json"];
    let ran = world
        .while_clock_moves(usagectl(world.endpoint(), &now))
        .await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let shown: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(shown[0]["status"], "canceled");
    let neither = usagectl(world.endpoint(), &["accounts", "cancel", "acct"]).await;
    assert_eq!(neither.code, 2, "{}", neither.err);
    world.finish().await;
}

async fn everything_of_an_account_is_shown(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world.start_subscribed(now, &[BASIC], at(START)).await;
    world.count("acct", 11, now - TimeDelta::days(1)).await;
    world.report_all().await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    let shown = json(&world, &["account", "show", "acct", "--json"]).await;
    assert_eq!(shown["account"][0]["account_id"], "acct");
    assert_eq!(shown["subscription"][0]["id"], "sub_acct");
    assert_eq!(shown["subscription"][0]["status"], "active");
    let period = &shown["billing_periods"][0];
    assert_eq!(
        (&period["price"], &period["start"]),
        (&BASIC.into(), &START.into())
    );
    assert_eq!(shown["usage"][0]["total"], 11);
    assert_eq!(shown["reconciliation"][0]["counted"], 11);
    assert_eq!(shown["reports"][0]["quantity"], 11);
    assert_eq!(shown["decisions"], Value::Array(Vec::new()));
    let screen = done(&world, &["account", "show", "acct"]).await;
    for part in ["billing periods", "sub_acct", "invoice lines", "none"] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    let unknown = usagectl(world.endpoint(), &["account", "show", "acctt"]).await;
    assert_eq!(unknown.code, 1);
    assert!(
        unknown
            .err
            .contains("nothing was ever counted for \"acctt\""),
        "{}",
        unknown.err
    );
    world.finish().await;
}

async fn a_week_is_the_sum_of_its_days(mut world: World) {
    world.set_time("2026-03-20T12:00:00Z").await;
    // A Sunday and the Monday after it.
    world.count("acct", 4, at("2026-03-08T23:30:00Z")).await;
    world.count("acct", 1, at("2026-03-09T00:30:00Z")).await;
    world.count("acct", 2, at("2026-03-15T10:00:00Z")).await;
    let question = [
        "get",
        "acct",
        "-m",
        "api_calls",
        "--by",
        "week",
        "--start",
        "2026-03-07",
        "--end",
        "2026-03-17",
        "--json",
        "--time-zone",
    ];
    let weeks = async |zone| -> Vec<(String, i64)> {
        let shown = json(&world, &[&question[..], &[zone]].concat()).await;
        let points = shown["meters"][0]["points"].as_array().unwrap();
        let point = |one: &Value| {
            let start = one["start"].as_str().unwrap().to_owned();
            (start, one["quantities"]["total"].as_i64().unwrap())
        };
        points.iter().map(point).collect()
    };
    let expected = [
        ("2026-03-07T00:00:00Z", 4),
        ("2026-03-09T00:00:00Z", 3),
        ("2026-03-16T00:00:00Z", 0),
    ];
    let expected = expected.map(|(start, total)| (start.to_owned(), total));
    assert_eq!(weeks("UTC").await, expected);
    // There the first is on Monday.
    let vienna = weeks("Europe/Vienna").await;
    assert_eq!(vienna[1], ("2026-03-08T23:00:00Z".to_owned(), 7));
    world.finish().await;
}

async fn an_account_that_was_never_counted_is_told(world: World) {
    world.count("acct", 1, hours_ago(48)).await;
    let told = "nothing was ever counted for \"acctt\"";
    let ran = usagectl(world.endpoint(), &["get", "acctt", "--start", "-7d"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains(told), "{}", ran.err);
    // It has usage, but not in the last hour.
    let ran = usagectl(world.endpoint(), &["get", "acct", "--start", "-1h"]).await;
    assert_eq!((ran.code, &*ran.err), (0, ""));
    world.finish().await;
}

#[tokio::test]
async fn completions_and_the_manual_need_no_server() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = usagectl("http://127.0.0.1:1", &["completions", shell]).await;
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(ran.out.contains("reconcile"), "{shell}");
    }
    let manual = usagectl("http://127.0.0.1:1", &["man"]).await;
    assert_eq!(manual.code, 0, "{}", manual.err);
    for part in [
        ".TH usagectl",
        "bill\\-in\\-current\\-period",
        "USAGECTL ACCOUNTS CANCEL",
        "\\-\\-at\\-period\\-end",
    ] {
        assert!(manual.out.contains(part), "{part}");
    }
}
