//! The model: what the rules say becomes of each unit. It knows windows, links, periods and invoices, and no service.
//!
//! All times are milliseconds since 1970.

use std::collections::{BTreeMap, BTreeSet};

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// A line of an invoice: the subscription, the meter's number, and the second from which it charges.
pub(super) type LineKey = (String, usize, i64);

/// What a subscription charges of one meter, from one boundary to the next.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) subscription: String,
    pub(super) meter: usize,
    pub(super) start: i64,
    pub(super) end: i64,
    /// The second from which Stripe charges.
    pub(super) stripe_from: i64,
    /// From when its invoice never changes any more.
    pub(super) final_at: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    Open,
    /// Closed and billable, not at Stripe yet.
    Closed,
    /// At Stripe, for the segment of this number.
    Sent(usize),
    Missed,
    NotBillable,
    NoCustomer,
}

/// The usage of one meter in one window.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) meter: usize,
    start: i64,
    end: i64,
    first: i64,
    last: i64,
    pub(super) quantity: i64,
    pub(super) fate: Fate,
}

/// One account.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    pub(super) rows: Vec<Row>,
    /// In the order in which they were made; a later one outranks an earlier one. Whether it bills.
    pub(super) links: Vec<(i64, bool)>,
    pub(super) segments: Vec<Segment>,
    /// Edges of what the service was told to cut at.
    boundaries: BTreeSet<i64>,
}

impl Account {
    /// Counts.
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
        self.rows.push(Row {
            meter,
            start,
            end,
            first: at,
            last: at,
            quantity,
            fate: Fate::Open,
        });
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

    /// The service learns of a segment.
    pub(super) fn begin(&mut self, segment: Segment) {
        self.boundaries.extend([segment.start, segment.end]);
        self.segments.push(segment);
        self.recut();
    }

    /// What a meter charges ends earlier than was thought, and is on an invoice that is final.
    pub(super) fn end(&mut self, meter: usize, at: i64) {
        let mut gone = Vec::new();
        let running = self.segments.iter_mut();
        for segment in running.filter(|segment| segment.meter == meter && segment.end > at) {
            gone.push(segment.end);
            self.boundaries.insert(at);
            (segment.end, segment.final_at) = (at, at);
        }
        // Where nothing is known to end any more, nothing is cut.
        let ends = |edge: &i64| self.segments.iter().any(|segment| segment.end == *edge);
        let gone: Vec<i64> = gone.into_iter().filter(|edge| !ends(edge)).collect();
        for edge in gone {
            self.boundaries.remove(&edge);
        }
    }

    /// What is used from `at` on is charged otherwise: what was used before closes and is sent first.
    pub(super) fn drain(&mut self, at: i64, bills: bool) {
        self.link(at, bills);
        for index in 0..self.rows.len() {
            if self.rows[index].fate == Fate::Open && self.rows[index].start < at {
                self.close_row(index);
            }
        }
        self.send(at);
    }

    /// From when the running segments charge.
    pub(super) fn charges_since(&self, now: i64) -> i64 {
        let running = self.segments.iter().filter(|segment| segment.end > now);
        let since = running.map(|segment| segment.stripe_from * SECOND).min();
        since.expect("a running segment")
    }

    /// The first moment from `now` on that lies behind what is counted already.
    pub(super) fn behind_usage(&self, now: i64) -> i64 {
        let open = self.rows.iter().filter(|row| row.fate == Fate::Open);
        let last = open
            .map(|row| row.last)
            .filter(|last| *last <= now + SECOND);
        last.max().map_or(now, |last| now.max(last + 1))
    }

    /// Whether usage is billed from a moment on.
    pub(super) fn link(&mut self, from: i64, bills: bool) {
        self.links.push((from, bills));
        self.boundaries.insert(from);
        self.recut();
        self.relink(from);
    }

    fn standing(&self, at: i64) -> Option<bool> {
        if self.links.is_empty() {
            return None;
        }
        let in_force = self.links.iter().rev().find(|(from, _)| *from <= at);
        Some(in_force.is_some_and(|(_, bills)| *bills))
    }

    /// Cuts what is open at a new boundary; what it divides closes whole.
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

    /// What waited for a link, or was free where the new one reaches back.
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
        match self.standing(at) {
            None => Fate::NoCustomer,
            Some(true) => Fate::Closed,
            Some(false) => Fate::NotBillable,
        }
    }

    fn close_row(&mut self, index: usize) {
        self.rows[index].fate = self.fate_at(self.rows[index].first);
    }

    /// Everything whose window has begun closes.
    pub(super) fn close(&mut self, now: i64) {
        for index in 0..self.rows.len() {
            if self.rows[index].fate == Fate::Open && self.rows[index].start <= now {
                self.close_row(index);
            }
        }
    }

    /// What the service does by itself at a moment: it closes what ended five minutes ago, and sends.
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

    /// What is closed reaches Stripe, or is too late for it.
    pub(super) fn send(&mut self, now: i64) {
        for index in 0..self.rows.len() {
            if self.rows[index].fate != Fate::Closed {
                continue;
            }
            let row = &self.rows[index];
            let Some(own) = self.segment_at(row.meter, row.first) else {
                // Billed from before anything charges for it: no invoice takes it.
                assert!(
                    self.segments.iter().any(|later| row.first < later.start),
                    "nothing charges for {row:?}: {self:#?}"
                );
                self.rows[index].fate = Fate::Missed;
                continue;
            };
            let segment = &self.segments[own];
            let fate = if now < segment.final_at - 2 * MINUTE {
                Fate::Sent(own)
            } else if now < segment.final_at {
                Fate::Closed
            } else {
                // It divides a boundary: then the later side takes it, while that can.
                let later = (row.last >= segment.end)
                    .then(|| self.segment_at(row.meter, row.last))
                    .flatten()
                    .filter(|later| now < self.segments[*later].final_at - 2 * MINUTE);
                later.map_or(Fate::Missed, Fate::Sent)
            };
            self.rows[index].fate = fate;
        }
    }

    fn segment_at(&self, meter: usize, at: i64) -> Option<usize> {
        self.segments
            .iter()
            .rposition(|segment| segment.meter == meter && segment.start <= at && at < segment.end)
    }

    /// What the final invoices charge.
    pub(super) fn charged(&self, now: i64) -> BTreeMap<LineKey, i64> {
        let mut charged = BTreeMap::new();
        for row in &self.rows {
            let Fate::Sent(number) = row.fate else {
                continue;
            };
            let segment = &self.segments[number];
            if segment.final_at <= now {
                let key = (
                    segment.subscription.clone(),
                    segment.meter,
                    segment.stripe_from,
                );
                *charged.entry(key).or_default() += row.quantity;
            }
        }
        charged
    }

    /// The sum of what came to an end of some kind, by meter.
    pub(super) fn sum(&self, meter: usize, is_such: impl Fn(Fate) -> bool) -> i64 {
        let rows = self.rows.iter();
        rows.filter(|row| row.meter == meter && is_such(row.fate))
            .map(|row| row.quantity)
            .sum()
    }
}
