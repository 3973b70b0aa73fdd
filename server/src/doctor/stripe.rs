//! Checks the Stripe account: key, meters, linked customers, their subscriptions and prices. Reads what `subscriptions`
//! decides on.

pub(super) mod key;
pub(super) mod rights;
mod subscriptions;

use std::collections::HashMap;

use futures_util::{StreamExt as _, stream};

use self::subscriptions::{AccountData, CUSTOMERS, PRICES, SUBSCRIPTIONS};
use super::finding::{Finding, cause_of, first_names};
use crate::{
    commands::setup::meter_difference,
    domain::{
        Millis,
        customer_watch::Watch,
        meter::{Meter, Meters},
        report::MAX_EVENT_AGE_MS,
    },
    store::{Store, doctor::MAX_LINKED_CUSTOMERS},
    stripe::{
        Failure, Stripe,
        catalog::{BoundedList, CatalogMeter},
        list_subscriptions::{LiveSubscription, MAX_SUBSCRIPTIONS, Presence},
        object_list::Unreadable,
    },
};

const METER: &str = "meter";
/// Customers of test clocks that are read from Stripe, one request each.
const MAX_WATCHED: u64 = 1_000;
/// Customers without a subscription that are read from Stripe, one request each.
const MAX_CUSTOMERS: usize = 1_000;
/// Failed requests for customers after which the others are not read.
const MAX_FAILURES: usize = 3;
/// Concurrent requests for customers.
const CUSTOMER_CONCURRENCY: usize = 8;

/// Checks meters, customers, subscriptions and prices.
pub(super) async fn check(
    stripe: &Stripe,
    meters: &Meters,
    store: Option<&Store>,
    now: Millis,
    findings: &mut Vec<Finding>,
) {
    let known = match stripe.list_meters().await {
        Ok(known) => known,
        Err(failure) => {
            findings.push(Finding::unchecked(METER, failure.message()));
            return;
        }
    };
    findings.extend(meters.all().iter().map(|meter| check_meter(meter, &known)));
    findings.extend(unreadable(METER, &known.unreadable));
    let names = names_by_id(meters, &known);
    let Some(store) = store else { return };
    let linked = match store.linked_customers().await {
        Ok(linked) => linked,
        Err(error) => {
            findings.push(Finding::unchecked(CUSTOMERS, &cause_of(&error)));
            return;
        }
    };
    if linked.len() >= MAX_LINKED_CUSTOMERS {
        findings.push(limit_hit(CUSTOMERS, "linked customers", linked.len()));
    }
    let mut all = match stripe.list_live_subscriptions().await {
        Ok(all) => all,
        Err(failure) => {
            findings.push(Finding::unchecked(SUBSCRIPTIONS, failure.message()));
            return;
        }
    };
    if !all.is_complete {
        findings.push(limit_hit(
            SUBSCRIPTIONS,
            "subscriptions, the newest",
            MAX_SUBSCRIPTIONS,
        ));
    }
    if let Err(why) = add_test_clocks(stripe, store, &mut all).await {
        findings.push(Finding::unchecked(SUBSCRIPTIONS, &why));
    }
    findings.extend(subscriptions::check_unreadable(&all.unreadable, &linked));
    let data = AccountData {
        linked: &linked,
        subscriptions: &all.items,
        meters: &names,
    };
    findings.extend(check_customers(stripe, &data, all.is_complete).await);
    findings.extend(check_items(&data, meters, store, now).await);
    findings.extend(data.check_billing_modes());
    findings.extend(check_prices(stripe, &data).await);
}

/// Adds the subscriptions of customers of test clocks, which the list of all leaves out.
async fn add_test_clocks(
    stripe: &Stripe,
    store: &Store,
    all: &mut BoundedList<LiveSubscription>,
) -> Result<(), String> {
    let watched = store.watched_customers(None, MAX_WATCHED).await;
    for row in watched.map_err(|error| cause_of(&error))? {
        if row.watch != Watch::TestClock {
            continue;
        }
        let own = stripe.live_subscriptions_of(&row.customer).await;
        let own = own.map_err(|failure| failure.message().to_owned())?;
        all.items.extend(own.items);
        all.unreadable.extend(own.unreadable);
    }
    Ok(())
}

/// Names objects of a list that cannot be read.
fn unreadable(check: &'static str, objects: &[Unreadable]) -> Option<Finding> {
    let names: Vec<String> = objects.iter().map(ToString::to_string).collect();
    (!names.is_empty()).then(|| {
        Finding::warn(
            check,
            first_names(&names, names.len()),
            "look at them in Stripe's dashboard: they are skipped",
        )
    })
}

fn limit_hit(check: &'static str, what: &str, number: usize) -> Finding {
    Finding::warn(
        check,
        format!("only {number} {what}, were checked: there are more"),
        "check the others in Stripe's dashboard",
    )
}

