//! What people who run the service do from the command line: they look an account up, correct it, compare its figures, and
//! decide on reports that are stuck.

use chrono::TimeDelta;
use fake_stripe::Fault;
use serde_json::Value;
use usage_client::{PutAccount, ReportState};

use super::{done, json, usagectl};
use crate::support::{
    refused_retries::{allow_retries, wait_for_a_refused_retry},
    world::{
        World, at,
        billing::{BASIC, PRO},
        hours_ago, on_both_engines,
    },
};

on_both_engines!(
    a_stuck_report_is_resolved,
    usage_is_corrected_once,
    figures_are_compared,
    a_plan_is_changed_and_a_subscription_cancelled,
    everything_of_an_account_is_shown,
    a_week_is_the_sum_of_its_days,
    an_account_that_was_never_counted_is_told,
    the_doctor_of_the_server_is_asked,
    runs_are_listed_with_their_results,
    an_account_is_found_by_its_customer,
    reports_are_filtered,
    rejected_reports_of_an_earlier_run_are_told,
    a_run_that_retries_nothing_says_so,
    a_list_goes_on_as_it_says,
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

async fn a_run_that_retries_nothing_says_so(mut world: World) {
    wait_for_a_refused_retry(&mut world).await;
    let told = "reports that wait for a retry still wait";
    let ran = usagectl(world.endpoint(), &["report", "acct"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains(told), "{}", ran.err);
    let hint = ran.err.split("the same command with `--key ").nth(1);
    let run = hint.unwrap().split('`').next().unwrap();
    allow_retries(&world).await;
    let again = usagectl(world.endpoint(), &["report", "acct", "--key", run]).await;
    assert_eq!(again.code, 0, "{}", again.err);
    assert!(!again.err.contains(told), "{}", again.err);
    assert_eq!(world.usage("acct").await, (5, 5, 0, 0));
    world.finish().await;
}

async fn a_list_goes_on_as_it_says(world: World) {
    for account in ["first", "second"] {
        world.count(account, 1, hours_ago(1)).await;
        let free = ["accounts", "put", account, "--free", "--yes"];
        done(&world, &free).await;
    }
    for list in ["reports", "audit"] {
        let page = [list, "--csv", "--limit", "1"];
        // Another time in each command.
        let first = [&page[..], &["--start", "-7d", "--end", "now"]].concat();
        let first = usagectl(world.endpoint(), &first).await;
        let flags = first.err.trim().strip_prefix("there are more: ");
        let flags: Vec<&str> = flags.unwrap().split(' ').collect();
        let next = usagectl(world.endpoint(), &[&page[..], &flags].concat()).await;
        assert_eq!(next.code, 0, "{list} {flags:?}: {}", next.err);
        assert_eq!(next.out.lines().count(), 2, "{}", next.out);
        assert_ne!(next.out, first.out, "{list}");
    }
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
    let id = wrong.err.split("Request id: ").nth(1);
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
    // The customer leads to the same account.
    let by_customer = json(&world, &["account", "show", "cus_acct", "--json"]).await;
    assert_eq!(by_customer["account"], shown["account"]);
    assert_eq!(by_customer["reports"], shown["reports"]);
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

async fn the_doctor_of_the_server_is_asked(world: World) {
    let ran = usagectl(world.endpoint(), &["doctor"]).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("ok    health"), "{}", ran.out);
    assert!(ran.out.contains("0 bad, "), "{}", ran.out);
    let all = json(&world, &["doctor", "--settings", "--json"]).await;
    assert_eq!(all["settings"]["STRIPE_SECRET_KEY"], "(set)", "{all}");
    assert!(all["findings"][0]["check"].is_string(), "{all}");
    let table = done(&world, &["doctor", "--settings"]).await;
    assert!(table.contains("REPORT_SCHEDULE"), "{table}");
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(30)).await;
    let refuse = Fault::status(400).on_path("/v1/billing/meter_events");
    world.stripe().script(refuse).await.unwrap();
    usagectl(world.endpoint(), &["report", "acct"]).await;
    let ran = usagectl(world.endpoint(), &["doctor"]).await;
    assert_eq!(ran.code, 4, "{}", ran.out);
    assert!(ran.err.contains("something bad: "), "{}", ran.err);
    assert!(ran.err.contains("reports"), "{}", ran.err);
    world.finish().await;
}

async fn runs_are_listed_with_their_results(mut world: World) {
    let before = json(&world, &["runs", "--json"]).await;
    let others = before.as_array().unwrap().len();
    world.link_to_new_customer("acct", "cus_acct").await;
    world.link_to_new_customer("bad", "cus_bad").await;
    world.count("acct", 5, hours_ago(2)).await;
    done(&world, &["report", "acct"]).await;
    world.count("bad", 7, hours_ago(2)).await;
    let refuse = Fault::status(400).on_path("/v1/billing/meter_events");
    world.stripe().script(refuse).await.unwrap();
    usagectl(world.endpoint(), &["report", "bad"]).await;
    let runs = json(&world, &["runs", "--json"]).await;
    assert_eq!(runs.as_array().unwrap().len(), others + 2, "{runs}");
    let (latest, first) = (&runs[0], &runs[1]);
    assert_eq!(
        (&latest["trigger"], &latest["accounts"]),
        (&"force".into(), &1.into())
    );
    assert_eq!(latest["state"], "closed");
    assert_eq!(latest["closed"]["quantity"], 7);
    assert_eq!(latest["rejected"]["reports"], 1, "{latest}");
    assert_eq!(first["accepted"]["quantity"], 5, "{first}");
    assert_eq!(first["rejected"]["reports"], 0);
    // By time and by state, page by page.
    let started = latest["started_at"].as_str().unwrap();
    let early = json(&world, &["runs", "--end", started, "--json"]).await;
    assert_eq!(early.as_array().unwrap().len(), others + 1, "{early}");
    assert_eq!(early[0], *first);
    let late = ["runs", "--start", started, "--state", "closed", "--json"];
    let late = json(&world, &late).await;
    assert_eq!(late.as_array().unwrap().len(), 1, "{late}");
    let none = json(&world, &["runs", "--state", "closing,stalled", "--json"]).await;
    assert_eq!(none, Value::Array(Vec::new()));
    // The run of an id.
    let id = first["id"].as_str().unwrap();
    let one = json(&world, &["runs", "--run", id, "--json"]).await;
    assert_eq!(one, Value::Array(vec![first.clone()]));
    let wrong = usagectl(world.endpoint(), &["runs", "--run", "x"]).await;
    assert!(
        wrong.err.contains("run_id is \"x\"; it must be a UUID"),
        "{}",
        wrong.err
    );
    let page = usagectl(world.endpoint(), &["runs", "--limit", "1", "--json"]).await;
    let token = page.err.split("--page-token ").nth(1).unwrap().trim();
    let next = ["runs", "--limit", "1", "--page-token", token, "--json"];
    assert_eq!(json(&world, &next).await[0], *first);
    let other = ["runs", "--state", "closed", "--page-token", token];
    let refused = usagectl(world.endpoint(), &other).await;
    assert_eq!(refused.code, 1, "{}", refused.err);
    // Without a Stripe key, no server continues a run.
    world.reconfigure(&["--stripe-secret-key"]).await;
    let started = at(started).timestamp_millis();
    let minute = TimeDelta::minutes(1);
    for (heartbeat, state) in [(world.now() - minute, "stalled"), (world.now(), "closing")] {
        let heartbeat = heartbeat.timestamp_millis();
        let sql = format!(
            "UPDATE report_runs SET closing_finished_at = NULL, heartbeat_at = {heartbeat} WHERE started_at = {started}"
        );
        world.execute_sql(&sql).await;
        let found = json(&world, &["runs", "--state", state, "--json"]).await;
        assert_eq!(found[0]["id"], latest["id"], "{found}");
        assert_eq!(found[0]["state"], state);
        assert_eq!(found.as_array().unwrap().len(), 1);
    }
    let finish = format!(
        "UPDATE report_runs SET closing_finished_at = {started} WHERE started_at = {started}"
    );
    world.execute_sql(&finish).await;
    world.finish().await;
}

async fn link_from_now(world: &World, account: &str, customer: &str) {
    world.create_customers(&[customer]).await;
    let link = PutAccount::stripe(account, customer);
    world.client().put_account(link).await.unwrap();
}

async fn an_account_is_found_by_its_customer(world: World) {
    world.link_to_new_customer("one", "cus_one").await;
    world.link_to_new_customer("other", "cus_other").await;
    let found = json(&world, &["accounts", "--customer", "cus_one", "--json"]).await;
    assert_eq!(found.as_array().unwrap().len(), 1, "{found}");
    assert_eq!(found[0]["account_id"], "one");
    // A customer that the account had before leads nowhere.
    link_from_now(&world, "one", "cus_next").await;
    let before = json(&world, &["accounts", "--customer", "cus_one", "--json"]).await;
    assert_eq!(before, Value::Array(Vec::new()));
    let found = json(&world, &["accounts", "--customer", "cus_next", "--json"]).await;
    assert_eq!(found[0]["account_id"], "one");
    // An account can be named like a customer.
    world.count("cus_named", 1, hours_ago(1)).await;
    let shown = json(&world, &["account", "show", "cus_named", "--json"]).await;
    assert_eq!(shown["reports"][0]["account_id"], "cus_named");
    let unknown = usagectl(world.endpoint(), &["account", "show", "cus_unknown"]).await;
    assert_eq!(unknown.code, 1);
    assert!(unknown.err.contains("cus_unknown"), "{}", unknown.err);
    world.finish().await;
}

async fn reports_are_filtered(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(30)).await;
    world.count("acct", 6, hours_ago(1)).await;
    done(&world, &["report", "acct"]).await;
    let found = async |flags: &[&str]| {
        let args = [&["reports", "--json"], flags].concat();
        let listed = json(&world, &args).await;
        let listed = listed.as_array().unwrap().iter();
        listed
            .map(|one| one["quantity"].as_i64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(found(&["--start", "-1d"]).await, [6]);
    assert_eq!(found(&["--end", "-1d"]).await, [5]);
    assert_eq!(found(&["--customer", "cus_acct"]).await, [6, 5]);
    assert_eq!(found(&["--meter", "tokens"]).await, Vec::<i64>::new());
    assert_eq!(found(&["-m", "api_calls", "-a", "acct"]).await, [6, 5]);
    world.finish().await;
}

async fn rejected_reports_of_an_earlier_run_are_told(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(30)).await;
    let refuse = Fault::status(400).on_path("/v1/billing/meter_events");
    world.stripe().script(refuse).await.unwrap();
    let first = usagectl(world.endpoint(), &["report", "acct"]).await;
    assert_eq!(first.code, 4, "{}", first.err);
    world.count("acct", 6, hours_ago(2)).await;
    for scope in ["acct", "--all"] {
        let next = usagectl(world.endpoint(), &["report", scope]).await;
        assert_eq!(next.code, 0, "{}", next.err);
        let told = "1 reports of earlier runs wait for a decision";
        assert!(next.err.contains(told), "{scope}: {}", next.err);
        assert!(next.err.contains("--stuck"), "{}", next.err);
    }
    // Nothing is told of other accounts.
    world.link_to_new_customer("other", "cus_other").await;
    world.count("other", 1, hours_ago(2)).await;
    let other = usagectl(world.endpoint(), &["report", "other"]).await;
    assert_eq!(other.code, 0, "{}", other.err);
    assert!(!other.err.contains("earlier runs wait"), "{}", other.err);
    world.finish().await;
}
