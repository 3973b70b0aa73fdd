//! The Stripe account: key and mode, meters, linked customers, their subscriptions and prices.

mod plans;

use std::collections::HashMap;

use futures_util::{StreamExt as _, stream};

use self::plans::Surveyed;
use super::{Finding, clocks, some, why};
use crate::{
    clock::Clock,
    commands::setup::meter_fault,
    domain::{
        Millis, SECOND_MS,
        meter::{Meter, Meters},
        report::MAX_EVENT_AGE_MS,
    },
    store::{
        Store,
        doctor::{LINKED_READ, LinkedCustomer},
    },
    stripe::{
        Failure, Stripe,
        catalog::{CatalogMeter, Listed},
        key_check::{Probed, key_check},
        list_subscriptions::{Presence, SUBSCRIPTIONS_READ},
    },
};

const KEY: &str = "stripe key";
const CLOCK: &str = "stripe clock";
const METER: &str = "meter";
const CUSTOMERS: &str = "customers";
const SUBSCRIPTIONS: &str = "subscriptions";
const PRICES: &str = "prices";
/// Customers without a subscription that Stripe is asked for, one by one.
const CUSTOMERS_ASKED: usize = 1_000;
/// Of those, how many at once.
const ASKED_AT_ONCE: usize = 8;

/// The Stripe account, where its key is valid.
pub(super) async fn reach(
    key: Option<&str>,
    base: Option<&str>,
    clock: &Clock,
    findings: &mut Vec<Finding>,
) -> Option<Stripe> {
    const NOT_CHECKED: &str = "so nothing at Stripe was checked";
    let Some(key) = key else {
        findings.push(Finding::bad(
            KEY,
            format!("there is none: nothing is reported, {NOT_CHECKED}"),
            "set STRIPE_SECRET_KEY",
        ));
        return None;
    };
    let before = clock.now();
    let probed = key_check(key, base).await;
    let after = clock.now();
    let (mut finding, is_reached) = check_key(key, &probed);
    if !is_reached {
        finding.fact = format!("{}; {NOT_CHECKED}", finding.fact);
    }
    findings.push(finding);
    if let Ok(probed) = &probed {
        findings.push(match probed.date {
            Some(date) => clocks::check_skew(
                CLOCK,
                "Stripe's",
                clocks::skew(before, after, date, SECOND_MS),
            ),
            None => Finding::unchecked(CLOCK, "the answer has no Date header"),
        });
    }
    if !is_reached {
        return None;
    }
    match Stripe::new(key, base) {
        Ok(stripe) => Some(stripe),
        Err(error) => {
            findings.push(Finding::unchecked(KEY, &error));
            None
        }
    }
}

/// What a key is, by its prefix and by what Stripe answers, and whether the rest can be asked.
fn check_key(key: &str, probed: &Result<Probed, String>) -> (Finding, bool) {
    let probed = match probed {
        Ok(probed) => probed,
        Err(error) => {
            return (
                Finding::unchecked(KEY, &format!("Stripe does not answer: {error}")),
                false,
            );
        }
    };
    let starts = |prefixes: [&str; 2]| prefixes.iter().any(|prefix| key.starts_with(prefix));
    let is_live = starts(["sk_live_", "rk_live_"]);
    let advice = "set STRIPE_SECRET_KEY to a secret key of the account, from Stripe's dashboard";
    if !is_live && !starts(["sk_test_", "rk_test_"]) {
        let fact = "it begins with none of sk_test_, sk_live_, rk_test_ and rk_live_";
        return (Finding::bad(KEY, fact, advice), false);
    }
    let mode = |is_live| if is_live { "live" } else { "test" };
    match (probed.status, probed.is_live) {
        (200, Some(answered)) if answered != is_live => (
            Finding::bad(
                KEY,
                format!(
                    "it looks like one of {} mode, and Stripe answers in {} mode",
                    mode(is_live),
                    mode(answered)
                ),
                advice,
            ),
            true,
        ),
        (200, _) => (
            Finding::ok(KEY, format!("it is valid, in {} mode", mode(is_live))),
            true,
        ),
        // A restricted key need not be allowed to see the balance.
        (403, _) => (
            Finding::ok(
                KEY,
                format!(
                    "it is a restricted one, by its prefix of {} mode",
                    mode(is_live)
                ),
            ),
            true,
        ),
        (401, _) => (
            Finding::bad(
                KEY,
                format!("Stripe refuses it: {}", probed.message),
                advice,
            ),
            false,
        ),
        (status, _) => (
            Finding::unchecked(
                KEY,
                &format!("Stripe answered {status}: {}", probed.message),
            ),
            false,
        ),
    }
}

