//! Tests of usage that several items may charge: examples, and that each unit counts once.

use proptest::prelude::*;

use super::*;
use crate::domain::{
    account_id::AccountId, billed_usage::BilledUsage, invoice_draft::InvoiceState,
    invoice_line::InvoiceStatus, window::Interval,
};

/// After the end of every period here.
const NOW: Millis = 24 * DAY_MS;

fn period(item: &str, start: Millis, end: Millis) -> BillingPeriod {
    BillingPeriod {
        account_id: AccountId::parse("acct").unwrap(),
        item: item.to_owned(),
        period_start: start * DAY_MS,
        period_end: end * DAY_MS,
        recorded_at: 0,
        subscription: Some(format!("sub_{item}")),
        meter: Some("m".to_owned()),
        price: Some("price".to_owned()),
        bills_from: None,
        invoice: None,
        invoice_state: InvoiceState::Unknown,
        invoice_read_at: None,
    }
}

fn id(day: i64) -> Uuid {
    Uuid::from_u128(u128::try_from(day).unwrap())
}

fn other(item: &str, start: Millis, end: Millis, charged: Option<&[i64]>) -> OtherPeriod {
    OtherPeriod {
        period: period(item, start, end),
        charged: charged.map(|days| days.iter().map(|day| id(*day)).collect()),
    }
}

fn report(day: i64, state: State) -> ReportFigure {
    let at = day * DAY_MS;
    ReportFigure {
        account_id: AccountId::parse("acct").unwrap(),
        id: id(day),
        meter: "m".to_owned(),
        state,
        customer: Some("cus".to_owned()),
        usage: BilledUsage {
            window_start: at,
            first_at: at,
            last_at: at,
            bill_at: None,
            event_timestamp: Some(at),
            quantity: day,
        },
        reports: 1,
        is_folded: false,
    }
}

/// Reports of some days, each with as many units as the day's number.
fn reports(days: &[i64]) -> PeriodReports {
    PeriodReports {
        reported: days.iter().sum(),
        confirmed: days
            .iter()
            .map(|day| report(*day, State::Confirmed))
            .collect(),
        ..PeriodReports::default()
    }
}

fn invoice(status: InvoiceStatus, quantity: i64) -> Invoice {
    let line = InvoiceLine {
        id: "il".to_owned(),
        item: Some("own".to_owned()),
        price: Some("price".to_owned()),
        period: Interval { start: 0, end: 1 },
        quantity: Some(quantity),
        amount: 0,
        currency: "usd".to_owned(),
        is_proration: false,
        is_flat_fee: false,
    };
    Invoice {
        id: "in".to_owned(),
        status,
        draft_until: None,
        created: 0,
        is_of_cycle: true,
        lines: vec![line],
    }
}

type Found = (Option<(InvoiceFinding, i64)>, Option<Millis>, usize);

/// The result for the period from day 10 to day 20, and the number of its reports that are left.
fn of_reports(
    reports: PeriodReports,
    invoice: &Invoice,
    others: &[OtherPeriod],
    now: Millis,
) -> Found {
    let lines = [(invoice, &invoice.lines[0])];
    let own = Judgement {
        compared: Some(compare(reports.reported, &lines)),
        again_at: None,
    };
    let period = period("own", 10, 20);
    let (judgement, rest) = without_shared((&period, &lines), own, reports, others, now);
    let found = judgement.compared.map(|one| (one.finding, one.reported));
    (found, judgement.again_at, rest.confirmed.len())
}

/// The same with usage on days 11 and 15, of which an invoice charges some units.
fn result(invoiced: i64, others: &[OtherPeriod], now: Millis) -> Found {
    let invoice = invoice(InvoiceStatus::Paid, invoiced);
    of_reports(reports(&[11, 15]), &invoice, others, now)
}

#[test]
fn usage_that_an_earlier_invoice_charges_is_charged_twice() {
    use InvoiceFinding::{ChargedTwice, Equal};
    let earlier = |charged| other("b", 13, 19, charged);
    let equal = (Some((Equal, 26)), None, 2);
    assert_eq!(result(26, &[], NOW), equal);
    let twice = (Some((ChargedTwice, 11)), None, 1);
    assert_eq!(result(26, &[earlier(Some(&[15]))], NOW), twice);
    assert_eq!(result(26, &[earlier(Some(&[]))], NOW), equal);
    // It is looked at again once the other one is known.
    let again = (Some((Equal, 26)), Some(21 * DAY_MS + HOUR_MS), 2);
    assert_eq!(result(26, &[earlier(None)], 21 * DAY_MS), again);
    assert_eq!(result(26, &[earlier(None)], NOW), equal, "it never will be");
    // The later one tells it.
    assert_eq!(result(26, &[other("b", 13, 23, Some(&[15]))], NOW), equal);
    assert_eq!(result(26, &[other("b", 13, 23, None)], NOW), equal);
    // Of two with the same period, that with the greater id.
    let both = |item| other(item, 10, 20, Some(&[11, 15]));
    let none_left = (Some((ChargedTwice, 0)), None, 0);
    assert_eq!(result(26, &[both("a")], NOW), none_left);
    assert_eq!(result(26, &[both("z")], NOW), equal);
}

