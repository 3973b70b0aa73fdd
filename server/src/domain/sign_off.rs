//! The sign-off of a month: what was counted, and what became of it, by account, customer, meter and calendar month in UTC.
//! Exact sums of reports; where a report's usage is shown is decided by its window, whatever it is billed with.

use std::collections::BTreeMap;

use chrono_tz::Tz;

use super::{
    Millis,
    account_id::AccountId,
    decision::Decided,
    names::names,
    period::month_around,
    report::{Kind, State},
    window::Interval,
};

/// How many decisions are listed in a row, the earliest ones. All are counted.
pub const MAX_LISTED_DECISIONS: usize = 100;

/// The sums of a row.
///
/// `counted + already_sent + corrected` is `not_billable + written_off + reported + open + to_send + no_customer +
/// needs_decision`. Of what is reported, `confirmed` is a part, and `invoiced` and `acknowledged` are parts of that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// The number of reports, folded ones too.
    pub reports: i128,
    /// What increments counted.
    pub counted: i128,
    /// What Stripe had and a restored backup lacked.
    pub already_sent: i128,
    /// The corrections, each with its sign.
    pub corrected: i128,
    /// What is never billed.
    pub not_billable: i128,
    /// What admins decided not to bill.
    pub written_off: i128,
    /// What Stripe accepted.
    pub reported: i128,
    /// What Stripe's totals contain.
    pub confirmed: i128,
    /// What final invoices charge.
    pub invoiced: i128,
    /// What no final invoice charges, in a billing period whose difference an admin acknowledged.
    pub acknowledged: i128,
    /// What is still counted.
    pub open: i128,
    /// What is closed and not accepted by Stripe yet.
    pub to_send: i128,
    /// What waits for a link.
    pub no_customer: i128,
    /// What needs a decision of an admin.
    pub needs_decision: i128,
    /// The number of reports that something is still expected to happen to. Sums can be zero and their reports unfinished.
    pub unfinished: i128,
    /// The number of decisions on its reports.
    pub decisions: u64,
    /// The earliest of them.
    pub decided: Vec<Decided>,
}

/// The sum of some reports that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    /// What they consist of.
    pub kind: Kind,
    /// Their state.
    pub state: State,
    /// Their quantity.
    pub quantity: i128,
    /// Their number.
    pub reports: i128,
}

impl Figures {
    /// Adds reports.
    pub fn add(&mut self, sum: &Sum) {
        let quantity = sum.quantity;
        add(&mut self.reports, sum.reports);
        add(
            match sum.kind {
                Kind::Usage => &mut self.counted,
                Kind::AlreadySent => &mut self.already_sent,
                Kind::Correction => &mut self.corrected,
            },
            quantity,
        );
        add(
            match sum.state {
                State::Open => &mut self.open,
                State::Closed | State::Sending => &mut self.to_send,
                State::NoCustomer => &mut self.no_customer,
                State::NotBillable => &mut self.not_billable,
                State::WrittenOff => &mut self.written_off,
                State::Accepted | State::Confirmed | State::Invoiced => &mut self.reported,
                State::Missing
                | State::Rejected
                | State::CustomerDeleted
                | State::Unknown
                | State::Uncharged
                | State::TooLate => &mut self.needs_decision,
            },
            quantity,
        );
        if State::IN_TOTALS.contains(&sum.state) {
            add(&mut self.confirmed, quantity);
        }
        match sum.state {
            State::Invoiced => add(&mut self.invoiced, quantity),
            State::NotBillable | State::WrittenOff => {}
            _ => add(&mut self.unfinished, sum.reports),
        }
    }

    /// Adds confirmed reports, which were added before, to those that an acknowledged difference explains.
    pub fn acknowledge(&mut self, quantity: i128, reports: i128) {
        add(&mut self.acknowledged, quantity);
        self.unfinished = self.unfinished.saturating_sub(reports);
    }

