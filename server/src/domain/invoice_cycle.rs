//! The invoice that closes a billing period: which one it is, and until when it is waited for.

use super::{
    Millis,
    billing_period::BillingPeriod,
    invoice_comparison::CLOCK_DIFFERENCE_MS,
    invoice_line::{Invoice, InvoiceLine},
    price_split::is_replaced,
    window::Interval,
};

/// The invoice of the end of a period, or of the one that it was cut from. Pending lines are on it, at the latest.
pub fn closing_invoice(invoices: &[Invoice], period_end: Millis) -> Option<&Invoice> {
    invoices
        .iter()
        .filter(|invoice| closes(invoice, period_end))
        .min_by_key(|invoice| invoice.created)
}

/// Whether the end of a billing period created an invoice, and that end is not before this one. The invoice of the period
/// before this one, or of another item, may have been created only minutes earlier. So one that is earlier counts only if
/// a line says that it charges until this end. What is charged in advance, such as seats, says nothing.
fn closes(invoice: &Invoice, period_end: Millis) -> bool {
    let is_near = invoice.created >= period_end.saturating_sub(CLOCK_DIFFERENCE_MS);
    let latest = invoice.created.saturating_add(CLOCK_DIFFERENCE_MS);
    let charges_until_end = |line: &InvoiceLine| {
        !line.is_proration && period_end <= line.period.end && line.period.end <= latest
    };
    invoice.is_of_cycle
        && (invoice.created >= period_end || is_near && invoice.lines.iter().any(charges_until_end))
}

/// Whether an invoice may charge a period although none of its lines says so: it was made since the period's start, and not
/// by the end of another one.
pub fn may_be_of(invoice: &Invoice, period: Interval) -> bool {
    let since = period.start.saturating_sub(CLOCK_DIFFERENCE_MS);
    invoice.created >= since && (!invoice.is_of_cycle || closes(invoice, period.end))
}

/// When the subscription's next billing period ends, at or after the end of a period: then an invoice is made that has what
/// is pending. `None` if it is not known.
///
/// A period that was cut, because its item was removed or its price was replaced, has no invoice of its own end. Its
/// usage is on one that was made at once, or on that of the next billing period that ends.
pub fn next_cycle_end(
    period: &BillingPeriod,
    periods: &[BillingPeriod],
    synced_at: Millis,
) -> Option<Millis> {
    periods
        .iter()
        .filter(|one| one.period_end >= period.period_end && is_uncut(one, periods, synced_at))
        .map(|one| one.period_end)
        .min()
}

