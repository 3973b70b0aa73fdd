//! `/v1/prices`: the amounts, the interval and the meter of a product's prices.

use serde_json::{Value, json};

use super::calendar::{Interval, Recurrence};
use super::money::Cents;
use super::products::Product;
use super::tiers::Scheme;
use crate::customer_balances::check_currency;
use crate::errors::StripeError;
use crate::ids;
use crate::list::{Collection, Created, Paging};
use crate::metadata::{Metadata, MetadataChange};
use crate::meters::Meter;
use crate::params::Params;
use crate::search::{Fields, search};

/// How often a price recurs, and its meter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recurring {
    pub(crate) recurrence: Recurrence,
    /// The meter of a metered price; a licensed one has none.
    pub(crate) meter: Option<String>,
}

/// A price of a product.
#[derive(Debug, Clone)]
pub(crate) struct Price {
    pub(crate) id: String,
    pub(crate) product: String,
    pub(crate) active: bool,
    pub(crate) currency: String,
    pub(crate) scheme: Scheme,
    pub(crate) recurring: Option<Recurring>,
    pub(crate) lookup_key: Option<String>,
    pub(crate) nickname: Option<String>,
    pub(crate) metadata: Metadata,
    pub(crate) created: i64,
}

impl Price {
    /// The meter of a metered price.
    pub(crate) fn meter(&self) -> Option<&str> {
        self.recurring.as_ref()?.meter.as_deref()
    }

    /// How often it recurs; a price that does not recur is on no subscription.
    pub(crate) fn recurrence(&self) -> Recurrence {
        self.recurring.as_ref().map_or(
            Recurrence {
                interval: Interval::Month,
                count: 1,
            },
            |recurring| recurring.recurrence,
        )
    }

    fn usage_type(&self) -> &'static str {
        if self.meter().is_some() {
            "metered"
        } else {
            "licensed"
        }
    }

    fn billing_scheme(&self) -> &'static str {
        if self.scheme.tiers().is_some() {
            "tiered"
        } else {
            "per_unit"
        }
    }

    /// The price as Stripe writes it: without tiers, which can be expanded.
    pub(crate) fn json(&self) -> Value {
        let recurring = self.recurring.as_ref().map(|recurring| {
            json!({
                "interval": recurring.recurrence.interval.name(),
                "interval_count": recurring.recurrence.count,
                "meter": recurring.meter,
                "trial_period_days": null,
                "usage_type": self.usage_type(),
            })
        });
        json!({
            "id": self.id,
            "object": "price",
            "active": self.active,
            "billing_scheme": self.billing_scheme(),
            "created": self.created,
            "currency": self.currency,
            "custom_unit_amount": null,
            "livemode": false,
            "lookup_key": self.lookup_key,
            "metadata": self.metadata,
            "nickname": self.nickname,
            "product": self.product,
            "recurring": recurring,
            "tax_behavior": "unspecified",
            "tiers_mode": self.scheme.tiers_mode(),
            "transform_quantity": null,
            "type": if self.recurring.is_some() { "recurring" } else { "one_time" },
            "unit_amount": self.scheme.unit().and_then(Cents::as_whole),
            "unit_amount_decimal": self.scheme.unit().map(|unit| unit.to_string()),
        })
    }

    /// The price as a plan, the older object, which subscription items still have.
    pub(crate) fn plan_json(&self) -> Value {
        let recurrence = self.recurrence();
        json!({
            "id": self.id,
            "object": "plan",
            "active": self.active,
            "amount": self.scheme.unit().and_then(Cents::as_whole),
            "amount_decimal": self.scheme.unit().map(|unit| unit.to_string()),
            "billing_scheme": self.billing_scheme(),
            "created": self.created,
            "currency": self.currency,
            "interval": recurrence.interval.name(),
            "interval_count": recurrence.count,
            "livemode": false,
            "metadata": self.metadata,
            "meter": self.meter(),
            "nickname": self.nickname,
            "product": self.product,
            "tiers_mode": self.scheme.tiers_mode(),
            "transform_usage": null,
            "trial_period_days": null,
            "usage_type": self.usage_type(),
        })
    }
}

