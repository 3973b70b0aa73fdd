//! The model: the counted usage, and the customer that the links bill it to.

use chrono::{DateTime, Utc};

#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) account: usize,
    pub(super) meter: usize,
    pub(super) at: DateTime<Utc>,
    pub(super) quantity: i64,
}

/// The customer that an account bills to from a time on; `None` if it is free.
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

/// The billing of a time according to the links: no link yet, free, or a customer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BillingTarget<'a> {
    NoCustomer,
    NotBillable,
    Billed(&'a str),
}

impl Account {
    pub(super) fn billing_target_at(&self, at: DateTime<Utc>) -> BillingTarget<'_> {
        let in_force = self.links.iter().rev().find(|link| link.from <= at);
        match in_force.map(|link| link.customer.as_deref()) {
            Some(Some(customer)) => BillingTarget::Billed(customer),
            None if self.links.is_empty() => BillingTarget::NoCustomer,
            Some(None) | None => BillingTarget::NotBillable,
        }
    }
}
