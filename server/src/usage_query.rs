//! The query behind `Get`: usage by meter and time, from the sums of usage reports in the database.

use std::{collections::BTreeMap, sync::Arc};

use chrono_tz::Tz;

use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        meter::{Meter, Meters},
        period::{
            Granularity, MAX_POINTS, check_edges, check_length, check_month, month_around,
            parse_zone, round_outward, split,
        },
        report::State,
        window::{Interval, Slots},
    },
    error::{Error, Result},
    store::{Store, reports::UsageSum},
};

/// The parsed request.
#[derive(Clone, Debug)]
pub(crate) struct UsageQuery {
    pub(crate) account_id: String,
    /// Empty means all meters.
    pub(crate) meter: String,
    /// Absent means the current billing period, else the current month.
    pub(crate) period: Option<Interval>,
    pub(crate) granularity: Granularity,
    /// Empty means UTC.
    pub(crate) zone: String,
    /// Whether edges inside a slot are moved outward; otherwise they are refused.
    pub(crate) round_outward: bool,
}

/// The usage of one account in a period.
#[derive(Clone, Debug)]
pub(crate) struct UsageSummary {
    pub(crate) account_id: String,
    pub(crate) period: Interval,
    pub(crate) zone: Tz,
    pub(crate) as_of: Millis,
    pub(crate) meters: Vec<MeterUsage>,
}

/// The usage of one meter.
#[derive(Clone, Debug)]
pub(crate) struct MeterUsage {
    pub(crate) meter: Arc<str>,
    pub(crate) unit: Arc<str>,
    pub(crate) quantities: Quantities,
    pub(crate) points: Vec<(Interval, Quantities)>,
}

/// Quantities by progress towards an invoice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Quantities {
    pub(crate) reported: i64,
    pub(crate) not_yet_reported: i64,
    pub(crate) not_billable: i64,
}

impl Quantities {
    /// The total counted.
    pub(crate) fn total(&self) -> i64 {
        self.reported
            .saturating_add(self.not_yet_reported)
            .saturating_add(self.not_billable)
    }

    fn add(&mut self, sum: &UsageSum) {
        let part = match sum.state {
            State::NotBillable | State::WrittenOff => &mut self.not_billable,
            state if state.is_reported() => &mut self.reported,
            _ => &mut self.not_yet_reported,
        };
        *part = part.saturating_add(sum.quantity);
    }
}

/// Runs a query. An unknown account has zero usage.
pub(crate) async fn query(
    store: &Store,
    meters: &Meters,
    slots: Slots,
    query: UsageQuery,
    now: Millis,
) -> Result<UsageSummary> {
    let account_id = AccountId::parse(&query.account_id)?;
    let zone = parse_zone(&query.zone)?;
    let only = if query.meter.is_empty() {
        None
    } else {
        Some(meters.resolve(&query.meter)?)
    };
    let configured: Vec<&Meter> =
        only.map_or_else(|| meters.all().iter().collect(), |meter| vec![meter]);
    let periods = store.billing_periods(&account_id).await?;
    let account = match query.period {
        Some(_) => None,
        None => store.find_account(&account_id).await?,
    };
    let period = match query.period {
        Some(period) => period,
        None => account
            .and_then(|account| account.current_period)
            .filter(|period| period.contains(now))
            .or_else(|| month_around(now, zone))
            .ok_or_else(|| Error::Internal("the clock is outside the calendar".into()))?,
    };
    let edges: Vec<Millis> = periods
        .iter()
        .flat_map(|period| [period.start, period.end])
        .collect();
    if query.period.is_some() {
        check_length(period)?;
    }
    let period = if query.round_outward {
        round_outward(period, slots, &edges)
    } else if query.period.is_some() {
        check_edges(period, slots, &edges)?;
        period
    } else {
        check_month(period, zone, slots, &edges)?;
        period
    };
    let points = split(period, query.granularity, zone, slots, configured.len())?;
    let sums = store
        .sum_usage(&account_id, only.map(|meter| &*meter.name), period)
        .await?;
    let mut by_meter: BTreeMap<&str, Vec<&UsageSum>> = BTreeMap::new();
    for sum in &sums {
        by_meter.entry(&sum.meter).or_default().push(sum);
    }
    let mut usage: Vec<MeterUsage> = configured
        .into_iter()
        .map(|meter| {
            let own = by_meter.remove(&*meter.name).unwrap_or_default();
            meter_usage(&meter.name, &meter.unit, &own, &points)
        })
        .collect();
    // Usage of a meter that is no longer configured is still shown.
    usage.extend(
        by_meter
            .iter()
            .map(|(meter, own)| meter_usage(&Arc::from(*meter), &Arc::default(), own, &points)),
    );
    if usage.len().saturating_mul(points.len()) > MAX_POINTS {
        split(period, query.granularity, zone, slots, usage.len())?;
    }
    Ok(UsageSummary {
        account_id: query.account_id,
        period,
        zone,
        as_of: now,
        meters: usage,
    })
}

fn meter_usage(
    meter: &Arc<str>,
    unit: &Arc<str>,
    sums: &[&UsageSum],
    points: &[Interval],
) -> MeterUsage {
    let mut quantities = Quantities::default();
    let mut series: Vec<(Interval, Quantities)> = points
        .iter()
        .map(|point| (*point, Quantities::default()))
        .collect();
    for sum in sums {
        quantities.add(sum);
        let index = points.partition_point(|point| point.end <= sum.window_start);
        if let Some((_, point)) = series.get_mut(index) {
            point.add(sum);
        }
    }
    MeterUsage {
        meter: Arc::clone(meter),
        unit: Arc::clone(unit),
        quantities,
        points: series,
    }
}
