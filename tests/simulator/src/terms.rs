//! What the subscription of an account charges by the rules, over its whole life at Stripe: its billing periods, its trials,
//! and the times in which nothing charges. And what was changed in it at Stripe, which the service learns later.

use std::{fmt, ops::Range};

use fake_stripe::StoredEvent;

use crate::time::{self, MINUTE, SECOND};

/// How long after a change the service may not have read it, although nothing fails.
const READ_AFTER: i64 = 20 * MINUTE;

/// What becomes of usage of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Charge {
    /// An invoice charges it.
    Charged,
    /// It is of a trial: no invoice charges it.
    Trial,
    /// No item charges it.
    Nothing,
}

/// What is so from a time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    /// The number of the meter; of all of them if there is none.
    pub(crate) meter: Option<usize>,
    pub(crate) from: i64,
    /// The billing cycle anchor.
    pub(crate) anchor: i64,
    pub(crate) charge: Charge,
}

/// A change that was made at Stripe, and not by the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// The number of the meter; of all of them if there is none.
    pub(crate) meter: Option<usize>,
    pub(crate) at: i64,
    /// Whether it replaced the price of an item, whose billing period goes on.
    pub(crate) is_swap: bool,
    /// What was acknowledged from this time on may not have been at Stripe.
    pub(crate) unsent_since: i64,
    /// What Stripe received from this time on, of the time before the change, may be on no invoice.
    pub(crate) lost_since: i64,
    /// When the service knew it.
    pub(crate) known_at: Option<i64>,
}

impl Change {
    /// Whether it concerns a meter, and the service may not know it at a time.
    fn may_be_unknown(&self, meter: usize, at: i64) -> bool {
        self.concerns(meter) && at < self.known_at.unwrap_or(i64::MAX)
    }

    fn concerns(&self, meter: usize) -> bool {
        self.meter.is_none_or(|own| own == meter)
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// In the order of their times.
    each: Vec<Term>,
    changes: Vec<Change>,
    /// Whether it ends with its period.
    pub(crate) is_ending: bool,
    /// Whether Stripe collects nothing. No invoice is made meanwhile.
    pub(crate) is_collection_paused: bool,
}

impl Terms {
    /// A subscription that always charges.
    pub(crate) fn of_anchor(anchor: i64) -> Self {
        Self {
            each: vec![Term {
                meter: None,
                from: i64::MIN,
                anchor,
                charge: Charge::Charged,
            }],
            changes: Vec::new(),
            is_ending: false,
            is_collection_paused: false,
        }
    }

    /// One that begins with a trial, after which it charges or is paused.
    pub(crate) fn of_trial(trial: &Range<i64>, pauses: bool) -> Self {
        let mut terms = Self::of_anchor(trial.start);
        terms.each[0].charge = Charge::Trial;
        terms.begin(Term {
            meter: None,
            from: trial.end,
            anchor: trial.end,
            charge: if pauses {
                Charge::Nothing
            } else {
                Charge::Charged
            },
        });
        terms
    }

    /// Something else is so from a time on, whatever was to come later.
    pub(crate) fn begin(&mut self, term: Term) {
        let stays = |other: &Term| {
            other.from < term.from || term.meter.is_some() && other.meter != term.meter
        };
        self.each.retain(stays);
        self.each.push(term);
        self.each.sort_by_key(|term| term.from);
    }