fn check_meter(meter: &Meter, known: &BoundedList<CatalogMeter>) -> Finding {
    let mut named = known
        .items
        .iter()
        .filter(|known| known.event_name == *meter.event_name);
    let active = named.clone().find(|known| known.is_active);
    let Some(found) = active.or_else(|| named.next()) else {
        let among = if known.is_complete {
            ""
        } else {
            " among the newest"
        };
        return Finding::bad(
            METER,
            format!(
                "{}: Stripe has no meter with event name {:?}{among}",
                meter.name, meter.event_name
            ),
            "create it with `usage-server stripe setup`",
        );
    };
    match meter_difference(found) {
        Some((difference, advice)) => Finding::bad(
            METER,
            format!("{}: {} at Stripe: {difference}", meter.name, found.id),
            advice,
        ),
        None => Finding::ok(
            METER,
            format!("{}: {} at Stripe is active and sums", meter.name, found.id),
        ),
    }
}

/// The names of the configured meters by the ids of their Stripe meters, also archived ones.
fn names_by_id(meters: &Meters, known: &BoundedList<CatalogMeter>) -> HashMap<String, String> {
    known
        .items
        .iter()
        .filter_map(|known| {
            let name = meters
                .all()
                .iter()
                .find(|meter| *meter.event_name == known.event_name)?;
            Some((known.id.clone(), name.name.to_string()))
        })
        .collect()
}

/// Checks whether linked customers without a subscription exist. Others do: Stripe ends a deleted customer's
/// subscriptions.
async fn check_customers(
    stripe: &Stripe,
    data: &AccountData<'_>,
    is_complete: bool,
) -> Vec<Finding> {
    let without = data.without_subscription();
    let (mut existing, mut deleted, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    let mut failures: Vec<(String, Failure)> = Vec::new();
    // Owned, so that a server can make the diagnosis in a task.
    let asked = without.iter().take(MAX_CUSTOMERS);
    let asked: Vec<(usize, String)> = asked.map(|one| one.customer.clone()).enumerate().collect();
    let answers = stream::iter(asked)
        .map(|(place, customer)| {
            let stripe = stripe.clone();
            async move { (place, stripe.find_customer(&customer).await) }
        })
        .buffered(CUSTOMER_CONCURRENCY);
    let mut answers = std::pin::pin!(answers);
    while let Some((place, presence)) = answers.next().await {
        let Some(linked) = without.get(place).copied() else {
            continue;
        };
        match presence {
            // No subscription is expected after the last one was ended here.
            Ok(Presence::Exists { .. }) if linked.has_ended => {}
            Ok(Presence::Exists { .. }) => existing.push(linked),
            Ok(Presence::Deleted) => deleted.push(linked),
            Ok(Presence::NotFound) => unknown.push(linked),
            Err(failure) => {
                // One that fails hides no other.
                let is_of_all = matches!(failure, Failure::Denied(_) | Failure::NotSent(_));
                failures.push((linked.customer.clone(), failure));
                if is_of_all || failures.len() >= MAX_FAILURES {
                    break;
                }
            }
        }
    }
    let mut findings = subscriptions::check_customers(&existing, &deleted, &unknown, is_complete);
    for (customer, failure) in &failures {
        let why = format!("{customer}: {}", failure.message());
        findings.push(Finding::unchecked(CUSTOMERS, &why));
    }
    if failures.is_empty() && without.len() > MAX_CUSTOMERS {
        findings.push(limit_hit(
            CUSTOMERS,
            "linked customers without a subscription",
            MAX_CUSTOMERS,
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            CUSTOMERS,
            format!("{} are linked, none is deleted", data.linked.len()),
        ));
    }
    findings
}

/// Checks for usage of a meter that no subscription item bills, or that several bill.
async fn check_items(
    data: &AccountData<'_>,
    meters: &Meters,
    store: &Store,
    now: Millis,
) -> Vec<Finding> {
    let mut findings = data.check_double_items();
    let since = now.saturating_sub(MAX_EVENT_AGE_MS);
    findings.extend(data.check_unbilled_customers());
    for meter in meters.all() {
        let without_item = data.without_item(&meter.name);
        match store
            .customers_with_usage(&meter.name, &without_item, since)
            .await
        {
            Ok(used) => findings.extend(data.check_without_item(&meter.name, &used)),
            Err(error) => findings.push(Finding::unchecked(SUBSCRIPTIONS, &cause_of(&error))),
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            SUBSCRIPTIONS,
            "linked customers have one item of each meter with usage",
        ));
    }
    findings
}

/// Checks the prices that a subscription could change to.
async fn check_prices(stripe: &Stripe, data: &AccountData<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut listed = Vec::new();
    let mut ids: Vec<&String> = data.meters.keys().collect();
    ids.sort_unstable();
    for id in ids {
        match stripe.list_prices(id).await {
            Ok(prices) => {
                if !prices.is_complete {
                    findings.push(limit_hit(PRICES, "prices of a meter", prices.items.len()));
                }
                findings.extend(unreadable(PRICES, &prices.unreadable));
                listed.extend(prices.items);
            }
            Err(failure) => findings.push(Finding::unchecked(PRICES, failure.message())),
        }
    }
    findings.extend(data.check_prices(&listed));
    if findings.is_empty() {
        findings.push(Finding::ok(
            PRICES,
            "every price of the products in use is volume-tiered",
        ));
    }
    findings
}
