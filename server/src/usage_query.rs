//! The query behind `Get`: usage by meter and time, from the sums of usage reports in the database.

use std::sync::Arc;

use chrono_tz::Tz;

use crate::{
    database_error::is_closed_by_server,
    domain::{
        Millis,
        account_id::AccountId,
        meter::{Meter, Meters},
        period::{
            Granularity, MAX_POINTS, check_edges, check_length, check_month, is_of_slots,
            month_around, parse_zone, round_outward, split,
        },
        report::State,
        violation::{Violation, quoted},
        window::{Interval, Slots},
    },
    error::{Error, Result},
    store::{Store, usage_sums::UsageSum},
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
    reported: i128,
    not_yet_reported: i128,
    not_billable: i128,
}

impl Quantities {
    /// The total counted.
    pub(crate) fn total(&self) -> i128 {
        let total = self.reported.saturating_add(self.not_yet_reported);
        total.saturating_add(self.not_billable)
    }

    /// What Stripe has accepted.
    pub(crate) fn reported(&self) -> i128 {
        self.reported
    }

    /// What Stripe will get.
    pub(crate) fn not_yet_reported(&self) -> i128 {
        self.not_yet_reported
    }

    /// What Stripe never gets.
    pub(crate) fn not_billable(&self) -> i128 {
        self.not_billable
    }

    /// Adds usage in a state.
    pub(crate) fn add(&mut self, state: State, quantity: i128) {
        let part = match state {
            State::NotBillable | State::WrittenOff => &mut self.not_billable,
            state if state.is_reported() => &mut self.reported,
            _ => &mut self.not_yet_reported,
        };
        *part = part.saturating_add(quantity);
    }
}

/// A sum of a meter's usage, as a response has it.
///
/// # Errors
/// It has more than 64 bits.
pub(crate) fn in_64_bits(meter: &str, sum: i128) -> Result<i64, Violation> {
    i64::try_from(sum).map_err(|_| {
        let message = format!(
            "the usage of meter {} in this period is {sum}, and a sum in an answer is from {} to {}; ask for a shorter period",
            quoted(meter),
            i64::MIN,
            i64::MAX
        );
        Violation::invalid("period", message)
    })
}

/// Runs a query. An unknown account has zero usage.
///
/// A connection that was used a moment ago is not asked whether it still responds. If its server has just closed it, the query
/// runs again on another one.
pub(crate) async fn query(
    store: &Store,
    meters: &Meters,
    slots: Slots,
    query: UsageQuery,
    now: Millis,
) -> Result<UsageSummary> {
    match query_once(store, meters, slots, &query, now).await {
        Err(Error::DatabaseUnavailable(error)) if is_closed_by_server(&error) => {
            store.doubt_connections();
            query_once(store, meters, slots, &query, now).await
        }
        answered => answered,
    }
}

async fn query_once(
    store: &Store,
    meters: &Meters,
    slots: Slots,
    query: &UsageQuery,
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
    if query.period.is_some() {
        check_length(period)?;
    }
    let edges = billing_edges(store, &account_id, period, slots).await?;
    let period = if query.round_outward {
        round_outward(period, slots, &edges)
    } else if query.period.is_some() {
        check_edges(period, slots, &edges)?;
        period
    } else {
        check_month(period, zone, slots, &edges)?;
        period
    };
    let split_of = |meters| {
        let is_rounded = query.round_outward;
        split(period, query.granularity, zone, slots, is_rounded, meters)
    };
    let points = split_of(configured.len())?;
    let only = only.map(|meter| &*meter.name);
    let mut by_meter = if query.granularity == Granularity::Total {
        store.usage_in_total(&account_id, only, period).await?
    } else {
        store.usage_by_window(&account_id, only, period).await?
    };
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
            .map(|(meter, own)| meter_usage(&Arc::from(&**meter), &Arc::default(), own, &points)),
    );
    if usage.len().saturating_mul(points.len()) > MAX_POINTS {
        split_of(usage.len())?;
    }
    Ok(UsageSummary {
        account_id: query.account_id.clone(),
        period,
        zone,
        as_of: now,
        meters: usage,
    })
}

/// The edges of the account's billing periods, if they matter to a period.
async fn billing_edges(
    store: &Store,
    account_id: &AccountId,
    period: Interval,
    slots: Slots,
) -> Result<Vec<Millis>> {
    if is_of_slots(period, slots) {
        return Ok(Vec::new());
    }
    let periods = store.billing_periods(account_id).await?;
    let edges = periods.iter().map(|period| [period.start, period.end]);
    Ok(edges.flatten().collect())
}

fn meter_usage(
    meter: &Arc<str>,
    unit: &Arc<str>,
    sums: &[UsageSum],
    points: &[Interval],
) -> MeterUsage {
    let mut quantities = Quantities::default();
    let mut series: Vec<(Interval, Quantities)> = points
        .iter()
        .map(|point| (*point, Quantities::default()))
        .collect();
    for sum in sums {
        quantities.add(sum.state, sum.quantity);
        let index = points.partition_point(|point| point.end <= sum.window_start);
        if let Some((_, point)) = series.get_mut(index) {
            point.add(sum.state, sum.quantity);
        }
    }
    MeterUsage {
        meter: Arc::clone(meter),
        unit: Arc::clone(unit),
        quantities,
        points: series,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_beyond_64_bits_is_refused_with_its_meter() {
        for fits in [0, i64::MIN, i64::MAX] {
            assert_eq!(in_64_bits("tokens", fits.into()), Ok(fits));
        }
        for sum in [i128::from(i64::MAX) + 1, i128::from(i64::MIN) - 1] {
            let violation = in_64_bits("tokens", sum).unwrap_err();
            assert_eq!(violation.field, "period");
            for part in ["\"tokens\"", &sum.to_string(), "9223372036854775807"] {
                assert!(violation.message.contains(part), "{}", violation.message);
            }
        }
    }

    #[test]
    fn the_total_of_large_parts_is_exact() {
        let mut quantities = Quantities::default();
        for state in [State::Open, State::Invoiced, State::NotBillable] {
            quantities.add(state, i64::MAX.into());
        }
        assert_eq!(quantities.total(), i128::from(i64::MAX) * 3);
    }
}