    /// Adds a decision.
    pub fn decide(&mut self, decided: Decided) {
        self.decisions = self.decisions.saturating_add(1);
        let place = self.decided.partition_point(|known| *known <= decided);
        self.decided.insert(place, decided);
        self.decided.truncate(MAX_LISTED_DECISIONS);
    }

    /// Adds all of another row, except the list of its decisions: totals only count them.
    pub fn add_row(&mut self, row: &Self) {
        add(&mut self.reports, row.reports);
        add(&mut self.counted, row.counted);
        add(&mut self.already_sent, row.already_sent);
        add(&mut self.corrected, row.corrected);
        add(&mut self.not_billable, row.not_billable);
        add(&mut self.written_off, row.written_off);
        add(&mut self.reported, row.reported);
        add(&mut self.confirmed, row.confirmed);
        add(&mut self.invoiced, row.invoiced);
        add(&mut self.acknowledged, row.acknowledged);
        add(&mut self.open, row.open);
        add(&mut self.to_send, row.to_send);
        add(&mut self.no_customer, row.no_customer);
        add(&mut self.needs_decision, row.needs_decision);
        add(&mut self.unfinished, row.unfinished);
        self.decisions = self.decisions.saturating_add(row.decisions);
    }

    /// The sums that the ledger check makes too.
    pub fn ledger_sums(&self) -> [i128; 13] {
        [
            self.reports,
            self.counted,
            self.already_sent,
            self.corrected,
            self.not_billable,
            self.written_off,
            self.reported,
            self.confirmed,
            self.invoiced,
            self.open,
            self.to_send,
            self.no_customer,
            self.needs_decision,
        ]
    }

    /// What is neither on a final invoice, nor acknowledged, nor never to be billed.
    pub fn difference(&self) -> i128 {
        let all = [self.counted, self.already_sent, self.corrected];
        let done = [
            self.not_billable,
            self.written_off,
            self.invoiced,
            self.acknowledged,
        ];
        let all = all.into_iter().fold(0, i128::saturating_add);
        done.into_iter().fold(all, i128::saturating_sub)
    }

    /// Whether nothing more is expected to happen to any of its reports.
    pub fn is_final(&self) -> bool {
        self.unfinished == 0
    }

    /// Reports that Stripe accepted and no final invoice charges.
    fn not_invoiced(&self) -> i128 {
        let charged = self.invoiced.saturating_add(self.acknowledged);
        self.reported.saturating_sub(charged)
    }

    /// What is not final, in words: quantities by what they wait for.
    pub fn waiting(&self) -> String {
        let parts = [
            (self.open, "still open"),
            (self.to_send, "to be sent to Stripe"),
            (self.no_customer, "without a customer"),
            (self.needs_decision, "waiting for a decision"),
            (
                self.not_invoiced(),
                "accepted by Stripe and not on a final invoice yet",
            ),
        ];
        let parts = parts.into_iter().filter(|(quantity, _)| *quantity != 0);
        let texts: Vec<String> = parts
            .map(|(quantity, what)| format!("{quantity} {what}"))
            .collect();
        let sum = if texts.is_empty() {
            "their sum is 0".to_owned()
        } else {
            texts.join(", ")
        };
        format!("{} reports are not final: {sum}", self.unfinished)
    }
}

fn add(sum: &mut i128, part: i128) {
    *sum = sum.saturating_add(part);
}

/// What a row of the export shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// The usage of an account, customer, meter and month.
    Usage,
    /// The sum of all rows of a meter.
    MeterTotal,
    /// The sum of all rows.
    Total,
}

names!(RowKind {
    Usage = "usage",
    MeterTotal = "meter_total",
    Total = "total",
});

