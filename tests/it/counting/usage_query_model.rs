//! `Get` with random usage and random queries, compared with a model in memory.

use std::{cell::Cell, collections::BTreeMap};

use chrono::{DateTime, Datelike as _, TimeDelta, Utc};
use chrono_tz::Tz;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::runtime::Handle;
use usage_client::{Batch, Get, Granularity, Increment, PutAccount, Usage};
use usage_server::clock::Clock;

use crate::support::world::{World, at, on_both_engines};

on_both_engines!(random_usage_is_returned_in_the_right_points);

const CASES: u32 = 32;
/// Clocks went forward within the last 34 days, in Vienna and in New York.
const NOW: &str = "2026-03-31T12:00:00Z";
const HOURS: i64 = 33 * 24;
const ZONES: [&str; 6] = [
    "UTC",
    "Europe/Vienna",
    "America/New_York",
    "America/Sao_Paulo",
    "Pacific/Auckland",
    "Etc/GMT+12",
];

#[derive(Clone, Debug)]
struct Case {
    /// Meter, quantity and milliseconds before now.
    increments: Vec<(bool, i64, i64)>,
    /// The billing period's start, in milliseconds before now.
    edge: Option<i64>,
    /// The queried period in hours before now, or from the billing period's start.
    hours: (i64, i64),
    from_edge: bool,
    granularity: Granularity,
    zone: &'static str,
}

fn cases() -> impl Strategy<Value = Case> {
    const HOUR: i64 = 3_600_000;
    // Near full hours, where errors are most likely.
    let ago = prop_oneof![
        -5 * 60_000..HOURS * HOUR,
        (0..HOURS, -2_i64..=2).prop_map(|(hour, off)| hour * HOUR + off),
    ];
    let increment = (any::<bool>(), 1_i64..1_000_000_000_000, ago);
    (
        prop::collection::vec(increment, 0..60),
        prop::option::of(1..HOURS * HOUR),
        (2..HOURS, 1..HOURS),
        any::<bool>(),
        prop::sample::select(vec![
            Granularity::Total,
            Granularity::Slot,
            Granularity::Hour,
            Granularity::Day,
            Granularity::Month,
        ]),
        prop::sample::select(&ZONES[..]),
    )
        .prop_map(
            |(increments, edge, (start, length), from_edge, granularity, zone)| Case {
                increments,
                edge,
                hours: (start, (start - length).max(-24)),
                from_edge,
                granularity,
                zone,
            },
        )
}

/// The name of the point that contains a time.
fn name(granularity: Granularity, zone: Tz, moment: DateTime<Utc>) -> String {
    let local = moment.with_timezone(&zone);
    match granularity {
        Granularity::Day => local.date_naive().to_string(),
        Granularity::Month => format!("{}-{}", local.year(), local.month()),
        Granularity::Total => String::new(),
        _ => moment.format("%F %H").to_string(),
    }
}

impl Case {
    fn moment(ago_ms: i64) -> DateTime<Utc> {
        at(NOW) - TimeDelta::milliseconds(ago_ms)
    }

    fn period(&self) -> (DateTime<Utc>, DateTime<Utc>) {
        let (start, end) = self.hours;
        let (start, end) = (
            at(NOW) - TimeDelta::hours(start),
            at(NOW) - TimeDelta::hours(end),
        );
        match self.edge.map(Self::moment) {
            Some(edge) if self.from_edge && edge < end => (edge, end),
            _ => (start, end),
        }
    }

    /// The sum of each point that is not empty, by its name.
    fn expected(&self, meter: bool) -> BTreeMap<String, i64> {
        let (start, end) = self.period();
        let zone: Tz = self.zone.parse().unwrap();
        let mut sums = BTreeMap::new();
        for (of_meter, quantity, ago_ms) in &self.increments {
            let moment = Self::moment(*ago_ms);
            if *of_meter == meter && start <= moment && moment < end {
                *sums
                    .entry(name(self.granularity, zone, moment))
                    .or_default() += quantity;
            }
        }
        sums
    }

    fn check(&self, usage: &Usage) {
        let zone: Tz = self.zone.parse().unwrap();
        let (start, end) = self.period();
        for (meter, shown) in [(false, "api_calls"), (true, "tokens")] {
            let (expected, shown) = (self.expected(meter), usage.meter(shown).unwrap());
            assert_eq!(shown.quantities.total, expected.values().sum::<i64>());
            if self.granularity == Granularity::Total {
                assert!(shown.points.is_empty());
                continue;
            }
            let mut reached = start;
            let mut sums = BTreeMap::new();
            for point in &shown.points {
                assert_eq!(point.period.start, reached, "a gap");
                reached = point.period.end;
                let first = name(self.granularity, zone, point.period.start);
                let last = point.period.end - TimeDelta::milliseconds(1);
                assert_eq!(
                    first,
                    name(self.granularity, zone, last),
                    "a point of two parts"
                );
                if point.quantities.total > 0 {
                    sums.insert(first.clone(), point.quantities.total);
                }
                let next = name(self.granularity, zone, reached);
                assert!(reached == end || next != first, "a part of two points");
            }
            assert_eq!(reached, end);
            assert_eq!(sums, expected);
        }
    }
}

async fn try_case(world: &World, account: &str, case: &Case) {
    let client = world.client();
    if let Some(edge) = case.edge.map(Case::moment) {
        let customer = format!("cus_{account}");
        world.create_customers(&[&customer]).await;
        let put =
            PutAccount::stripe(account, customer).current_period(edge, edge + TimeDelta::days(31));
        client.put_account(put).await.unwrap();
    }
    if !case.increments.is_empty() {
        let increment = |(meter, quantity, ago_ms): &(bool, i64, i64)| {
            Increment::new(account)
                .meter(if *meter { "tokens" } else { "api_calls" })
                .quantity(*quantity)
                .timestamp(Case::moment(*ago_ms))
        };
        let batch: Batch = case.increments.iter().map(increment).collect();
        let outcome = client.increment_batch(batch).await.unwrap();
        assert_eq!(outcome.refused().count(), 0);
    }
    let (start, end) = case.period();
    let asked = Get::account(account)
        .period(start, end)
        .granularity(case.granularity)
        .time_zone(case.zone);
    case.check(&client.get(asked).await.unwrap());
}

async fn random_usage_is_returned_in_the_right_points(mut world: World) {
    let now = at(NOW).timestamp_millis();
    world.set_clock(Clock::manual(now)).await;
    let accounts = Cell::new(0);
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    tokio::task::block_in_place(|| {
        TestRunner::new(config)
            .run(&cases(), |case| {
                accounts.set(accounts.get() + 1);
                let account = format!("acct{}", accounts.get());
                Handle::current().block_on(try_case(&world, &account, &case));
                Ok(())
            })
            .unwrap();
    });
    world.finish().await;
}
