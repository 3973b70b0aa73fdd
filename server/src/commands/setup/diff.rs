//! Whether what Stripe has is what is asked for. Pure: it says what differs and what to do.

use super::{DesiredPrice, Outcome, Seen, Step};
use crate::{
    domain::tier::tiers_text,
    stripe::catalog::{CUSTOMER_KEY, CatalogMeter, CatalogPrice, VALUE_KEY},
};

/// One thing that is not as asked, and what to do about it.
type Fault = (String, String);

/// What became of each object; `created` names those that this run made.
pub(super) fn steps(
    wanted: &[DesiredPrice],
    seen: &[Seen],
    created: &[(String, &'static str)],
) -> Vec<Step> {
    let mut steps = Vec::new();
    for (wanted, seen) in wanted.iter().zip(seen) {
        let name = &*wanted.meter.name;
        let mut step = |object: &'static str, id: String, fault: Option<Option<Fault>>| {
            let outcome = match fault {
                None => Outcome::Missing,
                Some(Some((why, advice))) => Outcome::Wrong { why, advice },
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
        let meter = seen.meter.as_ref();
        step(
            "meter",
            meter.map_or_else(
                || wanted.meter.event_name.to_string(),
                |meter| meter.id.clone(),
            ),
            meter.map(meter_fault),
        );
        let product = seen.product.as_ref();
        step(
            "product",
            wanted.product_id(),
            product.map(|product| {
                (!product.is_active).then(|| {
                    (
                        "it is archived".to_owned(),
                        "unarchive it in Stripe's dashboard".to_owned(),
                    )
                })
            }),
        );
        let price = seen.price.as_ref();
        step(
            "price",
            price.map_or_else(|| wanted.lookup_key(), |price| price.id.clone()),
            price.map(|price| price_fault(wanted, meter, price)),
        );
    }
    steps
}

/// What keeps a meter from summing our events.
pub(crate) fn meter_fault(meter: &CatalogMeter) -> Option<Fault> {
    let other = "archive it and run this again, or configure another event name for it";
    if !meter.is_active {
        return Some((
            "it is archived, so Stripe takes no usage of it".to_owned(),
            "reactivate it in Stripe's dashboard, or configure another event name".to_owned(),
        ));
    }
    let why = if meter.aggregation != "sum" {
        format!("its aggregation is {}, not sum", meter.aggregation)
    } else if let Some(window) = &meter.event_time_window {
        format!("it expects events that were summed by the {window}, not raw ones")
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
    Some((why, other.to_owned()))
}

fn price_fault(
    wanted: &DesiredPrice,
    meter: Option<&CatalogMeter>,
    price: &CatalogPrice,
) -> Option<Fault> {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    if !price.is_active {
        return Some((
            "it is archived".to_owned(),
            "unarchive it in Stripe's dashboard, or take another --plan".to_owned(),
        ));
    }
    let why = if price.product != wanted.product_id() {
        format!(
            "it belongs to product {}, not {}",
            price.product,
            wanted.product_id()
        )
    } else if price.currency != wanted.currency {
        format!(
            "its currency is {}, not {}",
            price.currency, wanted.currency
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
            "it counts meter {}, not {}",
            or_none(&price.meter),
            meter.map_or("the one that is to be created", |meter| &meter.id)
        )
    } else if !price.is_volume() {
        format!("its tiers are {}, not volume", or_none(&price.tiers_mode))
    } else if price.tiers.as_ref() != Some(&wanted.tiers) {
        format!(
            "its tiers are {}, not {}",
            price.tiers.as_ref().map_or_else(
                || "of a form that is not understood".to_owned(),
                |tiers| tiers_text(tiers)
            ),
            tiers_text(&wanted.tiers)
        )
    } else {
        return None;
    };
    let advice = format!(
        "Stripe cannot change that of a price: take another --plan, or take the lookup key {:?} away from it",
        wanted.lookup_key()
    );
    Some((why, advice))
}