    /// Something was changed at Stripe.
    pub(crate) fn change(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// The service knows by now what was changed long enough ago.
    pub(crate) fn note_read(&mut self, now: i64) {
        for change in &mut self.changes {
            if change.known_at.is_none() && change.at + READ_AFTER <= now {
                change.known_at = Some(now);
            }
        }
    }

    /// Whether the service knows all that was changed.
    pub(crate) fn is_read(&self) -> bool {
        self.changes.iter().all(|change| change.known_at.is_some())
    }

    /// Whether nothing was changed at Stripe, and nothing ever begins or ends.
    pub(crate) fn is_original(&self) -> bool {
        self.each.len() == 1 && self.changes.is_empty()
    }

    /// Whether an admin may change the subscription: it charges all meters, and the service knows it.
    pub(crate) fn is_plain(&self, meters: usize, now: i64) -> bool {
        let charges = |meter| self.charge_at(meter, now) == Charge::Charged;
        self.is_read() && !self.is_ending && !self.is_collection_paused && (0..meters).all(charges)
    }

    /// The term of a time, and when the next one begins.
    fn term_at(&self, meter: usize, at: i64) -> (Term, i64) {
        let concerns = |term: &&Term| term.meter.is_none_or(|own| own == meter);
        let own = || self.each.iter().filter(concerns);
        let next = own().map(|term| term.from).filter(|from| *from > at).min();
        let last = own().rfind(|term| term.from <= at);
        (*last.unwrap_or(&self.each[0]), next.unwrap_or(i64::MAX))
    }

    pub(crate) fn charge_at(&self, meter: usize, at: i64) -> Charge {
        self.term_at(meter, at).0.charge
    }

    pub(crate) fn anchor_at(&self, meter: usize, at: i64) -> i64 {
        self.term_at(meter, at).0.anchor
    }

    /// The billing period of a meter that contains a time.
    pub(crate) fn period_at(&self, meter: usize, at: i64) -> (i64, i64) {
        let (term, next) = self.term_at(meter, at);
        let (start, end) = time::period_around(term.anchor, at);
        (start.max(term.from), end.min(next))
    }

    /// Whether a window has time of which the service may not have known what charges it.
    pub(crate) fn is_unclear(&self, meter: usize, window: &Range<i64>) -> bool {
        let mut changes = self.changes.iter();
        changes.any(|change| change.at < window.end && change.may_be_unknown(meter, window.start))
    }

    /// Since when usage of a time may have come too late because of a change.
    pub(crate) fn late_since(&self, meter: usize, at: i64) -> Option<i64> {
        let later = self.changes.iter();
        later
            .filter(|change| change.may_be_unknown(meter, at))
            .map(|change| change.unsent_since)
            .min()
    }

    /// Whether the service could not know that no invoice would charge an event: a change had taken effect.
    pub(crate) fn may_be_lost(&self, meter: usize, event: &StoredEvent) -> bool {
        self.changes.iter().any(|change| {
            change.may_be_unknown(meter, event.received_at_ms)
                && event.timestamp * SECOND < change.at
                && change.lost_since <= event.received_at_ms
        })
    }

    /// When the price of a meter's item was last replaced in a time.
    pub(crate) fn last_swap(&self, meter: usize, time: &Range<i64>) -> Option<i64> {
        let swaps = self
            .changes
            .iter()
            .filter(|change| change.is_swap && change.concerns(meter));
        swaps
            .map(|change| change.at)
            .filter(|at| time.contains(at))
            .max()
    }
}

impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for term in self.each.iter().skip(1) {
            let (charge, from) = (term.charge, time::text(term.from));
            write!(f, ", {charge:?}{} from {from}", of(term.meter))?;
        }
        for change in &self.changes {
            let what = if change.is_swap { "swap" } else { "change" };
            let known = change.known_at.map_or("never".to_owned(), time::text);
            let at = time::text(change.at);
            write!(f, ", {what}{} at {at}, known {known}", of(change.meter))?;
        }
        Ok(())
    }
}

fn of(meter: Option<usize>) -> String {
    meter.map_or_else(String::new, |meter| format!(" of meter {meter}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plan::START_MS, time::DAY};

    #[test]
    fn a_trial_ends_where_the_first_period_begins() {
        let trial = START_MS..START_MS + 5 * DAY;
        let mut terms = Terms::of_trial(&trial, false);
        assert_eq!(terms.charge_at(0, trial.end - 1), Charge::Trial);
        assert_eq!(terms.charge_at(1, trial.end), Charge::Charged);
        assert_eq!(terms.period_at(0, trial.start), (trial.start, trial.end));
        let first = (trial.end, time::month(trial.end, 1));
        assert_eq!(terms.period_at(0, trial.end + DAY), first);
        let early = START_MS + 2 * DAY;
        terms.begin(Term {
            meter: None,
            from: early,
            anchor: early,
            charge: Charge::Charged,
        });
        assert_eq!(terms.period_at(0, START_MS), (START_MS, early));
        let first = (early, time::month(early, 1));
        assert_eq!(terms.period_at(0, trial.end), first, "the trial is over");
    }

    #[test]
    fn an_item_that_is_removed_leaves_a_gap_of_its_meter() {
        let anchor = START_MS - 10 * DAY;
        let mut terms = Terms::of_anchor(anchor);
        let (gone, back) = (START_MS + DAY, START_MS + 3 * DAY);
        for (from, charge) in [(gone, Charge::Nothing), (back, Charge::Charged)] {
            terms.begin(Term {
                meter: Some(1),
                from,
                anchor,
                charge,
            });
        }
        let whole = (anchor, time::month(anchor, 1));
        assert_eq!(terms.period_at(0, gone), whole);
        assert_eq!(terms.period_at(1, START_MS), (anchor, gone));
        assert_eq!(terms.charge_at(1, back - 1), Charge::Nothing);
        assert_eq!(terms.period_at(1, back), (back, whole.1));
        assert!(!terms.is_plain(2, gone) && terms.is_plain(1, gone));
    }

    #[test]
    fn only_what_the_service_may_not_know_is_unclear() {
        let mut terms = Terms::of_anchor(START_MS);
        let at = START_MS + DAY;
        terms.change(Change {
            meter: Some(0),
            at,
            is_swap: true,
            unsent_since: at - DAY,
            lost_since: at,
            known_at: None,
        });
        let later = at + DAY..at + 2 * DAY;
        assert!(terms.is_unclear(0, &later) && !terms.is_unclear(1, &later));
        terms.note_read(at + MINUTE);
        assert!(!terms.is_read());
        terms.note_read(at + READ_AFTER);
        assert!(terms.is_read() && !terms.is_unclear(0, &later));
        assert!(terms.is_unclear(0, &(at - 1..at + 1)));
        assert!(!terms.is_unclear(0, &(at - DAY..at)));
        assert_eq!(terms.last_swap(0, &(START_MS..later.start)), Some(at));
    }
}