/// A row of the export.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// What it shows.
    pub kind: RowKind,
    /// The account; `None` in a total.
    pub account_id: Option<&'a AccountId>,
    /// The Stripe customer, once the usage has one.
    pub customer: Option<&'a str>,
    /// The meter; `None` in the total of all.
    pub meter: Option<&'a str>,
    /// The month; `None` in a total of all months.
    pub month: Option<Interval>,
    /// The sums.
    pub figures: &'a Figures,
    /// Whether the month is over and nothing more is expected to happen to the reports.
    pub is_final: bool,
}

/// What a row of an account is about: its customer, its meter, and the start of its month.
pub type RowKey = (Option<String>, String, Millis);
/// The rows of an account, in the order in which they are written.
pub type AccountRows = BTreeMap<RowKey, Figures>;

/// The calendar month in UTC around a time.
pub fn utc_month(at: Millis) -> Interval {
    month_around(at, Tz::UTC).unwrap_or(Interval { start: at, end: at })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::decision::Action;

    fn sum() -> impl Strategy<Value = Sum> {
        let kind = proptest::sample::select(&Kind::ALL[..]);
        let state = proptest::sample::select(&State::ALL[..]);
        (kind, state, -1_000_i128..1_000, 1_i128..5).prop_map(|(kind, state, quantity, reports)| {
            Sum {
                kind,
                state,
                quantity,
                reports,
            }
        })
    }

    proptest! {
        #[test]
        fn what_was_counted_is_what_became_of_it(sums in proptest::collection::vec(sum(), 0..20)) {
            let mut row = Figures::default();
            for sum in &sums {
                row.add(sum);
            }
            let counted = row.counted + row.already_sent + row.corrected;
            let waiting = row.open + row.to_send + row.no_customer + row.needs_decision;
            prop_assert_eq!(counted, sums.iter().map(|sum| sum.quantity).sum::<i128>());
            prop_assert_eq!(counted, row.not_billable + row.written_off + row.reported + waiting);
            prop_assert_eq!(row.difference(), waiting + row.reported - row.invoiced);
            let finished = [State::Invoiced, State::NotBillable, State::WrittenOff];
            prop_assert_eq!(row.is_final(), sums.iter().all(|sum| finished.contains(&sum.state)));
            if row.is_final() {
                prop_assert_eq!(row.difference(), 0);
            }
            let mut total = Figures::default();
            total.add_row(&row);
            prop_assert_eq!(total, row);
        }

        #[test]
        fn the_earliest_decisions_are_listed_in_any_order_of_reading(mut times in proptest::collection::vec(0_i64..50, 0..250)) {
            let mut row = Figures::default();
            for at in &times {
                row.decide(Decided { at: *at, action: Action::Retry });
            }
            prop_assert_eq!(row.decisions, u64::try_from(times.len()).unwrap());
            times.sort_unstable();
            times.truncate(MAX_LISTED_DECISIONS);
            prop_assert_eq!(row.decided.iter().map(|one| one.at).collect::<Vec<_>>(), times);
        }
    }

    #[test]
    fn what_is_acknowledged_is_final() {
        let mut row = Figures::default();
        row.add(&Sum {
            kind: Kind::Usage,
            state: State::Confirmed,
            quantity: 7,
            reports: 2,
        });
        assert_eq!((row.is_final(), row.difference()), (false, 7));
        row.acknowledge(7, 2);
        assert_eq!((row.is_final(), row.difference()), (true, 0));
    }

    #[test]
    fn what_is_not_final_is_named_also_if_its_sum_is_zero() {
        let mut row = Figures::default();
        for quantity in [5, -5] {
            row.add(&Sum {
                kind: Kind::Correction,
                state: State::Closed,
                quantity,
                reports: 1,
            });
        }
        assert_eq!(row.difference(), 0);
        assert_eq!(row.waiting(), "2 reports are not final: their sum is 0");
        row.add(&Sum {
            kind: Kind::Usage,
            state: State::TooLate,
            quantity: 3,
            reports: 1,
        });
        assert_eq!(
            row.waiting(),
            "3 reports are not final: 3 waiting for a decision"
        );
    }
}