impl Recurring {
    /// Takes `recurring`; a metered price must name a meter that is active.
    fn take(
        meters: &Collection<Meter>,
        params: &mut Params,
    ) -> Result<Option<Recurring>, StripeError> {
        let Some(mut recurring) = params.nested("recurring")? else {
            return Ok(None);
        };
        let interval = recurring
            .one_of("interval", &Interval::NAMES)?
            .and_then(Interval::parse)
            .ok_or_else(|| StripeError::missing_param("recurring[interval]"))?;
        let count = recurring.integer("interval_count")?.unwrap_or(1);
        let usage_type = recurring.one_of("usage_type", &["licensed", "metered"])?;
        let meter = recurring.text("meter")?;
        recurring.finish()?;
        // Stripe's limit: three years.
        let most = match interval {
            Interval::Day => 1_095,
            Interval::Week => 156,
            Interval::Month => 36,
            Interval::Year => 3,
        };
        if !(1..=most).contains(&count) {
            return Err(
                StripeError::invalid("Invalid interval_count").param("recurring[interval_count]")
            );
        }
        let refuse = |message: String| Err(StripeError::refused(message).param("recurring[meter]"));
        match (usage_type, &meter) {
            (Some("metered"), None) => {
                return refuse(
                    "Metered prices must be backed by a meter: set `recurring[meter]`. Usage records are no longer \
                     supported since API version 2025-03-31.basil."
                        .to_owned(),
                );
            }
            (Some("metered"), Some(id)) => match meters.get(id) {
                None => {
                    return Err(StripeError::refused(format!("No such meter: '{id}'"))
                        .code("resource_missing")
                        .param("recurring[meter]"));
                }
                Some(meter) if !meter.is_active() => {
                    return refuse(format!("The meter {id} is inactive."));
                }
                Some(_) => {}
            },
            (_, Some(_)) => {
                return refuse(
                    "Only a price with `usage_type=metered` can have a meter.".to_owned(),
                );
            }
            (_, None) => {}
        }
        Ok(Some(Recurring {
            recurrence: Recurrence { interval, count },
            meter,
        }))
    }
}

/// Creates a price under this id, and its product from `product_data`.
pub(crate) fn create(
    prices: &mut Collection<Price>,
    products: &mut Collection<Product>,
    meters: &Collection<Meter>,
    now: i64,
    id: &str,
    mut params: Params,
) -> Result<Value, StripeError> {
    let currency = params.required("currency")?.to_ascii_lowercase();
    check_currency(&currency)?;
    let product = params.text("product")?;
    let product_data = params.nested("product_data")?;
    let scheme = Scheme::take(&mut params)?;
    let recurring = Recurring::take(meters, &mut params)?;
    let active = params.boolean("active")?.unwrap_or(true);
    let nickname = params.text("nickname")?;
    let lookup_key = params.text("lookup_key")?;
    let transfer = params.boolean("transfer_lookup_key")?.unwrap_or(false);
    let metadata = MetadataChange::take(&mut params)?.applied_to(&Metadata::new())?;
    params.one_of_supported(
        "tax_behavior",
        &["unspecified"],
        &["exclusive", "inclusive"],
    )?;
    params.finish()?;
    claim_lookup_key(prices, lookup_key.as_deref(), transfer, id)?;
    let product = match (product, product_data) {
        (Some(id), None) if products.contains(&id) => id,
        (Some(id), None) => {
            return Err(StripeError::refused(format!("No such product: '{id}'"))
                .code("resource_missing")
                .param("product"));
        }
        (None, Some(mut data)) => {
            let id = data.text("id")?.unwrap_or_else(|| ids::billing("prod_"));
            let made = Product::new(&id, &data.required("name")?, now);
            data.finish()?;
            products.insert(&id, made);
            id
        }
        _ => return Err(StripeError::missing_param("product")),
    };
    let price = Price {
        id: id.to_owned(),
        product,
        active,
        currency,
        scheme,
        recurring,
        lookup_key,
        nickname,
        metadata,
        created: now,
    };
    let body = price.json();
    prices.insert(id, price);
    Ok(body)
}

/// A lookup key belongs to one price; `transfer_lookup_key` moves it from another.
fn claim_lookup_key(
    prices: &mut Collection<Price>,
    key: Option<&str>,
    transfer: bool,
    id: &str,
) -> Result<(), StripeError> {
    let Some(key) = key else { return Ok(()) };
    let owner = prices
        .newest_first()
        .find(|price| price.lookup_key.as_deref() == Some(key) && price.id != id)
        .map(|price| price.id.clone());
    let Some(owner) = owner else { return Ok(()) };
    if !transfer {
        return Err(StripeError::refused(format!(
            "A price ({owner}) already uses that lookup key."
        ))
        .code("resource_already_exists")
        .param("lookup_key"));
    }
    if let Some(price) = prices.get_mut(&owner) {
        price.lookup_key = None;
    }
    Ok(())
}

