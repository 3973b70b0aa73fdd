//! Meters, products and prices: read and created, for the commands `stripe setup` and `doctor`.
//!
//! It checks nothing: that is `commands::setup::diff`. The caller chooses the idempotency key of each creation. Lists
//! are read up to a limit, and the answer says whether it is complete.

use std::{collections::HashMap, future::Future};

use stripe::StripeRequest as _;
use stripe_billing::{
    BillingMeter,
    billing_meter::{
        CreateBillingMeter, CreateBillingMeterCustomerMapping,
        CreateBillingMeterCustomerMappingType, CreateBillingMeterDefaultAggregation,
        CreateBillingMeterDefaultAggregationFormula, CreateBillingMeterValueSettings,
        ListBillingMeter,
    },
};
use stripe_product::{
    Price, PriceBillingScheme, PriceTier, PriceTiersMode, Product,
    price::{
        CreatePrice, CreatePriceRecurring, CreatePriceRecurringInterval,
        CreatePriceRecurringUsageType, CreatePriceTiers, CreatePriceTiersUpTo, ListPrice,
        ListPriceRecurring,
    },
    product::{CreateProduct, RetrieveProduct},
};
use stripe_types::Currency;

use super::{
    Failure, MAX_METERS, METER, PAGE_SIZE, PRICE, Stripe, failure, idempotent, is_not_found,
    object_list::{ListPage, Unreadable},
    transport::RequestError,
};
use crate::domain::tier::{Amount, Tier};

/// The payload key of the customer in a meter event.
pub(crate) const CUSTOMER_KEY: &str = "stripe_customer_id";
/// The payload key of the quantity in a meter event.
pub(crate) const VALUE_KEY: &str = "value";
/// Prices of one meter that are read.
const MAX_PRICES: usize = 1_000;
/// Stripe's limit of a product's unit label.
const MAX_UNIT_CHARS: usize = 12;

/// A list that was read up to a limit.
#[derive(Clone, Debug)]
pub(crate) struct BoundedList<T> {
    /// The items, newest first.
    pub(crate) items: Vec<T>,
    /// Whether these are all items.
    pub(crate) is_complete: bool,
    /// Items that cannot be read.
    pub(crate) unreadable: Vec<Unreadable>,
}

/// A Stripe meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CatalogMeter {
    /// `mtr_...`
    pub(crate) id: String,
    /// The name of its events.
    pub(crate) event_name: String,
    /// Whether Stripe accepts its events.
    pub(crate) is_active: bool,
    /// `sum`, `count` or `last`.
    pub(crate) aggregation: String,
    /// `day` or `hour` if Stripe expects events that are already summed.
    pub(crate) event_time_window: Option<String>,
    /// The payload key of the customer.
    pub(crate) customer_key: String,
    /// The payload key of the quantity.
    pub(crate) value_key: String,
}

/// A Stripe product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CatalogProduct {
    /// Its id.
    pub(crate) id: String,
    /// Whether it can be sold.
    pub(crate) is_active: bool,
    /// What was stored with it.
    pub(crate) metadata: HashMap<String, String>,
}

/// A Stripe price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CatalogPrice {
    /// `price_...`
    pub(crate) id: String,
    /// The product that it belongs to.
    pub(crate) product: String,
    /// Whether it can be subscribed to.
    pub(crate) is_active: bool,
    /// Three letters.
    pub(crate) currency: String,
    /// Such as `1 month`; `None` for a one-time price.
    pub(crate) interval: Option<String>,
    /// Whether it charges for usage.
    pub(crate) is_metered: bool,
    /// The meter that it charges for.
    pub(crate) meter: Option<String>,
    /// `volume` or `graduated`; `None` without tiers.
    pub(crate) tiers_mode: Option<String>,
    /// The tiers, if they were requested and can be represented.
    pub(crate) tiers: Option<Vec<Tier>>,
}

impl CatalogPrice {
    /// Whether the tier that the total reaches sets the price of all units.
    pub(crate) fn is_volume(&self) -> bool {
        self.tiers_mode.as_deref() == Some("volume")
    }
}