/// Everything else that is asked of Stripe.
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
    let names = names_by_id(meters, &known);
    let Some(store) = store else { return };
    let linked = match store.linked_customers().await {
        Ok(linked) => linked,
        Err(error) => {
            findings.push(Finding::unchecked(CUSTOMERS, &why(&error)));
            return;
        }
    };
    if u64::try_from(linked.len()).is_ok_and(|read| read >= LINKED_READ) {
        findings.push(limit_hit(CUSTOMERS, "linked customers", linked.len()));
    }
    let all = match stripe.survey_subscriptions().await {
        Ok(all) => all,
        Err(failure) => {
            findings.push(Finding::unchecked(SUBSCRIPTIONS, failure.message()));
            return;
        }
    };
    if !all.is_whole {
        findings.push(limit_hit(
            SUBSCRIPTIONS,
            "subscriptions, the newest",
            SUBSCRIPTIONS_READ,
        ));
    }
    let surveyed = Surveyed {
        linked: &linked,
        subscriptions: &all.items,
        meters: &names,
    };
    findings.extend(check_customers(stripe, &surveyed, all.is_whole).await);
    findings.extend(check_items(&surveyed, meters, store, now).await);
    findings.extend(surveyed.check_modes());
    findings.extend(check_prices(stripe, &surveyed).await);
}

fn limit_hit(check: &'static str, what: &str, number: usize) -> Finding {
    Finding::warn(
        check,
        format!("only {number} {what}, were looked at: there are more"),
        "look at the others in Stripe's dashboard",
    )
}

fn check_meter(meter: &Meter, known: &Listed<CatalogMeter>) -> Finding {
    let mut named = known
        .items
        .iter()
        .filter(|known| known.event_name == *meter.event_name);
    let active = named.clone().find(|known| known.is_active);
    let Some(found) = active.or_else(|| named.next()) else {
        let among = if known.is_whole {
            ""
        } else {
            " among the newest"
        };
        return Finding::bad(
            METER,
            format!(
                "{}: Stripe has no meter of event name {:?}{among}",
                meter.name, meter.event_name
            ),
            "create it with `usage-server stripe setup`",
        );
    };
    match meter_fault(found) {
        Some((fault, advice)) => Finding::bad(
            METER,
            format!("{}: {} at Stripe: {fault}", meter.name, found.id),
            advice,
        ),
        None => Finding::ok(
            METER,
            format!("{}: {} at Stripe, active, sums", meter.name, found.id),
        ),
    }
}

