//! The command line `usagectl`: its output, its effect and its exit codes.

mod admin;
mod all_accounts;
mod documented;
mod explanations;
mod import;
mod import_bad_lines;
mod import_cases;
mod import_pipes;
mod keys;
mod operators;
mod profiles;
mod shadow;
mod sign_off;

use std::{future, io};

use serde_json::Value;
use usage_client::{
    ReportState,
    cli::{self, Streams},
};

use crate::support::{
    refused_address::RefusedAddress,
    world::{World, at, hours_ago, on_both_engines},
};

on_both_engines!(
    counted_usage_is_printed,
    usage_by_day_is_drawn_in_the_local_time_zone,
    the_last_days_are_shown_with_the_period_used,
    the_report_command_watches_a_run_to_its_end,
    accounts_are_put_and_listed,
    a_link_that_leaves_usage_unbilled_is_confirmed_first,
    the_watch_option_prints_growth,
    every_failure_has_its_exit_code,
);

/// The result of a command.
struct Ran {
    code: u8,
    out: String,
    err: String,
}

/// Runs a command against a server.
async fn usagectl(server: &str, args: &[&str]) -> Ran {
    usagectl_with(server, args, io::empty(), future::pending()).await
}

/// Runs a command with a standard input, until it ends or `stop` resolves, as it does at Ctrl-C.
async fn usagectl_with(
    server: &str,
    args: &[&str],
    input: impl io::Read + Send + 'static,
    stop: impl Future<Output = u8> + Send + 'static,
) -> Ran {
    run(server, args, input, stop, false).await
}

/// Runs a command on a terminal.
async fn usagectl_on_terminal(server: &str, args: &[&str], input: &'static str) -> Ran {
    run(server, args, input.as_bytes(), future::pending(), true).await
}

/// Runs a whole command line.
async fn run_with_args(args: &[&str]) -> Ran {
    run_whole(args, io::empty(), future::pending(), false).await
}

async fn run(
    server: &str,
    args: &[&str],
    input: impl io::Read + Send + 'static,
    stop: impl Future<Output = u8> + Send + 'static,
    are_terminals: bool,
) -> Ran {
    let fixed = ["usagectl", "--server", server, "--timeout", "20"];
    run_whole(&[&fixed[..], args].concat(), input, stop, are_terminals).await
}

async fn run_whole(
    args: &[&str],
    input: impl io::Read + Send + 'static,
    stop: impl Future<Output = u8> + Send + 'static,
    are_terminals: bool,
) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let streams = Streams {
        input: Box::new(input),
        out: &mut out,
        err: &mut err,
        are_terminals,
        width: None,
        stop: Box::pin(stop),
    };
    let code = cli::run(args.iter().copied(), streams).await;
    Ran {
        code,
        out: String::from_utf8(out).unwrap(),
        err: String::from_utf8(err).unwrap(),
    }
}

/// Runs a command that must succeed. Returns its output.
pub(crate) async fn done(world: &World, args: &[&str]) -> String {
    let ran = usagectl(world.endpoint(), args).await;
    assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
    ran.out
}

async fn json(world: &World, args: &[&str]) -> Value {
    serde_json::from_str(&done(world, args).await).unwrap()
}

async fn counted_usage_is_printed(mut world: World) {
    world.set_time("2026-03-10T12:00:00Z").await;
    let counted = done(
        &world,
        &[
            "increment",
            "acct",
            "-m",
            "tokens",
            "-q",
            "1200",
            "--key",
            "k",
        ],
    );
    assert_eq!(counted.await, "1,200 tokens of acct counted (key k)\n");
    let again = [
        "increment",
        "acct",
        "-m",
        "tokens",
        "-q",
        "1200",
        "--key",
        "k",
        "--json",
    ];
    assert_eq!(json(&world, &again).await["duplicate"], true);
    done(&world, &["increment", "acct"]).await;

    let table = done(&world, &["get", "acct"]).await;
    for shown in ["api_calls", "tokens", "1,200", "not yet reported"] {
        assert!(table.contains(shown), "{table}");
    }
    let answer = json(&world, &["get", "acct", "-m", "tokens", "--json"]).await;
    assert_eq!(answer["meters"][0]["quantities"]["total"], 1_200);
    assert_eq!(answer["meters"][0]["quantities"]["not_yet_reported"], 1_200);
    let csv = done(&world, &["get", "acct", "-m", "tokens", "--csv"]).await;
    let rows: Vec<&str> = csv.lines().collect();
    assert_eq!(
        rows[0],
        "account_id,meter,unit,start,end,total,reported,not_yet_reported,not_billable"
    );
    assert_eq!(rows.len(), 2);
    assert!(
        rows[1].starts_with("acct,tokens,") && rows[1].ends_with(",1200,0,1200,0"),
        "{csv}"
    );
    world.finish().await;
}

