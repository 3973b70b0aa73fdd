//! What the alert rules see: phases of hours, each with what was scraped of the replicas at its end, and the alerts that fire
//! then. `promtool`, of Debian's package `prometheus`, evaluates the rules.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::scrape::{Sample, Scrape};

/// The rules that are shipped.
fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus/alerts.yml")
}

/// The replicas at the end of a phase; one that does not answer has no scrape.
pub(super) type Replicas<'a> = &'a [(&'a str, Option<&'a Scrape>)];

/// Phases, one after the other.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The values of each series in the notation of `promtool`, a minute each.
    series: BTreeMap<String, String>,
    /// The last value of each counter.
    counters: BTreeMap<String, f64>,
    minutes: u32,
    /// The last minute of each phase, and what fires then.
    checks: Vec<(u32, Vec<String>)>,
    /// Only metrics that it names are of interest.
    rules: String,
}

impl History {
    pub(super) fn new() -> Self {
        Self {
            rules: fs::read_to_string(rules()).unwrap(),
            ..Self::default()
        }
    }

    /// A phase in which the replicas stay as they were scraped. Counters grow evenly to what was scraped. Times move on, so
    /// that they stay as long ago as they were. At its end, exactly these alerts fire.
    pub(super) fn phase(&mut self, minutes: u32, replicas: Replicas, firing: &[&str]) {
        self.stalled_phase(minutes, replicas, &[], firing);
    }

    /// A minute with what happened between the last scrape and the end of a fault. What fires then is left open.
    pub(super) fn catch_up(&mut self, replicas: Replicas) {
        self.phase(1, replicas, &[]);
        self.checks.pop();
    }

    /// As [`Self::phase`], but some times stand still: two scrapes have shown the same.
    pub(super) fn stalled_phase(
        &mut self,
        minutes: u32,
        replicas: Replicas,
        still: &[&str],
        firing: &[&str],
    ) {
        let mut added = BTreeMap::new();
        for (instance, scrape) in replicas {
            let up = format!("up{{job=\"usage-billing\",instance=\"{instance}\"}}");
            let is_up = u8::from(scrape.is_some());
            added.insert(up, format!("{is_up}x{}", minutes - 1));
            for sample in scrape.iter().flat_map(|scrape| &scrape.samples) {
                if self.rules.contains(sample.name()) {
                    let series = labelled(&sample.series, instance);
                    let stands = still.contains(&sample.name());
                    let at = scrape.unwrap().at;
                    let values = self.values(&series, sample, at, minutes, stands);
                    added.insert(series, values);
                }
            }
        }
        for series in self.series.keys() {
            let missing = || format!("_x{minutes}");
            added.entry(series.clone()).or_insert_with(missing);
        }
        for (series, values) in added {
            let before = self.minutes;
            let all = self.series.entry(series).or_insert_with(|| {
                // It was not there until now.
                if before == 0 {
                    String::new()
                } else {
                    format!("_x{before}")
                }
            });
            all.push(' ');
            all.push_str(&values);
        }
        self.minutes += minutes;
        let firing = firing.iter().map(|alert| (*alert).to_owned());
        self.checks.push((self.minutes - 1, firing.collect()));
    }

    fn values(
        &mut self,
        series: &str,
        sample: &Sample,
        at: f64,
        minutes: u32,
        stands: bool,
    ) -> String {
        let more = minutes - 1;
        if sample.is_counter() {
            let before = self.counters.insert(series.to_owned(), sample.value);
            // Another process begins at zero.
            let before = before.unwrap_or(sample.value);
            let before = if before > sample.value { 0.0 } else { before };
            let step = (sample.value - before) / f64::from(minutes);
            return format!("{}+{step}x{more}", before + step);
        }
        if sample.is_time() {
            let begin = f64::from(self.minutes) * 60.0 + (sample.value - at);
            let step = if stands { 0 } else { 60 };
            return format!("{begin}+{step}x{more}");
        }
        format!("{}x{more}", sample.value)
    }

    /// Evaluates the rules. Without `promtool`, it says that it skipped that; in CI it fails.
    pub(super) fn check(&self) {
        let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        if Command::new("promtool").arg("--version").output().is_err() {
            assert!(!is_ci, "promtool is not installed");
            return eprintln!("SKIPPED: promtool is not installed");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("history.yml");
        fs::write(&file, self.text()).unwrap();
        let told = Command::new("promtool")
            .args(["test", "rules"])
            .arg(&file)
            .output()
            .unwrap();
        let (out, err) = (
            String::from_utf8_lossy(&told.stdout),
            String::from_utf8_lossy(&told.stderr),
        );
        assert!(told.status.success(), "{out}{err}{:#?}", self.short());
    }

    /// The series that are not always zero.
    fn short(&self) -> Vec<String> {
        let is_zero =
            |part: &str| part.is_empty() || part.starts_with("0x") || part.starts_with("0+0x");
        let series = self.series.iter();
        series
            .filter(|(_, values)| !values.split(' ').all(is_zero))
            .map(|(series, values)| format!("{series}:{values}"))
            .collect()
    }

    fn text(&self) -> String {
        let mut text = format!(
            "rule_files: ['{}']\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n",
            rules().display()
        );
        for (series, values) in &self.series {
            writeln!(
                text,
                "      - series: '{series}'\n        values: '{}'",
                values.trim_start()
            )
            .unwrap();
        }
        text.push_str("    promql_expr_test:\n");
        for (minute, firing) in &self.checks {
            let expression = r#"group by (alertname) (ALERTS{alertstate="firing"})"#;
            writeln!(
                text,
                "      - expr: '{expression}'\n        eval_time: {minute}m"
            )
            .unwrap();
            if !firing.is_empty() {
                text.push_str("        exp_samples:\n");
            }
            for alert in firing {
                let labels = format!("{{alertname=\"{alert}\"}}");
                writeln!(text, "          - labels: '{labels}'\n            value: 1").unwrap();
            }
        }
        text
    }
}

/// A series with the labels that Prometheus adds.
fn labelled(series: &str, instance: &str) -> String {
    let added = format!("job=\"usage-billing\",instance=\"{instance}\"}}");
    match series.strip_suffix('}') {
        Some(own) => format!("{own},{added}"),
        None => format!("{series}{{{added}"),
    }
}

#[test]
fn an_alert_that_fires_or_does_not_is_told_apart() {
    let doubt = Scrape::parse("usage_clock_in_doubt 1");
    let none = Scrape::parse("usage_clock_in_doubt 0");
    let mut history = History::new();
    history.phase(60, &[("a", Some(&none))], &[]);
    history.phase(60, &[("a", Some(&doubt))], &["UsageClockInDoubt"]);
    history.phase(60, &[("a", None)], &["UsageServerDown"]);
    history.check();
    if Command::new("promtool").arg("--version").output().is_ok() {
        for (scrape, firing) in [(&none, &["UsageClockInDoubt"][..]), (&doubt, &[])] {
            let mut wrong = History::new();
            wrong.phase(60, &[("a", Some(scrape))], firing);
            assert!(std::panic::catch_unwind(|| wrong.check()).is_err());
        }
    }
}
