use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::domain::{
    HOUR_MS, billed_usage::BilledUsage, report::MAX_REPORT_QUANTITY, start_of, window::Slots,
};

const HOURS: Millis = 6;
const END: Millis = HOURS * HOUR_MS;
/// Days later, when everything was sent.
const NOW: Millis = 500 * DAY_MS;

fn account() -> AccountId {
    AccountId::parse("acct").unwrap()
}

fn report(id: u128) -> Report {
    Report {
        account_id: account(),
        id: Uuid::from_u128(id),
        meter: "calls".to_owned(),
        window_start: 0,
        window_end: HOUR_MS,
        period_end: Some(HOUR_MS),
        closed_at: Some(HOUR_MS),
        quantity: 1,
        first_at: 0,
        last_at: 0,
        state: State::Invoiced,
        straddled: false,
        generation: 0,
        event_timestamp: Some(0),
        customer: Some("cus".to_owned()),
        attempts: 1,
        first_sent_at: Some(HOUR_MS),
        last_sent_at: Some(HOUR_MS),
        reported_at: Some(HOUR_MS),
        last_error: None,
        run_id: None,
        kind: Kind::Usage,
        note: None,
        entered_by: None,
        bill_at: None,
        confirmed_at: None,
        looked_up_at: None,
    }
}

fn finished(report: Report) -> FinishedReport {
    FinishedReport {
        report,
        next_attempt_at: None,
        send_by: None,
        decisions: Vec::new(),
    }
}

#[test]
fn what_is_old_finished_and_quiet_is_folded() {
    let age = 400 * DAY_MS;
    let now = HOUR_MS + age;
    let may = |change: &dyn Fn(&mut FinishedReport)| {
        let mut one = finished(report(1));
        change(&mut one);
        may_fold(&one, age, now)
    };
    assert!(may(&|_| {}));
    assert!(!may_fold(&finished(report(1)), age, now - 1));
    for state in State::ALL {
        let is_folded = may(&|one| one.report.state = state);
        assert_eq!(is_folded, FINISHED.contains(&state), "{state:?}");
    }
    for kind in Kind::ALL {
        assert_eq!(may(&|one| one.report.kind = kind), kind == Kind::Usage);
    }
    let lately = now - QUIET_MS + 1;
    assert!(may(&|one| one.report.confirmed_at = Some(lately - 1)));
    assert!(!may(&|one| one.report.confirmed_at = Some(lately)));
    assert!(!may(&|one| one.report.bill_at = Some(lately)));
    assert!(!may(&|one| one.report.reported_at = Some(lately)));
    let decision = |decided_at| Decision {
        report_id: Uuid::from_u128(1),
        action: crate::domain::decision::Action::WriteOff,
        reason: String::new(),
        requested_by: String::new(),
        from_state: State::TooLate,
        generation: 0,
        decided_at,
    };
    assert!(!may(&|one| one.decisions.push(decision(lately))));
}

#[test]
fn reports_of_a_window_become_one_row() {
    let mut later = report(1);
    (later.first_at, later.last_at, later.quantity) = (5, 9, MAX_REPORT_QUANTITY);
    later.event_timestamp = Some(60_000);
    later.reported_at = Some(3 * HOUR_MS);
    let reports = [finished(report(2)), finished(later)];
    let fold = fold(&reports, &FoldContext::default());
    let [row] = &fold.rows[..] else {
        panic!("{fold:?}")
    };
    assert_eq!(row.id, Uuid::from_u128(1));
    assert_eq!((row.reports, row.quantity), (2, MAX_REPORT_QUANTITY + 1));
    assert_eq!((row.first_at, row.last_at), (0, 9));
    assert_eq!(row.sent_at, Some(3 * HOUR_MS));
    assert!(fold.row_of.values().all(|of| *of == row.id));
    assert_eq!(fold.row_of.len(), 2);
}

#[test]
fn what_a_reader_tells_apart_stays_apart() {
    let changes: [fn(&mut Report); 8] = [
        |report| report.meter = "tokens".to_owned(),
        |report| report.customer = None,
        |report| report.state = State::WrittenOff,
        |report| report.window_end = HOUR_MS / 2,
        |report| report.bill_at = Some(7 * HOUR_MS),
        |report| report.straddled = true,
        |report| report.event_timestamp = Some(HOUR_MS),
        |report| (report.window_start, report.event_timestamp) = (1_000, Some(1_000)),
    ];
    for change in changes {
        let mut other = report(2);
        change(&mut other);
        let reports = [finished(report(1)), finished(other)];
        let fold = fold(&reports, &FoldContext::default());
        assert_eq!(fold.rows.len(), 2, "{reports:?}");
    }
}

