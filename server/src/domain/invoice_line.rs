//! Invoices and their lines as Stripe shows them, and which line bills the usage of which billing period. The sync and
//! the comparison read them from Stripe (`stripe/invoices.rs`).

use super::{
    Millis, billing_period::BillingPeriod, invoice_draft::InvoiceState, names::names,
    window::Interval,
};

/// The status of an invoice at Stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InvoiceStatus {
    /// Its lines still change.
    Draft,
    /// Final, and to be paid.
    Open,
    /// Final and paid, or nothing was due.
    Paid,
    /// Final, and not expected to be paid.
    Uncollectible,
    /// Final, and charges nothing.
    Void,
    /// One that this version does not know.
    Unknown,
}

names!(InvoiceStatus {
    Draft = "draft",
    Open = "open",
    Paid = "paid",
    Uncollectible = "uncollectible",
    Void = "void",
    Unknown = "unknown",
});

impl InvoiceStatus {
    /// Reads Stripe's name. An invoice without a status is a draft.
    pub fn parse(name: Option<&str>) -> Self {
        let Some(name) = name else {
            return Self::Draft;
        };
        let mut known = Self::ALL.into_iter();
        known
            .find(|status| status.name() == name)
            .unwrap_or(Self::Unknown)
    }

    /// Whether it is known that the lines no longer change.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Draft | Self::Unknown)
    }

    /// Whether its lines are charged: it is final, and neither void nor uncollectible.
    pub fn is_charged(self) -> bool {
        matches!(self, Self::Open | Self::Paid)
    }

    /// Whether it may still become void or uncollectible.
    pub fn may_change(self) -> bool {
        !matches!(self, Self::Paid | Self::Void)
    }
}

/// An invoice of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invoice {
    /// `in_...`
    pub id: String,
    /// Its status.
    pub status: InvoiceStatus,
    /// When a draft is finalized, if that happens by itself.
    pub draft_until: Option<Millis>,
    /// When it was created.
    pub created: Millis,
    /// Whether the end of a billing period created it.
    pub is_of_cycle: bool,
    /// Its lines that a subscription caused.
    pub lines: Vec<InvoiceLine>,
}

impl Invoice {
    /// Whether usage of its period is still added to it.
    pub fn state(&self) -> InvoiceState {
        match self.status {
            InvoiceStatus::Draft => InvoiceState::Draft {
                until: self.draft_until,
            },
            // It is read again, until its status is known or the usage is too old.
            InvoiceStatus::Unknown => InvoiceState::Unknown,
            _ => InvoiceState::Final,
        }
    }
}

/// An invoice line that a subscription caused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvoiceLine {
    /// `il_...`
    pub id: String,
    /// The subscription item; `None` if only the subscription is known.
    pub item: Option<String>,
    /// `price_...`
    pub price: Option<String>,
    /// The time that it charges.
    pub period: Interval,
    /// The units; `None` if they are absent or no whole number.
    pub quantity: Option<i64>,
    /// In the smallest unit of the currency.
    pub amount: i64,
    /// Three letters.
    pub currency: String,
    /// Whether it prorates a licensed item.
    pub is_proration: bool,
    /// Whether it is the flat fee of a tier, so that its quantity counts no units.
    pub is_flat_fee: bool,
}

/// A line of an invoice that charges the usage of a billing period, as it was last read from Stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLine {
    /// `in_...`
    pub invoice: String,
    /// `il_...`
    pub line: String,
    /// The invoice's status.
    pub status: InvoiceStatus,
    /// `price_...`
    pub price: Option<String>,
    /// The time that it charges.
    pub period: Interval,
    /// The units; `None` if they are absent or no whole number.
    pub quantity: Option<i64>,
    /// In the smallest unit of the currency.
    pub amount: i64,
    /// Three letters.
    pub currency: String,
}

impl InvoiceLine {
    /// Whether it has the item and the price of a period. The usage of an item that was removed may have no item.
    fn is_like(&self, period: &BillingPeriod) -> bool {
        let has_item = self.item.as_ref().is_none_or(|item| *item == period.item);
        let has_price = match &self.price {
            Some(price) => period.price.as_ref() == Some(price),
            None => self.item.is_some(),
        };
        has_item && has_price
    }
}