/// A price to create.
#[derive(Clone, Debug)]
pub(crate) struct NewPrice<'a> {
    /// Its lookup key.
    pub(crate) lookup_key: &'a str,
    /// The product's id.
    pub(crate) product: &'a str,
    /// The meter's id.
    pub(crate) meter: &'a str,
    /// Three letters.
    pub(crate) currency: &'a str,
    /// Its name in the dashboard.
    pub(crate) nickname: &'a str,
    /// Its tiers.
    pub(crate) tiers: &'a [Tier],
}

impl Stripe {
    /// The meters of the account, archived ones too.
    pub(crate) async fn list_meters(&self) -> Result<BoundedList<CatalogMeter>, Failure> {
        let client = self.client()?;
        let page = |after: Option<String>| {
            let mut query = ListBillingMeter::new().limit(PAGE_SIZE);
            if let Some(after) = after {
                query = query.starting_after(after);
            }
            async move { client.list(&query, METER).await }
        };
        read_pages(MAX_METERS, page, read_meter).await
    }

    /// The product with an id, if it exists.
    pub(crate) async fn find_product(&self, id: &str) -> Result<Option<CatalogProduct>, Failure> {
        match RetrieveProduct::new(id).send(self.client()?).await {
            Ok(product) => Ok(Some(read_product(&product))),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(failure(&error)),
        }
    }

    /// The price with a lookup key, archived or not, with its tiers.
    pub(crate) async fn find_price_by_key(
        &self,
        lookup_key: &str,
    ) -> Result<Option<CatalogPrice>, Failure> {
        let page = ListPrice::new()
            .lookup_keys([lookup_key.to_owned()])
            .expand(["data.tiers".to_owned()])
            .limit(1)
            .send(self.client()?)
            .await
            .map_err(|error| failure(&error))?;
        Ok(page.data.into_iter().next().map(read_price))
    }

    /// The active prices of a meter, without their tiers.
    pub(crate) async fn list_prices(
        &self,
        meter: &str,
    ) -> Result<BoundedList<CatalogPrice>, Failure> {
        let client = self.client()?;
        let page = |after: Option<String>| {
            let mut recurring = ListPriceRecurring::new();
            recurring.meter = Some(meter.to_owned());
            let mut query = ListPrice::new()
                .active(true)
                .recurring(recurring)
                .limit(PAGE_SIZE);
            if let Some(after) = after {
                query = query.starting_after(after);
            }
            async move { client.list(&query, PRICE).await }
        };
        read_pages(MAX_PRICES, page, read_price).await
    }

    /// Creates a meter that sums raw events.
    pub(crate) async fn create_meter(&self, event_name: &str, key: &str) -> Result<(), Failure> {
        let create = CreateBillingMeter::new(
            CreateBillingMeterDefaultAggregation::new(
                CreateBillingMeterDefaultAggregationFormula::Sum,
            ),
            event_name,
            event_name,
        )
        .customer_mapping(CreateBillingMeterCustomerMapping::new(
            CUSTOMER_KEY,
            CreateBillingMeterCustomerMappingType::ById,
        ))
        .value_settings(CreateBillingMeterValueSettings::new(VALUE_KEY));
        let sent = create.customize().request_strategy(idempotent(key)?);
        match sent.send(self.client()?).await {
            Ok(_) => Ok(()),
            Err(error) => Err(failure(&error)),
        }
    }

    /// Creates a product with the given id.
    pub(crate) async fn create_product(
        &self,
        id: &str,
        name: &str,
        unit: &str,
        key: &str,
    ) -> Result<(), Failure> {
        let mut create = CreateProduct::new(name).id(id);
        if !unit.is_empty() && unit.chars().count() <= MAX_UNIT_CHARS {
            create = create.unit_label(unit);
        }
        let sent = create.customize().request_strategy(idempotent(key)?);
        match sent.send(self.client()?).await {
            Ok(_) => Ok(()),
            Err(error) => Err(failure(&error)),
        }
    }

