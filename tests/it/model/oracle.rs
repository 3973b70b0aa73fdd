//! The model: what was counted, and whom the links say it is billed to.

use chrono::{DateTime, Utc};

/// Splitmix64: small, and the same everywhere.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to, but without, `end`.
    pub(super) fn below(&mut self, end: i64) -> i64 {
        i64::try_from(self.next() >> 1).unwrap() % end
    }

    pub(super) fn one_in(&mut self, times: i64) -> bool {
        self.below(times) == 0
    }
}

#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) account: usize,
    pub(super) meter: usize,
    pub(super) at: DateTime<Utc>,
    pub(super) quantity: i64,
}

/// Whom an account bills to from a moment on; nobody when it is free.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) from: DateTime<Utc>,
    pub(super) customer: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) links: Vec<Link>,
}

/// What the links say of a moment: nothing yet, nobody, or a customer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing<'a> {
    Unlinked,
    NotBillable,
    Billed(&'a str),
}

impl Account {
    pub(super) fn standing_at(&self, at: DateTime<Utc>) -> Standing<'_> {
        let in_force = self.links.iter().rev().find(|link| link.from <= at);
        match in_force.map(|link| link.customer.as_deref()) {
            Some(Some(customer)) => Standing::Billed(customer),
            None if self.links.is_empty() => Standing::Unlinked,
            Some(None) | None => Standing::NotBillable,
        }
    }
}
