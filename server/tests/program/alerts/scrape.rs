//! Metrics as Prometheus reads them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in seconds of Unix time.
pub(super) fn unix_now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs_f64()
}

/// A value of a series.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// With its labels, as the service writes it.
    pub(super) series: String,
    pub(super) value: f64,
}

impl Sample {
    /// The name of the metric.
    pub(super) fn name(&self) -> &str {
        self.series.split('{').next().unwrap()
    }

    /// Whether it only grows.
    pub(super) fn is_counter(&self) -> bool {
        let endings = ["_total", "_bucket", "_count", "_sum"];
        endings.iter().any(|ending| self.name().ends_with(ending))
    }

    /// Whether it is a time.
    pub(super) fn is_time(&self) -> bool {
        self.name().ends_with("_timestamp_seconds")
    }
}

/// All series at one moment.
#[derive(Clone, Debug)]
pub(super) struct Scrape {
    /// In seconds of Unix time.
    pub(super) at: f64,
    pub(super) samples: Vec<Sample>,
}

impl Scrape {
    /// Parses the text format. Each line must be a sample or a comment.
    pub(super) fn parse(text: &str) -> Self {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
            let value = value.parse().unwrap_or_else(|_| panic!("{line:?}"));
            Sample {
                series: series.to_owned(),
                value,
            }
        });
        Self {
            at: unix_now(),
            samples: samples.collect(),
        }
    }

    /// The value of a series, which must be there.
    pub(super) fn get(&self, series: &str) -> f64 {
        self.find(series)
            .unwrap_or_else(|| panic!("{series} is not in {:#?}", self.samples))
    }

    pub(super) fn find(&self, series: &str) -> Option<f64> {
        let mut samples = self.samples.iter();
        samples
            .find(|sample| sample.series == series)
            .map(|sample| sample.value)
    }

    /// How many seconds ago a time was.
    pub(super) fn age(&self, series: &str) -> f64 {
        self.at - self.get(series)
    }

    /// The sum of all series of a metric whose labels contain a text.
    pub(super) fn sum(&self, name: &str, labels: &str) -> f64 {
        let samples = self.samples.iter();
        samples
            .filter(|sample| sample.name() == name && sample.series.contains(labels))
            .map(|sample| sample.value)
            .sum()
    }
}

#[test]
fn a_scrape_has_the_values_of_its_lines() {
    let text =
        "# HELP a b\n# TYPE a gauge\na{b=\"c d\"} 1.5\n\na{b=\"e\"} 2\nat_timestamp_seconds 7\n";
    let scrape = Scrape::parse(text);
    assert_eq!(scrape.get("a{b=\"c d\"}"), 1.5);
    assert_eq!(scrape.find("a"), None);
    assert_eq!(scrape.sum("a", "b="), 3.5);
    assert_eq!(scrape.age("at_timestamp_seconds"), scrape.at - 7.0);
}
