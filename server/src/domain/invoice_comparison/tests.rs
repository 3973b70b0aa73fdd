use super::*;
use crate::domain::{account_id::AccountId, billed_usage::BilledUsage};
use proptest::prelude::*;
use uuid::Uuid;

const PERIOD: Interval = Interval {
    start: 0,
    end: 30 * DAY_MS,
};
/// When its invoice is usually final.
const FINAL_AT: Millis = PERIOD.end + 2 * HOUR_MS;

fn line(quantity: Option<i64>) -> InvoiceLine {
    InvoiceLine {
        id: "il".to_owned(),
        item: Some("si".to_owned()),
        price: Some("price".to_owned()),
        period: PERIOD,
        quantity,
        amount: 0,
        currency: "usd".to_owned(),
        is_proration: false,
        is_flat_fee: false,
    }
}

fn invoice(status: InvoiceStatus, created: Millis, quantity: Option<i64>) -> Invoice {
    Invoice {
        id: "in".to_owned(),
        status,
        draft_until: (status == InvoiceStatus::Draft).then_some(created + HOUR_MS),
        created,
        is_of_cycle: true,
        lines: vec![line(quantity)],
    }
}

fn plan_change(at: Millis, quantity: i64) -> Invoice {
    Invoice {
        is_of_cycle: false,
        ..invoice(InvoiceStatus::Open, at, Some(quantity))
    }
}

fn reports(reported: i64) -> PeriodReports {
    PeriodReports {
        reported,
        ..PeriodReports::default()
    }
}

fn with_lines(invoices: &[Invoice]) -> Vec<(&Invoice, &InvoiceLine)> {
    invoices
        .iter()
        .flat_map(|invoice| invoice.lines.iter().map(move |line| (invoice, line)))
        .collect()
}

fn judge_at(
    now: Millis,
    period: Interval,
    reports: &PeriodReports,
    invoices: &[Invoice],
) -> (Option<InvoiceFinding>, Option<Millis>) {
    judge_in_cycle(now, (period, None), reports, invoices)
}

/// The same, if it is known when the next billing period ends.
fn judge_in_cycle(
    now: Millis,
    (period, cycle_end): (Interval, Option<Millis>),
    reports: &PeriodReports,
    invoices: &[Invoice],
) -> (Option<InvoiceFinding>, Option<Millis>) {
    let lines = with_lines(invoices);
    let candidate = Candidate {
        period,
        reports,
        invoices,
        lines: &lines,
        ended_at: None,
        cycle_end,
    };
    let judged = judge(&candidate, now);
    (
        judged.compared.map(|compared| compared.finding),
        judged.again_at,
    )
}

fn finding(now: Millis, reported: i64, invoices: &[Invoice]) -> Option<InvoiceFinding> {
    judge_at(now, PERIOD, &reports(reported), invoices).0
}

#[test]
fn a_final_invoice_is_compared_with_what_the_totals_contain() {
    use InvoiceFinding::{Differs, Equal, Uncollectible, Unreadable, Void};
    use InvoiceStatus as S;
    let of = |status, quantity| finding(FINAL_AT, 5, &[invoice(status, PERIOD.end, quantity)]);
    assert_eq!(of(S::Open, Some(5)), Some(Equal));
    assert_eq!(of(S::Paid, Some(5)), Some(Equal));
    assert_eq!(of(S::Paid, Some(4)), Some(Differs));
    assert_eq!(of(S::Paid, Some(6)), Some(Differs));
    assert_eq!(of(S::Paid, None), Some(Unreadable));
    assert_eq!(of(S::Uncollectible, Some(5)), Some(Uncollectible));
    assert_eq!(of(S::Void, Some(5)), Some(Void));
    assert_eq!(of(S::Void, Some(4)), Some(Differs));
    let without_line = Invoice {
        lines: Vec::new(),
        ..invoice(S::Paid, PERIOD.end, None)
    };
    assert_eq!(finding(FINAL_AT, 5, &[without_line]), Some(Differs));
}