/// When its increments happened, where in its window its event is, and what is drawn for the rest.
#[derive(Clone, Debug)]
struct Drawn {
    at: Millis,
    later: Millis,
    /// Whether it was closed when the boundaries were known.
    knows_boundaries: bool,
    event: Millis,
    sent_days: Millis,
    state: State,
    quantity: i64,
    customer: Option<usize>,
    bill_at: Option<Millis>,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let state = prop_oneof![
        3 => Just(State::Invoiced),
        1 => Just(State::NotBillable),
        1 => Just(State::WrittenOff)
    ];
    let bill_at = prop_oneof![5 => Just(None), 1 => (0..END).prop_map(Some)];
    let parts = (0..END, 0..HOUR_MS, any::<bool>(), 0..HOUR_MS, 0..34_i64);
    let rest = (
        state,
        -1_000..=MAX_REPORT_QUANTITY,
        proptest::option::of(0..2_usize),
        bill_at,
    );
    (parts, rest).prop_map(
        |(
            (at, later, knows_boundaries, event, sent_days),
            (state, quantity, customer, bill_at),
        )| {
            Drawn {
                at,
                later,
                knows_boundaries,
                event,
                sent_days,
                state,
                quantity,
                customer,
                bill_at,
            }
        },
    )
}

impl Drawn {
    fn finished(&self, id: u128, boundaries: &Boundaries, slots: Slots) -> FinishedReport {
        let known = if self.knows_boundaries {
            boundaries.clone()
        } else {
            Boundaries::default()
        };
        let window = known.window_around(slots, self.at);
        // Where `Report::window_to_send` puts it.
        let part = boundaries
            .window_around(slots, self.at)
            .intersection(window);
        let event = part.start + self.event % (part.end - part.start);
        let is_sent = self.state == State::Invoiced;
        let sent_at = is_sent.then_some(window.end + self.sent_days * DAY_MS);
        finished(Report {
            window_start: window.start,
            window_end: window.end,
            first_at: self.at,
            last_at: Ord::min(self.at + self.later, window.end - 1),
            state: self.state,
            quantity: self.quantity,
            customer: self.customer.map(|number| format!("cus_{number}")),
            event_timestamp: is_sent.then_some(self.bill_at.unwrap_or(event)),
            bill_at: self.bill_at,
            first_sent_at: sent_at,
            reported_at: sent_at,
            ..report(id)
        })
    }
}

/// What totals are made of, of a report or a row.
struct Part {
    state: State,
    customer: Option<String>,
    window: Interval,
    sent_at: Option<Millis>,
    reports: i64,
    usage: BilledUsage,
}

fn part_of_report(FinishedReport { report, .. }: &FinishedReport) -> Part {
    Part {
        state: report.state,
        customer: report.customer.clone(),
        window: window_of(report),
        sent_at: report.reported_at.or(report.first_sent_at),
        reports: 1,
        usage: BilledUsage::of(report),
    }
}

fn part_of_row(row: &FoldedReport) -> Part {
    Part {
        state: row.state,
        customer: row.customer.clone(),
        window: row.window,
        sent_at: row.sent_at,
        reports: row.reports,
        usage: BilledUsage {
            window_start: row.window.start,
            first_at: row.first_at,
            last_at: row.last_at,
            bill_at: row.bill_at,
            event_timestamp: row.event_timestamp,
            quantity: row.quantity,
        },
    }
}