    /// Creates a monthly volume price of a meter.
    pub(crate) async fn create_price(&self, new: &NewPrice<'_>, key: &str) -> Result<(), Failure> {
        let mut recurring = CreatePriceRecurring::new(CreatePriceRecurringInterval::Month);
        recurring.usage_type = Some(CreatePriceRecurringUsageType::Metered);
        recurring.meter = Some(new.meter.to_owned());
        let tiers: Vec<CreatePriceTiers> = new.tiers.iter().map(new_tier).collect();
        let create = CreatePrice::new(currency(new.currency))
            .product(new.product)
            .billing_scheme(PriceBillingScheme::Tiered)
            .tiers_mode(PriceTiersMode::Volume)
            .tiers(tiers)
            .recurring(recurring)
            .lookup_key(new.lookup_key)
            .nickname(new.nickname);
        let sent = create.customize().request_strategy(idempotent(key)?);
        match sent.send(self.client()?).await {
            Ok(_) => Ok(()),
            Err(error) => Err(failure(&error)),
        }
    }
}

/// Reads a list page by page up to a limit. `fetch` returns the page after an id.
pub(super) async fn read_pages<T, U, F>(
    limit: usize,
    fetch: impl Fn(Option<String>) -> F,
    read: impl Fn(T) -> U,
) -> Result<BoundedList<U>, Failure>
where
    F: Future<Output = Result<ListPage<T>, RequestError>>,
{
    let (mut items, mut unreadable) = (Vec::new(), Vec::new());
    let mut after = None;
    loop {
        let page = fetch(after.take()).await.map_err(|error| failure(&error))?;
        items.extend(page.items.into_iter().map(&read));
        unreadable.extend(page.unreadable);
        let count = items.len().saturating_add(unreadable.len());
        match page.next {
            Some(next) if count < limit => after = Some(next),
            next => {
                return Ok(BoundedList {
                    items,
                    is_complete: next.is_none(),
                    unreadable,
                });
            }
        }
    }
}

fn read_meter(meter: BillingMeter) -> CatalogMeter {
    CatalogMeter {
        id: meter.id.to_string(),
        event_name: meter.event_name,
        is_active: meter.status.as_str() == "active",
        aggregation: meter.default_aggregation.formula.as_str().to_owned(),
        event_time_window: meter
            .event_time_window
            .map(|window| window.as_str().to_owned()),
        customer_key: meter.customer_mapping.event_payload_key,
        value_key: meter.value_settings.event_payload_key,
    }
}

fn read_product(product: &Product) -> CatalogProduct {
    CatalogProduct {
        id: product.id.to_string(),
        is_active: product.active,
        metadata: product.metadata.clone(),
    }
}

pub(super) fn read_price(price: Price) -> CatalogPrice {
    let recurring = price.recurring.as_ref();
    CatalogPrice {
        id: price.id.to_string(),
        is_active: price.active,
        currency: price.currency.to_string(),
        interval: recurring
            .map(|every| format!("{} {}", every.interval_count, every.interval.as_str())),
        is_metered: recurring.is_some_and(|every| every.usage_type.as_str() == "metered"),
        meter: recurring.and_then(|every| every.meter.clone()),
        tiers_mode: price.tiers_mode.map(|mode| mode.as_str().to_owned()),
        tiers: price
            .tiers
            .and_then(|tiers| tiers.iter().map(read_tier).collect()),
        product: price.product.into_id().to_string(),
    }
}

/// A tier of Stripe's; `None` if an amount cannot be represented.
fn read_tier(tier: &PriceTier) -> Option<Tier> {
    let amount = |decimal: Option<&String>, whole: Option<i64>| match (decimal, whole) {
        (Some(text), _) => text.parse::<Amount>().ok(),
        (None, Some(whole)) => whole.to_string().parse().ok(),
        (None, None) => Some(Amount::zero()),
    };
    Some(Tier {
        up_to: tier.up_to,
        unit: amount(tier.unit_amount_decimal.as_ref(), tier.unit_amount)?,
        flat: amount(tier.flat_amount_decimal.as_ref(), tier.flat_amount)?,
    })
}

fn new_tier(tier: &Tier) -> CreatePriceTiers {
    let mut new = CreatePriceTiers::new(match tier.up_to {
        Some(up_to) => CreatePriceTiersUpTo::I64(up_to),
        None => CreatePriceTiersUpTo::Inf,
    });
    new.unit_amount_decimal = Some(tier.unit.as_str().to_owned());
    if !tier.flat.is_zero() {
        new.flat_amount_decimal = Some(tier.flat.as_str().to_owned());
    }
    new
}

fn currency(name: &str) -> Currency {
    let Ok(currency) = name.parse();
    currency
}
