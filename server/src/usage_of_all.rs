//! The queries behind `ListUsage` and `GetSummary`: the usage of many accounts, from the sums of their reports in the
//! database.

use std::{collections::BTreeMap, sync::Arc};

use chrono_tz::Tz;

use crate::{
    domain::{
        Millis,
        caller_id::CallerId,
        meter::Meters,
        period::{Granularity, MAX_POINTS, parse_zone, split},
        report::State,
        usage_list::{
            AccountUsage, UsageOrder, UsagePlace, check_parts, period_of_all, width_of_parts,
        },
        violation::{Reason, Violation},
        window::{Interval, Slots},
    },
    error::Result,
    read_turns::ReadTurns,
    store::{
        Store,
        usage_of_accounts::{MeterAccounts, UsageFilter},
        usage_summary::PartSum,
    },
    usage_query::Quantities,
};

/// Sums by state in the points of one response. So many take less than a message may have.
const MAX_STATES_OF_POINTS: usize = 100_000;

/// Reads the usage of many accounts. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct UsageOfAll {
    store: Store,
    meters: Arc<Meters>,
    slots: Slots,
    turns: ReadTurns,
}

/// The parsed request of a summary.
#[derive(Clone, Debug)]
pub(crate) struct SummaryQuery {
    pub(crate) filter: UsageFilter,
    pub(crate) granularity: Granularity,
    /// Empty means UTC.
    pub(crate) zone: String,
    /// Whether days and months that begin inside a slot begin with it; otherwise they are refused.
    pub(crate) is_rounded: bool,
    /// How many accounts with the most usage are returned for each meter.
    pub(crate) top: u32,
}

/// The usage of all accounts in a period.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    pub(crate) zone: Tz,
    pub(crate) meters: Vec<MeterSummary>,
    /// How many accounts have usage of any of the meters.
    pub(crate) accounts: i64,
}

/// The usage of one meter of all accounts.
#[derive(Clone, Debug)]
pub(crate) struct MeterSummary {
    pub(crate) meter: Arc<str>,
    pub(crate) unit: Arc<str>,
    pub(crate) quantities: Quantities,
    pub(crate) states: StateSums,
    pub(crate) points: Vec<(Interval, StateSums)>,
    pub(crate) accounts: i64,
    pub(crate) top: Vec<AccountUsage>,
}

/// Quantities by state, in the order of the states.
pub(crate) type StateSums = BTreeMap<State, i128>;

impl UsageOfAll {
    pub(crate) fn new(store: Store, meters: Arc<Meters>, slots: Slots) -> Self {
        Self {
            store,
            meters,
            slots,
            turns: ReadTurns::of("reads of the usage of all accounts"),
        }
    }

    /// The period that is read for a requested one.
    ///
    /// # Errors
    /// It is too long, or an edge lies inside a slot and is not to be rounded.
    pub(crate) fn period(&self, requested: Interval, is_rounded: bool) -> Result<Interval> {
        Ok(period_of_all(requested, self.slots, is_rounded)?)
    }

    /// A meter's unit; empty if it is not configured.
    pub(crate) fn unit_of(&self, meter: &str) -> String {
        let found = self.meters.find(meter);
        found.map_or_else(String::new, |meter| meter.unit.to_string())
    }

    /// A page of the usage of a meter by account.
    ///
    /// # Errors
    /// Too many of these reads wait, of all or of this caller, or the database fails.
    pub(crate) async fn list(
        &self,
        caller: Option<&CallerId>,
        filter: UsageFilter,
        order: UsageOrder,
        after: Option<UsagePlace>,
        limit: u64,
    ) -> Result<Vec<AccountUsage>> {
        let store = self.store.clone();
        let read = async move {
            store
                .list_usage(&filter, order, after.as_ref(), limit)
                .await
        };
        self.turns.read_of(caller, read).await
    }

