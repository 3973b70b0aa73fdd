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
    stripe::{Failure, Stripe, event_summaries::Grouping, list_subscriptions::LiveSubscription},
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
    /// Whether the customer was never linked to an account.
    pub(crate) is_unlinked: bool,
}

/// Where a page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// After this customer of a link; empty at the beginning.
    Linked(String),
    /// Among the customers that no account is linked to, after this subscription.
    Unlinked(String),
}

/// A page of compared days.
#[derive(Debug)]
pub(crate) struct ShadowPage {
    pub(crate) days: Vec<ShadowDay>,
    /// Where the next page begins, if there is one; none if the customers without a link could not be listed.
    pub(crate) next: Option<Place>,
    /// Why customers that no account is linked to are missing: they could not be listed, or a subscription could not be read.
    pub(crate) unlinked_error: Option<String>,
}

/// Some of the customers that no account is linked to.
#[derive(Debug, Default)]
struct Unlinked {
    customers: Vec<String>,
    /// The subscription after which the next page begins.
    next: Option<String>,
    /// What could not be read, so that customers may be left out.
    unread: Vec<String>,
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

    /// The days of a page of at most `limit` customers: of those of links, and then of those that no account is linked to. It
    /// waits for its turn: the usage of each customer is read, and Stripe asked.
    pub(crate) async fn page(
        &self,
        query: &ShadowQuery,
        place: Place,
        limit: u64,
        now: Millis,
    ) -> Result<ShadowPage> {
        let stripe = self.stripe.as_ref().ok_or(Error::ReportingDisabled)?;
        let _turn = self.turns.take().await?;
        let mut page = ShadowPage {
            days: Vec::new(),
            next: None,
            unlinked_error: None,
        };
        if let Some(customer) = &query.customer {
            let customers = std::slice::from_ref(customer);
            page.days = self.days_of(stripe, customers, query, now).await?;
            return Ok(page);
        }
        let mut left = limit;
        let after = match place {
            Place::Unlinked(after) => Some(after),
            Place::Linked(after) => {
                let billed = self.store.billed_customers(&after, limit).await?;
                let customers: Vec<String> = billed.into_iter().map(|one| one.customer).collect();
                page.days = self.days_of(stripe, &customers, query, now).await?;
                left = limit.saturating_sub(u64::try_from(customers.len()).unwrap_or(limit));
                let is_full = left == 0;
                page.next = customers
                    .last()
                    .filter(|_| is_full)
                    .map(|last| Place::Linked(last.clone()));
                page.next.is_none().then(String::new)
            }
        };
        if let Some(after) = after {
            match self.unlinked(stripe, &after, left).await? {
                Ok(found) => {
                    let days = self.days_of(stripe, &found.customers, query, now).await?;
                    page.days.extend(days);
                    page.next = found.next.map(Place::Unlinked);
                    page.unlinked_error =
                        (!found.unread.is_empty()).then(|| found.unread.join(", "));
                }
                // The last page: another one from here would fail too, for as long as Stripe does. The page can be asked for again.
                Err(failure) => page.unlinked_error = Some(failure.message().to_owned()),
            }
        }
        Ok(page)
    }

    /// Customers that no account was ever linked to, with a subscription that charges one of the meters. A customer is on the
    /// page of the newest such subscription.
    async fn unlinked(
        &self,
        stripe: &Stripe,
        after: &str,
        limit: u64,
    ) -> Result<std::result::Result<Unlinked, Failure>> {
        let mut meters = BTreeSet::new();
        for meter in self.meters.all() {
            match stripe.meter_id(&meter.event_name).await {
                Ok(id) => {
                    meters.insert(id);
                }
                // Nothing charges a meter that does not exist.
                Err(Failure::NoMeter(_)) => {}
                Err(failure) => return Ok(Err(failure)),
            }
        }
        let charges = |subscription: &LiveSubscription| {
            let mut prices = subscription.prices.iter();
            prices.any(|price| price.meter.as_ref().is_some_and(|id| meters.contains(id)))
        };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        stripe.read_turn().await;
        let after = Some(after).filter(|after| !after.is_empty());
        let (subscriptions, unread, next) =
            match stripe.live_subscriptions_after(after, limit).await {
                Ok(page) => page,
                Err(failure) => return Ok(Err(failure)),
            };
        let mut found = Unlinked {
            next,
            ..Unlinked::default()
        };
        for one in unread {
            // Of a linked customer, nothing is left out.
            let is_linked = match &one.customer {
                Some(customer) => self.is_linked(customer).await?,
                None => false,
            };
            if !is_linked {
                found.unread.push(format!("{one} cannot be read"));
            }
        }
        for subscription in subscriptions {
            let customer = &subscription.customer;
            if self.is_linked(customer).await? {
                continue;
            }
            if !charges(&subscription) {
                if !subscription.is_complete {
                    let id = &subscription.id;
                    found
                        .unread
                        .push(format!("{id} has more items than are read"));
                }
                continue;
            }
            stripe.read_turn().await;
            match stripe.live_subscriptions_of(customer).await {
                Ok(own) => {
                    // A newer one that cannot be read is in the list of all too, and told there.
                    let newest = own.items.iter().find(|one| charges(one));
                    if newest.is_none_or(|newest| newest.id == subscription.id) {
                        found.customers.push(customer.clone());
                    }
                }
                Err(failure) => {
                    let why = failure.message();
                    found
                        .unread
                        .push(format!("the subscriptions of {customer}: {why}"));
                }
            }
        }
        Ok(Ok(found))
    }

    async fn is_linked(&self, customer: &str) -> Result<bool> {
        Ok(!self.store.accounts_of(customer).await?.is_empty())
    }

    /// The days of some customers.
    async fn days_of(
        &self,
        stripe: &Stripe,
        customers: &[String],
        query: &ShadowQuery,
        now: Millis,
    ) -> Result<Vec<ShadowDay>> {
        let mut days = Vec::new();
        for customer in customers {
            let accounts = self.store.accounts_of(customer).await?;
            let mut counted = self.counted(customer, &accounts, query.days).await?;
            for meter in self.meters.all() {
                let own = self
                    .compare(stripe, (customer, meter), query.days, &mut counted)
                    .await;
                days.extend(own.into_iter().map(|day| ShadowDay {
                    is_preliminary: is_preliminary(day.day, now),
                    is_unlinked: accounts.is_empty(),
                    ..day
                }));
            }
        }
        if query.only_differences {
            days.retain(|day| day.finding != ShadowFinding::Equal);
        }
        Ok(days)
    }

    /// What was counted of a customer, of whatever account: Stripe sums by customer.
    async fn counted(
        &self,
        customer: &str,
        accounts: &[AccountId],
        days: Interval,
    ) -> Result<CountedDays> {
        let mut counted = CountedDays::new();
        for account in accounts {
            let (links, _) = self.store.links_and_periods(account, days).await?;
            for figure in self.store.figures(account, days).await? {
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
                    is_unlinked: false,
                });
            }
        }
        found
    }
}