/// The configured meters' names by the ids of their Stripe meters, archived ones too.
fn names_by_id(meters: &Meters, known: &Listed<CatalogMeter>) -> HashMap<String, String> {
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

/// Looks after the linked customers that have no subscription: Stripe ends those of a deleted one.
async fn check_customers(stripe: &Stripe, surveyed: &Surveyed<'_>, is_whole: bool) -> Vec<Finding> {
    let without = surveyed.without_subscription();
    let (mut there, mut deleted, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    let mut failure: Option<Failure> = None;
    let asked = stream::iter(without.iter().copied().take(CUSTOMERS_ASKED))
        .map(|linked| async move { (linked, stripe.find_customer(&linked.customer).await) })
        .buffered(ASKED_AT_ONCE);
    let mut asked = std::pin::pin!(asked);
    while let Some((linked, presence)) = asked.next().await {
        match presence {
            // Of one whose subscription ended nothing is wanted.
            Ok(Presence::There) if linked.has_ended => {}
            Ok(Presence::There) => there.push(linked),
            Ok(Presence::Deleted) => deleted.push(linked),
            Ok(Presence::Unknown) => unknown.push(linked),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    let mut findings = plans::check_customers(&there, &deleted, &unknown, is_whole);
    if let Some(failure) = failure {
        findings.push(Finding::unchecked(CUSTOMERS, failure.message()));
    } else if without.len() > CUSTOMERS_ASKED {
        findings.push(limit_hit(
            CUSTOMERS,
            "linked customers without a subscription",
            CUSTOMERS_ASKED,
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            CUSTOMERS,
            format!("{} are linked, none is gone", surveyed.linked.len()),
        ));
    }
    findings
}

/// Usage of a meter that no item of the customer's subscriptions bills, and usage that two bill.
async fn check_items(
    surveyed: &Surveyed<'_>,
    meters: &Meters,
    store: &Store,
    now: Millis,
) -> Vec<Finding> {
    let mut findings = surveyed.check_doubles();
    let since = now.saturating_sub(MAX_EVENT_AGE_MS);
    findings.extend(surveyed.check_without_any());
    for meter in meters.all() {
        let lacking = surveyed.lacking(&meter.name);
        match store
            .customers_with_usage(&meter.name, &lacking, since)
            .await
        {
            Ok(used) => findings.extend(surveyed.check_lacking(&meter.name, &used)),
            Err(error) => findings.push(Finding::unchecked(SUBSCRIPTIONS, &why(&error))),
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            SUBSCRIPTIONS,
            "those of linked customers have one item of each meter that is used",
        ));
    }
    findings
}

/// The prices of every plan that a subscription of ours could move to.
async fn check_prices(stripe: &Stripe, surveyed: &Surveyed<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut listed = Vec::new();
    let mut ids: Vec<&String> = surveyed.meters.keys().collect();
    ids.sort_unstable();
    for id in ids {
        match stripe.list_prices(id).await {
            Ok(prices) => {
                if !prices.is_whole {
                    findings.push(limit_hit(PRICES, "prices of a meter", prices.items.len()));
                }
                listed.extend(prices.items);
            }
            Err(failure) => findings.push(Finding::unchecked(PRICES, failure.message())),
        }
    }
    findings.extend(surveyed.check_family(&listed));
    if findings.is_empty() {
        findings.push(Finding::ok(
            PRICES,
            "every price of a plan family is volume-tiered",
        ));
    }
    findings
}

/// Customers with their accounts, cut to a few.
fn named(customers: &[&LinkedCustomer]) -> String {
    let names: Vec<String> = customers
        .iter()
        .take(super::SHOWN)
        .map(|linked| format!("{} ({})", linked.customer, linked.account_id))
        .collect();
    some(&names, customers.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::Severity;

    fn probed(status: u16, is_live: Option<bool>) -> Probed {
        Probed {
            status,
            date: None,
            is_live,
            message: "no".to_owned(),
        }
    }

    #[test]
    fn a_key_is_judged_by_its_prefix_and_by_stripes_answer() {
        let diff = |key: &str, probed: Result<Probed, String>| {
            let (finding, is_reached) = check_key(key, &probed);
            assert!(!finding.to_string().contains(key), "the key is shown");
            (finding.mark, is_reached)
        };
        assert_eq!(
            diff("sk_test_x", Ok(probed(200, Some(false)))),
            (Severity::Ok, true)
        );
        assert_eq!(
            diff("rk_live_x", Ok(probed(200, Some(true)))),
            (Severity::Ok, true)
        );
        assert_eq!(
            diff("sk_live_x", Ok(probed(200, Some(false)))),
            (Severity::Bad, true)
        );
        assert_eq!(
            diff("rk_live_x", Ok(probed(403, None))),
            (Severity::Ok, true)
        );
        assert_eq!(
            diff("pk_test_x", Ok(probed(200, Some(false)))),
            (Severity::Bad, false)
        );
        assert_eq!(
            diff("sk_test_x", Ok(probed(401, None))),
            (Severity::Bad, false)
        );
        assert_eq!(
            diff("sk_test_x", Ok(probed(503, None))),
            (Severity::Bad, false)
        );
        assert_eq!(
            diff("sk_test_x", Err("down".to_owned())),
            (Severity::Bad, false)
        );
    }
}