/// Whether a period ends when Stripe's does: the item goes on at the same price, or that end was not seen yet.
fn is_uncut(period: &BillingPeriod, periods: &[BillingPeriod], synced_at: Millis) -> bool {
    let next = periods
        .iter()
        .filter(|other| other.item == period.item && other.period_start >= period.period_end)
        .min_by_key(|other| other.period_start);
    match next {
        Some(next) => {
            // In between, the item had a price of no configured meter.
            let is_back =
                next.bills_from == Some(next.period_start) && next.period_start > period.period_end;
            !is_replaced(period, next) && !is_back
        }
        None => period.period_end > synced_at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        DAY_MS, MINUTE_MS, account_id::AccountId, invoice_draft::InvoiceState,
        invoice_line::InvoiceStatus,
    };
    use proptest::prelude::*;

    const END: Millis = 30 * DAY_MS;

    fn period(item: &str, days: (Millis, Millis), is_replaced: bool) -> BillingPeriod {
        let (start, end) = (days.0 * DAY_MS, days.1 * DAY_MS);
        BillingPeriod {
            account_id: AccountId::parse("acct").unwrap(),
            item: item.to_owned(),
            period_start: start,
            period_end: end,
            recorded_at: 0,
            subscription: Some("sub".to_owned()),
            meter: Some("m".to_owned()),
            price: Some(format!("price of {start}").repeat(usize::from(is_replaced))),
            bills_from: is_replaced.then_some(start),
            invoice: None,
            invoice_state: InvoiceState::Unknown,
            invoice_read_at: None,
        }
    }

    fn invoice(created: Millis, lines: &[(Millis, Millis)]) -> Invoice {
        let line = |(start, end): &(Millis, Millis)| InvoiceLine {
            id: "il".to_owned(),
            item: Some("si".to_owned()),
            price: Some("price".to_owned()),
            period: Interval {
                start: *start,
                end: *end,
            },
            quantity: Some(1),
            amount: 0,
            currency: "usd".to_owned(),
            is_proration: false,
            is_flat_fee: false,
        };
        Invoice {
            id: format!("in_{created}"),
            status: InvoiceStatus::Paid,
            draft_until: None,
            created,
            is_of_cycle: true,
            lines: lines.iter().map(line).collect(),
        }
    }

    #[test]
    fn an_invoice_of_something_else_shortly_before_the_end_is_not_the_last() {
        let minutes = |minutes: Millis| END + minutes * MINUTE_MS;
        let own = invoice(minutes(-2), &[(0, END)]);
        let of =
            |invoices: &[Invoice]| closing_invoice(invoices, END).map(|invoice| invoice.created);
        assert_eq!(
            of(std::slice::from_ref(&own)),
            Some(own.created),
            "a clock differs"
        );
        // The price was replaced minutes after the period began: the invoice is of the period before, and charges seats in
        // advance.
        let before = invoice(minutes(-3), &[(0, minutes(-3)), (minutes(-3), 2 * END)]);
        assert_eq!(of(std::slice::from_ref(&before)), None);
        let later = invoice(2 * END, &[(END, 2 * END)]);
        assert_eq!(of(&[before, later.clone()]), Some(later.created));
        let threshold = Invoice {
            is_of_cycle: false,
            ..own
        };
        assert_eq!(of(&[threshold]), None);
        let too_early = invoice(minutes(-6), &[(0, END)]);
        assert_eq!(of(&[too_early]), None);
        assert_eq!(of(&[invoice(END, &[])]), Some(END), "nothing was used");
    }

    #[test]
    fn an_uncut_period_has_an_invoice_at_its_own_end() {
        let ended = period("si", (0, 30), false);
        let next = period("si", (30, 60), false);
        let day = |days: Millis| days * DAY_MS;
        let both = [ended.clone(), next];
        assert_eq!(next_cycle_end(&ended, &both, day(31)), Some(day(30)));
        let alone = std::slice::from_ref(&ended);
        assert_eq!(
            next_cycle_end(&ended, alone, day(29)),
            Some(day(30)),
            "not read since"
        );
        // A whole period was not seen.
        let after_gap = [ended.clone(), period("si", (60, 90), false)];
        assert_eq!(next_cycle_end(&ended, &after_gap, day(61)), Some(day(30)));
    }

    #[test]
    fn a_cut_period_waits_for_the_next_cycle() {
        let day = |days: Millis| days * DAY_MS;
        let removed = period("si", (0, 10), false);
        let alone = std::slice::from_ref(&removed);
        assert_eq!(next_cycle_end(&removed, alone, day(11)), None, "not known");
        // Its price came back after a while.
        let back = [removed.clone(), period("si", (15, 30), true)];
        assert_eq!(next_cycle_end(&removed, &back, day(16)), Some(day(30)));
        let monthly = period("other", (0, 30), false);
        let both = [removed.clone(), monthly];
        assert_eq!(next_cycle_end(&removed, &both, day(11)), Some(day(30)));
        // That is the end of no billing period.
        let also_removed = period("third", (0, 20), false);
        let all = [&both[..], &[also_removed]].concat();
        assert_eq!(next_cycle_end(&removed, &all, day(21)), Some(day(30)));
        let replaced = [removed.clone(), period("si", (10, 30), true)];
        assert_eq!(next_cycle_end(&removed, &replaced, day(11)), Some(day(30)));
    }

    proptest! {
        /// Whatever else is known, no invoice is expected before the period's end, and a running one ends the wait.
        #[test]
        fn the_next_cycle_does_not_end_before_the_period(
            lengths in proptest::collection::vec((1_i64..20, any::<bool>()), 1..6),
            own in 0_usize..6,
            synced in 0_i64..120,
        ) {
            let mut periods: Vec<BillingPeriod> = Vec::new();
            for (length, is_replaced) in lengths {
                let start = periods.last().map_or(0, |last| last.period_end / DAY_MS);
                periods.push(period("si", (start, start + length), is_replaced));
            }
            let own = &periods[own % periods.len()];
            let last = periods.last().unwrap().period_end;
            let found = next_cycle_end(own, &periods, synced * DAY_MS);
            prop_assert!(found.is_none_or(|end| own.period_end <= end && end <= last));
            if last > synced * DAY_MS {
                prop_assert!(found.is_some());
            }
        }
    }
}
