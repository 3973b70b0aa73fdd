//! Compares Stripe's objects with the configured ones: what differs, and how to fix it. Pure.

use super::{
    flags::DesiredPrice,
    report::{ExistingObjects, Outcome, Step},
};
use crate::{
    domain::tier::tiers_text,
    stripe::catalog::{CUSTOMER_KEY, CatalogMeter, CatalogPrice, VALUE_KEY},
};

/// A difference, and how to fix it.
type Difference = (String, String);

/// The outcome of each object. `created` lists those that this run created.
pub(super) fn steps(
    desired: &[DesiredPrice],
    existing: &[ExistingObjects],
    created: &[(String, &'static str)],
) -> Vec<Step> {
    let mut steps = Vec::new();
    for (desired, existing) in desired.iter().zip(existing) {
        let name = &*desired.meter.name;
        let mut step =
            |object: &'static str, id: String, difference: Option<Option<Difference>>| {
                let outcome = match difference {
                    None => Outcome::Missing,
                    Some(Some((difference, advice))) => Outcome::Different { difference, advice },
                    Some(None) if created.iter().any(|one| one.0 == name && one.1 == object) => {
                        Outcome::Created
                    }
                    Some(None) => Outcome::Found,
                };
                steps.push(Step {
                    meter: name.to_owned(),
                    object,
                    id,
                    outcome,
                });
            };
        let meter = existing.meter.as_ref();
        step(
            "meter",
            meter.map_or_else(
                || desired.meter.event_name.to_string(),
                |meter| meter.id.clone(),
            ),
            meter.map(meter_difference),
        );
        let product = existing.product.as_ref();
        step(
            "product",
            desired.product_id(),
            product.map(|product| {
                (!product.is_active).then(|| {
                    (
                        "it is archived".to_owned(),
                        "unarchive it in Stripe's dashboard".to_owned(),
                    )
                })
            }),
        );
        let price = existing.price.as_ref();
        step(
            "price",
            price.map_or_else(|| desired.lookup_key(), |price| price.id.clone()),
            price.map(|price| price_difference(desired, meter, price)),
        );
    }
    steps
}

/// Why a meter does not sum this service's events.
pub(crate) fn meter_difference(meter: &CatalogMeter) -> Option<Difference> {
    let advice = "archive it and run this again, or configure another event name";
    if !meter.is_active {
        return Some((
            "it is archived, so Stripe refuses its events".to_owned(),
            "reactivate it in Stripe's dashboard, or configure another event name".to_owned(),
        ));
    }
    let difference = if meter.aggregation != "sum" {
        format!("its aggregation is {}, not sum", meter.aggregation)
    } else if let Some(window) = &meter.event_time_window {
        format!("it expects events summed by the {window}, not single events")
    } else if meter.customer_key != CUSTOMER_KEY {
        format!(
            "it reads the customer from the payload key {:?}, not {CUSTOMER_KEY:?}",
            meter.customer_key
        )
    } else if meter.value_key != VALUE_KEY {
        format!(
            "it reads the quantity from the payload key {:?}, not {VALUE_KEY:?}",
            meter.value_key
        )
    } else {
        return None;
    };
    Some((difference, advice.to_owned()))
}

fn price_difference(
    desired: &DesiredPrice,
    meter: Option<&CatalogMeter>,
    price: &CatalogPrice,
) -> Option<Difference> {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    if !price.is_active {
        return Some((
            "it is archived".to_owned(),
            "unarchive it in Stripe's dashboard, or choose another --plan".to_owned(),
        ));
    }
    let difference = if price.product != desired.product_id() {
        format!(
            "it belongs to product {}, not {}",
            price.product,
            desired.product_id()
        )
    } else if price.currency != desired.currency {
        format!(
            "its currency is {}, not {}",
            price.currency, desired.currency
        )
    } else if price.interval.as_deref() != Some("1 month") {
        format!(
            "it recurs every {}, not every month",
            or_none(&price.interval)
        )
    } else if !price.is_metered {
        "it is licensed, not metered".to_owned()
    } else if price.meter.as_deref() != meter.map(|meter| meter.id.as_str()) {
        format!(
            "it charges for meter {}, not {}",
            or_none(&price.meter),
            meter.map_or("the one to be created", |meter| &meter.id)
        )
    } else if !price.is_volume() {
        format!("its tiers are {}, not volume", or_none(&price.tiers_mode))
    } else if price.tiers.as_ref() != Some(&desired.tiers) {
        format!(
            "its tiers are {}, not {}",
            price
                .tiers
                .as_ref()
                .map_or_else(|| "not readable".to_owned(), |tiers| tiers_text(tiers)),
            tiers_text(&desired.tiers)
        )
    } else {
        return None;
    };
    let advice = format!(
        "Stripe cannot change this of a price: choose another --plan, or remove the lookup key {:?} from the price",
        desired.lookup_key()
    );
    Some((difference, advice))
}
