//! The flags of commands about a period of all accounts.

use super::{
    exit::Failure,
    time_arg::{self, TimeArg, now},
};
use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use chrono_tz::Tz;
use clap::{ArgGroup, Args};

/// A period, from a start or of the last days.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("since").required(true))]
pub(super) struct PeriodArgs {
    /// The start: 2026-03-01, 2026-03-01T12:00, 2026-03-01T12:00:00Z, -7d, today or yesterday. A time such as -7d is rounded as
    /// by --round
    #[arg(long, group = "since", value_name = "TIME", value_parser = time_arg::parse, allow_hyphen_values = true)]
    start: Option<TimeArg>,
    /// The end, exclusive; by default the next full hour
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse, requires = "start", allow_hyphen_values = true)]
    end: Option<TimeArg>,
    /// Move --start and --end outward to full slots, where usage can be split
    #[arg(long, requires = "start")]
    round: bool,
    /// The last days or hours until now, such as 7d or 24h, rounded as by --round
    #[arg(long, group = "since", value_name = "TIME", value_parser = time_arg::duration)]
    last: Option<TimeDelta>,
    /// The time zone of days and months, such as Europe/Vienna
    #[arg(long, value_name = "ZONE", env = "USAGE_TIME_ZONE", default_value_t = Tz::UTC)]
    pub(super) time_zone: Tz,
}

/// The period that is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct AskedPeriod {
    pub(super) start: DateTime<Utc>,
    pub(super) end: DateTime<Utc>,
    pub(super) is_rounded: bool,
}

impl PeriodArgs {
    pub(super) fn read(&self) -> Result<AskedPeriod, Failure> {
        let now = now();
        let edge = |arg: TimeArg| arg.in_zone(self.time_zone).map_err(Failure::arguments);
        if let Some(last) = self.last {
            let start = now.checked_sub_signed(last);
            return Ok(AskedPeriod {
                start: start.ok_or_else(|| {
                    Failure::arguments("--last begins before all times; choose a shorter one")
                })?,
                end: now,
                is_rounded: true,
            });
        }
        let start = self
            .start
            .ok_or_else(|| Failure::arguments("give --start or --last"))?;
        let edges = [Some(start), self.end].into_iter().flatten();
        let is_relative = edges.into_iter().any(TimeArg::is_relative);
        Ok(AskedPeriod {
            start: edge(start)?,
            end: match self.end {
                Some(end) => edge(end)?,
                None => next_hour(now)?,
            },
            is_rounded: self.round || is_relative,
        })
    }
}

/// The end of the hour that contains a time.
pub(super) fn next_hour(now: DateTime<Utc>) -> Result<DateTime<Utc>, Failure> {
    let hour = TimeDelta::hours(1);
    let hour_start = now.duration_trunc(hour).ok();
    hour_start
        .and_then(|hour_start| hour_start.checked_add_signed(hour))
        .ok_or_else(|| Failure::arguments("this machine's clock is out of range; set --end"))
}