/// The billing period whose usage a line bills: of those with its item and price, the one that it shares the most time
/// with. `None` for prorations, fees and licensed items.
pub fn billed_period<'a>(
    line: &InvoiceLine,
    periods: &'a [BillingPeriod],
) -> Option<&'a BillingPeriod> {
    if line.is_proration || line.is_flat_fee {
        return None;
    }
    let shared = |period: &BillingPeriod| shared_time(line.period, period);
    periods
        .iter()
        .filter(|period| line.is_like(period) && shared(period).is_some())
        .max_by_key(|period| (shared(period), std::cmp::Reverse(period.period_start)))
}

/// How much time a line shares with a period; `None` if it charges none of it. The line of an item that was removed at
/// once has no length.
pub(super) fn shared_time(line: Interval, period: &BillingPeriod) -> Option<Millis> {
    let both = line.intersection(period.interval());
    let shared = both.end.saturating_sub(both.start);
    (shared >= i64::from(line.start < line.end)).then_some(shared)
}

/// The billing period that the line of an item bills with a price that the item has in other periods only: the price was
/// replaced, and the sync found it later. Of the item's periods, the one that it shares the most time with.
pub fn split_period<'a>(
    line: &InvoiceLine,
    periods: &'a [BillingPeriod],
) -> Option<&'a BillingPeriod> {
    let (item, price) = (line.item.as_ref()?, line.price.as_ref()?);
    if line.is_proration || line.is_flat_fee || billed_period(line, periods).is_some() {
        return None;
    }
    let own = || periods.iter().filter(|period| period.item == *item);
    let priced = own().find(|period| period.price.as_ref() == Some(price))?;
    let shared = |period: &BillingPeriod| shared_time(line.period, period).unwrap_or(0);
    own()
        .filter(|period| period.meter == priced.meter && shared(period) > 0)
        .max_by_key(|period| (shared(period), std::cmp::Reverse(period.period_start)))
}

