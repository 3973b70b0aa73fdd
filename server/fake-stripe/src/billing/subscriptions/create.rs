//! `POST /v1/subscriptions`: creates a subscription and its first invoice.

use serde_json::Value;

use super::Subscription;
use super::change_checks::{check_intervals, usable};
use super::change_request::{Change, billing_mode, check_collection};
use super::item::Item;
use super::trial::{self, AtEnd, Phase, TrialEnd};
use crate::api_version::ApiVersion;
use crate::billing::calendar::Period;
use crate::billing::invoices::line::Line;
use crate::billing::invoices::{InvoiceDraft, issue};
use crate::billing::prices::{Price, price_of};
use crate::billing::state::Billing;
use crate::billing::usage::Usage;
use crate::customer_balances::apply_balance;
use crate::customers::Customer;
use crate::errors::StripeError;
use crate::ids;
use crate::list::Collection;
use crate::metadata::{Metadata, MetadataChange};
use crate::metering::Metering;
use crate::params::Params;

/// The most active subscriptions of a customer.
const MAX_SUBSCRIPTIONS: usize = 500;

/// A request to create a subscription. Only the control endpoints may set an id or an anchor in the past.
#[derive(Debug, Default)]
pub(crate) struct SubscriptionRequest {
    pub(crate) id: Option<String>,
    pub(crate) customer: String,
    pub(crate) items: Vec<Change>,
    pub(crate) anchor: Option<i64>,
    pub(crate) trial_end: Option<i64>,
    pub(crate) at_trial_end: AtEnd,
    pub(crate) classic: bool,
    pub(crate) prorate: bool,
    /// What differs from the default, `allow_incomplete`.
    pub(crate) payment_behavior: Option<&'static str>,
    pub(crate) cancel_at: Option<i64>,
    pub(crate) cancel_at_period_end: bool,
    pub(crate) description: Option<String>,
    pub(crate) metadata: Metadata,
}

pub(crate) fn create(
    billing: &mut Billing,
    metering: Metering<'_>,
    customers: &Collection<Customer>,
    now: i64,
    version: ApiVersion,
    mut params: Params,
) -> Result<Value, StripeError> {
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
        classic: match billing_mode(&mut params)? {
            Some(mode) => mode == "classic",
            None => version.classic_by_default,
        },
        prorate: behavior != Some("none"),
        trial_end: TrialEnd::take_new(&mut params, now)?,
        at_trial_end: AtEnd::take(&mut params)?.unwrap_or_default(),
        payment_behavior: take_payment_behavior(&mut params)?,
        cancel_at: take_cancel_at(&mut params)?,
        cancel_at_period_end: params.boolean("cancel_at_period_end")?.unwrap_or(false),
        description: params.text("description")?,
        metadata: MetadataChange::take(&mut params)?.applied_to(&Metadata::new())?,
    };
    // The trials of prices are not modelled, so that there is none to apply.
    if params.boolean("trial_from_plan")? == Some(true) {
        return Err(StripeError::unsupported("trial_from_plan=true").param("trial_from_plan"));
    }
    params.finish()?;
    create_from(billing, metering, customers, now, request)
}

/// Takes the payment parameters; what the default says is left out.
fn take_payment_behavior(params: &mut Params) -> Result<Option<&'static str>, StripeError> {
    check_collection(params)?;
    let behavior = params.one_of_supported(
        "payment_behavior",
        &[
            "allow_incomplete",
            "default_incomplete",
            "error_if_incomplete",
        ],
        &["pending_if_incomplete"],
    )?;
    Ok(behavior.filter(|behavior| *behavior != "allow_incomplete"))
}

fn take_cancel_at(params: &mut Params) -> Result<Option<i64>, StripeError> {
    let text = params.clone().text("cancel_at")?;
    if let Some(end @ ("min_period_end" | "max_period_end" | "max_billed_until")) = text.as_deref()
    {
        let what = format!("cancel_at={end} of a new subscription");
        return Err(StripeError::unsupported(what).param("cancel_at"));
    }
    params.integer("cancel_at")
}