#[test]
fn lines_of_all_invoices_add_up() {
    let threshold = plan_change(10 * DAY_MS, 3);
    let rest = invoice(InvoiceStatus::Paid, PERIOD.end, Some(2));
    let invoices = [rest.clone(), threshold.clone()];
    assert_eq!(finding(FINAL_AT, 5, &invoices), Some(InvoiceFinding::Equal));
    let void = Invoice {
        status: InvoiceStatus::Void,
        ..threshold
    };
    assert_eq!(
        finding(FINAL_AT, 5, &[rest, void]),
        Some(InvoiceFinding::Void)
    );
}

#[test]
fn nothing_is_compared_before_every_invoice_is_final() {
    let draft = invoice(InvoiceStatus::Draft, PERIOD.end, Some(4));
    let early = Invoice {
        created: 10 * DAY_MS,
        ..draft.clone()
    };
    let (found, again) = judge_at(
        PERIOD.end,
        PERIOD,
        &reports(4),
        std::slice::from_ref(&draft),
    );
    assert_eq!(found, None);
    assert_eq!(again, Some(PERIOD.end + HOUR_MS + CLOCK_DIFFERENCE_MS));
    let last = invoice(InvoiceStatus::Paid, PERIOD.end, Some(4));
    let both = [early, last.clone()];
    assert_eq!(finding(FINAL_AT, 8, &both), None);
    let days_later = PERIOD.end + LONGEST_DRAFT_MS;
    assert_eq!(
        finding(days_later, 8, &both),
        Some(InvoiceFinding::Overdue),
        "a draft that stays one is told"
    );
    let kept = both.map(|invoice| Invoice {
        draft_until: None,
        ..invoice
    });
    assert_eq!(
        finding(days_later, 8, &kept),
        Some(InvoiceFinding::KeptDraft),
        "or that it is kept as one"
    );
    let [_, last] = kept;
    // That of the next period holds up nothing.
    let next = Invoice {
        created: PERIOD.end + 30 * DAY_MS,
        lines: Vec::new(),
        ..draft
    };
    assert_eq!(
        finding(FINAL_AT, 4, &[last, next]),
        Some(InvoiceFinding::Equal)
    );
}

#[test]
fn reports_that_the_totals_may_show_later_are_waited_for() {
    let paid = [invoice(InvoiceStatus::Paid, PERIOD.end, Some(4))];
    let unverified = PeriodReports {
        is_unverified: true,
        ..reports(4)
    };
    let (found, again) = judge_at(FINAL_AT, PERIOD, &unverified, &paid);
    assert_eq!((found, again), (None, Some(FINAL_AT + HOUR_MS)));
    let days_later = PERIOD.end + LONGEST_DRAFT_MS;
    let (found, again) = judge_at(days_later, PERIOD, &unverified, &paid);
    assert_eq!(found, Some(InvoiceFinding::Equal), "not for ever");
    assert_eq!(again, Some(days_later + DAY_MS), "and looked at again");
    let less = PeriodReports {
        is_unverified: true,
        ..reports(3)
    };
    let (found, _) = judge_at(days_later, PERIOD, &less, &paid);
    assert_eq!(
        found,
        Some(InvoiceFinding::Unverified),
        "the rest may be there"
    );
}

