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

/// How many looks the sparkline remembers.
const REMEMBERED: usize = 40;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Whose usage, in their current billing periods; at most 20
    #[arg(required = true, num_args = 1..=20)]
    accounts: Vec<String>,
    /// Only this meter
    #[arg(long, short)]
    meter: Option<String>,
    /// How long between two looks, in seconds
    #[arg(long, default_value = "2", value_name = "SECS", value_parser = interval)]
    interval: Duration,
    /// How many looks; without end unless given
    #[arg(long, value_name = "LOOKS", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

fn interval(text: &str) -> Result<Duration, String> {
    let secs: f64 = text.parse().map_err(|error| format!("{error}"))?;
    let interval = Duration::try_from_secs_f64(secs).map_err(|error| error.to_string())?;
    let limits = Duration::from_millis(100)..=Duration::from_hours(1);
    if limits.contains(&interval) {
        Ok(interval)
    } else {
        Err("it may be 0.1 to 3600 seconds".to_owned())
    }
}

/// What was seen of one account and meter.
#[derive(Debug, Default)]
struct Seen {
    total: Option<i64>,
    growth: VecDeque<i64>,
    /// Its place on the terminal, where there is one.
    bar: Option<ProgressBar>,
}

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let screen = MultiProgress::new();
    let mut seen: BTreeMap<(usize, String), Seen> = BTreeMap::new();
    let mut beat = tokio::time::interval(arguments.interval);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut looks = 0_u64;
    while arguments.count.is_none_or(|count| looks < count) {
        beat.tick().await;
        looks = looks.saturating_add(1);
        for (place, account) in arguments.accounts.iter().enumerate() {
            let mut get = Get::account(account);
            if let Some(meter) = &arguments.meter {
                get = get.meter(meter);
            }
            let usage = match client.get(get).await {
                Ok(usage) => usage,
                // A server that is away for a moment comes back.
                Err(error) if error.is_retryable() && looks > 1 => {
                    let err = &mut streams.err;
                    screen.suspend(|| writeln!(err, "{account}: {error}"))?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            for meter in usage.meters {
                let one = seen.entry((place, meter.meter.clone())).or_default();
                let grown = one.look(meter.quantities.total);
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
    for bar in seen.into_values().filter_map(|one| one.bar) {
        bar.abandon();
    }
    Ok(())
}

impl Seen {
    /// Takes a look in; answers how much it grew since the last one.
    fn look(&mut self, total: i64) -> String {
        let Some(before) = self.total.replace(total) else {
            return String::new();
        };
        let grown = total.saturating_sub(before);
        if self.growth.len() == REMEMBERED {
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
        bar.set_message(format!("{line} {}", chart::sparkline(&growth, REMEMBERED)));
        bar.tick();
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
