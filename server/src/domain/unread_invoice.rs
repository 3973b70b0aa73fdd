//! Invoices that cannot be read, or not in full, and the billing periods whose usage they may charge: only these wait.

use std::fmt;

use super::{
    Millis,
    billing_period::BillingPeriod,
    invoice_comparison::CLOCK_DIFFERENCE_MS,
    invoice_cycle::closing_invoice,
    invoice_line::{Invoice, shared_time},
    window::Interval,
};

/// An invoice, some, or a line of one that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadInvoice {
    /// Which one, and why.
    pub why: String,
    /// When it was created, at the latest; `None` if that cannot be read either.
    pub created: Option<Millis>,
    /// Its lines; `None` if it may have others.
    pub lines: Option<Vec<UnreadLine>>,
}

/// What can be read of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadLine {
    /// The subscription item; `None` if only the subscription is known.
    pub item: Option<String>,
    /// The time that it charges, if that can be read.
    pub time: Option<Interval>,
}

impl UnreadLine {
    fn may_charge(&self, period: &BillingPeriod) -> bool {
        let has_item = self.item.as_ref().is_none_or(|item| *item == period.item);
        has_item
            && self
                .time
                .is_none_or(|time| shared_time(time, period).is_some())
    }
}

impl UnreadInvoice {
    /// Whether it may charge usage of a period, beside the invoices that can be read.
    pub fn may_charge(&self, period: &BillingPeriod, readable: &[Invoice]) -> bool {
        let since = period.period_start.saturating_sub(CLOCK_DIFFERENCE_MS);
        let last = closing_invoice(readable, period.period_end).map(|last| last.created);
        let is_in_time =
            |created: Millis| created >= since && last.is_none_or(|last| created <= last);
        let may_have = |lines: &Vec<UnreadLine>| lines.iter().any(|line| line.may_charge(period));
        self.created.is_none_or(is_in_time) && self.lines.as_ref().is_none_or(may_have)
    }
}

impl fmt::Display for UnreadInvoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        DAY_MS, account_id::AccountId, invoice_draft::InvoiceState, invoice_line::InvoiceStatus,
    };

    const MONTH: Millis = 30 * DAY_MS;

    fn period(item: &str, month: Millis) -> BillingPeriod {
        BillingPeriod {
            account_id: AccountId::parse("acct").unwrap(),
            item: item.to_owned(),
            period_start: month * MONTH,
            period_end: (month + 1) * MONTH,
            recorded_at: 0,
            subscription: Some("sub".to_owned()),
            meter: Some("m".to_owned()),
            price: Some("price".to_owned()),
            bills_from: None,
            invoice: None,
            invoice_state: InvoiceState::Unknown,
            invoice_read_at: None,
        }
    }

    fn cycle(created: Millis) -> Invoice {
        Invoice {
            id: "in".to_owned(),
            status: InvoiceStatus::Paid,
            draft_until: None,
            created,
            is_of_cycle: true,
            lines: Vec::new(),
        }
    }

    fn unread(created: Option<Millis>, lines: Option<Vec<UnreadLine>>) -> UnreadInvoice {
        UnreadInvoice {
            why: "invoice in_1 cannot be read".to_owned(),
            created,
            lines,
        }
    }

    /// The months of an item whose periods it may charge.
    fn months(of: &UnreadInvoice, item: &str, readable: &[Invoice]) -> Vec<Millis> {
        (0..5)
            .filter(|month| of.may_charge(&period(item, *month), readable))
            .collect()
    }

    #[test]
    fn an_invoice_may_charge_what_is_not_closed_by_another_one() {
        let all = [0, 1, 2, 3, 4];
        assert_eq!(months(&unread(None, None), "si", &[]), all);
        // Those of the ends of the first and the second month, and of the fourth.
        let readable = [cycle(MONTH), cycle(2 * MONTH), cycle(4 * MONTH)];
        let third = unread(Some(3 * MONTH), None);
        assert_eq!(months(&third, "si", &readable), [2, 3], "or a threshold");
        assert_eq!(months(&unread(None, None), "si", &readable), all);
    }

    #[test]
    fn lines_say_what_they_charge() {
        let line = |item: Option<&str>, time: Option<(Millis, Millis)>| UnreadLine {
            item: item.map(str::to_owned),
            time: time.map(|(start, end)| Interval {
                start: start * MONTH,
                end: end * MONTH,
            }),
        };
        let of = |lines: &[UnreadLine], item| {
            months(&unread(Some(3 * MONTH), Some(lines.to_vec())), item, &[])
        };
        let own = line(Some("si"), Some((2, 3)));
        assert_eq!(of(std::slice::from_ref(&own), "si"), [2]);
        assert!(of(std::slice::from_ref(&own), "other").is_empty());
        let several = [own, line(Some("other"), Some((0, 1)))];
        assert_eq!(of(&several, "other"), [0]);
        assert_eq!(of(&[line(Some("si"), None)], "si"), [0, 1, 2, 3]);
        assert_eq!(of(&[line(None, Some((2, 3)))], "si"), [2]);
        assert!(of(&[], "si").is_empty());
    }
}
