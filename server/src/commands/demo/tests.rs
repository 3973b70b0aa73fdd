//! The demo's output: everything reported is on final invoices, whenever the demo starts.

use chrono::DateTime;
use tokio_util::sync::CancellationToken;

use super::{DemoConfig, run, run_from};

/// The width of the output.
const COLUMNS: usize = 100;

/// Runs the demo; returns its output and whether the figures are equal.
async fn run_demo(start: Option<&str>) -> (String, bool) {
    let (config, stop) = (DemoConfig { once: true }, CancellationToken::new());
    let mut out = Vec::new();
    let result = match start {
        None => run(config, &mut out, stop).await,
        Some(text) => {
            let start = DateTime::parse_from_rfc3339(text).expect("a time");
            run_from(start.timestamp_millis(), config, &mut out, stop).await
        }
    };
    let printed = String::from_utf8(out).expect("text");
    let are_equal = result.unwrap_or_else(|error| panic!("{error:?}\n{printed}"));
    (printed, are_equal)
}

/// The address of the console, which the first line names; and the line before the last.
fn console_and_decision(printed: &str) -> (&str, &str) {
    let first = printed.lines().next().expect("a first line");
    let console = first.strip_prefix("console ").expect("the console");
    let console = console.split_whitespace().next().expect("an address");
    let decision = printed.lines().rev().nth(1).expect("a line");
    (console, decision)
}

/// The names and figures of the last line, in order.
fn figures(printed: &str) -> Vec<(&str, i64)> {
    let last = printed.lines().last().expect("a last line");
    let figures = last.strip_prefix("demo: ").expect("the demo's last line");
    figures
        .split(' ')
        .map(|figure| figure.split_once('=').expect("a name and a figure"))
        .map(|(name, figure)| (name, figure.parse().expect("a figure")))
        .collect()
}

fn assert_everything_is_invoiced((printed, are_equal): &(String, bool)) {
    let figures = figures(printed);
    let names: Vec<&str> = figures.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["counted", "reported", "stripe", "free", "invoiced"]);
    let [counted, reported, stripe, free, invoiced] = [0, 1, 2, 3, 4].map(|nth| figures[nth].1);
    assert!(counted > 0 && free > 0, "{figures:?}");
    assert_eq!([reported, stripe, invoiced], [counted; 3], "{printed}");
    assert!(are_equal, "{printed}");
    let (console, decision) = console_and_decision(printed);
    let is_local = console.starts_with("http://127.0.0.1:") && console.ends_with('/');
    assert!(is_local, "{console}");
    // It was counted after the figures were read, so they do not contain it.
    assert_eq!(
        decision,
        "waiting for a decision: one report of account-a with 1234 api_calls, which Stripe rejected"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_reported_usage_is_on_final_invoices() {
    let demo = run_demo(None).await;
    assert_everything_is_invoiced(&demo);
    let (printed, _) = &demo;
    for line in printed.lines() {
        let columns = line.chars().count();
        assert!(columns <= COLUMNS, "{columns} columns: {line}");
    }
    assert_eq!(printed.matches("A month passes").count(), 2, "{printed}");
    for step in ["ChangePlan", "CancelSubscription"] {
        assert!(printed.contains(step), "no {step} in {printed}");
    }
    let credit = printed.lines().find(|line| line.contains("(credit)"));
    let is_below_zero = |line: &str| line.contains(" -");
    assert!(credit.is_some_and(is_below_zero), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_just_before_the_end_of_a_month_is_invoiced_the_same() {
    let demo = run_demo(Some("2028-01-31T23:59:59.900Z")).await;
    assert_everything_is_invoiced(&demo);
}
