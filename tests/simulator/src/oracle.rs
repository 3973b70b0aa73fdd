//! What is known of the usage by the rules alone: what callers sent and how it was answered, to whom it is billed, and
//! which billing period it belongs to. It knows nothing of how the service works.

use std::{collections::BTreeMap, fmt, ops::Range};

use crate::{
    restore::Restored,
    terms::{Charge, Terms},
    time::{self, DAY},
};

/// How a call was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It was acknowledged: it counts, once.
    Acknowledged,
    /// It may count or not.
    Unknown,
    /// It was refused for certain: it does not count.
    Refused,
}

/// One increment that a caller sent.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(crate) account: usize,
    pub(crate) meter: usize,
    pub(crate) at: i64,
    pub(crate) quantity: i64,
    /// Its idempotency key; none for a call without one, which is never repeated.
    pub(crate) key: Option<String>,
    /// The batch that it was sent in.
    pub(crate) batch: Option<usize>,
    pub(crate) answer: Answer,
    /// When it was acknowledged.
    pub(crate) answered_at: i64,
}

/// To whom usage is billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Billing {
    Customer,
    Free,
    /// Nothing is known yet.
    NoCustomer,
}

/// An account.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) name: String,
    /// What its subscription charges, and those before it.
    pub(crate) terms: Terms,
    /// How many subscriptions it had.
    pub(crate) subscriptions: usize,
    /// How many meters its subscription charges.
    pub(crate) meters: usize,
    /// Its links: from when on it is billed how. A later one is in force from its time on.
    pub(crate) links: Vec<(i64, Billing)>,
    /// The number of its plan, and the times at which the plan changed.
    pub(crate) plan: usize,
    pub(crate) splits: Vec<i64>,
    /// Whether its subscription was canceled.
    pub(crate) is_ended: bool,
    /// Whether it is not known what became of a change of its link or its subscription.
    pub(crate) is_blurred: bool,
    /// Whether it was linked to its customer when the run began.
    pub(crate) is_linked_first: bool,
    /// Boundaries that admins made, each with a time from which on it was known.
    pub(crate) made: Vec<(i64, i64)>,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let anchor = self.terms.anchor_at(0, i64::MIN);
        write!(f, "{} (anchor {}", self.name, time::text(anchor))?;
        for (from, billing) in &self.links {
            write!(f, ", {billing:?} from {}", time::text(*from))?;
        }
        for split in &self.splits {
            write!(f, ", another plan from {}", time::text(*split))?;
        }
        write!(f, "{})", self.terms)
    }
}

impl Account {
    pub(crate) fn customer(&self) -> String {
        format!("cus_{}", self.name)
    }

    /// Its latest subscription.
    pub(crate) fn subscription(&self) -> String {
        format!("sub_{}_{}", self.name, self.subscriptions)
    }

    /// Whether its customer is to be charged for usage of a time.
    pub(crate) fn is_charged(&self, meter: usize, at: i64) -> bool {
        self.billing_at(at) == Billing::Customer
            && self.terms.charge_at(meter, at) == Charge::Charged
    }

    /// To whom usage of a time is billed.
    pub(crate) fn billing_at(&self, at: i64) -> Billing {
        if self.links.is_empty() {
            return Billing::NoCustomer;
        }
        let in_force = self.links.iter().rev().find(|(from, _)| *from <= at);
        // What is older than the first link is billed to no one.
        in_force.map_or(Billing::Free, |(_, billing)| *billing)
    }

    /// Whether a boundary is inside a window. Such a window was cut before the boundary was known, so the whole of it
    /// counts as usage of one of both sides. The same where the service may not have known what charged it.
    pub(crate) fn is_straddled(&self, meter: usize, window: &Range<i64>) -> bool {
        let (start, end) = self.period_at(meter, window.start);
        let inside = |at: i64| window.start < at && at < window.end;
        let links = self.links.iter().map(|(from, _)| *from);
        inside(start)
            || inside(end)
            || links.chain(self.splits.iter().copied()).any(inside)
            || self.terms.is_unclear(meter, window)
    }

    /// Whether the end of a billing period that was known long before is inside a window.
    pub(crate) fn is_unsplit(&self, window: &Range<i64>) -> bool {
        let (_, end) = self.terms.period_at(0, window.start);
        let is_linked = self
            .links
            .first()
            .is_some_and(|(from, _)| *from <= window.start);
        let is_alone = self.links.len() == 1 && !self.is_blurred && self.terms.is_original();
        self.is_linked_first && is_linked && is_alone && end < window.end
    }

    /// Whether a window that was closed at a time goes on across a boundary that an admin had made before.
    pub(crate) fn is_unsplit_later(&self, window: &Range<i64>, closed_at: i64) -> bool {
        let mut made = self.made.iter();
        !self.is_blurred
            && made.any(|(at, known_at)| {
                window.start < *at && *at < window.end && *known_at < closed_at
            })
    }