    /// The usage of all accounts together.
    ///
    /// # Errors
    /// The query is not valid, the answer would be too large, too many of these reads wait, of all or of this caller, or the
    /// database fails.
    pub(crate) async fn summary(
        &self,
        caller: Option<&CallerId>,
        query: SummaryQuery,
    ) -> Result<Summary> {
        let SummaryQuery {
            filter,
            granularity,
            zone,
            is_rounded,
            top,
        } = query;
        let zone = parse_zone(&zone)?;
        let period = filter.period;
        let split = |meters| split(period, granularity, zone, self.slots, is_rounded, meters);
        let meters = match &filter.meter {
            Some(_) => 1,
            None => self.meters.all().len(),
        };
        let points = split(meters)?;
        let width = width_of_parts(period, &points);
        check_parts(period, width, meters)?;
        let (store, only) = (self.store.clone(), filter.meter.clone());
        let read = async move { store.summed_usage(&filter, width, top.into()).await };
        let mut summed = self.turns.read_of(caller, read).await?;
        let all_accounts = summed.accounts.accounts;
        let accounts = summed.accounts.by_meter.into_iter();
        let mut accounts: BTreeMap<String, MeterAccounts> =
            accounts.map(|one| (one.meter.clone(), one)).collect();
        let configured = self.meters.all().iter();
        let mut names: Vec<String> = configured
            .map(|meter| meter.name.to_string())
            .filter(|name| only.as_ref().is_none_or(|only| only == name))
            .collect();
        let removed = summed.sums.keys().filter(|name| !names.contains(name));
        let removed: Vec<String> = removed.cloned().collect();
        names.extend(removed);
        if names.len().saturating_mul(points.len()) > MAX_POINTS {
            split(names.len())?;
        }
        let meters: Vec<MeterSummary> = names
            .into_iter()
            .map(|name| {
                let sums = summed.sums.remove(&name).unwrap_or_default();
                let accounts = accounts.remove(&name);
                self.meter_summary(&name, &sums, accounts, (period, width, &points))
            })
            .collect();
        check_states(&meters)?;
        Ok(Summary {
            zone,
            meters,
            accounts: all_accounts,
        })
    }

    fn meter_summary(
        &self,
        name: &str,
        sums: &[PartSum],
        accounts: Option<MeterAccounts>,
        (period, width, points): (Interval, Millis, &[Interval]),
    ) -> MeterSummary {
        let (mut quantities, mut states) = (Quantities::default(), StateSums::new());
        let mut series: Vec<(Interval, StateSums)> = points
            .iter()
            .map(|point| (*point, StateSums::new()))
            .collect();
        for sum in sums {
            quantities.add(sum.state, sum.quantity);
            add(&mut states, sum);
            let start = period.start.saturating_add(sum.part.saturating_mul(width));
            let index = points.partition_point(|point| point.end <= start);
            if let Some((_, point)) = series.get_mut(index) {
                add(point, sum);
            }
        }
        let (count, top) = accounts.map_or((0, Vec::new()), |one| (one.accounts, one.top));
        MeterSummary {
            meter: Arc::from(name),
            unit: Arc::from(self.unit_of(name)),
            quantities,
            states,
            points: series,
            accounts: count,
            top,
        }
    }
}

fn add(states: &mut StateSums, sum: &PartSum) {
    let quantity = states.entry(sum.state).or_default();
    *quantity = quantity.saturating_add(sum.quantity);
}

/// Validates that the points fit into a message, whatever states their reports are in.
fn check_states(meters: &[MeterSummary]) -> Result<()> {
    let points = meters.iter().flat_map(|meter| &meter.points);
    let states: usize = points.map(|(_, states)| states.len()).sum();
    if states <= MAX_STATES_OF_POINTS {
        return Ok(());
    }
    let message = format!(
        "the points of the answer would hold {states} sums by state, and at most {MAX_STATES_OF_POINTS} may be returned; \
         ask for a shorter period, a coarser granularity or one meter"
    );
    Err(Violation::new(Reason::TooManyPoints, "granularity", message).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn meter(points: usize, states: &[State]) -> MeterSummary {
        let interval = Interval { start: 0, end: 1 };
        let states: StateSums = states.iter().map(|state| (*state, 1)).collect();
        MeterSummary {
            meter: Arc::from("tokens"),
            unit: Arc::from(""),
            quantities: Quantities::default(),
            states: StateSums::new(),
            points: vec![(interval, states); points],
            accounts: 0,
            top: Vec::new(),
        }
    }

    #[test]
    fn at_most_a_hundred_thousand_sums_by_state_are_returned() {
        let two = [State::Open, State::Invoiced];
        let full = meter(49_999, &two);
        let fits = [full.clone(), meter(2, &[State::Open]), meter(5_000, &[])];
        assert!(check_states(&fits).is_ok());
        let refused = check_states(&[full, meter(3, &[State::Open])]).unwrap_err();
        let Error::Invalid(violations) = refused else {
            panic!("{refused}");
        };
        assert_eq!(violations[0].reason, Reason::TooManyPoints);
        for part in ["100001 sums", "at most 100000", "shorter period"] {
            let message = &violations[0].message;
            assert!(message.contains(part), "{message}");
        }
    }
}
