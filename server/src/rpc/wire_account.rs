//! Accounts on the wire: what a request says of them, and how an answer shows them.

use usage_proto::v1::{self, put_account_request::Billing as WireBilling};

use super::wire;
use crate::{
    domain::{
        account::{Account, Billing, Link, check_stripe_id},
        account_id::AccountId,
        billing_period::BillingPeriod,
        invoice_draft::InvoiceState,
        period::check_length,
        subscription::SyncedSubscription,
        subscription_change::{ChangeKind, Step, SubscriptionChange},
        violation::Violation,
        window::Interval,
    },
    store::{
        account_history::AccountHistory,
        accounts::{PutAccount, UnbilledUsage},
    },
    workers::subscription_change::change::requested_prices,
};

/// The maximum number of billing periods in the response for one account, newest first.
const MAX_PERIODS: usize = 100;
/// Prices that one plan change may name.
const MAX_PRICES: usize = 20;

/// The account that a request puts.
///
/// # Errors
/// What is not valid of it.
pub(super) fn parse_put(request: v1::PutAccountRequest) -> Result<PutAccount, Violation> {
    let mut put = PutAccount {
        account_id: AccountId::parse(&request.account_id)?,
        billing: Billing::Free,
        current_period: None,
        live: None,
        bill_from: None,
        etag: (!request.etag.is_empty()).then_some(request.etag),
        validate_only: request.validate_only,
        watch: None,
    };
    match request.billing {
        None => Err(Violation::invalid(
            "billing",
            "billing is missing: give stripe or free",
        )),
        Some(WireBilling::Free(_)) => Ok(put),
        Some(WireBilling::Stripe(stripe)) => {
            check_stripe_id("stripe.customer", &stripe.customer)?;
            if !stripe.subscription.is_empty() {
                check_stripe_id("stripe.subscription", &stripe.subscription)?;
            }
            put.current_period = stripe
                .current_period
                .as_ref()
                .map(|period| wire::interval("stripe.current_period", period))
                .transpose()?;
            put.bill_from = stripe
                .bill_from
                .as_ref()
                .map(|from| wire::millis("stripe.bill_from", from))
                .transpose()?;
            put.billing = Billing::Stripe {
                customer: stripe.customer,
                subscription: (!stripe.subscription.is_empty()).then_some(stripe.subscription),
            };
            Ok(put)
        }
    }
}

fn account(account: Account, synced: Option<v1::Subscription>) -> v1::Account {
    let etag = account.etag();
    let valid_from = wire::timestamp(account.link.valid_from);
    let billing = match account.link.billing {
        Billing::Free => v1::account::Billing::Free(v1::FreeBilling {}),
        // On the wire, the subscription's status shows whether it has ended.
        Billing::Stripe {
            customer,
            subscription,
        }
        | Billing::Ended {
            customer,
            subscription,
            ..
        } => v1::account::Billing::Stripe(v1::StripeBilling {
            customer,
            subscription: subscription.unwrap_or_default(),
            current_period: account.current_period.map(wire::period),
            bill_from: Some(valid_from),
        }),
    };
    v1::Account {
        account_id: account.id.into(),
        billing: Some(billing),
        etag,
        valid_from: Some(valid_from),
        updated_at: Some(wire::timestamp(account.link.recorded_at)),
        subscription: synced,
    }
}

/// An account with the one of its subscriptions that it shows.
pub(super) fn with_subscription(
    of: Account,
    mut rows: Vec<(SyncedSubscription, Vec<BillingPeriod>)>,
) -> v1::Account {
    rows.retain(|(row, _)| Some(row.customer.as_str()) == of.link.billing.customer());
    // The live subscription that the link follows, else another one, else the one that ended last.
    rows.sort_by_key(|(row, _)| {
        let is_live = row.ended_at.is_none();
        (
            is_live,
            is_live && !row.is_companion,
            row.ended_at,
            row.synced_at,
        )
    });
    account(of, rows.pop().map(subscription))
}

/// A synced subscription with its billing periods.
fn subscription((row, mut periods): (SyncedSubscription, Vec<BillingPeriod>)) -> v1::Subscription {
    periods.sort_by_key(|period| std::cmp::Reverse(period.period_start));
    periods.truncate(MAX_PERIODS);
    v1::Subscription {
        subscription: row.subscription,
        status: row.status.name().to_owned(),
        billing_mode: row.billing_mode.name().to_owned(),
        periods: periods.into_iter().map(billing_period).collect(),
        cancel_at: row.cancel_at.map(wire::timestamp),
        ended_at: row.ended_at.map(wire::timestamp),
        synced_at: Some(wire::timestamp(row.synced_at)),
    }
}

