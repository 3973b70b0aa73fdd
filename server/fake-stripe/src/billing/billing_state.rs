//! The stored billing objects, and the schedule of due work.

use std::collections::BTreeSet;

use super::events::EventLog;
use super::invoices::Invoice;
use super::prices::Price;
use super::products::Product;
use super::subscriptions::Subscription;
use super::usage::FinalUsage;
use super::webhooks::Webhooks;
use crate::list::Collection;

/// Due work. At the same time, an invoice is finalized before the next one is drafted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    Finalization(String),
    Subscription(String),
}

#[derive(Debug)]
pub(crate) struct Billing {
    pub(crate) products: Collection<Product>,
    pub(crate) prices: Collection<Price>,
    pub(crate) subscriptions: Collection<Subscription>,
    pub(crate) invoices: Collection<Invoice>,
    /// Due times in seconds. An entry may be outdated: the object itself decides whether it is due.
    pub(crate) schedule: BTreeSet<(i64, Due)>,
    /// Usage that was invoiced or discarded, range by range.
    pub(crate) final_usage: Vec<FinalUsage>,
    pub(crate) events: EventLog,
    pub(crate) webhooks: Webhooks,
    /// How long the invoice of a period stays a draft.
    pub(crate) grace_secs: i64,
    /// The number of finalized invoices.
    pub(crate) invoice_count: u64,
}

impl Default for Billing {
    fn default() -> Self {
        Billing {
            products: Collection::default(),
            prices: Collection::default(),
            subscriptions: Collection::default(),
            invoices: Collection::default(),
            schedule: BTreeSet::new(),
            final_usage: Vec::new(),
            events: EventLog::default(),
            webhooks: Webhooks::default(),
            grace_secs: 3_600,
            invoice_count: 0,
        }
    }
}

impl Billing {
    /// Stores a new or changed subscription and schedules its next due time.
    pub(crate) fn save_subscription(&mut self, subscription: Subscription) {
        if let Some(due) = subscription.next_due() {
            let entry = Due::Subscription(subscription.id.clone());
            self.schedule.insert((due, entry));
        }
        match self.subscriptions.get_mut(&subscription.id) {
            Some(existing) => *existing = subscription,
            None => self
                .subscriptions
                .insert(&subscription.id.clone(), subscription),
        }
    }

    /// Takes the earliest entry of the schedule that is due by a moment.
    pub(crate) fn take_due(&mut self, now: i64) -> Option<(i64, Due)> {
        let first = self
            .schedule
            .first()
            .filter(|(at, _)| *at <= now)
            .cloned()?;
        self.schedule.remove(&first);
        Some(first)
    }
}
