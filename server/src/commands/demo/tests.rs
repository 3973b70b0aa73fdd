//! The demo as its reader sees it: everything reported is on final invoices, whenever it is started.

use chrono::DateTime;
use tokio_util::sync::CancellationToken;

use super::{DemoConfig, run, run_from};

/// How wide a terminal has to be.
const COLUMNS: usize = 100;

/// Plays the demo; answers what it printed and whether it was content.
async fn played(start: Option<&str>) -> (String, bool) {
    let (config, stop) = (DemoConfig { once: true }, CancellationToken::new());
    let mut out = Vec::new();
    let agree = match start {
        None => run(config, &mut out, stop).await,
        Some(text) => {
            let start = DateTime::parse_from_rfc3339(text).expect("a time");
            run_from(start.timestamp_millis(), config, &mut out, stop).await
        }
    };
    let printed = String::from_utf8(out).expect("text");
    let agree = agree.unwrap_or_else(|error| panic!("{error:#}\n{printed}"));
    (printed, agree)
}

/// The figures of the last line, by their names in order.
fn figures(printed: &str) -> Vec<(&str, i64)> {
    let last = printed.lines().last().expect("a last line");
    let figures = last.strip_prefix("demo: ").expect("the demo's last line");
    figures
        .split(' ')
        .map(|figure| figure.split_once('=').expect("a name and a figure"))
        .map(|(name, figure)| (name, figure.parse().expect("a figure")))
        .collect()
}

fn everything_is_invoiced((printed, agree): &(String, bool)) {
    let figures = figures(printed);
    let names: Vec<&str> = figures.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["counted", "reported", "stripe", "free", "invoiced"]);
    let [counted, reported, stripe, free, invoiced] = [0, 1, 2, 3, 4].map(|nth| figures[nth].1);
    assert!(counted > 0 && free > 0, "{figures:?}");
    assert_eq!([reported, stripe, invoiced], [counted; 3], "{printed}");
    assert!(agree, "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_was_reported_is_on_final_invoices() {
    let demo = played(None).await;
    everything_is_invoiced(&demo);
    let (printed, _) = &demo;
    for line in printed.lines() {
        let columns = line.chars().count();
        assert!(columns <= COLUMNS, "{columns} columns: {line}");
    }
    for step in ["A month passes", "ChangePlan", "CancelSubscription"] {
        assert!(printed.contains(step), "no {step} in {printed}");
    }
    let credit = printed.lines().find(|line| line.contains("(credit)"));
    let is_below_zero = |line: &str| line.contains(" -");
    assert!(credit.is_some_and(is_below_zero), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_that_starts_before_the_midnight_of_a_months_last_day_is_as_right() {
    let demo = played(Some("2028-01-31T23:59:59.900Z")).await;
    everything_is_invoiced(&demo);
}