pub(crate) fn retrieve(
    prices: &mut Collection<Price>,
    id: &str,
    params: Params,
) -> Result<Value, StripeError> {
    params.finish()?;
    Ok(find(prices, id)?.json())
}

pub(crate) fn update(
    prices: &mut Collection<Price>,
    id: &str,
    mut params: Params,
) -> Result<Value, StripeError> {
    let active = params.boolean("active")?;
    let nickname = params.text_or_empty("nickname")?;
    let lookup_key = params.text_or_empty("lookup_key")?;
    let transfer = params.boolean("transfer_lookup_key")?.unwrap_or(false);
    let metadata = MetadataChange::take(&mut params)?;
    params.finish()?;
    let metadata = metadata.applied_to(&find(prices, id)?.metadata)?;
    let new_key = lookup_key.as_deref().filter(|key| !key.is_empty());
    claim_lookup_key(prices, new_key, transfer, id)?;
    let price = find(prices, id)?;
    price.metadata = metadata;
    price.active = active.unwrap_or(price.active);
    if let Some(nickname) = nickname {
        price.nickname = Some(nickname).filter(|text| !text.is_empty());
    }
    if let Some(key) = lookup_key {
        price.lookup_key = Some(key).filter(|text| !text.is_empty());
    }
    Ok(price.json())
}

pub(crate) fn list(prices: &Collection<Price>, mut params: Params) -> Result<Value, StripeError> {
    let paging = Paging::take(&mut params)?;
    let active = params.boolean("active")?;
    let product = params.text("product")?;
    let currency = params.text("currency")?;
    let kind = params.one_of("type", &["recurring", "one_time"])?;
    let lookup_keys = params.text_list("lookup_keys")?;
    let created = Created::take(&mut params)?;
    let (mut meter, mut usage_type, mut interval) = (None, None, None);
    if let Some(mut recurring) = params.nested("recurring")? {
        meter = recurring.text("meter")?;
        usage_type = recurring.one_of("usage_type", &["licensed", "metered"])?;
        interval = recurring.one_of("interval", &Interval::NAMES)?;
        recurring.finish()?;
    }
    params.finish()?;
    let all: Vec<Value> = prices
        .newest_first()
        .filter(|price| active.is_none_or(|active| price.active == active))
        .filter(|price| {
            product
                .as_ref()
                .is_none_or(|wanted| price.product == *wanted)
        })
        .filter(|price| {
            currency
                .as_ref()
                .is_none_or(|wanted| price.currency == *wanted)
        })
        .filter(|price| kind.is_none_or(|kind| (kind == "recurring") == price.recurring.is_some()))
        .filter(|price| meter.is_none() || price.meter() == meter.as_deref())
        .filter(|price| usage_type.is_none_or(|wanted| price.usage_type() == wanted))
        .filter(|price| interval.is_none_or(|wanted| price.recurrence().interval.name() == wanted))
        .filter(|price| created.contains(price.created))
        .filter(|price| {
            let key = price.lookup_key.as_ref();
            lookup_keys.is_empty() || key.is_some_and(|key| lookup_keys.contains(key))
        })
        .map(Price::json)
        .collect();
    paging.page("price", "/v1/prices", &all)
}

/// The fields that prices can be searched by.
const SEARCHED: Fields = Fields {
    resource: "prices",
    tokens: &["active", "currency", "lookup_key", "product", "type"],
    texts: &[],
    numbers: &[],
};

/// The search by Stripe's query language.
pub(crate) fn find_by_query(
    prices: &Collection<Price>,
    params: Params,
) -> Result<Value, StripeError> {
    let all: Vec<Value> = prices.newest_first().map(Price::json).collect();
    search(params, &SEARCHED, &all)
}

/// The price of an existing subscription item; prices are never removed.
pub(crate) fn price_of(prices: &Collection<Price>, id: &str) -> Result<Price, StripeError> {
    prices.get(id).cloned().ok_or_else(|| {
        StripeError::refused(format!("No such price: '{id}'"))
            .code("resource_missing")
            .param("items[0][price]")
    })
}

fn find<'a>(prices: &'a mut Collection<Price>, id: &str) -> Result<&'a mut Price, StripeError> {
    prices
        .get_mut(id)
        .ok_or_else(|| StripeError::no_such("price", id))
}
