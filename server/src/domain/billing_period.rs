//! Billing periods of subscription items, as Stripe last showed them, and the period that a report belongs to.
//!
//! Queries only read candidates, and this file decides. Whether the period's invoice still takes the report is decided
//! in `invoice_deadline`.

use super::{
    DAY_MS, HOUR_MS, Millis,
    account_id::AccountId,
    billed_usage::BilledUsage,
    invoice_draft::{InvoiceState, Timing},
    window::Interval,
};

/// A period that ended longer ago changes nothing any more: its invoice is final, and increments are at most 34 days old.
pub const RELEVANT_MS: Millis = 40 * DAY_MS;

/// How long after a period's end Stripe may still show it as the current one.
pub const ROLLOVER_MS: Millis = HOUR_MS;

/// A billing period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BillingPeriod {
    /// The account.
    pub account_id: AccountId,
    /// The subscription item; empty while it is not known.
    pub item: String,
    /// Its first moment.
    pub period_start: Millis,
    /// The first moment after it.
    pub period_end: Millis,
    /// When it was recorded.
    pub recorded_at: Millis,
    /// `sub_...`
    pub subscription: Option<String>,
    /// The meter that the item charges for.
    pub meter: Option<String>,
    /// `price_...`
    pub price: Option<String>,
    /// The time from which Stripe charges usage to this item, if that is later than the start.
    pub bills_from: Option<Millis>,
    /// `in_...`
    pub invoice: Option<String>,
    /// The state of its invoice.
    pub invoice_state: InvoiceState,
    /// When that state was read from Stripe, by the database's clock.
    pub invoice_read_at: Option<Millis>,
}

impl BillingPeriod {
    /// The period's interval.
    pub fn interval(&self) -> Interval {
        Interval {
            start: self.period_start,
            end: self.period_end,
        }
    }
}

/// When the first of some items began to charge for usage at a time. The boundary of a plan change is up to a second before
/// Stripe's.
pub fn charging_since(periods: &[BillingPeriod], items: &[&str], at: Millis) -> Option<Millis> {
    periods
        .iter()
        .filter(|period| items.contains(&period.item.as_str()) && period.interval().contains(at))
        .map(|period| period.period_start)
        .min()
}

/// The periods in which usage of a meter at a time may be billed. Several may contain the time, such as one that a plan
/// change shortened. A period whose meter is not known may be of any.
pub fn periods_of_meter(periods: &[BillingPeriod], meter: &str, at: Millis) -> Vec<Interval> {
    periods
        .iter()
        .filter(|period| period.meter.as_deref().is_none_or(|own| own == meter))
        .map(BillingPeriod::interval)
        .filter(|interval| interval.contains(at))
        .collect()
}

/// A billing period with the state of its invoice and subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvoicePeriod {
    /// The period's interval.
    pub interval: Interval,
    /// The time from which Stripe charges usage to it, if that is later than its start.
    pub bills_from: Option<Millis>,
    /// Whether it is a trial, of which no invoice charges the usage.
    pub is_trial: bool,
    /// Whether its subscription is paused, so that it makes no invoice until it is resumed.
    pub is_paused: bool,
    /// The state of its invoice.
    pub invoice_state: InvoiceState,
    /// `sub_...`
    pub subscription: String,
    /// When the subscription ended.
    pub ended_at: Option<Millis>,
    /// Whether that end was requested here.
    pub is_end_requested: bool,
    /// The time from which an admin linked the account again after that end.
    pub relinked_from: Option<Millis>,
    /// When the subscription was last synced.
    pub synced_at: Millis,
    /// When a sync found that the customer was deleted at Stripe.
    pub customer_deleted_at: Option<Millis>,
}

impl InvoicePeriod {
    /// Whether its invoice still takes usage.
    pub(super) fn timing(&self, now: Millis) -> Timing {
        self.invoice_state.timing(self.interval.end, now)
    }

    /// Whether an invoice charges its usage.
    pub(super) fn is_charged(&self) -> bool {
        !self.is_trial && !self.is_paused
    }

