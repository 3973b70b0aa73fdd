//! The model: computes from the rules how each unit is billed. It has windows, links, periods and invoices, and does
//! not use the service.
//!
//! All times are milliseconds since 1970. What admins do is in [`admin`].

mod admin;

pub(super) use admin::{Action, Decision, Place, Undecided};

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
/// What Stripe accepts.
const MAX_AGE: i64 = 35 * 24 * HOUR;
/// How long uncharged usage may wait until it is looked at again.
const UNCHARGED_WAIT: i64 = HOUR;

/// A line of an invoice: the subscription, the meter's number, and the second from which it charges.
pub(super) type LineKey = (String, usize, i64);

/// The time from one boundary to the next in which a subscription charges for one meter.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) subscription: String,
    pub(super) meter: usize,
    pub(super) start: i64,
    pub(super) end: i64,
    /// The second from which Stripe charges.
    pub(super) stripe_from: i64,
    /// The time from which its invoice is final.
    pub(super) final_at: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    Open,
    /// Closed and billable, not accepted by Stripe yet.
    Closed,
    /// Accepted by Stripe, charged by the segment with this number.
    Sent(usize),
    TooLate,
    /// No segment charges its time, and none that begins later exists yet.
    Uncharged,
    NotBillable,
    NoCustomer,
    /// An admin decided not to bill it.
    WrittenOff,
}

impl Fate {
    /// Whether an admin has to decide on it.
    pub(super) fn needs_decision(self) -> bool {
        matches!(self, Self::TooLate | Self::Uncharged)
    }
}

/// The usage of one meter in one window, or a correction of it.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) meter: usize,
    start: i64,
    end: i64,
    first: i64,
    last: i64,
    pub(super) quantity: i64,
    pub(super) fate: Fate,
    pub(super) is_correction: bool,
    /// What corrections took from it.
    taken: i64,
    /// The time at which it is billed instead of its own, because an admin decided so.
    bill_at: Option<i64>,
    /// The decisions on the reports of its hour, if it is the first row of them.
    pub(super) decisions: Vec<Decision>,
}

impl Row {
    fn new(meter: usize, (start, end): (i64, i64), at: i64, quantity: i64) -> Self {
        Self {
            meter,
            start,
            end,
            first: at,
            last: at,
            quantity,
            fate: Fate::Open,
            is_correction: false,
            taken: 0,
            bill_at: None,
            decisions: Vec::new(),
        }
    }

    fn billed_at(&self) -> i64 {
        self.bill_at.unwrap_or(self.first)
    }
}

/// One account.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    pub(super) rows: Vec<Row>,
    /// Links in the order in which they were made, each with whether it bills. A later one takes precedence.
    pub(super) links: Vec<(i64, bool)>,
    pub(super) segments: Vec<Segment>,
    /// The boundaries that the service knows.
    boundaries: BTreeSet<i64>,
}

impl Account {
    /// Counts usage.
    pub(super) fn count(&mut self, meter: usize, at: i64, quantity: i64) {
        let (start, end) = self.window_around(at);
        let open = self
            .rows
            .iter_mut()
            .find(|row| row.fate == Fate::Open && row.meter == meter && row.start == start);
        if let Some(row) = open {
            row.quantity += quantity;
            row.first = row.first.min(at);
            row.last = row.last.max(at);
            return;
        }
        self.rows.push(Row::new(meter, (start, end), at, quantity));
    }

    fn window_around(&self, at: i64) -> (i64, i64) {
        let slot = at - at.rem_euclid(HOUR);
        let before = self.boundaries.range(..=at).next_back();
        let after = self.boundaries.range(at + 1..).next();
        (
            before.map_or(slot, |edge| slot.max(*edge)),
            after.map_or(slot + HOUR, |edge| (slot + HOUR).min(*edge)),
        )
    }

    /// Adds a segment that the service has synced.
    pub(super) fn begin(&mut self, segment: Segment) {
        self.boundaries.extend([segment.start, segment.end]);
        self.segments.push(segment);
        self.recut();
    }