async fn usage_by_day_is_drawn_in_the_local_time_zone(mut world: World) {
    world.set_time("2026-03-10T12:00:00Z").await;
    // 23:30 on the 2nd in London is on the 3rd in Vienna.
    world.count("acct", 4, at("2026-03-02T23:30:00Z")).await;
    world.count("acct", 1, at("2026-03-04T10:00:00Z")).await;
    let question = [
        "get",
        "acct",
        "-m",
        "api_calls",
        "--start",
        "2026-03-02",
        "--end",
        "2026-03-05",
        "--by",
        "day",
        "--width",
        "40",
        "--time-zone",
    ];
    let drawn = |zone| {
        let args: Vec<&str> = question.into_iter().chain([zone]).collect();
        let world = &world;
        async move {
            let text = done(world, &args).await;
            let chart = text.split_once("\napi_calls\n").unwrap().1.to_owned();
            chart.lines().map(str::to_owned).collect::<Vec<_>>()
        }
    };
    // 40 characters hold a day, a digit, two blanks and a bar.
    assert_eq!(
        drawn("UTC").await,
        [
            format!("2026-03-02 4 {}", "█".repeat(27)),
            "2026-03-03 0".to_owned(),
            format!("2026-03-04 1 {}▊", "█".repeat(6)),
        ]
    );
    let vienna = drawn("Europe/Vienna").await;
    assert_eq!(vienna[0], "2026-03-02 0");
    assert!(vienna[1].starts_with("2026-03-03 4 ████"), "{vienna:?}");
    world.finish().await;
}

async fn the_last_days_are_shown_with_the_period_used(world: World) {
    world.count("acct", 3, hours_ago(2)).await;
    let shown = json(&world, &["get", "acct", "--last", "7d", "--json"]).await;
    assert_eq!(shown["meters"][0]["quantities"]["total"], 3);
    let edge = |name: &str| at(shown[name].as_str().unwrap());
    // A week, and an hour more unless it is now a full hour.
    let length = (edge("end") - edge("start")).num_hours();
    assert!((7 * 24..=7 * 24 + 1).contains(&length), "{shown}");
    let table = done(&world, &["get", "acct", "--last", "24h"]).await;
    assert!(table.starts_with("acct from "), "{table}");

    let start = "2026-03-02T10:20:30Z";
    let end = "2026-03-02T12:00:00Z";
    let inside = ["get", "acct", "--start", start, "--end", end];
    let refused = usagectl(world.endpoint(), &inside).await;
    assert_eq!(refused.code, 1);
    assert!(
        refused.err.contains("PERIOD_NOT_ALIGNED"),
        "{}",
        refused.err
    );
    let args: Vec<&str> = inside.into_iter().chain(["--round", "--json"]).collect();
    let rounded = json(&world, &args).await;
    assert_eq!(
        at(rounded["start"].as_str().unwrap()),
        at("2026-03-02T10:00:00Z")
    );
    for wrong in [
        &["--last", "7"][..],
        &["--round"],
        &["--last", "7d", "--start", start],
    ] {
        let args: Vec<&str> = ["get", "acct"].iter().chain(wrong).copied().collect();
        assert_eq!(usagectl(world.endpoint(), &args).await.code, 2, "{wrong:?}");
    }
    world.finish().await;
}