    /// The time from which Stripe charges usage to it.
    pub(super) fn billed_from(&self) -> Millis {
        self.interval
            .start
            .max(self.bills_from.unwrap_or(Millis::MIN))
    }
}

/// The period that a report belongs to, among those of its account, customer and meter.
pub fn period_of(periods: &[InvoicePeriod], usage: BilledUsage) -> Option<&InvoicePeriod> {
    period_at(periods, usage.billed_at())
}

/// The period that usage of a time belongs to: the latest one that contains it. One that an invoice charges comes first:
/// while a subscription is paused or in its trial, another one of the customer may charge the meter.
pub fn period_at(periods: &[InvoicePeriod], at: Millis) -> Option<&InvoicePeriod> {
    periods
        .iter()
        .filter(|period| period.interval.contains(at))
        .max_by_key(|period| (period.is_charged(), period.interval.start))
}

/// The latest of the periods that fulfil a condition.
pub(super) fn latest(
    periods: &[InvoicePeriod],
    is_one: impl Fn(&InvoicePeriod) -> bool,
) -> Option<&InvoicePeriod> {
    periods
        .iter()
        .filter(|period| is_one(period))
        .max_by_key(|period| period.interval.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn period(item: &str, meter: Option<&str>, start: Millis, end: Millis) -> BillingPeriod {
        BillingPeriod {
            account_id: AccountId::parse("acct").unwrap(),
            item: item.to_owned(),
            period_start: start,
            period_end: end,
            recorded_at: 0,
            subscription: None,
            meter: meter.map(str::to_owned),
            price: None,
            bills_from: None,
            invoice: None,
            invoice_state: InvoiceState::Unknown,
            invoice_read_at: None,
        }
    }

    #[test]
    fn usage_belongs_to_a_period_that_is_charged_if_there_is_one() {
        let period = |start, is_trial, is_paused| InvoicePeriod {
            interval: Interval { start, end: 30 },
            bills_from: None,
            is_trial,
            is_paused,
            invoice_state: InvoiceState::Unknown,
            subscription: format!("sub_{start}"),
            ended_at: None,
            is_end_requested: false,
            relinked_from: None,
            synced_at: 0,
            customer_deleted_at: None,
        };
        let charged = [period(10, false, false), period(5, false, false)];
        let start =
            |periods: &[InvoicePeriod]| period_at(periods, 25).map(|period| period.interval.start);
        assert_eq!(start(&charged), Some(10), "the latest one");
        for (is_trial, is_paused) in [(true, false), (false, true)] {
            let later = period(20, is_trial, is_paused);
            let all = [charged.to_vec(), vec![later.clone()]].concat();
            assert_eq!(start(&all), Some(10));
            assert_eq!(start(&[later]), Some(20), "there is no other one");
        }
    }

    #[test]
    fn items_charge_since_the_first_of_their_periods_that_contains_the_time() {
        let periods = [
            period("a", None, 10, 20),
            period("a", None, 20, 30),
            period("b", None, 15, 30),
            period("other", None, 0, 30),
        ];
        assert_eq!(charging_since(&periods, &["a", "b"], 20), Some(15));
        assert_eq!(charging_since(&periods, &["a", "b"], 19), Some(10));
        assert_eq!(charging_since(&periods, &["a"], 20), Some(20));
        assert_eq!(charging_since(&periods, &["a"], 30), None);
    }

    #[test]
    fn usage_may_be_billed_in_every_period_of_its_meter_that_contains_its_time() {
        let periods = [
            period("a", Some("m"), 10, 30),
            period("b", None, 0, 20),
            period("c", Some("other"), 0, 30),
        ];
        let starts = |at| {
            let found = periods_of_meter(&periods, "m", at);
            found.iter().map(|one| one.start).collect::<Vec<_>>()
        };
        assert_eq!(starts(10), [10, 0]);
        assert_eq!(starts(20), [10]);
        assert!(starts(30).is_empty());
    }
}
