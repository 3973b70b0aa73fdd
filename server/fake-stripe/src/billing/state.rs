//! The stored billing objects, the schedule of due work, and the changes that touch several of them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::events::EventLog;
use super::invoices::Invoice;
use super::prices::Price;
use super::products::Product;
use super::subscriptions::Subscription;
use super::usage::{FinalUsage, Usage, Visibility};
use super::webhooks::Webhooks;
use crate::customer_balances::Balances;
use crate::errors::StripeError;
use crate::list::Collection;
use crate::metering::Metering;

/// Due work. At the same time, an invoice is finalized before the next one is drafted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    Finalization(String),
    Subscription(String),
    /// The notice before a trial's end, with that end.
    TrialWillEnd(String, i64),
}

/// The stored billing objects.
#[derive(Debug)]
pub(crate) struct Billing {
    pub(crate) products: Collection<Product>,
    pub(crate) prices: Collection<Price>,
    pub(crate) subscriptions: Collection<Subscription>,
    pub(crate) invoices: Collection<Invoice>,
    pub(crate) balances: Balances,
    /// Due times in seconds. An entry may be outdated: the object itself decides whether it is due.
    pub(crate) schedule: BTreeSet<(i64, Due)>,
    /// Usage that was invoiced or discarded, range by range.
    pub(crate) final_usage: Vec<FinalUsage>,
    pub(crate) events: EventLog,
    pub(crate) webhooks: Webhooks,
    /// How long the invoice of a period stays a draft.
    pub(crate) grace_secs: i64,
    /// Whether final invoices lack usage that is not aggregated yet. Stripe does not document that they have it.
    pub(crate) invoices_lag: bool,
    /// Whether lines are shown without a quantity, which Stripe's description allows.
    pub(crate) hides_quantities: bool,
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
            balances: Balances::default(),
            schedule: BTreeSet::new(),
            final_usage: Vec::new(),
            events: EventLog::default(),
            webhooks: Webhooks::default(),
            grace_secs: 3_600,
            invoices_lag: false,
            hides_quantities: false,
            invoice_count: 0,
        }
    }
}

impl Billing {
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

    /// Records an event and queues it for the webhooks.
    pub(crate) fn record_event(
        &mut self,
        kind: &'static str,
        created: i64,
        object: &Value,
        previous: Option<&Value>,
    ) {
        let (id, body) = self.events.append(kind, created, object, previous);
        self.webhooks.enqueue(&id, kind, &body);
    }

    /// Queues an event for the webhooks again; false if there is no such event.
    pub(crate) fn redeliver_event(&mut self, id: &str) -> bool {
        let Some((kind, body)) = self.events.find(id) else {
            return false;
        };
        self.webhooks.enqueue(id, kind, &body);
        true
    }

    /// A copy of a subscription; [`Billing::save_subscription`] stores it, so that an error changes nothing.
    pub(crate) fn subscription(&self, id: &str) -> Result<Subscription, StripeError> {
        self.subscriptions
            .get(id)
            .cloned()
            .ok_or_else(|| StripeError::no_such("subscription", id))
    }

    /// Stores a new or changed subscription, schedules its next due time, records the event, and returns the object.
    pub(crate) fn save_subscription(
        &mut self,
        subscription: Subscription,
        kind: &'static str,
        at: i64,
    ) -> Result<Value, StripeError> {
        let before = self
            .subscriptions
            .get(&subscription.id)
            .and_then(|existing| existing.json(&self.prices).ok());
        let body = subscription.json(&self.prices)?;
        self.store_subscription(subscription);
        if before.as_ref() == Some(&body) {
            return Ok(body);
        }
        let previous = before
            .filter(|_| kind == "customer.subscription.updated")
            .map(|before| changed(&before, &body));
        self.record_event(kind, at, &body, previous.as_ref());
        Ok(body)
    }

    fn store_subscription(&mut self, subscription: Subscription) {
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

    pub(crate) fn invoice(&self, id: &str) -> Result<&Invoice, StripeError> {
        self.invoices
            .get(id)
            .ok_or_else(|| StripeError::no_such("invoice", id))
    }

    /// The invoice as Stripe writes it; a draft with its usage so far.
    pub(crate) fn invoice_json(&self, invoice: &Invoice, metering: Metering<'_>) -> Value {
        let metadata = self
            .subscriptions
            .get(&invoice.subscription)
            .map(|subscription| &subscription.metadata);
        let mut body = invoice
            .measured(metering, &self.prices, &self.balances)
            .json(&self.products, &self.prices, metadata);
        if let Some(lines) = body
            .pointer_mut("/lines/data")
            .and_then(Value::as_array_mut)
        {
            self.hide_quantities(lines);
        }
        body
    }

    /// Removes the quantities of lines, if they are hidden.
    pub(crate) fn hide_quantities(&self, lines: &mut [Value]) {
        let lines = lines.iter_mut().filter(|_| self.hides_quantities);
        for line in lines.filter_map(Value::as_object_mut) {
            line.insert("quantity".to_owned(), Value::Null);
            line.insert("quantity_decimal".to_owned(), Value::Null);
        }
    }

    /// Discards the usage of an invoice that is void.
    pub(crate) fn discard_usage_of(&mut self, invoice: &Invoice, at: i64) {
        for line in invoice.lines.iter().filter(|line| line.meter.is_some()) {
            let of_line = |one: &&mut FinalUsage| {
                one.usage.subscription == invoice.subscription
                    && one.usage.item == line.item
                    && one.usage.from == line.period.start
                    && one.discard_reason.is_none()
            };
            if let Some(one) = self.final_usage.iter_mut().rev().find(of_line) {
                one.discard_reason = Some("invoice_voided");
                one.at = at;
            }
        }
    }

    /// Measures usage for the last time, stores the result, and returns the quantity.
    pub(crate) fn make_final(
        &mut self,
        usage: Usage,
        metering: Metering<'_>,
        visibility: Visibility,
        discard_reason: Option<&'static str>,
        at: i64,
    ) -> i64 {
        let final_usage = usage.make_final(metering, visibility, discard_reason, at);
        let quantity = final_usage.quantity;
        self.final_usage.push(final_usage);
        quantity
    }
}

/// The top-level attributes that differ, as they were.
fn changed(before: &Value, after: &Value) -> Value {
    let attributes = before.as_object().into_iter().flatten();
    attributes
        .filter(|(name, value)| after.get(name) != Some(value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect::<serde_json::Map<String, Value>>()
        .into()
}