    /// Ends the segment of a meter earlier than planned, on an invoice that is final.
    pub(super) fn end(&mut self, meter: usize, at: i64) {
        let mut gone = Vec::new();
        let running = self.segments.iter_mut();
        for segment in running.filter(|segment| segment.meter == meter && segment.end > at) {
            gone.push(segment.end);
            self.boundaries.insert(at);
            (segment.end, segment.final_at) = (at, at);
        }
        // A time at which no segment ends is no boundary.
        let ends = |edge: &i64| self.segments.iter().any(|segment| segment.end == *edge);
        let gone: Vec<i64> = gone.into_iter().filter(|edge| !ends(edge)).collect();
        for edge in gone {
            self.boundaries.remove(&edge);
        }
    }

    /// Changes the billing from `at` on. Earlier usage is closed and sent first.
    pub(super) fn drain(&mut self, at: i64, bills: bool) {
        self.link(at, bills);
        for index in 0..self.rows.len() {
            if self.rows[index].fate == Fate::Open && self.rows[index].start < at {
                self.close_row(index);
            }
        }
        self.send(at);
    }

    /// The time from which the current segments charge.
    pub(super) fn charges_since(&self, now: i64) -> i64 {
        let running = self.segments.iter().filter(|segment| segment.end > now);
        let since = running.map(|segment| segment.stripe_from * SECOND).min();
        since.expect("a running segment")
    }

    /// The first time from `now` on that is later than all counted usage.
    pub(super) fn behind_usage(&self, now: i64) -> i64 {
        let open = self.rows.iter().filter(|row| row.fate == Fate::Open);
        let last = open
            .map(|row| row.last)
            .filter(|last| *last <= now + SECOND);
        last.max().map_or(now, |last| now.max(last + 1))
    }

    /// Sets whether usage is billed from a time on.
    pub(super) fn link(&mut self, from: i64, bills: bool) {
        self.links.push((from, bills));
        self.boundaries.insert(from);
        self.recut();
        self.relink(from);
    }

    fn is_billed_at(&self, at: i64) -> Option<bool> {
        if self.links.is_empty() {
            return None;
        }
        let in_force = self.links.iter().rev().find(|(from, _)| *from <= at);
        Some(in_force.is_some_and(|(_, bills)| *bills))
    }

    /// Splits open windows at a new boundary. A window with usage on both sides is closed as a whole.
    fn recut(&mut self) {
        for index in 0..self.rows.len() {
            let row = &self.rows[index];
            if row.fate != Fate::Open {
                continue;
            }
            let (start, end) = self.window_around(row.first);
            let (start, end) = (start.max(row.start), end.min(row.end));
            if row.last >= end {
                self.close_row(index);
            } else {
                let row = &mut self.rows[index];
                (row.start, row.end) = (start, end);
            }
        }
    }

    /// Applies a new link to usage without a customer, and to free usage in the time that the link covers.
    fn relink(&mut self, from: i64) {
        for index in 0..self.rows.len() {
            let row = &self.rows[index];
            let to = match row.fate {
                Fate::NoCustomer => self.fate_at(row.first),
                Fate::NotBillable | Fate::Closed if row.first >= from => self.fate_at(row.first),
                _ => continue,
            };
            self.rows[index].fate = to;
        }
    }

    fn fate_at(&self, at: i64) -> Fate {
        match self.is_billed_at(at) {
            None => Fate::NoCustomer,
            Some(true) => Fate::Closed,
            Some(false) => Fate::NotBillable,
        }
    }

    fn close_row(&mut self, index: usize) {
        self.rows[index].fate = self.fate_at(self.rows[index].first);
    }

    /// Closes everything whose window has begun.
    pub(super) fn close(&mut self, now: i64) {
        for index in 0..self.rows.len() {
            if self.rows[index].fate == Fate::Open && self.rows[index].start <= now {
                self.close_row(index);
            }
        }
    }

    /// Does the service's scheduled work at a time: closes what ended five minutes ago, and sends.
    pub(super) fn advance_to(&mut self, now: i64) {
        let is_over = self.rows.iter().any(|row| {
            row.fate == Fate::Open
                && self.segments.iter().any(|segment| {
                    segment.start <= row.start
                        && row.start < segment.end
                        && segment.end + 5 * MINUTE <= now
                })
        });
        if is_over {
            self.close(now);
        }
        self.send(now);
    }

