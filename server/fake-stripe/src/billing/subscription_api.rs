//! `/v1/subscriptions`: create, retrieve, list, search, migrate.

use std::collections::BTreeMap;

use serde_json::Value;

use super::calendar::Period;
use super::invoices::{self, InvoiceDraft, Line};
use super::item_changes::{Change, usable};
use super::products::merge;
use super::subscription_json::subscription_json;
use super::subscriptions::{self, Item, Subscription, price_of};
use super::usage::Usage;
use crate::errors::StripeError;
use crate::ids;
use crate::list::{Created, Paging, search};
use crate::params::Params;
use crate::state::State;

/// A request to create a subscription. Only the control endpoints may set an id or an anchor in the past.
#[derive(Debug, Default)]
pub(crate) struct SubscriptionRequest {
    pub(crate) id: Option<String>,
    pub(crate) customer: String,
    pub(crate) items: Vec<Change>,
    pub(crate) anchor: Option<i64>,
    pub(crate) classic: bool,
    pub(crate) prorate: bool,
    pub(crate) cancel_at: Option<i64>,
    pub(crate) cancel_at_period_end: bool,
    pub(crate) description: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
}

pub(crate) fn create(state: &mut State, mut params: Params) -> Result<Value, StripeError> {
    let now = state.clock.now_secs();
    let customer = params.required("customer")?;
    let mut items = Vec::new();
    for mut item in params.nested_list("items")? {
        items.push(Change::take(&mut item)?);
        item.finish()?;
    }
    if items.is_empty() {
        return Err(StripeError::missing_param("items"));
    }
    let anchor = params.integer("billing_cycle_anchor")?;
    if anchor.is_some_and(|anchor| anchor < now) {
        return Err(
            StripeError::invalid("billing_cycle_anchor must be in the future.")
                .param("billing_cycle_anchor"),
        );
    }
    let behavior = params.one_of(
        "proration_behavior",
        &["create_prorations", "none", "always_invoice"],
    )?;
    let request = SubscriptionRequest {
        id: None,
        customer,
        items,
        anchor,
        // The flexible mode is the default since 2025-09-30.clover.
        classic: billing_mode(&mut params)? == Some("classic"),
        prorate: behavior != Some("none"),
        cancel_at: params.integer("cancel_at")?,
        cancel_at_period_end: params.boolean("cancel_at_period_end")?.unwrap_or(false),
        description: params.text("description")?,
        metadata: params.text_map("metadata")?.unwrap_or_default(),
    };
    check_payment_params(&mut params)?;
    params.finish()?;
    create_from(state, request)
}

/// Payment is not modelled: its parameters are accepted and ignored.
pub(crate) fn check_payment_params(params: &mut Params) -> Result<(), StripeError> {
    params.one_of("collection_method", &["charge_automatically"])?;
    params.one_of(
        "payment_behavior",
        &[
            "allow_incomplete",
            "default_incomplete",
            "error_if_incomplete",
            "pending_if_incomplete",
        ],
    )?;
    params.boolean("off_session")?;
    Ok(())
}

fn billing_mode(params: &mut Params) -> Result<Option<&'static str>, StripeError> {
    let Some(mut mode) = params.nested("billing_mode")? else {
        return Ok(None);
    };
    let kind = mode
        .one_of("type", &["classic", "flexible"])?
        .ok_or_else(|| StripeError::missing_param("billing_mode[type]"))?;
    if let Some(mut flexible) = mode.nested("flexible")? {
        flexible.one_of("proration_discounts", &["included", "itemized"])?;
        flexible.finish()?;
    }
    mode.finish()?;
    Ok(Some(kind))
}

/// Starts a subscription: licensed items are invoiced at once, metered ones at the end of their period.
pub(crate) fn create_from(
    state: &mut State,
    request: SubscriptionRequest,
) -> Result<Value, StripeError> {
    let now = state.clock.now_secs();
    if state
        .customers
        .get(&request.customer)
        .is_none_or(|customer| customer.deleted)
    {
        return Err(
            StripeError::refused(format!("No such customer: '{}'", request.customer))
                .code("resource_missing")
                .param("customer"),
        );
    }
    let mut subscription = new_subscription(state, &request, now)?;
    let first_lines = add_items(
        state,
        &mut subscription,
        request.items,
        request.prorate,
        now,
    )?;
    if request.cancel_at_period_end {
        subscription.cancel_at_period_end = true;
        subscription.cancel_at = subscription.last_period_end();
        subscription.canceled_at = Some(now);
    }
    invoices::create(
        state,
        &mut subscription,
        InvoiceDraft {
            lines: first_lines,
            period: Period {
                start: now,
                end: now,
            },
            reason: "subscription_create",
            at: now,
            grace: false,
        },
    )?;
    subscriptions::save(state, subscription, "customer.subscription.created", now)
}

