//! The metrics, and what is made of them: the page about them, the alert rules and the dashboard.

use std::{collections::BTreeSet, fs, path::Path};

use crate::support::world::{World, on_both_engines, poll};

on_both_engines!(
    alerts_and_documents_name_metrics_that_exist,
    calls_and_waiting_reports_are_in_the_metrics,
);

/// The endings of the series of a histogram.
const HISTOGRAM: [&str; 3] = ["_bucket", "_sum", "_count"];

/// The metrics of the service that a text names.
fn named(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = text.split(|c: char| !is_part(c));
    let names = words.filter(|word| word.starts_with("usage_") && !word.ends_with('_'));
    names
        .map(|name| {
            let base = HISTOGRAM.iter().find_map(|end| name.strip_suffix(end));
            base.unwrap_or(name)
        })
        .filter(|name| !["usage_billing", "usage_server", "usage_v1"].contains(name))
        .collect()
}

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Whether each value that a rule selects by is one that the service shows.
fn assert_selectors_exist(rules: &str, exported: &str) {
    let mut selected = 0;
    for part in rules.split("usage_").skip(1) {
        let Some((name, rest)) = part.split_once('{') else {
            continue;
        };
        let is_part = |byte: u8| byte == b'_' || byte.is_ascii_lowercase();
        if !name.bytes().all(is_part) {
            continue;
        }
        let selector = rest.split('}').next().unwrap();
        let (label, values) = selector.split_once(['=', '!']).unwrap();
        let values = values
            .trim_start_matches(['=', '~', '"'])
            .trim_end_matches('"');
        for value in values.split('|') {
            let series = exported.lines().any(|line| {
                line.starts_with(&format!("usage_{name}{{"))
                    && line.contains(&format!("{label}=\"{value}\""))
            });
            assert!(series, "no series usage_{name} with {label} {value:?}");
            selected += 1;
        }
    }
    assert!(selected > 15, "{selected}");
}

/// The rows of the page name the alerts on their metrics, and no others.
fn assert_alerts_are_documented(rules: &str, page: &str) {
    let mut expected = BTreeSet::new();
    for rule in rules.split("- alert: ").skip(1) {
        let (alert, rest) = rule.split_once('\n').unwrap();
        let expr = rest.lines().find(|line| line.trim().starts_with("expr:"));
        let metrics = named(expr.unwrap());
        expected.extend(metrics.into_iter().map(|metric| (metric, alert)));
    }
    let mut found = BTreeSet::new();
    for row in page.lines().filter(|line| line.starts_with("| `usage_")) {
        let (metric, _) = row.trim_start_matches("| `").split_once('`').unwrap();
        let words = row.split('`').filter(|word| word.starts_with("Usage"));
        found.extend(words.map(|alert| (metric, alert)));
    }
    // Others only hold while usage is reported.
    let is_condition = |(metric, alert): &(&str, &str)| {
        *metric == "usage_reporting_enabled" && *alert != "UsageReportingDisabled"
    };
    expected.retain(|pair| !is_condition(pair));
    assert_eq!(found, expected);
}

async fn alerts_and_documents_name_metrics_that_exist(world: World) {
    let text = poll("the first figures of the database", async || {
        let (status, text) = world.http_get("/metrics").await;
        assert_eq!(status, 200);
        // By a job that records its runs.
        text.contains("usage_job_last_run_timestamp_seconds{")
            .then_some(text)
    })
    .await;
    for label in ["job=", "instance="] {
        let of_prometheus = [format!("{{{label}"), format!(",{label}")];
        let has = |line: &&str| of_prometheus.iter().any(|label| line.contains(label));
        assert_eq!(text.lines().find(has), None, "Prometheus sets {label}");
    }
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let exported: BTreeSet<&str> = types
        .filter_map(|line| line.split(' ').next())
        // The clients of other tests record into the same process.
        .filter(|name| name.starts_with("usage_") && !name.starts_with("usage_recorder_"))
        .collect();
    let documented = file("server/docs/metrics.md");
    assert_eq!(named(&documented), exported);
    for path in [
        "server/deploy/prometheus/alerts.yml",
        "server/deploy/prometheus/alerts_test.yml",
        "server/deploy/grafana/dashboard.json",
    ] {
        let text = file(path);
        let used = named(&text);
        assert!(used.len() > 5, "{path}: {used:?}");
        let unknown: Vec<_> = used.difference(&exported).collect();
        assert!(unknown.is_empty(), "{path} names {unknown:?}");
    }
    assert_selectors_exist(&file("server/deploy/prometheus/alerts.yml"), &text);
    assert_alerts_are_documented(&file("server/deploy/prometheus/alerts.yml"), &documented);
    // Each alert has a paragraph.
    let runbook = file("server/docs/runbook.md");
    let alerts = file("server/deploy/prometheus/alerts.yml");
    let names = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    let mut alerts = 0;
    for name in names {
        assert!(runbook.contains(&format!("## {name}\n")), "{name}");
        alerts += 1;
    }
    assert!(alerts >= 20, "{alerts}");
    world.finish().await;
}

async fn calls_and_waiting_reports_are_in_the_metrics(world: World) {
    world.client().increment("acct").await.unwrap();
    world.usage("acct").await;
    world.client().increment("").await.unwrap_err();
    // Tests share the process's metrics, so they only show what is at least there.
    let at_least_one = [
        r#"usage_calls_total{method="usage.v1.UsageService/Increment",code="OK"} "#,
        r#"usage_calls_total{method="usage.v1.UsageService/Increment",code="INVALID_ARGUMENT"} "#,
        r#"usage_call_seconds_count{method="usage.v1.UsageService/Get"} "#,
        "usage_database_bytes ",
    ];
    poll("the calls in the metrics", async || {
        let (_, text) = world.http_get("/metrics").await;
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.parse::<f64>().ok()
        };
        at_least_one
            .iter()
            .all(|name| value(name).is_some_and(|value| value >= 1.0))
            .then_some(())
    })
    .await;
    let (_, text) = world.http_get("/metrics").await;
    for line in [
        r#"usage_calls_total{method="usage.v1.AccountService/ChangePlan",code="UNAVAILABLE"} "#,
        r#"usage_calls_total{method="grpc.health.v1.Health/Check",code="OK"} "#,
        r#"usage_calls_total{method="unknown",code="UNIMPLEMENTED"} "#,
        r#"usage_calls_refused_total{reason="OVERLOADED"} "#,
        r#"usage_reports{state="too_late"} "#,
        r#"usage_report_units{state="open"} "#,
        r#"usage_oldest_report_seconds{state="closed"} "#,
        r#"usage_reports_near_deadline{deadline="draft_end"} "#,
        r#"usage_stripe_requests_total{call="invoices",outcome="no_answer"} "#,
        r#"usage_lease_held{task="sender"} "#,
        "usage_build_info{version=",
        "process_resident_memory_bytes ",
    ] {
        let is_there = text.lines().any(|found| found.starts_with(line));
        assert!(is_there, "{line} is missing");
    }
    world.finish().await;
}