    /// Until when usage of a time can be charged in time: the end of its period, or of its link if that is earlier. A cancel
    /// ends both, and its invoice is final at once. A change at Stripe leaves out what was not sent before it.
    pub(crate) fn charged_until(&self, meter: usize, at: i64) -> i64 {
        let links = self.links.iter().map(|(from, _)| *from);
        let next = links.filter(|from| *from > at).min();
        let late = self.terms.late_since(meter, at);
        let (_, end) = self.period_at(meter, at);
        next.into_iter().chain(late).fold(end, i64::min)
    }

    /// When the first and the last of its billing periods of a time end.
    fn ends(&self, at: i64) -> (i64, i64) {
        let ends = (0..self.meters).map(|meter| self.terms.period_at(meter, at).1);
        let first = ends.clone().min().unwrap_or(at);
        (first, ends.max().unwrap_or(at))
    }

    /// The billing period of a meter that contains a time. A change of the plan ends one of the first meter.
    pub(crate) fn period_at(&self, meter: usize, at: i64) -> (i64, i64) {
        let (mut start, mut end) = self.terms.period_at(meter, at);
        if meter == 0 {
            for split in &self.splits {
                if *split <= at {
                    start = start.max(*split);
                } else {
                    end = end.min(*split);
                }
            }
        }
        (start, end)
    }
}

/// The least and the most that a sum may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) least: i64,
    pub(crate) most: i64,
}

impl Bounds {
    pub(crate) fn contains(self, sum: i64) -> bool {
        self.least <= sum && sum <= self.most
    }

    /// A quantity may be in the sum or not.
    pub(crate) fn may_have(&mut self, quantity: i64) {
        self.least += quantity.min(0);
        self.most += quantity.max(0);
    }
}

/// What all callers sent.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    pub(crate) accounts: Vec<Account>,
    pub(crate) units: Vec<Unit>,
    pub(crate) restored: Option<Restored>,
}

impl Oracle {
    /// A backup was restored: what was acknowledged after it may count or not, until it is repeated under its key.
    pub(crate) fn lose(&mut self, backup_at: i64, at: i64) {
        let mut restored = Restored {
            backup_at,
            at,
            lost: BTreeMap::new(),
        };
        for unit in &mut self.units {
            if unit.answer == Answer::Acknowledged && unit.answered_at >= backup_at {
                unit.answer = Answer::Unknown;
                let lost = restored.lost.entry((unit.account, unit.meter));
                *lost.or_default() += unit.quantity.max(0);
            }
        }
        self.restored = Some(restored);
    }

    /// How much more may be shown of an account and meter than was used: what Stripe has of lost usage is shown beside the
    /// repeated usage, until that was looked up.
    pub(crate) fn shown_twice(&self, whose: (usize, usize)) -> i64 {
        let restored = self.restored.as_ref();
        let lost = restored.and_then(|restored| restored.lost.get(&whose));
        lost.copied().unwrap_or(0)
    }

    /// Whether usage is from before a restore.
    pub(crate) fn is_before_restore(&self, at: i64) -> bool {
        let restored = self.restored.as_ref();
        restored.is_some_and(|restored| restored.is_before(at))
    }

    /// What the units that match must add up to.
    pub(crate) fn sum(&self, matches: impl Fn(&Unit) -> bool) -> Bounds {
        let mut bounds = Bounds::default();
        for unit in self.units.iter().filter(|unit| matches(unit)) {
            match unit.answer {
                Answer::Acknowledged => {
                    bounds.least += unit.quantity;
                    bounds.most += unit.quantity;
                }
                Answer::Unknown => bounds.may_have(unit.quantity),
                Answer::Refused => {}
            }
        }
        bounds
    }

    /// What corrections took away from an account and meter; none if that is not known.
    pub(crate) fn taken(&self, whose: (usize, usize)) -> Option<i64> {
        let own = self.units.iter().filter(|unit| {
            (unit.account, unit.meter) == whose
                && unit.quantity < 0
                && unit.answer != Answer::Refused
        });
        own.map(|unit| (unit.answer == Answer::Acknowledged).then_some(-unit.quantity))
            .sum()
    }

    /// The same, where some of the units may also belong elsewhere.
    pub(crate) fn sum_of_some(
        &self,
        matches: impl Fn(&Unit) -> bool,
        may_match: impl Fn(&Unit) -> bool,
    ) -> Bounds {
        let mut bounds = self.sum(|unit| matches(unit) && !may_match(unit));
        let possible = self.units.iter().filter(|unit| may_match(unit));
        for unit in possible.filter(|unit| unit.answer != Answer::Refused) {
            bounds.may_have(unit.quantity);
        }
        bounds
    }

    /// The next ends of billing periods after a time.
    pub(crate) fn next_end(&self, after: i64) -> Option<i64> {
        self.accounts.iter().map(|one| one.ends(after).0).min()
    }

    /// When all billing periods of a time have ended.
    pub(crate) fn last_end(&self, at: i64) -> Option<i64> {
        self.accounts.iter().map(|one| one.ends(at).1).max()
    }
}

/// Usage is accepted up to this age.
pub(crate) const MAX_AGE: i64 = 34 * DAY;