/// Starts a subscription: licensed items are invoiced at once, metered ones at the end of their period.
pub(crate) fn create_from(
    billing: &mut Billing,
    metering: Metering<'_>,
    customers: &Collection<Customer>,
    now: i64,
    request: SubscriptionRequest,
) -> Result<Value, StripeError> {
    if customers
        .get(&request.customer)
        .is_none_or(|customer| customer.deleted)
    {
        return Err(
            StripeError::refused(format!("No such customer: '{}'", request.customer))
                .code("resource_missing")
                .param("customer"),
        );
    }
    let mut subscription = new_subscription(&billing.prices, &request, now)?;
    subscription.test_clock = customers
        .get(&request.customer)
        .and_then(|customer| customer.test_clock.clone());
    check_number(billing, &subscription.customer)?;
    check_currency(billing, &subscription)?;
    let first_lines = add_items(
        &billing.prices,
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
    check_payment_behavior(
        billing,
        &subscription,
        request.payment_behavior,
        &first_lines,
    )?;
    billing
        .balances
        .start(&subscription.customer, &subscription.currency)?;
    issue::create(
        billing,
        metering,
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
    trial::schedule_notice(billing, &subscription, now);
    billing.save_subscription(subscription, "customer.subscription.created", now)
}

/// A subscription whose first invoice has to be paid is `incomplete` at first with `default_incomplete`, and fails with
/// `error_if_incomplete`. Otherwise it starts as active, whatever was asked for.
fn check_payment_behavior(
    billing: &Billing,
    subscription: &Subscription,
    behavior: Option<&'static str>,
    lines: &[Line],
) -> Result<(), StripeError> {
    let Some(behavior) = behavior else {
        return Ok(());
    };
    let amounts = lines.iter().map(|line| line.amount);
    let total = amounts.fold(0, i64::saturating_add);
    let balance = billing.balances.amount(&subscription.customer);
    if apply_balance(total, balance, &subscription.currency).due == 0 {
        return Ok(());
    }
    let what = format!("payment_behavior={behavior} where the first invoice has to be paid");
    Err(StripeError::unsupported(what).param("payment_behavior"))
}

/// Stripe's limit; the message of its error is ours.
fn check_number(billing: &Billing, customer: &str) -> Result<(), StripeError> {
    let running = billing
        .subscriptions
        .newest_first()
        .filter(|one| one.customer == customer && !one.is_canceled());
    if running.count() >= MAX_SUBSCRIPTIONS {
        return Err(StripeError::refused(format!(
            "A customer can have at most {MAX_SUBSCRIPTIONS} active subscriptions."
        ))
        .param("customer"));
    }
    Ok(())
}

/// Stripe allows one currency among a customer's running subscriptions and unpaid invoices.
fn check_currency(billing: &Billing, new: &Subscription) -> Result<(), StripeError> {
    let running = billing
        .subscriptions
        .newest_first()
        .filter(|one| one.customer == new.customer && !one.is_canceled())
        .map(|one| &one.currency);
    let unpaid = billing
        .invoices
        .newest_first()
        .filter(|one| one.customer == new.customer && one.is_unpaid())
        .map(|one| &one.currency);
    let mut currencies = running.chain(unpaid);
    match currencies.find(|currency| **currency != new.currency) {
        None => Ok(()),
        Some(other) => Err(StripeError::refused(format!(
            "You cannot combine currencies on a single customer. This customer has an active subscription, \
             subscription schedule, discount, quote, or invoice item with currency {other}"
        ))),
    }
}

fn new_subscription(
    prices: &Collection<Price>,
    request: &SubscriptionRequest,
    now: i64,
) -> Result<Subscription, StripeError> {
    let mut requested: Vec<Price> = Vec::new();
    for (index, item) in request.items.iter().enumerate() {
        let param = format!("items[{index}][price]");
        let id = item
            .price
            .as_ref()
            .ok_or_else(|| StripeError::missing_param(&param))?;
        let currency = requested
            .first()
            .map(|price| price.currency.clone())
            .unwrap_or_default();
        let price = usable(prices, id, &currency, &param)?;
        if requested.iter().any(|other| other.id == price.id) {
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
        let first = request.trial_end.unwrap_or(now);
        if request
            .anchor
            .is_some_and(|anchor| anchor >= now && anchor < first)
        {
            return Err(StripeError::unsupported(
                "a billing_cycle_anchor before the end of the trial",
            )
            .param("billing_cycle_anchor"));
        }
        let natural_date = price.recurrence().period_at(first, first).end;
        if request.anchor.is_some_and(|anchor| anchor > natural_date) {
            return Err(StripeError::refused(format!(
                "billing_cycle_anchor cannot be later than next natural_date billing date ({natural_date}) for plan"
            ))
            .param("billing_cycle_anchor"));
        }
        requested.push(price);
    }
    check_intervals(!request.classic, &requested.iter().collect::<Vec<_>>())?;
    if request.cancel_at.is_some_and(|cancel_at| cancel_at <= now) {
        return Err(StripeError::invalid("cancel_at must be in the future.").param("cancel_at"));
    }
    let anchor = request.anchor.or(request.trial_end).unwrap_or(now);
    let trial = request.trial_end.map(|end| Period { start: now, end });
    Ok(Subscription {
        anchor_is_fixed: request.anchor.is_some(),
        phase: trial.map_or(Phase::Active, |_| Phase::Trialing),
        trial,
        at_trial_end: request.at_trial_end,
        id: request.id.clone().unwrap_or_else(|| ids::billing("sub_")),
        customer: request.customer.clone(),
        currency: requested
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
    prices: &Collection<Price>,
    subscription: &mut Subscription,
    items: Vec<Change>,
    prorate: bool,
    now: i64,
) -> Result<Vec<Line>, StripeError> {
    let mut lines = Vec::new();
    let anchor = subscription.anchor;
    let is_free = subscription.free_reason().is_some();
    for new in items {
        let price = price_of(prices, new.price.as_deref().unwrap_or_default())?;
        let period = subscription.period_of_new_item(&price, now);
        let mut item = Item::new(&price, new.quantity, period, now);
        item.metadata = new.metadata.applied_to(&item.metadata)?;
        if anchor < now && !is_free {
            item.used_from = item.period.start;
        }
        let full = price.recurrence().period_at(anchor, now);
        if let Some(usage) = subscription.usage(&item, &price, now) {
            // Only the classic mode has a line of zero for a new metered item.
            if !subscription.flexible {
                let from = item.used_from;
                let line = Line::usage(Usage { to: from, ..usage });
                lines.push(Line {
                    usage: None,
                    ..line
                });
            }
        } else if is_free {
            // The trial is invoiced over nothing.
            lines.push(Line::fee(&item, 0, item.period));
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
