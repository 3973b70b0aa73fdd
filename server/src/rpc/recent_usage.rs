//! The recent usage of the accounts of a page: in the present period, in the last one, and by day.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chrono::{DateTime, Datelike as _, Months, NaiveTime, Utc};
use tokio::time::Instant;
use usage_proto::v1;

use super::wire;
use crate::{
    domain::{DAY_MS, Millis, account_id::AccountId, window::Interval},
    error::{Error, Result},
    read_turns::ReadTurns,
    store::{Store, recent_usage::DaySum},
};

/// The accounts of one page. Each is read by itself, by an index that has all columns.
pub(super) const MAX_ACCOUNTS: u64 = 100;
/// How long all of them may take. A page of the console waits a little longer.
const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// How far back usage is read: two of the longest months, and a week.
const READ_MS: Millis = 70 * DAY_MS;
/// The days that are summed one by one.
const DAYS: Millis = 30;

/// The billing periods of an account, with their meters.
type Periods = Vec<(String, Interval)>;

/// The sums of each meter.
type SumsByMeter = BTreeMap<String, Vec<DaySum>>;

/// The usage of some accounts, of which some are linked. It waits for its turn.
///
/// # Errors
/// Too many of these reads wait, it takes too long, or the database fails.
pub(super) async fn read(
    (store, turns): (&Store, &ReadTurns),
    linked: &[v1::Account],
    counted: &[String],
    now: Millis,
) -> Result<Vec<v1::RecentUsage>> {
    let linked = linked.iter();
    let linked = linked.map(|account| (account.account_id.clone(), periods_of(account)));
    let counted = counted.iter().map(|id| (id.clone(), Periods::new()));
    let all: BTreeMap<String, Periods> = linked.chain(counted).collect();
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let store = store.clone();
    turns
        .read(async move { read_all(&store, all, now).await })
        .await
}

/// One account after the other, so that a read has one connection.
async fn read_all(
    store: &Store,
    all: BTreeMap<String, Periods>,
    now: Millis,
) -> Result<Vec<v1::RecentUsage>> {
    let begun = Instant::now();
    let mut found = Vec::new();
    for (id, periods) in all {
        // Between statements: the engine would go on with one that is given up.
        if begun.elapsed() > READ_TIMEOUT {
            return Err(Error::DeadlineExceeded);
        }
        let account = AccountId::parse(&id)?;
        let edges = edges_of(&periods, now);
        let read = store.usage_by_day(&account, time_to_read(now), &edges);
        let mut sums = SumsByMeter::new();
        for (meter, sum) in read.await? {
            sums.entry(meter).or_default().push(sum);
        }
        found.extend(recent(&id, &sums, &periods, now));
    }
    Ok(found)
}

/// The edges, within the time that is read, of the periods of which there are figures. Edges of days are those of all sums.
fn edges_of(periods: &Periods, now: Millis) -> Vec<Millis> {
    let read = time_to_read(now);
    let meters: BTreeSet<&str> = periods.iter().map(|(meter, _)| meter.as_str()).collect();
    let shown = meters.into_iter().flat_map(|meter| {
        let (present, last) = present_and_last(meter, periods, now);
        [Some(present), last].into_iter().flatten()
    });
    let edges = shown.flat_map(|period| [period.start, period.end]);
    let edges = edges.filter(|edge| read.start < *edge && *edge < read.end);
    let edges = edges.filter(|edge| edge.rem_euclid(DAY_MS) != 0);
    edges.collect::<BTreeSet<_>>().into_iter().collect()
}

/// No window begins in the future.
fn time_to_read(now: Millis) -> Interval {
    Interval {
        start: now.saturating_sub(READ_MS),
        end: now.saturating_add(DAY_MS),
    }
}

fn periods_of(account: &v1::Account) -> Periods {
    let synced = account.subscription.iter();
    let periods = synced.flat_map(|synced| &synced.periods);
    let known = periods.filter_map(|one| {
        let period = one.period?;
        let at = |at: Option<prost_types::Timestamp>| wire::millis("period", &at?).ok();
        let (start, end) = (at(period.start)?, at(period.end)?);
        Some((one.meter.clone(), Interval { start, end }))
    });
    known.collect()
}

fn recent(
    account: &str,
    sums: &SumsByMeter,
    periods: &Periods,
    now: Millis,
) -> Vec<v1::RecentUsage> {
    let of_meter = |(meter, sums): (&String, &Vec<DaySum>)| {
        let (present, last) = present_and_last(meter, periods, now);
        let read_from = time_to_read(now).start;
        let total = |period: Interval| {
            (period.start >= read_from).then(|| in_64_bits(sum_in(sums, period)))
        };
        v1::RecentUsage {
            account_id: account.to_owned(),
            meter: meter.clone(),
            period: Some(wire::period(present)),
            quantity: total(present),
            previous_period: last.map(wire::period),
            previous_quantity: last.and_then(total),
            days: by_day(sums, now),
        }
    };
    sums.iter().map(of_meter).collect()
}

/// The period of a meter that contains a time, and the one before it; calendar months if no billing period is known.
fn present_and_last(meter: &str, periods: &Periods, now: Millis) -> (Interval, Option<Interval>) {
    let own = periods.iter().filter(|(of, _)| of == meter);
    let begun = own
        .map(|(_, period)| *period)
        .filter(|period| period.start <= now);
    let Some(present) = begun
        .clone()
        .filter(|period| now < period.end)
        .max_by_key(|period| period.start)
    else {
        return (month(now, 0), Some(month(now, 1)));
    };
    let last = begun.filter(|period| period.end <= present.start);
    (present, last.max_by_key(|period| period.start))
}

