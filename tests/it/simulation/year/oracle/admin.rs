//! What admins do in the model: corrections, and decisions on usage that waits for one.

use std::collections::BTreeMap;

use super::{Account, Fate, HOUR, Row};

/// How far back a correction may be, which is less than the service accepts.
const MAX_CORRECTED_AGE: i64 = 30 * 24 * HOUR;
/// How old usage may be that is sent again. What is older than Stripe accepts would be refused for that.
const MAX_RETRIED_AGE: i64 = 20 * 24 * HOUR;

/// What was decided, in the order of the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::simulation::year) enum Action {
    Retry,
    BillInCurrentPeriod,
    WriteOff,
}

impl Action {
    /// Its name in the export.
    pub(in crate::simulation::year) fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::BillInCurrentPeriod => "bill_in_current_period",
            Self::WriteOff => "write_off",
        }
    }
}

/// A decision on one report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::simulation::year) struct Decision {
    pub(in crate::simulation::year) at: i64,
    pub(in crate::simulation::year) action: Action,
}

/// The meter and the hour of some usage. How many reports it has is not in the model, but all of them are in the hour.
pub(in crate::simulation::year) type Place = (usize, i64);

/// Usage of an hour that waits for a decision.
#[derive(Clone, Debug, Default)]
pub(in crate::simulation::year) struct Undecided {
    pub(in crate::simulation::year) quantity: i64,
    /// The negative part of it.
    pub(in crate::simulation::year) negative: i64,
    /// Whether an admin has decided on it before.
    pub(in crate::simulation::year) is_decided: bool,
}

/// Usage that a correction can take away.
#[derive(Clone, Copy, Debug)]
pub(in crate::simulation::year) struct Takeable {
    row: usize,
    pub(in crate::simulation::year) meter: usize,
    pub(in crate::simulation::year) at: i64,
    /// The most that can be taken so that something is left.
    pub(in crate::simulation::year) most: i64,
}

impl Account {
    /// Enters a correction. It is closed from the start, and sent at once.
    pub(in crate::simulation::year) fn correct(
        &mut self,
        (meter, at): (usize, i64),
        quantity: i64,
        now: i64,
    ) {
        let mut row = Row::new(meter, self.window_around(at), at, quantity);
        (row.is_correction, row.fate) = (true, self.fate_at(at));
        self.rows.push(row);
        self.send(now);
    }

    /// What corrections can take away. At the time of some usage and less than it, a correction has the fate of that usage or
    /// waits for a decision, so no invoice becomes negative.
    pub(in crate::simulation::year) fn takeable(&self, now: i64) -> Vec<Takeable> {
        let rows = self.rows.iter().enumerate();
        let takeable = rows.filter(|(_, row)| {
            let is_recent = row.first > now - MAX_CORRECTED_AGE && row.first < now;
            !row.is_correction && is_recent && self.has_fate_of_corrections(row)
        });
        let takeable = takeable.map(|(number, row)| Takeable {
            row: number,
            meter: row.meter,
            at: row.first,
            most: row.quantity - row.taken - 1,
        });
        takeable.filter(|takeable| takeable.most > 0).collect()
    }

    /// Whether usage is billed as a correction at its time would be.
    fn has_fate_of_corrections(&self, row: &Row) -> bool {
        match row.fate {
            Fate::NotBillable | Fate::NoCustomer => self.fate_at(row.first) == row.fate,
            Fate::Sent(number) => {
                let segment = &self.segments[number];
                let is_within = segment.start <= row.first && row.last < segment.end;
                // Together with what was moved to the period, it could take more than was sent.
                let mut moved = self.rows.iter().filter(|other| other.bill_at.is_some());
                let is_less = moved.any(|other| other.fate == row.fate && other.quantity < 0);
                let is_own = row.bill_at.is_none() && is_within && !is_less;
                is_own && self.fate_at(row.first) == Fate::Closed
            }
            _ => false,
        }
    }

    /// Notes what a correction took.
    pub(in crate::simulation::year) fn take(&mut self, from: Takeable, quantity: i64) {
        self.rows[from.row].taken += quantity;
    }

    /// Whether what is negative may be summed without what it was taken from: it waits for a decision, or is billed in another
    /// period. Then the service may refuse to take more.
    pub(in crate::simulation::year) fn has_negative_apart(&self, meter: usize) -> bool {
        let mut rows = self.rows.iter().filter(|row| row.meter == meter);
        rows.any(|row| row.quantity < 0 && (row.fate.needs_decision() || row.bill_at.is_some()))
    }

    /// Everything that was ever added of a meter.
    pub(in crate::simulation::year) fn added(&self, meter: usize) -> i64 {
        let rows = self.rows.iter().filter(|row| row.meter == meter);
        rows.map(|row| row.quantity.max(0)).sum()
    }

    /// The usage that waits for a decision.
    pub(in crate::simulation::year) fn undecided(&self) -> BTreeMap<Place, Undecided> {
        let mut places: BTreeMap<Place, Undecided> = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.fate.needs_decision()) {
            let place = places.entry(row.place()).or_default();
            place.quantity += row.quantity;
            place.negative += row.quantity.min(0);
            place.is_decided |= !row.decisions.is_empty();
        }
        places
    }

    /// Whether usage of an hour is young enough to be sent again at its own time.
    pub(in crate::simulation::year) fn is_recent((_, hour): Place, now: i64) -> bool {
        hour > now - MAX_RETRIED_AGE
    }

    /// What the current invoice of a meter charges so far, and the time from which it is final; none if no subscription
    /// charges now.
    pub(in crate::simulation::year) fn charged_now(
        &self,
        meter: usize,
        now: i64,
    ) -> Option<(i64, i64)> {
        let number = self.segment_at(meter, now)?;
        let rows = self.rows.iter();
        let current = rows.filter(|row| row.fate == Fate::Sent(number));
        let charged = current.map(|row| row.quantity).sum();
        Some((charged, self.segments[number].final_at))
    }

    /// Decides on the usage of an hour, which some reports have.
    pub(in crate::simulation::year) fn decide(
        &mut self,
        place: Place,
        decision: Decision,
        reports: usize,
    ) {
        let rows = self.rows.iter_mut();
        let waiting = rows.filter(|row| row.fate.needs_decision() && row.place() == place);
        let mut decisions = vec![decision; reports];
        for row in waiting {
            row.decisions.append(&mut decisions);
            row.fate = match decision.action {
                Action::Retry | Action::BillInCurrentPeriod => Fate::Closed,
                Action::WriteOff => Fate::WrittenOff,
            };
            if decision.action == Action::BillInCurrentPeriod {
                row.bill_at = Some(decision.at);
            }
        }
        assert!(decisions.is_empty(), "nothing waits at {place:?}");
        self.send(decision.at);
    }
}

impl Row {
    fn place(&self) -> Place {
        (self.meter, self.start - self.start.rem_euclid(HOUR))
    }
}
