//! The model: what was counted, and whom the links say it is billed to.

use chrono::{DateTime, Utc};

#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) account: usize,
    pub(super) meter: usize,
    pub(super) at: DateTime<Utc>,
    pub(super) quantity: i64,
}

/// The customer that an account bills to from a moment on; none when it is free.
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

/// What the links say of a moment: no link yet, free, or a customer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing<'a> {
    NoCustomer,
    NotBillable,
    Billed(&'a str),
}

impl Account {
    pub(super) fn standing_at(&self, at: DateTime<Utc>) -> Standing<'_> {
        let in_force = self.links.iter().rev().find(|link| link.from <= at);
        match in_force.map(|link| link.customer.as_deref()) {
            Some(Some(customer)) => Standing::Billed(customer),
            None if self.links.is_empty() => Standing::NoCustomer,
            Some(None) | None => Standing::NotBillable,
        }
    }
}