/// The units of a line: Stripe's decimal text, or else its whole number. `None` if there is none or it has a fraction.
pub fn parse_quantity(decimal: Option<&str>, whole: Option<u64>) -> Option<i64> {
    let Some(text) = decimal else {
        return whole.and_then(|number| i64::try_from(number).ok());
    };
    let (number, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_whole = fraction.bytes().all(|digit| digit == b'0');
    number.parse().ok().filter(|_| is_whole)
}

/// Whether a description is that of a tier's flat fee. Nothing else in a line tells it apart from usage; if Stripe words
/// it otherwise, its quantity shows as a difference.
pub fn is_flat_fee(description: Option<&str>) -> bool {
    description.is_some_and(|text| text.to_ascii_lowercase().contains("flat fee"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account_id::AccountId;
    use proptest::prelude::*;

    fn period(item: &str, price: &str, start: Millis, end: Millis) -> BillingPeriod {
        BillingPeriod {
            account_id: AccountId::parse("acct").unwrap(),
            item: item.to_owned(),
            period_start: start,
            period_end: end,
            recorded_at: 0,
            subscription: Some("sub".to_owned()),
            meter: Some("m".to_owned()),
            price: Some(price.to_owned()),
            bills_from: None,
            invoice: None,
            invoice_state: InvoiceState::Unknown,
            invoice_read_at: None,
        }
    }

    fn line(item: Option<&str>, price: Option<&str>, start: Millis, end: Millis) -> InvoiceLine {
        InvoiceLine {
            id: "il".to_owned(),
            item: item.map(str::to_owned),
            price: price.map(str::to_owned),
            period: Interval { start, end },
            quantity: Some(1),
            amount: 1,
            currency: "usd".to_owned(),
            is_proration: false,
            is_flat_fee: false,
        }
    }

    fn start_of_billed(line: &InvoiceLine, periods: &[BillingPeriod]) -> Option<Millis> {
        billed_period(line, periods).map(|period| period.period_start)
    }

    #[test]
    fn a_line_bills_the_period_of_its_item_and_price_with_the_most_common_time() {
        // The price was replaced at 14, which the sync found at 16.
        let periods = [
            period("si", "old", 10, 16),
            period("si", "new", 16, 20),
            period("si", "new", 20, 30),
            period("other", "new", 10, 20),
        ];
        let of = |price, start, end| {
            start_of_billed(&line(Some("si"), Some(price), start, end), &periods)
        };
        assert_eq!(of("old", 10, 14), Some(10));
        assert_eq!(of("new", 14, 20), Some(16));
        assert_eq!(of("new", 20, 24), Some(20), "of a threshold");
        assert_eq!(of("new", 24, 30), Some(20), "the rest");
        assert_eq!(of("seat", 20, 30), None, "a licensed price");
        assert_eq!(of("new", 30, 40), None, "of a period that is not known");
        assert_eq!(of("old", 10, 10), Some(10), "removed at once");
    }

    #[test]
    fn a_line_without_item_or_price_is_found_by_the_other() {
        let periods = [period("si", "old", 10, 20), period("si", "new", 20, 30)];
        let of = |item, price, end| start_of_billed(&line(item, price, 10, end), &periods);
        assert_eq!(of(None, Some("old"), 14), Some(10));
        assert_eq!(of(Some("si"), None, 20), Some(10));
        assert_eq!(of(None, None, 20), None);
    }

    #[test]
    fn prorations_and_flat_fees_bill_no_usage() {
        let periods = [period("si", "price", 10, 20)];
        let usage = line(Some("si"), Some("price"), 10, 20);
        let proration = InvoiceLine {
            is_proration: true,
            ..usage.clone()
        };
        let fee = InvoiceLine {
            is_flat_fee: is_flat_fee(Some("API calls (Flat fee for tier 1)")),
            ..usage.clone()
        };
        assert_eq!(start_of_billed(&usage, &periods), Some(10));
        assert_eq!(start_of_billed(&proration, &periods), None);
        assert_eq!(start_of_billed(&fee, &periods), None);
        assert!(!is_flat_fee(None) && !is_flat_fee(Some("12 × API calls (Tier 1)")));
    }

    #[test]
    fn a_quantity_is_read_only_if_it_is_whole() {
        assert_eq!(parse_quantity(Some("12"), Some(9)), Some(12));
        assert_eq!(parse_quantity(Some("12.000"), None), Some(12));
        assert_eq!(parse_quantity(Some("12.5"), Some(12)), None);
        assert_eq!(parse_quantity(Some("many"), Some(12)), None);
        assert_eq!(parse_quantity(None, Some(12)), Some(12));
        assert_eq!(parse_quantity(None, None), None);
        assert_eq!(parse_quantity(None, Some(u64::MAX)), None);
    }

    #[test]
    fn only_a_known_status_other_than_draft_is_final() {
        let is_final = |name| InvoiceStatus::parse(name).is_final();
        assert!(!is_final(None) && !is_final(Some("draft")) && !is_final(Some("new one")));
        assert!(is_final(Some("open")) && is_final(Some("void")));
        assert!(InvoiceStatus::Uncollectible.may_change() && !InvoiceStatus::Void.may_change());
    }

    #[test]
    fn an_unknown_status_is_final_neither_for_the_sync_nor_for_the_comparison() {
        for status in InvoiceStatus::ALL {
            let invoice = Invoice {
                id: "in".to_owned(),
                status,
                draft_until: None,
                created: 0,
                is_of_cycle: true,
                lines: Vec::new(),
            };
            let is_final = invoice.state() == InvoiceState::Final;
            assert_eq!(is_final, status.is_final(), "{status:?}");
        }
    }

    #[test]
    fn a_line_at_a_price_that_was_learned_later_is_of_the_period_of_its_time() {
        // The price was replaced at 14, and the sync found it after the period's end.
        let periods = [period("si", "old", 10, 20), period("si", "new", 20, 30)];
        let of = |price, start, end| {
            split_period(&line(Some("si"), Some(price), start, end), &periods)
                .map(|period| period.period_start)
        };
        assert_eq!(of("new", 14, 20), Some(10));
        assert_eq!(of("new", 20, 30), None, "billed in its own period");
        assert_eq!(of("seat", 14, 20), None, "a licensed price");
        assert_eq!(of("new", 30, 40), None, "of a period that is not known");
        assert_eq!(
            split_period(&line(None, Some("new"), 14, 20), &periods),
            None
        );
    }

    proptest! {
        /// Of consecutive periods of one item and price, each line inside one of them bills that one.
        #[test]
        fn a_line_inside_a_period_bills_it(
            lengths in proptest::collection::vec(1_i64..100, 1..10),
            nth in 0_usize..10,
            parts in (0_i64..100, 1_i64..100),
        ) {
            let mut start = 0;
            let mut periods = Vec::new();
            for length in lengths {
                periods.push(period("si", "price", start, start + length));
                start += length;
            }
            let own = &periods[nth % periods.len()];
            let from = own.period_start + parts.0 % (own.period_end - own.period_start);
            let to = (from + parts.1).min(own.period_end);
            let line = line(Some("si"), Some("price"), from, to);
            prop_assert_eq!(start_of_billed(&line, &periods), Some(own.period_start));
        }
    }
}