fn billing_period(row: BillingPeriod) -> v1::BillingPeriod {
    let period = row.interval();
    let state = match row.invoice_state {
        InvoiceState::Unknown => v1::InvoiceState::Unspecified,
        InvoiceState::Draft { .. } => v1::InvoiceState::Draft,
        InvoiceState::Final => v1::InvoiceState::Final,
    };
    v1::BillingPeriod {
        item: row.item,
        price: row.price.unwrap_or_default(),
        meter: row.meter.unwrap_or_default(),
        period: Some(wire::period(period)),
        invoice: row.invoice.unwrap_or_default(),
        invoice_state: state.into(),
    }
}

pub(super) fn unbilled_usage(usage: UnbilledUsage) -> v1::UnbilledUsage {
    v1::UnbilledUsage {
        meter: usage.meter,
        quantity: usage.quantity,
    }
}

pub(super) fn change(change: SubscriptionChange) -> v1::SubscriptionChange {
    v1::SubscriptionChange {
        id: change.id.to_string(),
        subscription: change.subscription,
        boundary: Some(wire::timestamp(change.boundary_at)),
        finished_at: change.finished_at.map(wire::timestamp),
        requested_by: change.requested_by,
    }
}

/// The time whose history is asked for.
///
/// # Errors
/// It is empty or too long.
pub(super) fn parse_history(period: &v1::Period) -> Result<Interval, Violation> {
    let interval = wire::interval("history", period)?;
    check_length(interval).map_err(|violation| {
        let message = violation.message.replace("period.", "history.");
        Violation::invalid("history", message)
    })?;
    Ok(interval)
}

/// What happened to the billing of an account.
pub(super) fn history(found: AccountHistory) -> v1::AccountHistory {
    let changes = found.changes.into_iter().map(listed_change);
    v1::AccountHistory {
        links: found.links.iter().map(link).collect(),
        changes: changes.collect(),
        link_before: found.before.as_ref().map(link),
        truncated: found.is_truncated,
    }
}

fn link(link: &Link) -> v1::AccountLink {
    let (ended, end_requested) = match &link.billing {
        Billing::Ended { is_requested, .. } => (true, *is_requested),
        Billing::Free | Billing::Stripe { .. } => (false, false),
    };
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    v1::AccountLink {
        version: link.version,
        valid_from: Some(wire::timestamp(link.valid_from)),
        recorded_at: Some(wire::timestamp(link.recorded_at)),
        stripe_customer: text(link.billing.customer()),
        subscription: text(link.billing.subscription()),
        ended,
        end_requested,
    }
}

fn listed_change(change: SubscriptionChange) -> v1::ListedSubscriptionChange {
    use v1::{SubscriptionChangeKind as Kind, SubscriptionChangeState as State};
    let kind = match change.kind {
        ChangeKind::ChangePlan => Kind::ChangePlan,
        ChangeKind::Cancel => Kind::Cancel,
    };
    let state = match change.step {
        Step::Draining => State::Draining,
        Step::Changing => State::Changing,
        Step::Done => State::Done,
        Step::Undone => State::Undone,
        Step::Refused => State::Refused,
        Step::Aborted => State::Aborted,
    };
    v1::ListedSubscriptionChange {
        id: change.id.to_string(),
        kind: kind.into(),
        state: state.into(),
        subscription: change.subscription,
        prices: requested_prices(&change.request),
        boundary: Some(wire::timestamp(change.boundary_at)),
        started_at: Some(wire::timestamp(change.started_at)),
        finished_at: change.finished_at.map(wire::timestamp),
        requested_by: change.requested_by,
        error: change.error.unwrap_or_default(),
    }
}

/// Checks the prices of a plan change.
///
/// # Errors
/// Too few, too many, or one that is no id of Stripe.
pub(super) fn check_prices(prices: &[String]) -> Result<(), Violation> {
    if !(1..=MAX_PRICES).contains(&prices.len()) {
        return Err(Violation::invalid(
            "prices",
            format!("prices has {} items; give 1 to {MAX_PRICES}", prices.len()),
        ));
    }
    prices
        .iter()
        .try_for_each(|price| check_stripe_id("prices", price))
}
