//! The comparison of shadow mode: by customer, meter and UTC day, what was counted here and Stripe's totals, which have what
//! another integration sent. It only reads. What is compared, and what two sums mean, is in `domain::shadow`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    domain::{
        DAY_MS, Millis,
        account::billing_target_at,
        account_id::AccountId,
        meter::{Meter, Meters},
        report::State,
        shadow::{ShadowFinding, is_compared, is_preliminary},
        start_of,
        window::Interval,
    },
    error::{Error, Result},
    read_turns::ReadTurns,
    store::Store,
    stripe::{Failure, Stripe, event_summaries::Grouping},
};

/// What is compared.
#[derive(Clone, Debug)]
pub(crate) struct ShadowQuery {
    /// Whole days of UTC.
    pub(crate) days: Interval,
    /// Only this customer.
    pub(crate) customer: Option<String>,
    /// Only days that are not equal.
    pub(crate) only_differences: bool,
}

/// The usage of a customer, a meter and a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShadowDay {
    pub(crate) customer: String,
    pub(crate) meter: String,
    /// Its first moment.
    pub(crate) day: Millis,
    pub(crate) counted: i64,
    /// Stripe's total, or why it could not be read.
    pub(crate) stripe_total: std::result::Result<i64, String>,
    pub(crate) finding: ShadowFinding,
    pub(crate) is_preliminary: bool,
    pub(crate) accounts: BTreeSet<AccountId>,
}

/// What was counted of a meter on a day, and of which accounts.
#[derive(Debug, Default)]
struct Counted {
    quantity: i64,
    accounts: BTreeSet<AccountId>,
}

/// By meter and day.
type CountedDays = BTreeMap<(String, Millis), Counted>;

/// Compares.
#[derive(Debug)]
pub(crate) struct ShadowComparison {
    store: Store,
    /// `None` without a Stripe key.
    stripe: Option<Stripe>,
    meters: Arc<Meters>,
    /// Those of pages.
    turns: ReadTurns,
}

impl ShadowComparison {
    pub(crate) fn new(store: Store, stripe: Option<Stripe>, meters: Arc<Meters>) -> Self {
        Self {
            store,
            stripe,
            meters,
            turns: ReadTurns::of("comparisons of shadow mode"),
        }
    }

    /// The days of the next customers after `after`, and the last customer of the page if more may follow. It waits for its
    /// turn: the usage of each customer is read, and Stripe asked.
    pub(crate) async fn page(
        &self,
        query: &ShadowQuery,
        after: &str,
        limit: u64,
        now: Millis,
    ) -> Result<(Vec<ShadowDay>, Option<String>)> {
        let stripe = self.stripe.as_ref().ok_or(Error::ReportingDisabled)?;
        let _turn = self.turns.take().await?;
        let customers: Vec<String> = if let Some(customer) = &query.customer {
            vec![customer.clone()]
        } else {
            let billed = self.store.billed_customers(after, limit).await?;
            billed.into_iter().map(|one| one.customer).collect()
        };
        let is_full = u64::try_from(customers.len()).is_ok_and(|len| len >= limit);
        let next = customers
            .last()
            .filter(|_| is_full && query.customer.is_none())
            .cloned();
        let mut days = Vec::new();
        for customer in &customers {
            let mut counted = self.counted(customer, query.days).await?;
            for meter in self.meters.all() {
                let own = self
                    .compare(stripe, (customer, meter), query.days, &mut counted)
                    .await;
                days.extend(own.into_iter().map(|day| ShadowDay {
                    is_preliminary: is_preliminary(day.day, now),
                    ..day
                }));
            }
        }
        if query.only_differences {
            days.retain(|day| day.finding != ShadowFinding::Equal);
        }
        Ok((days, next))
    }

    /// What was counted of a customer, of whatever account: Stripe sums by customer.
    async fn counted(&self, customer: &str, days: Interval) -> Result<CountedDays> {
        let mut counted = CountedDays::new();
        for account in self.store.accounts_of(customer).await? {
            let (links, _) = self.store.links_and_periods(&account, days).await?;
            for figure in self.store.figures(&account, days).await? {
                let at = figure.usage.event_at();
                if !days.contains(at) || !is_compared(&figure) {
                    continue;
                }
                let own = match (&figure.customer, figure.state) {
                    (Some(own), _) => Some(own.clone()),
                    (None, State::Open) => {
                        let target = billing_target_at(&links, figure.usage.first_at);
                        target.customer().map(str::to_owned)
                    }
                    (None, _) => None,
                };
                if own.as_deref() == Some(customer) {
                    let key = (figure.meter, start_of(DAY_MS, at));
                    let day = counted.entry(key).or_default();
                    day.quantity = day.quantity.saturating_add(figure.usage.quantity);
                    day.accounts.insert(account.clone());
                }
            }
        }
        Ok(counted)
    }

    /// The days of a customer and meter on which either side has usage.
    async fn compare(
        &self,
        stripe: &Stripe,
        (customer, meter): (&str, &Meter),
        days: Interval,
        counted: &mut CountedDays,
    ) -> Vec<ShadowDay> {
        stripe.read_turn().await;
        let totals = stripe
            .totals(&meter.event_name, customer, days, Grouping::Day)
            .await;
        let totals = match totals {
            // Nothing was ever sent to a customer that does not exist.
            Err(Failure::NoCustomer(_)) => Ok(BTreeMap::new()),
            Ok(totals) => Ok(totals.into_iter().collect::<BTreeMap<_, _>>()),
            Err(failure) => Err(failure.message().to_owned()),
        };
        let starts = std::iter::successors(Some(days.start), |day| day.checked_add(DAY_MS));
        let starts = starts.take_while(|day| *day < days.end);
        let mut found = Vec::new();
        for day in starts {
            let ours = counted.remove(&(meter.name.to_string(), day));
            let ours = ours.unwrap_or_default();
            let stripe_total = match &totals {
                Err(why) => Err(why.clone()),
                Ok(totals) => match totals.get(&day) {
                    None => Ok(0),
                    Some(Some(total)) => Ok(*total),
                    Some(None) => Err("Stripe's total is not a whole number below 2^53".to_owned()),
                },
            };
            let read = stripe_total.as_ref().ok().copied();
            if let Some(finding) = ShadowFinding::of(ours.quantity, read) {
                found.push(ShadowDay {
                    customer: customer.to_owned(),
                    meter: meter.name.to_string(),
                    day,
                    counted: ours.quantity,
                    stripe_total,
                    finding,
                    is_preliminary: false,
                    accounts: ours.accounts,
                });
            }
        }
        found
    }
}
