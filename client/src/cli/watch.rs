//! `usagectl watch`

use super::{Streams, chart, exit::Failure, output::grouped};
use crate::{Get, UsageClient};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// The number of readings in the sparkline.
const MAX_READINGS: usize = 40;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The accounts, at most 20; their current billing periods are shown
    #[arg(required = true, num_args = 1..=20)]
    accounts: Vec<String>,
    /// Only this meter
    #[arg(long, short)]
    meter: Option<String>,
    /// The time between two readings, in seconds
    #[arg(long, default_value = "2", value_name = "SECS", value_parser = interval)]
    interval: Duration,
    /// The number of readings; unlimited by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

fn interval(text: &str) -> Result<Duration, String> {
    let secs: f64 = text.parse().map_err(|error| format!("{error}"))?;
    let interval = Duration::try_from_secs_f64(secs).map_err(|error| error.to_string())?;
    let limits = Duration::from_millis(100)..=Duration::from_hours(1);
    if limits.contains(&interval) {
        Ok(interval)
    } else {
        Err("must be 0.1 to 3600 seconds".to_owned())
    }
}

/// The readings of one account and meter.
#[derive(Debug, Default)]
struct Series {
    total: Option<i64>,
    growth: VecDeque<i64>,
    /// Its line on the terminal, if there is one.
    bar: Option<ProgressBar>,
}

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let screen = MultiProgress::new();
    let mut series: BTreeMap<(usize, String), Series> = BTreeMap::new();
    let mut ticks = tokio::time::interval(arguments.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut readings = 0_u64;
    while arguments.count.is_none_or(|count| readings < count) {
        ticks.tick().await;
        readings = readings.saturating_add(1);
        for (place, account) in arguments.accounts.iter().enumerate() {
            let mut get = Get::account(account);
            if let Some(meter) = &arguments.meter {
                get = get.meter(meter);
            }
            let usage = match client.get(get).await {
                Ok(usage) => usage,
                // A server that was reached before is expected to come back.
                Err(error) if error.is_retryable() && readings > 1 => {
                    let err = &mut streams.err;
                    screen.suspend(|| writeln!(err, "{account}: {error}"))?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            for meter in usage.meters {
                let one = series.entry((place, meter.meter.clone())).or_default();
                let grown = one.add(meter.quantities.total);
                let name = format!("{account} {}", meter.meter);
                let total = grouped(meter.quantities.total);
                let line = format!("{name:<30} {total:>20} {grown:>12}");
                if streams.are_terminals {
                    one.draw(&screen, &line);
                } else {
                    writeln!(streams.out, "{} {}", time(usage.as_of), line.trim_end())?;
                }
            }
        }
        streams.out.flush()?;
    }
    for bar in series.into_values().filter_map(|one| one.bar) {
        bar.abandon();
    }
    Ok(())
}

impl Series {
    /// Adds a reading and returns the growth since the previous one, as text.
    fn add(&mut self, total: i64) -> String {
        let Some(before) = self.total.replace(total) else {
            return String::new();
        };
        let grown = total.saturating_sub(before);
        if self.growth.len() == MAX_READINGS {
            self.growth.pop_front();
        }
        self.growth.push_back(grown);
        let sign = if grown < 0 { "" } else { "+" };
        format!("{sign}{}", grouped(grown))
    }

    fn draw(&mut self, screen: &MultiProgress, line: &str) {
        let growth: Vec<i64> = self.growth.iter().copied().collect();
        let bar = self.bar.get_or_insert_with(|| {
            let bar = screen.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            bar
        });
        bar.set_message(format!(
            "{line} {}",
            chart::sparkline(&growth, MAX_READINGS)
        ));
        bar.tick();
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
