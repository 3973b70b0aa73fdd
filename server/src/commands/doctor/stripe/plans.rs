//! What subscriptions and prices say together: whose usage is billed by no item, by two, or by a price that
//! cannot be changed. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{CUSTOMERS, PRICES, SUBSCRIPTIONS, named};
use crate::{
    commands::doctor::{Finding, some},
    store::doctor::LinkedCustomer,
    stripe::{catalog::CatalogPrice, list_subscriptions::SurveyedSubscription},
};

/// What was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surveyed<'a> {
    /// The customers that accounts bill to.
    pub(super) linked: &'a [LinkedCustomer],
    /// The subscriptions of the Stripe account that have not ended.
    pub(super) subscriptions: &'a [SurveyedSubscription],
    /// The configured meters' names by the ids of their Stripe meters.
    pub(super) meters: &'a HashMap<String, String>,
}

/// Judges linked customers without a subscription by whether they are there.
pub(super) fn check_customers(
    there: &[&LinkedCustomer],
    deleted: &[&LinkedCustomer],
    unknown: &[&LinkedCustomer],
    is_whole: bool,
) -> Vec<Finding> {
    let relink = "link their accounts to other customers, or make them free, with PutAccount";
    let mut findings = Vec::new();
    if !deleted.is_empty() {
        let fact = format!("deleted at Stripe: {}", named(deleted));
        findings.push(Finding::bad(CUSTOMERS, fact, relink));
    }
    if !unknown.is_empty() {
        let fact = format!("Stripe knows no such customer: {}", named(unknown));
        let advice = format!("check that the key is of the right account and mode, else {relink}");
        findings.push(Finding::bad(CUSTOMERS, fact, advice));
    }
    // An older subscription that was not read may be theirs.
    if is_whole && !there.is_empty() {
        let fact = format!(
            "linked, and without a subscription that would bill their usage: {}",
            named(there)
        );
        let advice = "subscribe them, or make their accounts free";
        findings.push(Finding::warn(CUSTOMERS, fact, advice));
    }
    findings
}

impl<'a> Surveyed<'a> {
    /// The configured meter that a price counts.
    fn meter_of(&self, price: &CatalogPrice) -> Option<&'a str> {
        let name = self.meters.get(price.meter.as_ref()?)?;
        Some(name)
    }

    /// The meters that a subscription bills, one an item.
    fn meters_of(&self, one: &'a SurveyedSubscription) -> Vec<&'a str> {
        one.prices
            .iter()
            .filter_map(|price| self.meter_of(price))
            .collect()
    }

    /// The linked customers that have a subscription.
    fn subscribed(&self) -> Vec<(&'a LinkedCustomer, Vec<&'a SurveyedSubscription>)> {
        let mut by_customer: HashMap<&str, Vec<&SurveyedSubscription>> = HashMap::new();
        for one in self.subscriptions {
            by_customer.entry(&one.customer).or_default().push(one);
        }
        self.linked
            .iter()
            .filter_map(|linked| Some((linked, by_customer.remove(linked.customer.as_str())?)))
            .collect()
    }

    /// The linked customers that have none.
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

    /// Subscribed customers without an item of any meter.
    pub(super) fn check_without_any(&self) -> Option<Finding> {
        let without: Vec<&LinkedCustomer> = self
            .subscribed()
            .into_iter()
            .filter(|(_, own)| {
                own.iter()
                    .all(|one| one.is_whole && self.meters_of(one).is_empty())
            })
            .map(|(linked, _)| linked)
            .collect();
        (!without.is_empty()).then(|| {
            Finding::bad(
                SUBSCRIPTIONS,
                format!(
                    "no item of any configured meter on the subscriptions of {}: their usage is not billed",
                    named(&without)
                ),
                "add an item with a price of the meter, or make their accounts free",
            )
        })
    }

    /// Subscribed customers without an item of one meter, and with one of another.
    pub(super) fn lacking(&self, meter: &str) -> Vec<&'a str> {
        self.subscribed()
            .into_iter()
            .filter(|(_, own)| {
                let has: Vec<&str> = own.iter().flat_map(|one| self.meters_of(one)).collect();
                !has.is_empty() && !has.contains(&meter) && own.iter().all(|one| one.is_whole)
            })
            .map(|(linked, _)| linked.customer.as_str())
            .collect()
    }

    /// Of those, the ones with usage.
    pub(super) fn check_lacking(&self, meter: &str, used: &[String]) -> Option<Finding> {
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
                    "no item of meter {meter}, and usage of it, on the subscriptions of {}: it is not billed",
                    named(&found)
                ),
                "add an item with a price of the meter",
            )
        })
    }

    /// Usage that is billed twice: Stripe sums by customer and meter, and every item bills all of it.
    pub(super) fn check_doubles(&self) -> Vec<Finding> {
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
                some(&doubles, doubles.len())
            ),
            "keep one item of a meter for each customer: remove the others in Stripe's dashboard",
        )]
    }

    /// Subscriptions in the classic mode, where usage of a removed item is lost.
    pub(super) fn check_modes(&self) -> Option<Finding> {
        let classic: Vec<&str> = self
            .subscribed()
            .into_iter()
            .flat_map(|(_, own)| own)
            .filter(|one| one.is_classic)
            .map(|one| one.id.as_str())
            .collect();
        (!classic.is_empty()).then(|| {
            Finding::bad(
                SUBSCRIPTIONS,
                format!(
                    "in classic billing mode, where a plan change loses usage and is refused: {}",
                    some(&classic, classic.len())
                ),
                "migrate them: POST /v1/subscriptions/ID/migrate with billing_mode[type]=flexible",
            )
        })
    }

    /// Prices of a plan family that are not volume-tiered: of the products that bill our meters, those on
    /// subscriptions and those `listed` as active.
    pub(super) fn check_family(&self, listed: &[CatalogPrice]) -> Option<Finding> {
        let mut prices: BTreeMap<&str, (&CatalogPrice, BTreeSet<&str>)> = BTreeMap::new();
        let mut family: HashSet<&str> = HashSet::new();
        for one in self.subscriptions {
            for price in one.prices.iter().filter(|one| self.meter_of(one).is_some()) {
                family.insert(&price.product);
                let known = prices.entry(&price.id);
                known.or_insert((price, BTreeSet::new())).1.insert(&one.id);
            }
        }
        for price in listed
            .iter()
            .filter(|price| family.contains(price.product.as_str()))
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
                    format!("on {}", some(&on, on.len()))
                };
                format!("{} of {} ({subscriptions})", price.id, price.product)
            })
            .collect();
        (!wrong.is_empty()).then(|| {
            Finding::bad(
                PRICES,
                format!(
                    "not volume-tiered, so a subscription cannot move from it to a volume price: {}",
                    some(&wrong, wrong.len())
                ),
                "archive them; a subscription on one must end and begin anew on a volume price (`usage-server stripe setup` makes one)",
            )
        })
    }
}

/// Names in order, each once.
fn distinct(names: &[&str]) -> String {
    let names: BTreeSet<&str> = names.iter().copied().collect();
    let names: Vec<&str> = names.into_iter().collect();
    names.join(" and ")
}