#[test]
fn usage_that_only_another_item_charges_is_no_difference() {
    use InvoiceFinding::{Differs, Equal};
    for end in [19, 23] {
        let of = |charged| [other("b", 13, end, charged)];
        let rest = |finding| (Some((finding, 11)), None, 1);
        assert_eq!(result(11, &of(Some(&[15])), NOW), rest(Equal));
        assert_eq!(result(10, &of(Some(&[15])), NOW), rest(Differs));
        let whole = (Some((Differs, 26)), None, 2);
        assert_eq!(result(11, &of(Some(&[])), NOW), whole);
        // It waits for the other one if that can explain it, and not for ever.
        let soon = (end * DAY_MS + FIRST_READ_MS).max(21 * DAY_MS + HOUR_MS);
        assert_eq!(result(11, &of(None), 21 * DAY_MS), (None, Some(soon), 2));
        assert_eq!(result(10, &of(None), 21 * DAY_MS), whole, "a loss");
        assert_eq!(result(27, &of(None), 21 * DAY_MS), whole, "more");
        let late = 28 * DAY_MS;
        assert_eq!(result(11, &of(None), late), whole);
    }
    let year = [other("b", 13, 365, None)];
    let late = 20 * DAY_MS + MAX_WAIT_MS;
    assert_eq!(result(11, &year, late - 1).0, None);
    assert_eq!(result(11, &year, late).0, Some((Differs, 26)));
    let both = [
        other("b", 10, 12, Some(&[11])),
        other("c", 15, 40, Some(&[15])),
    ];
    assert_eq!(result(0, &both, NOW), (Some((Equal, 0)), None, 0));
}

#[test]
fn the_finding_is_about_what_no_other_item_charges() {
    use InvoiceFinding::{Uncollectible, Unverified, Void};
    let others = [other("b", 13, 23, Some(&[15]))];
    for (status, finding) in [
        (InvoiceStatus::Void, Void),
        (InvoiceStatus::Uncollectible, Uncollectible),
    ] {
        let invoice = invoice(status, 11);
        let found = of_reports(reports(&[11, 15]), &invoice, &others, NOW);
        assert_eq!(found, (Some((finding, 11)), None, 1));
    }
    let unverified = PeriodReports {
        is_unverified: true,
        ..reports(&[11, 15])
    };
    let invoice = invoice(InvoiceStatus::Paid, 9);
    let found = of_reports(unverified, &invoice, &others, NOW);
    assert_eq!(found, (Some((Unverified, 11)), None, 1));
}

#[test]
fn late_usage_leaves_what_was_found_on_the_invoice() {
    let with_late = |late| PeriodReports {
        confirmed: vec![report(11, State::Invoiced), report(15, late)],
        ..reports(&[11, 15])
    };
    let paid = invoice(InvoiceStatus::Paid, 11);
    let later = |charged| [other("b", 13, 23, charged)];
    let found =
        |others: &[OtherPeriod]| of_reports(with_late(State::Confirmed), &paid, others, NOW);
    let charging: &[i64] = &[11, 15];
    assert_eq!(
        found(&later(Some(charging))),
        (Some((InvoiceFinding::Equal, 11)), None, 1)
    );
    assert_eq!(
        found(&later(Some(&[]))),
        (Some((InvoiceFinding::Differs, 26)), None, 2)
    );
    // What an invoice charged first is told by the later one, not here.
    let twice: &[i64] = &[11];
    assert_eq!(
        found(&later(Some(twice))),
        (Some((InvoiceFinding::Differs, 26)), None, 2)
    );
    // The other one is told which.
    assert_eq!(
        charged_reports(&with_late(State::Confirmed), Some(11)),
        HashSet::from([id(11)])
    );
    assert_eq!(
        charged_reports(&with_late(State::Confirmed), Some(26)),
        HashSet::from([id(11), id(15)])
    );
    assert!(charged_reports(&with_late(State::Confirmed), Some(15)).is_empty());
    assert!(charged_reports(&with_late(State::Confirmed), None).is_empty());
}

proptest! {
    /// Items whose invoices charge all usage of their time: each unit is compared with one of them.
    #[test]
    fn each_unit_is_compared_with_one_invoice(
        times in proptest::collection::btree_set((0_i64..20, 1_i64..20), 1..5),
        days in proptest::collection::btree_set(1_i64..40, 0..12),
    ) {
        let items: Vec<BillingPeriod> = times
            .iter()
            .enumerate()
            .map(|(item, (start, length))| period(&item.to_string(), *start, start + length))
            .collect();
        let days_in = |one: &BillingPeriod| -> Vec<i64> {
            let is_in = |day: &&i64| one.interval().contains(**day * DAY_MS);
            days.iter().filter(is_in).copied().collect()
        };
        let mut compared: Vec<Uuid> = Vec::new();
        for one in &items {
            let own_days = days_in(one);
            let invoice = invoice(InvoiceStatus::Paid, own_days.iter().sum());
            let lines = [(&invoice, &invoice.lines[0])];
            let others: Vec<OtherPeriod> = items
                .iter()
                .filter(|other| other.item != one.item)
                .map(|other| OtherPeriod {
                    period: other.clone(),
                    charged: Some(charged_reports(
                        &reports(&days_in(other)), Some(days_in(other).iter().sum()),
                    )),
                })
                .collect();
            let own = Judgement {
                compared: Some(compare(own_days.iter().sum(), &lines)),
                again_at: None,
            };
            let (judgement, rest) =
                without_shared((one, &lines), own, reports(&own_days), &others, NOW);
            let found = judgement.compared.unwrap();
            prop_assert_eq!(found.reported, rest.reported);
            let is_whole = rest.confirmed.len() == own_days.len();
            prop_assert_eq!(found.finding == InvoiceFinding::Equal, is_whole);
            compared.extend(rest.confirmed.iter().map(|report| report.id));
        }
        compared.sort_unstable();
        let mut expected: Vec<Uuid> = items.iter().flat_map(days_in).map(id).collect();
        expected.sort_unstable();
        expected.dedup();
        prop_assert_eq!(compared, expected);
    }
}