fn new_subscription(
    state: &State,
    request: &SubscriptionRequest,
    now: i64,
) -> Result<Subscription, StripeError> {
    let mut prices = Vec::new();
    for (index, item) in request.items.iter().enumerate() {
        let param = format!("items[{index}][price]");
        let id = item
            .price
            .as_ref()
            .ok_or_else(|| StripeError::missing_param(&param))?;
        let currency = prices
            .first()
            .map(|price: &super::prices::Price| price.currency.clone())
            .unwrap_or_default();
        let price = usable(state, id, &currency, &param)?;
        if prices.iter().any(|other| other.id == price.id) {
            return Err(StripeError::refused(format!(
                "Cannot add multiple subscription items with the same plan: {id}"
            ))
            .param("items"));
        }
        if price.meter().is_some() && item.quantity.is_some() {
            return Err(
                StripeError::refused("You cannot set the quantity for metered plans.")
                    .param(format!("items[{index}][quantity]")),
            );
        }
        let natural_date = price.recurrence().period_at(now, now).end;
        if request.anchor.is_some_and(|anchor| anchor > natural_date) {
            return Err(StripeError::refused(format!(
                "billing_cycle_anchor cannot be later than next natural_date billing date ({natural_date}) for plan"
            ))
            .param("billing_cycle_anchor"));
        }
        prices.push(price);
    }
    if request.cancel_at.is_some_and(|cancel_at| cancel_at <= now) {
        return Err(StripeError::invalid("cancel_at must be in the future.").param("cancel_at"));
    }
    let anchor = request.anchor.unwrap_or(now);
    Ok(Subscription {
        id: request.id.clone().unwrap_or_else(|| ids::billing("sub_")),
        customer: request.customer.clone(),
        currency: prices
            .first()
            .map(|price| price.currency.clone())
            .unwrap_or_default(),
        created: now,
        // An anchor in the past simulates a subscription that has been running since then.
        start_date: anchor.min(now),
        anchor,
        flexible: !request.classic,
        cancel_at: request.cancel_at,
        canceled_at: request.cancel_at.map(|_| now),
        description: request.description.clone(),
        metadata: request.metadata.clone(),
        ..Subscription::default()
    })
}

fn add_items(
    state: &State,
    subscription: &mut Subscription,
    items: Vec<Change>,
    prorate: bool,
    now: i64,
) -> Result<Vec<Line>, StripeError> {
    let mut lines = Vec::new();
    let (anchor, start) = (subscription.anchor, subscription.start_date);
    for requested in items {
        let price = price_of(state, requested.price.as_deref().unwrap_or_default())?;
        let mut item = Item::new(&price, requested.quantity, anchor, start, now);
        merge(&mut item.metadata, requested.metadata);
        if anchor < now {
            item.used_from = item.period.start;
        }
        let full = price.recurrence().period_at(anchor, now);
        if let Some(usage) = subscription.usage(&item, &price, now) {
            // Only the classic mode writes a line of nothing for a metered item that begins.
            if !subscription.flexible {
                let from = item.used_from;
                let line = Line::usage(Usage { to: from, ..usage });
                lines.push(Line {
                    usage: None,
                    ..line
                });
            }
        } else if full == item.period {
            lines.push(Line::fee(&item, item.fee(&price), item.period));
        } else if prorate {
            let amount = item.fee_from(&price, now, full);
            lines.push(Line::proration(&item, amount, item.period));
        }
        subscription.items.push(item);
    }
    Ok(lines)
}

pub(crate) fn retrieve(state: &mut State, id: &str, params: Params) -> Result<Value, StripeError> {
    params.finish()?;
    subscription_json(state, &subscriptions::find(state, id)?)
}

pub(crate) fn list(state: &mut State, mut params: Params) -> Result<Value, StripeError> {
    let paging = Paging::take(&mut params)?;
    let customer = params.text("customer")?;
    let price = params.text("price")?;
    let status = params.one_of(
        "status",
        &[
            "active",
            "all",
            "canceled",
            "ended",
            "incomplete",
            "incomplete_expired",
            "past_due",
            "paused",
            "trialing",
            "unpaid",
        ],
    )?;
    let created = Created::take(&mut params)?;
    params.finish()?;
    let has_status = |one: &&Subscription| match status {
        None => !one.is_canceled(),
        Some("all") => true,
        Some("ended") => one.is_canceled(),
        Some(status) => one.status() == status,
    };
    let has_price =
        |one: &Subscription, wanted: &String| one.items.iter().any(|item| item.price == *wanted);
    let all = state
        .billing
        .subscriptions
        .newest_first()
        .filter(has_status)
        .filter(|one| {
            customer
                .as_ref()
                .is_none_or(|wanted| one.customer == *wanted)
        })
        .filter(|one| price.as_ref().is_none_or(|wanted| has_price(one, wanted)))
        .filter(|one| created.contains(one.created))
        .map(|one| subscription_json(state, one))
        .collect::<Result<Vec<Value>, StripeError>>()?;
    paging.page("subscription", "/v1/subscriptions", &all)
}

/// The search by fields and `metadata`.
pub(crate) fn find_by_query(state: &mut State, params: Params) -> Result<Value, StripeError> {
    let all = state
        .billing
        .subscriptions
        .newest_first()
        .map(|one| subscription_json(state, one))
        .collect::<Result<Vec<Value>, StripeError>>()?;
    search(params, "/v1/subscriptions/search", &all)
}

/// Migrates from the classic to the flexible billing mode; the reverse is not possible.
pub(crate) fn migrate(
    state: &mut State,
    id: &str,
    mut params: Params,
) -> Result<Value, StripeError> {
    let mode =
        billing_mode(&mut params)?.ok_or_else(|| StripeError::missing_param("billing_mode"))?;
    params.finish()?;
    let now = state.clock.now_secs();
    let mut subscription = subscriptions::find(state, id)?;
    let refuse = |message: &str| Err(StripeError::refused(message).param("billing_mode[type]"));
    if mode != "flexible" {
        return refuse("A subscription can only be migrated to the flexible billing mode.");
    }
    if subscription.is_canceled() {
        return refuse("A canceled subscription cannot be migrated.");
    }
    if subscription.flexible {
        return refuse("The subscription already uses the flexible billing mode.");
    }
    subscription.flexible = true;
    subscription.mode_updated_at = Some(now);
    subscriptions::save(state, subscription, "customer.subscription.updated", now)
}
