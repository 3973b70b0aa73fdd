//! What the billing half holds, and the agenda of what is due when.

use std::collections::BTreeSet;

use super::happenings::Happenings;
use super::invoices::Invoice;
use super::prices::Price;
use super::products::Product;
use super::subscriptions::Subscription;
use super::usage::Settled;
use super::webhooks::Webhooks;
use crate::list::Shelf;

/// What comes due at a moment. At the same moment an invoice is finalized before the next one is drafted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    Finalization(String),
    Subscription(String),
}

#[derive(Debug)]
pub(crate) struct Billing {
    pub(crate) products: Shelf<Product>,
    pub(crate) prices: Shelf<Price>,
    pub(crate) subscriptions: Shelf<Subscription>,
    pub(crate) invoices: Shelf<Invoice>,
    /// Moments in seconds. An entry may be out of date: what it names says for itself whether it is due.
    pub(crate) agenda: BTreeSet<(i64, Due)>,
    /// The usage that was invoiced for good or thrown away, range by range.
    pub(crate) settled: Vec<Settled>,
    pub(crate) happenings: Happenings,
    pub(crate) webhooks: Webhooks,
    /// How long the invoice of a period stays a draft.
    pub(crate) grace_secs: i64,
    /// How many invoices have a number.
    pub(crate) numbered: u64,
}

impl Default for Billing {
    fn default() -> Self {
        Billing {
            products: Shelf::default(),
            prices: Shelf::default(),
            subscriptions: Shelf::default(),
            invoices: Shelf::default(),
            agenda: BTreeSet::new(),
            settled: Vec::new(),
            happenings: Happenings::default(),
            webhooks: Webhooks::default(),
            grace_secs: 3_600,
            numbered: 0,
        }
    }
}

impl Billing {
    /// Writes a subscription, new or changed, and notes when it is due next.
    pub(crate) fn put(&mut self, subscription: Subscription) {
        if let Some(due) = subscription.next_due() {
            let entry = Due::Subscription(subscription.id.clone());
            self.agenda.insert((due, entry));
        }
        match self.subscriptions.get_mut(&subscription.id) {
            Some(held) => *held = subscription,
            None => self
                .subscriptions
                .insert(&subscription.id.clone(), subscription),
        }
    }

    /// Takes the earliest entry of the agenda that is due by a moment.
    pub(crate) fn take_due(&mut self, now: i64) -> Option<(i64, Due)> {
        let first = self.agenda.first().filter(|(at, _)| *at <= now).cloned()?;
        self.agenda.remove(&first);
        Some(first)
    }
}
