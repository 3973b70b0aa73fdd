//! Subscriptions: when they are due, what their next invoice has, and their JSON.
//!
//! `item` has their items. What changes a subscription is in `create`, `update`, `item_changes` (checked by
//! `change_checks`), `trial`, `resume`, `pause_collection` and `cancellation`; `endpoints` and `item_endpoints` are the rest of `/v1/subscriptions` and
//! `/v1/subscription_items`.

pub(crate) mod cancellation;
pub(crate) mod change_checks;
pub(crate) mod change_request;
pub(crate) mod create;
pub(crate) mod endpoints;
pub(crate) mod item;
pub(crate) mod item_changes;
pub(crate) mod item_endpoints;
pub(crate) mod pause_collection;
pub(crate) mod resume;
pub(crate) mod trial;
pub(crate) mod update;

use serde_json::{Value, json};

use self::item::Item;
use self::pause_collection::PauseCollection;
use self::trial::{AtEnd, Phase};
use crate::billing::calendar::Period;
use crate::billing::invoices::InvoiceDraft;
use crate::billing::invoices::line::Line;
use crate::billing::prices::{Price, price_of};
use crate::billing::usage::Usage;
use crate::errors::StripeError;
use crate::list::Collection;
use crate::metadata::Metadata;

/// A subscription of a customer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subscription {
    pub(crate) id: String,
    pub(crate) customer: String,
    /// The test clock of its customer.
    pub(crate) test_clock: Option<String>,
    pub(crate) currency: String,
    pub(crate) created: i64,
    pub(crate) start_date: i64,
    pub(crate) anchor: i64,
    /// Whether the anchor was asked for, so that the end of a trial does not move it.
    pub(crate) anchor_is_fixed: bool,
    pub(crate) phase: Phase,
    /// The trial, also one that ended.
    pub(crate) trial: Option<Period>,
    pub(crate) at_trial_end: AtEnd,
    pub(crate) pause_collection: Option<PauseCollection>,
    pub(crate) flexible: bool,
    /// When it was migrated to the flexible mode.
    pub(crate) mode_updated_at: Option<i64>,
    pub(crate) cancel_at: Option<i64>,
    pub(crate) cancel_at_period_end: bool,
    pub(crate) canceled_at: Option<i64>,
    pub(crate) ended_at: Option<i64>,
    pub(crate) comment: Option<String>,
    pub(crate) feedback: Option<&'static str>,
    pub(crate) description: Option<String>,
    pub(crate) metadata: Metadata,
    pub(crate) items: Vec<Item>,
    /// Lines for the next invoice: prorations, and the usage of removed items.
    pub(crate) pending: Vec<Line>,
    pub(crate) latest_invoice: Option<String>,
}

impl Subscription {
    pub(crate) fn is_canceled(&self) -> bool {
        self.ended_at.is_some()
    }