    /// Sends closed usage to Stripe, or marks it as too late.
    pub(super) fn send(&mut self, now: i64) {
        for index in 0..self.rows.len() {
            if !matches!(self.rows[index].fate, Fate::Closed | Fate::Uncharged) {
                continue;
            }
            let row = &self.rows[index];
            let at = row.billed_at();
            let Some(own) = self.segment_at(row.meter, at) else {
                // It is from before a segment that charges for it, or after the last one.
                let is_before = self.segments.iter().any(|later| at < later.start);
                let is_old = row.end + MAX_AGE < now;
                self.rows[index].fate = if is_before || is_old {
                    Fate::TooLate
                } else {
                    Fate::Uncharged
                };
                continue;
            };
            let segment = &self.segments[own];
            let fate = if now < segment.final_at - 2 * MINUTE {
                Fate::Sent(own)
            } else if now < segment.final_at {
                Fate::Closed
            } else {
                // A boundary divides it: the later segment charges it, if its invoice is not final.
                let is_divided = row.bill_at.is_none() && row.last >= segment.end;
                let later = is_divided
                    .then(|| self.segment_at(row.meter, row.last))
                    .flatten()
                    .filter(|later| now < self.segments[*later].final_at - 2 * MINUTE);
                later.map_or(Fate::TooLate, Fate::Sent)
            };
            self.rows[index].fate = fate;
        }
    }

    fn segment_at(&self, meter: usize, at: i64) -> Option<usize> {
        self.segments
            .iter()
            .rposition(|segment| segment.meter == meter && segment.start <= at && at < segment.end)
    }

    /// The quantities that the final invoices charge. A line without usage is not on an invoice.
    pub(super) fn charged(&self, now: i64) -> BTreeMap<LineKey, i64> {
        let mut charged: BTreeMap<LineKey, i64> = BTreeMap::new();
        for row in &self.rows {
            let Fate::Sent(number) = row.fate else {
                continue;
            };
            let segment = &self.segments[number];
            if self.is_charged(row.fate, now) {
                let key = (
                    segment.subscription.clone(),
                    segment.meter,
                    segment.stripe_from,
                );
                *charged.entry(key).or_default() += row.quantity;
            }
        }
        charged.retain(|_, quantity| *quantity != 0);
        charged
    }

    /// What final invoices charge of usage, or of corrections.
    pub(super) fn charged_of(&self, is_correction: bool, now: i64) -> i64 {
        let rows = self.rows.iter();
        rows.filter(|row| row.is_correction == is_correction && self.is_charged(row.fate, now))
            .map(|row| row.quantity)
            .sum()
    }

    /// Whether uncharged usage became too old so recently that the service may not have looked at it since.
    pub(super) fn is_getting_too_old(&self, now: i64) -> bool {
        let recently = now - UNCHARGED_WAIT..=now;
        self.rows.iter().any(|row| {
            let is_held = matches!(row.fate, Fate::Uncharged | Fate::TooLate);
            is_held && recently.contains(&(row.end + MAX_AGE))
        })
    }

    /// The start of the window of each row.
    pub(super) fn starts(&self) -> impl Iterator<Item = i64> {
        self.rows.iter().map(|row| row.start)
    }

    /// The rows whose windows start in a time.
    pub(super) fn rows_within(&self, time: &Range<i64>) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| time.contains(&row.start))
    }

    /// Whether a final invoice charges usage with this fate.
    pub(super) fn is_charged(&self, fate: Fate, now: i64) -> bool {
        matches!(fate, Fate::Sent(number) if self.segments[number].final_at <= now)
    }

    /// The total of usage with some fate, by meter.
    pub(super) fn sum(&self, meter: usize, is_such: impl Fn(Fate) -> bool) -> i64 {
        let rows = self.rows.iter();
        rows.filter(|row| row.meter == meter && is_such(row.fate))
            .map(|row| row.quantity)
            .sum()
    }
}
