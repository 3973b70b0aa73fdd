//! Decides whose usage is billed by no item, by several, or by a price that a plan change cannot leave. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::{
    doctor::finding::{Finding, MAX_NAMES, first_names},
    domain::subscription_status::BillingMode,
    store::doctor::LinkedCustomer,
    stripe::{
        catalog::CatalogPrice, list_subscriptions::LiveSubscription, object_list::Unreadable,
    },
};

pub(super) const CUSTOMERS: &str = "customers";
pub(super) const SUBSCRIPTIONS: &str = "subscriptions";
pub(super) const PRICES: &str = "prices";

/// What was read from Stripe and the database.
#[derive(Clone, Copy, Debug)]
pub(super) struct AccountData<'a> {
    /// The customers that accounts bill to.
    pub(super) linked: &'a [LinkedCustomer],
    /// The live subscriptions of the Stripe account.
    pub(super) subscriptions: &'a [LiveSubscription],
    /// The names of the configured meters by the ids of their Stripe meters.
    pub(super) meters: &'a HashMap<String, String>,
}

/// Checks linked customers without a subscription.
pub(super) fn check_customers(
    existing: &[&LinkedCustomer],
    deleted: &[&LinkedCustomer],
    unknown: &[&LinkedCustomer],
    is_complete: bool,
) -> Vec<Finding> {
    let relink = "link their accounts to other customers, or make them free, with PutAccount";
    let mut findings = Vec::new();
    if !deleted.is_empty() {
        let fact = format!("deleted at Stripe: {}", customer_names(deleted));
        findings.push(Finding::bad(CUSTOMERS, fact, relink));
    }
    if !unknown.is_empty() {
        let fact = format!("not found at Stripe: {}", customer_names(unknown));
        let advice =
            format!("check that the key belongs to the right account and mode, else {relink}");
        findings.push(Finding::bad(CUSTOMERS, fact, advice));
    }
    // If the list is incomplete, an older subscription may be theirs.
    if is_complete && !existing.is_empty() {
        let fact = format!(
            "linked, but without a subscription to bill their usage: {}",
            customer_names(existing)
        );
        let advice = "subscribe them, or make their accounts free";
        findings.push(Finding::warn(CUSTOMERS, fact, advice));
    }
    findings
}

/// Checks for subscriptions that cannot be read. Those of linked customers may bill usage.
pub(super) fn check_unreadable(
    objects: &[Unreadable],
    linked: &[LinkedCustomer],
) -> Option<Finding> {
    let is_linked = |customer: &str| linked.iter().any(|linked| linked.customer == customer);
    let may_bill = objects
        .iter()
        .any(|one| one.customer.as_deref().is_none_or(is_linked));
    let names: Vec<String> = objects
        .iter()
        .map(|one| match &one.customer {
            Some(customer) => format!("{one} ({customer})"),
            None => one.to_string(),
        })
        .collect();
    let advice = "look at them in Stripe's dashboard: they are skipped: one that an account follows stays as it was, and the others of its customer are followed";
    let fact = first_names(&names, names.len());
    match (names.is_empty(), may_bill) {
        (true, _) => None,
        (false, true) => Some(Finding::bad(SUBSCRIPTIONS, fact, advice)),
        (false, false) => Some(Finding::warn(SUBSCRIPTIONS, fact, advice)),
    }
}