#[test]
fn a_period_that_was_cut_is_compared_with_the_invoice_of_the_whole() {
    let cut = Interval {
        start: 0,
        end: 10 * DAY_MS,
    };
    let later = cut.end + HOUR_MS;
    let at_once = [plan_change(cut.end, 5)];
    let judged =
        |reported, now, invoices: &[Invoice]| judge_at(now, cut, &reports(reported), invoices).0;
    assert_eq!(
        judged(5, later, &at_once),
        Some(InvoiceFinding::Equal),
        "all of it is on the invoice of the change"
    );
    assert_eq!(judged(6, later, &at_once), None, "the rest may follow");
    let [change] = at_once;
    let both = [
        change.clone(),
        invoice(InvoiceStatus::Open, PERIOD.end, Some(1)),
    ];
    assert_eq!(judged(6, FINAL_AT, &both), Some(InvoiceFinding::Equal));
    assert_eq!(judged(5, FINAL_AT, &both), Some(InvoiceFinding::Differs));
    let forty_days = cut.end + UNKNOWN_CYCLE_MS;
    assert_eq!(
        judged(6, forty_days, std::slice::from_ref(&change)),
        Some(InvoiceFinding::Differs),
        "told although no invoice follows"
    );
    let in_cycle = |now| {
        let cycle = (cut, Some(PERIOD.end));
        judge_in_cycle(now, cycle, &reports(6), std::slice::from_ref(&change)).0
    };
    let days_later = PERIOD.end + LONGEST_DRAFT_MS;
    assert_eq!(in_cycle(days_later - 1), None);
    assert_eq!(in_cycle(days_later), Some(InvoiceFinding::Differs));
}

#[test]
fn an_invoice_that_never_appears_is_told_within_days() {
    let cycle = (PERIOD, Some(PERIOD.end));
    let at = |now, reported| judge_in_cycle(now, cycle, &reports(reported), &[]);
    let days_later = PERIOD.end + LONGEST_DRAFT_MS;
    assert_eq!(
        at(days_later - 1, 5),
        (None, Some(days_later - 1 + MINUTE_MS))
    );
    let told = (Some(InvoiceFinding::Differs), Some(days_later + DAY_MS));
    assert_eq!(at(days_later, 5), told);
    // One that appears later may charge something.
    let unused = (Some(InvoiceFinding::Equal), Some(days_later + DAY_MS));
    assert_eq!(at(days_later, 0), unused);
    assert_eq!(at(PERIOD.end + UNKNOWN_CYCLE_MS, 0).1, None);
}

#[test]
fn a_draft_of_another_period_holds_up_nothing() {
    let paid = invoice(InvoiceStatus::Paid, PERIOD.end, Some(5));
    // Of the period before, kept as a draft, and created at the start of this one.
    let before = Invoice {
        draft_until: None,
        lines: Vec::new(),
        ..invoice(InvoiceStatus::Draft, PERIOD.start, None)
    };
    let both = [paid.clone(), before];
    assert_eq!(finding(FINAL_AT, 5, &both), Some(InvoiceFinding::Equal));
    let of_own_plan_change = Invoice {
        is_of_cycle: false,
        lines: Vec::new(),
        ..invoice(InvoiceStatus::Draft, 10 * DAY_MS, None)
    };
    let both = [paid, of_own_plan_change];
    assert_eq!(finding(FINAL_AT, 5, &both), None, "it may have usage");
}

#[test]
fn what_can_still_change_is_compared_again() {
    let again = |now, status| {
        let invoices = [invoice(status, PERIOD.end, Some(5))];
        judge_at(now, PERIOD, &reports(5), &invoices).1
    };
    let late = PERIOD.end + LONGEST_DRAFT_MS;
    assert_eq!(
        again(FINAL_AT, InvoiceStatus::Paid),
        Some(late),
        "once more"
    );
    assert_eq!(again(late, InvoiceStatus::Paid), None);
    assert_eq!(
        again(FINAL_AT, InvoiceStatus::Open),
        Some(FINAL_AT + DAY_MS)
    );
    let old = PERIOD.end + RECENT_MS;
    assert_eq!(again(old, InvoiceStatus::Open), Some(old + LONGEST_WAIT_MS));
    assert_eq!(again(PERIOD.end + OLDEST_MS, InvoiceStatus::Open), None);
}