async fn the_report_command_watches_a_run_to_its_end(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 7, hours_ago(3)).await;
    let preview = done(&world, &["report", "--all", "--dry-run"]).await;
    assert!(preview.contains("would be sent"), "{preview}");
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 0);

    let ran = usagectl(world.endpoint(), &["report", "acct", "--json"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let summary: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(summary["accepted"]["quantity"], 7);
    let run = summary["run_id"].as_str().unwrap();
    assert!(
        ran.err.contains(&format!("usagectl report --watch {run}")),
        "{}",
        ran.err
    );
    world.wait_until_sent("acct").await;

    let watched = json(&world, &["report", "--watch", run, "--json"]).await;
    assert_eq!(watched, summary);
    let question = [
        "reports",
        "--run",
        run,
        "--state",
        "accepted,confirmed",
        "--json",
    ];
    let listed = json(&world, &question).await;
    assert_eq!(listed[0]["quantity"], 7);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let stuck = done(&world, &["reports", "--stuck", "--csv"]).await;
    assert_eq!(stuck.lines().count(), 1, "only the header: {stuck}");
    assert_eq!(world.reports("acct").await[0].state, ReportState::Accepted);
    world.finish().await;
}

async fn accounts_are_put_and_listed(world: World) {
    world
        .stripe()
        .create_subscribed_customer("cus_1")
        .await
        .unwrap();
    done(&world, &["accounts", "put", "a", "--customer", "cus_1"]).await;
    let free = json(&world, &["accounts", "put", "b", "--free", "--json"]).await;
    assert_eq!(free[0]["billing"], "free");
    let shown = json(&world, &["accounts", "get", "a", "--json"]).await;
    assert_eq!(shown[0]["customer"], "cus_1");
    let first = usagectl(world.endpoint(), &["accounts", "--limit", "1", "--csv"]).await;
    assert!(first.out.contains("\na,stripe,cus_1,"), "{}", first.out);
    let token = first
        .err
        .trim()
        .strip_prefix("there are more: --page-token ")
        .unwrap();
    let rest = done(&world, &["accounts", "--page-token", token, "--csv"]).await;
    assert!(
        rest.contains("\nb,free,") && !rest.contains("\na,"),
        "{rest}"
    );
    world.finish().await;
}

async fn a_link_that_leaves_usage_unbilled_is_confirmed_first(world: World) {
    let server = world.endpoint();
    for (account, customer) in [("a", "cus_a"), ("b", "cus_b"), ("c", "cus_c")] {
        world.stripe().create_customer(customer).await.unwrap();
        world.count(account, 4, hours_ago(3)).await;
    }
    let link = |account: &'static str, customer: &'static str| {
        ["accounts", "put", account, "--customer", customer]
    };
    let told = "4 units of api_calls from before ";
    let is_put = async |account: &str| world.client().get_account(account).await.is_ok();

    let script = usagectl(server, &link("a", "cus_a")).await;
    assert_eq!(script.code, 1);
    assert!(script.err.contains(told), "{}", script.err);
    assert!(script.err.contains("nothing was changed"), "{}", script.err);
    let dry = usagectl(server, &[&link("a", "cus_a")[..], &["--dry-run"]].concat()).await;
    assert_eq!((dry.code, dry.out.contains("cus_a")), (0, true));
    assert!(dry.err.contains(told), "{}", dry.err);
    for answer in ["n\n", "", "\n"] {
        let refused = usagectl_on_terminal(server, &link("a", "cus_a"), answer).await;
        assert_eq!(refused.code, 1, "{answer:?}");
        assert!(refused.err.contains("Go on? [y/N]"), "{}", refused.err);
    }
    assert!(!is_put("a").await);

    let confirmed = usagectl_on_terminal(server, &link("a", "cus_a"), "y\n").await;
    assert_eq!(confirmed.code, 0, "{}", confirmed.err);
    let yes = usagectl(server, &[&link("b", "cus_b")[..], &["--yes"]].concat()).await;
    assert_eq!(yes.code, 0, "{}", yes.err);
    assert!(yes.err.contains(told), "{}", yes.err);
    // Nothing is left unbilled, so nothing is asked.
    let from = hours_ago(4).to_rfc3339();
    let billed = [&link("c", "cus_c")[..], &["--bill-from", &from]].concat();
    let billed = usagectl(server, &billed).await;
    assert_eq!((billed.code, billed.err.as_str()), (0, ""));
    assert!(is_put("a").await && is_put("b").await && is_put("c").await);
    world.finish().await;
}

async fn the_watch_option_prints_growth(mut world: World) {
    world.set_time("2026-03-10T12:00:00Z").await;
    world.count("acct", 5, at("2026-03-10T11:00:00Z")).await;
    let watch = [
        "watch",
        "acct",
        "-m",
        "api_calls",
        "--interval",
        "0.1",
        "--count",
        "2",
    ];
    let watched = done(&world, &watch).await;
    let lines: Vec<Vec<&str>> = watched
        .lines()
        .map(|line| line.split_whitespace().skip(1).collect())
        .collect();
    assert_eq!(
        lines,
        [
            vec!["acct", "api_calls", "5"],
            vec!["acct", "api_calls", "5", "+0"]
        ]
    );
    world.finish().await;
}

async fn every_failure_has_its_exit_code(world: World) {
    let ended = async |server: &str, args: &[&str]| {
        let ran = usagectl(server, args).await;
        (ran.code, ran.err)
    };
    let server = world.endpoint().to_owned();
    let (code, err) = ended(&server, &["increment", "acct", "-m", "nonsense"]).await;
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("nonsense"), "{err}");
    for wrong in [
        &["increment"][..],
        &["increment", "acct", "-q", "0"],
        &["get", "acct", "--start", "tomorrow"],
        &["report"],
        &["reports", "--state", "lost"],
        &["import", "usage.txt"],
        &["watch", "acct", "--interval", "0"],
    ] {
        let (code, err) = ended(&server, wrong).await;
        assert_eq!(code, 2, "{wrong:?}: {err}");
        assert!(err.starts_with("error: "), "{wrong:?}: {err}");
    }
    let help = usagectl(&server, &["--help"]).await;
    assert_eq!(help.code, 0);
    assert!(help.out.contains(cli::EXIT_CODES), "{}", help.out);

    let nowhere = RefusedAddress::new();
    let server = nowhere.endpoint();
    let (code, err) = ended(
        &server,
        &["increment", "acct", "--key", "k", "--timeout", "1"],
    )
    .await;
    assert_eq!(code, 3, "{err}");
    let (code, _) = ended(&server, &["get", "acct", "--timeout", "1"]).await;
    assert_eq!(code, 3);
    world.finish().await;
}