impl<'a> AccountData<'a> {
    /// The configured meter of a price.
    fn meter_of(&self, price: &CatalogPrice) -> Option<&'a str> {
        let name = self.meters.get(price.meter.as_ref()?)?;
        Some(name)
    }

    /// The meters that a subscription bills, one for each item.
    fn meters_of(&self, one: &'a LiveSubscription) -> Vec<&'a str> {
        one.prices
            .iter()
            .filter_map(|price| self.meter_of(price))
            .collect()
    }

    /// The linked customers with a subscription.
    fn subscribed(&self) -> Vec<(&'a LinkedCustomer, Vec<&'a LiveSubscription>)> {
        let mut by_customer: HashMap<&str, Vec<&LiveSubscription>> = HashMap::new();
        for one in self.subscriptions {
            by_customer.entry(&one.customer).or_default().push(one);
        }
        self.linked
            .iter()
            .filter_map(|linked| Some((linked, by_customer.remove(linked.customer.as_str())?)))
            .collect()
    }

    /// The linked customers without a subscription.
    pub(super) fn without_subscription(&self) -> Vec<&'a LinkedCustomer> {
        let with: HashSet<&str> = self
            .subscriptions
            .iter()
            .map(|one| one.customer.as_str())
            .collect();
        self.linked
            .iter()
            .filter(|linked| !with.contains(linked.customer.as_str()))
            .collect()
    }

    /// Checks for subscribed customers without an item of any meter.
    pub(super) fn check_unbilled_customers(&self) -> Option<Finding> {
        let without: Vec<&LinkedCustomer> = self
            .subscribed()
            .into_iter()
            .filter(|(_, own)| {
                own.iter()
                    .all(|one| one.is_complete && self.meters_of(one).is_empty())
            })
            .map(|(linked, _)| linked)
            .collect();
        (!without.is_empty()).then(|| {
            Finding::bad(
                SUBSCRIPTIONS,
                format!(
                    "no item of any configured meter on the subscriptions of {}: their usage is not billed",
                    customer_names(&without)
                ),
                "add an item with a price of the meter, or make their accounts free",
            )
        })
    }

    /// Subscribed customers with items, but none of this meter.
    pub(super) fn without_item(&self, meter: &str) -> Vec<&'a str> {
        self.subscribed()
            .into_iter()
            .filter(|(_, own)| {
                let has: Vec<&str> = own.iter().flat_map(|one| self.meters_of(one)).collect();
                !has.is_empty() && !has.contains(&meter) && own.iter().all(|one| one.is_complete)
            })
            .map(|(linked, _)| linked.customer.as_str())
            .collect()
    }

    /// Checks for customers with usage of a meter that no item bills.
    pub(super) fn check_without_item(&self, meter: &str, used: &[String]) -> Option<Finding> {
        let used: HashSet<&str> = used.iter().map(String::as_str).collect();
        let found: Vec<&LinkedCustomer> = self
            .linked
            .iter()
            .filter(|linked| used.contains(linked.customer.as_str()))
            .collect();
        (!found.is_empty()).then(|| {
            Finding::bad(
                SUBSCRIPTIONS,
                format!(
                    "usage of meter {meter}, but no item of it, on the subscriptions of {}: it is not billed",
                    customer_names(&found)
                ),
                "add an item with a price of the meter",
            )
        })
    }

    /// Checks for usage billed more than once: Stripe sums by customer and meter, and every item bills the whole sum.
    pub(super) fn check_double_items(&self) -> Vec<Finding> {
        let mut doubles: Vec<String> = Vec::new();
        for (linked, own) in self.subscribed() {
            let mut items: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for one in &own {
                for meter in self.meters_of(one) {
                    items.entry(meter).or_default().push(&one.id);
                }
            }
            for (meter, on) in items.into_iter().filter(|(_, on)| on.len() > 1) {
                doubles.push(format!(
                    "{} ({}) {} items of {meter} on {}",
                    linked.customer,
                    linked.account_id,
                    on.len(),
                    distinct(&on)
                ));
            }
        }
        if doubles.is_empty() {
            return Vec::new();
        }
        vec![Finding::bad(
            SUBSCRIPTIONS,
            format!(
                "usage is billed more than once: {}",
                first_names(&doubles, doubles.len())
            ),
            "keep one item of a meter for each customer, and remove the others in Stripe's dashboard",
        )]
    }

    /// Checks for subscriptions in classic billing mode, where usage of a removed item is lost.
    pub(super) fn check_billing_modes(&self) -> Option<Finding> {
        let classic: Vec<&str> = self
            .subscribed()
            .into_iter()
            .flat_map(|(_, own)| own)
            .filter(|one| one.billing_mode == BillingMode::Classic)
            .map(|one| one.id.as_str())
            .collect();
        (!classic.is_empty()).then(|| {
            Finding::bad(
                SUBSCRIPTIONS,
                format!(
                    "in classic billing mode, where a plan change would lose usage and is refused: {}",
                    first_names(&classic, classic.len())
                ),
                "migrate them: POST /v1/subscriptions/ID/migrate with billing_mode[type]=flexible",
            )
        })
    }

    /// Checks for prices that are not volume-tiered, of the products in use: those on subscriptions, and those `listed` as
    /// active.
    pub(super) fn check_prices(&self, listed: &[CatalogPrice]) -> Option<Finding> {
        let mut prices: BTreeMap<&str, (&CatalogPrice, BTreeSet<&str>)> = BTreeMap::new();
        let mut products: HashSet<&str> = HashSet::new();
        for one in self.subscriptions {
            for price in one.prices.iter().filter(|one| self.meter_of(one).is_some()) {
                products.insert(&price.product);
                let known = prices.entry(&price.id);
                known.or_insert((price, BTreeSet::new())).1.insert(&one.id);
            }
        }
        for price in listed
            .iter()
            .filter(|price| products.contains(price.product.as_str()))
        {
            prices.entry(&price.id).or_insert((price, BTreeSet::new()));
        }
        let wrong: Vec<String> = prices
            .into_values()
            .filter(|(price, _)| !price.is_volume())
            .map(|(price, on)| {
                let on: Vec<&str> = on.into_iter().collect();
                let subscriptions = if on.is_empty() {
                    "on no subscription".to_owned()
                } else {
                    format!("on {}", first_names(&on, on.len()))
                };
                format!("{} of {} ({subscriptions})", price.id, price.product)
            })
            .collect();
        (!wrong.is_empty()).then(|| {
            Finding::bad(
                PRICES,
                format!(
                    "not volume-tiered, so a subscription cannot change from it to a volume price: {}",
                    first_names(&wrong, wrong.len())
                ),
                "archive them; end each subscription on one and start a new one on a volume price (`usage-server stripe setup` creates one)",
            )
        })
    }
}

/// The names in order, each once.
fn distinct(names: &[&str]) -> String {
    let names: BTreeSet<&str> = names.iter().copied().collect();
    let names: Vec<&str> = names.into_iter().collect();
    names.join(" and ")
}

/// The first few customers with their accounts.
fn customer_names(customers: &[&LinkedCustomer]) -> String {
    let names: Vec<String> = customers
        .iter()
        .take(MAX_NAMES)
        .map(|linked| format!("{} ({})", linked.customer, linked.account_id))
        .collect();
    first_names(&names, customers.len())
}