#[test]
fn an_ended_subscription_without_an_invoice_is_told() {
    let none = reports(5);
    let at = |now| {
        let candidate = Candidate {
            period: PERIOD,
            reports: &none,
            invoices: &[],
            lines: &[],
            ended_at: Some(PERIOD.end),
            cycle_end: None,
        };
        judge(&candidate, now).compared
    };
    assert_eq!(at(FINAL_AT), None);
    assert_eq!(
        at(PERIOD.end + LONGEST_DRAFT_MS),
        Some(Compared {
            finding: InvoiceFinding::Differs,
            reported: 5,
            invoiced: Some(0),
        })
    );
}

#[test]
fn only_reports_that_the_totals_contain_are_compared() {
    let figure = |state, at: Millis| ReportFigure {
        account_id: AccountId::parse("acct").unwrap(),
        id: Uuid::now_v7(),
        meter: "m".to_owned(),
        state,
        customer: Some("cus".to_owned()),
        usage: BilledUsage {
            window_start: at,
            first_at: at,
            last_at: at,
            bill_at: None,
            event_timestamp: Some(at),
            quantity: 1,
        },
        reports: 1,
        is_folded: false,
    };
    let mut all = State::ALL.map(|state| figure(state, 5));
    for figure in &mut all {
        // With a time, another integration would bill it.
        if figure.state == State::NotBillable {
            figure.usage.event_timestamp = None;
        }
    }
    let later = figure(State::Confirmed, PERIOD.end);
    let figures = all.into_iter().chain([later]).collect();
    let found = PeriodReports::of(figures, PERIOD);
    assert_eq!((found.reported, found.confirmed.len()), (2, 2));
    assert!(found.is_unverified && found.has_missing);
    let rejected = vec![figure(State::Rejected, 5)];
    let found = PeriodReports::of(rejected, PERIOD);
    assert_eq!(found, PeriodReports::default());
}

fn statuses() -> impl Strategy<Value = InvoiceStatus> {
    proptest::sample::select(InvoiceStatus::ALL.to_vec())
}

proptest! {
    /// Nothing is invoiced unless open and paid invoices charge exactly what was reported.
    #[test]
    fn equal_means_that_valid_invoices_charge_exactly_what_was_reported(
        invoices in proptest::collection::vec(
            (statuses(), 0..40 * DAY_MS, proptest::option::weighted(0.9, 0_i64..4)),
            0..5,
        ),
        reported in 0_i64..8,
        now in PERIOD.end..PERIOD.end + 60 * DAY_MS,
        cycle_end in proptest::option::of(PERIOD.end..PERIOD.end + 30 * DAY_MS),
    ) {
        let invoices: Vec<Invoice> = invoices
            .into_iter()
            .map(|(status, created, quantity)| invoice(status, created, quantity))
            .collect();
        let cycle = (PERIOD, cycle_end);
        let (found, again) = judge_in_cycle(now, cycle, &reports(reported), &invoices);
        let valid = |status| matches!(status, InvoiceStatus::Open | InvoiceStatus::Paid);
        let charged: Option<i64> = with_lines(&invoices)
            .iter()
            .filter(|(invoice, _)| valid(invoice.status))
            .map(|(_, line)| line.quantity)
            .sum();
        if found == Some(InvoiceFinding::Equal) {
            prop_assert_eq!(charged, Some(reported));
        }
        // Nothing waits for ever, and nothing is asked all the time.
        let longest = cycle_end.map_or(PERIOD.end + UNKNOWN_CYCLE_MS, |end| end + LONGEST_DRAFT_MS);
        let last = closing_invoice(&invoices, PERIOD.end);
        if now >= last.map_or(longest, |last| last.created + LONGEST_DRAFT_MS) {
            prop_assert!(found.is_some());
        }
        prop_assert!(found.is_some() || again.is_some());
        prop_assert!(again.is_none_or(|again| again > now && again <= now + LONGEST_WAIT_MS));
    }
}