/// The calendar month of a time, or so many months before.
fn month(now: Millis, before: u32) -> Interval {
    let start_of = |before: u32| {
        let day = DateTime::from_timestamp_millis(now)?
            .date_naive()
            .with_day(1)?;
        let day = match before.checked_sub(1) {
            Some(before) => day.checked_sub_months(Months::new(before))?,
            None => day.checked_add_months(Months::new(1))?,
        };
        let start: DateTime<Utc> = day.and_time(NaiveTime::MIN).and_utc();
        Some(start.timestamp_millis())
    };
    Interval {
        start: start_of(before.saturating_add(1)).unwrap_or(now),
        end: start_of(before).unwrap_or(now),
    }
}

fn sum_in(sums: &[DaySum], period: Interval) -> i128 {
    let within = sums
        .iter()
        .filter(|sum| (period.start..period.end).contains(&sum.window_start));
    within.fold(0, |all, sum| all.saturating_add(sum.quantity))
}

/// The sums of the last days in UTC.
fn by_day(sums: &[DaySum], now: Millis) -> Vec<i64> {
    let today = now.div_euclid(DAY_MS);
    let first = today.saturating_sub(DAYS.saturating_sub(1));
    let mut days: Vec<i128> = (0..DAYS).map(|_| 0).collect();
    for sum in sums {
        let day = sum.window_start.div_euclid(DAY_MS).saturating_sub(first);
        let day = usize::try_from(day).ok().and_then(|day| days.get_mut(day));
        if let Some(day) = day {
            *day = day.saturating_add(sum.quantity);
        }
    }
    days.into_iter().map(in_64_bits).collect()
}

fn in_64_bits(sum: i128) -> i64 {
    i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-03-10T12:00:00Z
    const NOW: Millis = 1_773_144_000_000;

    fn sum(window_start: Millis, quantity: i128) -> DaySum {
        DaySum {
            window_start,
            quantity,
        }
    }

    fn interval(start: Millis, end: Millis) -> Interval {
        Interval {
            start: NOW + start * DAY_MS,
            end: NOW + end * DAY_MS,
        }
    }

    #[test]
    fn each_meter_has_its_own_periods_and_months_without_any() {
        let periods = vec![
            ("calls".to_owned(), interval(-5, 25)),
            ("calls".to_owned(), interval(-36, -5)),
            ("calls".to_owned(), interval(-66, -36)),
            ("calls".to_owned(), interval(25, 55)),
            ("yearly".to_owned(), interval(-100, 265)),
        ];
        let (present, last) = present_and_last("calls", &periods, NOW);
        assert_eq!((present, last), (interval(-5, 25), Some(interval(-36, -5))));
        let (present, last) = present_and_last("yearly", &periods, NOW);
        assert_eq!((present, last), (interval(-100, 265), None));
        let (present, last) = present_and_last("other", &periods, NOW);
        // March and February of 2026.
        assert_eq!(
            (present.start, present.end),
            (1_772_323_200_000, 1_775_001_600_000)
        );
        assert_eq!(last.unwrap().start, 1_769_904_000_000);
        assert_eq!(last.unwrap().end, present.start);
    }

    #[test]
    fn days_are_divided_where_a_period_that_is_shown_begins_or_ends() {
        let periods = vec![
            ("calls".to_owned(), interval(-5, 25)),
            ("calls".to_owned(), interval(-36, -5)),
            // Before what is shown, and before what is read.
            ("calls".to_owned(), interval(-66, -36)),
            ("yearly".to_owned(), interval(-100, 265)),
            // From midnight on.
            (
                "daily".to_owned(),
                Interval {
                    start: NOW - NOW.rem_euclid(DAY_MS),
                    end: NOW + DAY_MS / 4,
                },
            ),
        ];
        let expected = [NOW - 36 * DAY_MS, NOW - 5 * DAY_MS, NOW + DAY_MS / 4];
        assert_eq!(edges_of(&periods, NOW), expected);
        assert!(edges_of(&Periods::new(), NOW).is_empty());
    }

    #[test]
    fn usage_is_summed_by_period_and_day() {
        let sums: SumsByMeter = [(
            "calls".to_owned(),
            vec![
                sum(NOW, 1),
                sum(NOW - 5 * DAY_MS, 10),
                sum(NOW - 5 * DAY_MS - 1, 100),
                sum(NOW - 40 * DAY_MS, 1_000),
            ],
        )]
        .into();
        let periods = vec![
            ("calls".to_owned(), interval(-5, 25)),
            ("calls".to_owned(), interval(-36, -5)),
        ];
        let found = recent("acct", &sums, &periods, NOW);
        let [found] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(found.quantity, Some(11));
        assert_eq!(found.previous_quantity, Some(100));
        assert_eq!(found.days.len(), 30);
        assert_eq!(found.days[29], 1);
        assert_eq!(found.days[24], 110);
        assert_eq!(found.days.iter().sum::<i64>(), 111);
    }

    #[test]
    fn a_period_that_began_before_what_is_read_has_no_figure() {
        let sums: SumsByMeter = [("yearly".to_owned(), vec![sum(NOW, 1)])].into();
        let periods = vec![("yearly".to_owned(), interval(-100, 265))];
        let found = recent("acct", &sums, &periods, NOW);
        assert_eq!(found[0].quantity, None);
        assert_eq!(
            (found[0].previous_period, found[0].previous_quantity),
            (None, None)
        );
        assert_eq!(found[0].days[29], 1);
    }

    #[test]
    fn a_sum_that_is_too_large_is_the_largest() {
        assert_eq!(in_64_bits(i128::from(i64::MAX) + 1), i64::MAX);
        assert_eq!(in_64_bits(i128::from(i64::MIN) - 1), i64::MIN);
        assert_eq!(in_64_bits(-5), -5);
    }
}