/// Every total that the service reads, by a text that says which.
fn totals(
    parts: &[Part],
    edges: &[Millis],
    adopted_at: Option<Millis>,
) -> BTreeMap<String, (i128, i64)> {
    let mut totals: BTreeMap<String, (i128, i64)> = BTreeMap::new();
    let mut add = |name: String, part: &Part| {
        let (quantity, reports) = totals.entry(name).or_default();
        *quantity += i128::from(part.usage.quantity);
        *reports += part.reports;
    };
    for part in parts {
        let (state, customer) = (part.state, &part.customer);
        add(format!("{:?} {state:?}", part.window), part);
        for pair in edges.windows(2) {
            let period = Interval {
                start: pair[0],
                end: pair[1],
            };
            if period.contains(part.usage.billed_at_stripe()) {
                add(format!("billed in {period:?} {state:?} {customer:?}"), part);
            }
            if period.contains(part.usage.billed_at()) {
                add(
                    format!("corrected in {period:?} {state:?} {customer:?}"),
                    part,
                );
            }
            // As Stripe's totals are read: by whole minutes, of what the present account has.
            let minutes: Range<Millis> =
                start_of(MINUTE_MS, period.start)..start_of(MINUTE_MS, period.end + MINUTE_MS - 1);
            let is_present = adopted_at
                .is_none_or(|adopted_at| part.sent_at.unwrap_or(adopted_at) >= adopted_at);
            if state == State::Invoiced
                && is_present
                && part
                    .usage
                    .event_timestamp
                    .is_some_and(|at| minutes.contains(&at))
            {
                let is_own = period.contains(part.usage.billed_at_stripe());
                add(
                    format!("at Stripe in {period:?} {customer:?} {is_own}"),
                    part,
                );
            }
        }
    }
    totals
}

proptest! {
    /// Whatever the boundaries and whenever they became known.
    #[test]
    fn folding_changes_no_total(
        drawn in proptest::collection::vec(drawn(), 0..40),
        moments in proptest::collection::vec(prop_oneof![0..END, (0..END).prop_map(|at| start_of(MINUTE_MS, at))], 0..5),
        slots in prop_oneof![Just(15), Just(30), Just(60)],
        adopted_at in proptest::option::of((0..40_i64).prop_map(|days| days * DAY_MS + 1)),
    ) {
        let boundaries = Arc::new(Boundaries::new(moments.clone()));
        let slots = Slots::from_mins(slots).unwrap();
        let reports: Vec<FinishedReport> = (1..)
            .zip(&drawn)
            .map(|(id, drawn)| drawn.finished(id, &boundaries, slots))
            .collect();
        let context = FoldContext {
            boundaries: HashMap::from([(account(), Arc::clone(&boundaries))]),
            adopted_at,
        };
        let fold = fold(&reports, &context);
        let mut edges = moments;
        edges.extend([0, END]);
        edges.sort_unstable();
        let before: Vec<Part> = reports.iter().map(part_of_report).collect();
        let after: Vec<Part> = fold.rows.iter().map(part_of_row).collect();
        prop_assert_eq!(
            totals(&before, &edges, adopted_at),
            totals(&after, &edges, adopted_at)
        );
        prop_assert_eq!(fold.row_of.len(), reports.len());
        for one in &reports {
            prop_assert!(may_fold(one, 60 * DAY_MS, NOW));
        }
    }

    /// Without boundaries, one row a window, state and customer.
    #[test]
    fn ordinary_reports_of_a_window_are_one_row(drawn in proptest::collection::vec(drawn(), 0..40)) {
        let slots = Slots::from_mins(60).unwrap();
        let reports: Vec<FinishedReport> = (1..)
            .zip(drawn.iter().filter(|drawn| drawn.bill_at.is_none()))
            .map(|(id, drawn)| drawn.finished(id, &Boundaries::default(), slots))
            .collect();
        let keys: std::collections::BTreeSet<_> = reports
            .iter()
            .map(|one| (one.report.window_start, one.report.state, one.report.customer.clone()))
            .collect();
        prop_assert_eq!(fold(&reports, &FoldContext::default()).rows.len(), keys.len());
    }
}

#[test]
fn usage_that_another_integration_bills_stays_marked_and_apart() {
    let not_billable = |id, event_timestamp| {
        let mut one = report(id);
        (one.state, one.event_timestamp) = (State::NotBillable, event_timestamp);
        (
            one.attempts,
            one.first_sent_at,
            one.last_sent_at,
            one.reported_at,
        ) = (0, None, None, None);
        finished(one)
    };
    let reports = [
        not_billable(1, Some(0)),
        not_billable(2, Some(MINUTE_MS)),
        not_billable(3, None),
    ];
    let fold = fold(&reports, &FoldContext::default());
    let rows: Vec<_> = fold
        .rows
        .iter()
        .map(|row| (row.reports, row.event_timestamp))
        .collect();
    assert_eq!(rows, [(2, Some(0)), (1, None)]);
}