    pub(crate) fn status(&self) -> &'static str {
        match self.phase {
            _ if self.is_canceled() => "canceled",
            Phase::Active => "active",
            Phase::Trialing => "trialing",
            Phase::Paused => "paused",
        }
    }

    /// The next period end or cancellation.
    pub(crate) fn next_invoice_at(&self) -> Option<i64> {
        if self.is_canceled() {
            return None;
        }
        // Nothing ends the period of a paused subscription.
        let charges = self.phase != Phase::Paused;
        let period_end = self.items.iter().map(|item| item.period.end).min();
        let period_end = period_end.filter(|_| charges);
        [period_end, self.cancel_at].into_iter().flatten().min()
    }

    /// The next time at which something happens by itself.
    pub(crate) fn next_due(&self) -> Option<i64> {
        let resumes_at = self.pause_collection.and_then(|pause| pause.resumes_at);
        let resumes_at = resumes_at.filter(|_| !self.is_canceled());
        [self.next_invoice_at(), resumes_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// Why usage and fees of this time are not charged; `None` where they are.
    pub(crate) fn free_reason(&self) -> Option<&'static str> {
        match self.phase {
            Phase::Active => None,
            Phase::Trialing => Some("in_trial"),
            Phase::Paused => Some("while_paused"),
        }
    }

    /// The period of an item that is added now: the trial, or the one that contains this time, counted from the anchor.
    pub(crate) fn period_of_new_item(&self, price: &Price, at: i64) -> Period {
        match (self.phase, self.trial) {
            (Phase::Trialing | Phase::Paused, Some(trial)) => trial,
            (_, trial) => {
                let aligned = price.recurrence().period_at(self.anchor, at);
                let first = trial.map_or(self.start_date, |trial| trial.end);
                Period {
                    start: aligned.start.max(first),
                    end: aligned.end,
                }
            }
        }
    }

    /// The latest end of an item's period.
    pub(crate) fn last_period_end(&self) -> Option<i64> {
        self.items.iter().map(|item| item.period.end).max()
    }

    /// The usage of an item up to a moment, where its price is metered.
    pub(crate) fn usage(&self, item: &Item, price: &Price, to: i64) -> Option<Usage> {
        Some(Usage {
            customer: self.customer.clone(),
            subscription: self.id.clone(),
            item: item.id.clone(),
            price: item.price.clone(),
            meter: price.meter()?.to_owned(),
            from: item.used_from,
            to,
        })
    }

    /// The invoice of the periods that end at a moment: their usage, pending lines, and the fees of the next periods.
    /// Moves the items to their next periods. Usage and fees of a trial or a pause are not charged.
    pub(crate) fn next_invoice(
        &mut self,
        prices: &Collection<Price>,
        at: i64,
        cancels: bool,
    ) -> Result<InvoiceDraft, StripeError> {
        let charges = self.phase == Phase::Active;
        let mut lines = std::mem::take(&mut self.pending);
        let mut period = Period { start: at, end: at };
        let mut fees = Vec::new();
        let mut items = std::mem::take(&mut self.items);
        for item in &mut items {
            let price = price_of(prices, &item.price)?;
            let is_over = item.period.end <= at;
            if !is_over && !cancels {
                continue;
            }
            period.start = period.start.min(item.period.start);
            if let Some(usage) = self.usage(item, &price, at) {
                if charges {
                    lines.push(Line::usage(usage));
                }
            } else if !is_over && charges {
                // A cancellation within a period credits the rest of its fee.
                let full = price.recurrence().period_at(self.anchor, item.period.start);
                let rest = item.fee_from(&price, at, full).saturating_neg();
                let span = Period {
                    start: at,
                    end: item.period.end,
                };
                lines.push(Line::proration(item, rest, span));
            }
            if !cancels {
                let full = price.recurrence().period_at(self.anchor, at);
                item.period = Period {
                    start: at,
                    end: full.end,
                };
                item.used_from = at;
                if price.meter().is_none() && full == item.period {
                    fees.push(Line::fee(item, item.fee(&price), full));
                } else if price.meter().is_none() {
                    // A trial ended before the anchor that was asked for.
                    let amount = item.fee_from(&price, at, full);
                    fees.push(Line::proration(item, amount, item.period));
                }
            }
        }
        self.items = items;
        if !cancels {
            self.phase = Phase::Active;
        }
        lines.extend(fees);
        Ok(InvoiceDraft {
            lines,
            period,
            reason: "subscription_cycle",
            at,
            grace: true,
        })
    }

    /// The subscription as Stripe writes it. What the fake Stripe does not model has the value of a fresh subscription.
    pub(crate) fn json(&self, prices: &Collection<Price>) -> Result<Value, StripeError> {
        let items = self
            .items
            .iter()
            .map(|item| item.json(prices, &self.id))
            .collect::<Result<Vec<Value>, StripeError>>()?;
        let mut billing_mode = json!({
            "flexible": self.flexible.then(|| json!({ "proration_discounts": "included" })),
            "type": if self.flexible { "flexible" } else { "classic" },
        });
        if let (Some(at), Some(mode)) = (self.mode_updated_at, billing_mode.as_object_mut()) {
            mode.insert("updated_at".to_owned(), json!(at));
        }
        let mut body = json!({
            "id": self.id,
            "object": "subscription",
            "billing_cycle_anchor": self.anchor,
            "billing_mode": billing_mode,
            "cancel_at": self.cancel_at,
            "cancel_at_period_end": self.cancel_at_period_end,
            "canceled_at": self.canceled_at,
            "cancellation_details": {
                "comment": self.comment,
                "feedback": self.feedback,
                "feedback_option": null,
                "reason": self.canceled_at.map(|_| "cancellation_requested"),
            },
            "created": self.created,
            "currency": self.currency,
            "customer": self.customer,
            "description": self.description,
            "ended_at": self.ended_at,
            "items": {
                "object": "list",
                "data": items,
                "has_more": false,
                "url": format!("/v1/subscription_items?subscription={}", self.id),
            },
            "latest_invoice": self.latest_invoice,
            "metadata": self.metadata,
            "pause_collection": self.pause_collection.map(PauseCollection::json),
            "start_date": self.start_date,
            "status": self.status(),
            "test_clock": self.test_clock,
            "trial_end": self.trial.map(|trial| trial.end),
            "trial_settings": {
                "end_behavior": {
                    "billing_cycle_anchor": null,
                    "missing_payment_method": self.at_trial_end.name(),
                },
            },
            "trial_start": self.trial.map(|trial| trial.start),
        });
        if let (Some(body), Value::Object(rest)) = (body.as_object_mut(), unmodelled_fields()) {
            body.extend(rest);
        }
        Ok(body)
    }
}

fn unmodelled_fields() -> Value {
    json!({
        "application": null,
        "application_fee_percent": null,
        "automatic_tax": { "disabled_reason": null, "enabled": false, "liability": null },
        "billing_cycle_anchor_config": null,
        "billing_schedules": [],
        "billing_thresholds": null,
        "collection_method": "charge_automatically",
        "customer_account": null,
        "days_until_due": null,
        "default_payment_method": null,
        "default_source": null,
        "default_tax_rates": [],
        "discounts": [],
        "invoice_settings": {
            "account_tax_ids": null,
            "custom_fields": null,
            "description": null,
            "footer": null,
            "issuer": { "type": "self" },
        },
        "livemode": false,
        "managed_payments": { "enabled": false },
        "next_pending_invoice_item_invoice": null,
        "on_behalf_of": null,
        "payment_settings": {
            "payment_method_options": null,
            "payment_method_types": null,
            "save_default_payment_method": "off",
        },
        "pending_invoice_item_interval": null,
        "pending_setup_intent": null,
        "pending_update": null,
        "schedule": null,
        "transfer_data": null,
    })
}
