//! JSON bodies of the billing control endpoints, shared by server and client.

use serde::{Deserialize, Serialize};

/// A price to create: metered if it has a meter, else licensed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewPrice {
    /// The price's id.
    pub id: String,
    /// The product's id; the product is created if it does not exist.
    pub product: String,
    /// The meter's id; `None` for a licensed price.
    pub meter: Option<String>,
    /// `day`, `week`, `month` or `year`; `month` if empty.
    pub interval: String,
    /// The currency; `usd` if empty.
    pub currency: String,
    /// `volume` or `graduated`; `None` for a price per unit.
    pub tiers_mode: Option<String>,
    /// The tiers; a price per unit has one, with the unit amount.
    pub tiers: Vec<NewTier>,
    /// The key that the price can be looked up by.
    pub lookup_key: Option<String>,
}

/// One tier of a price.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewTier {
    /// The last quantity of the tier; `None` for the last tier.
    pub up_to: Option<i64>,
    /// The amount per unit, in cents with up to 12 decimal places, such as `0.5`; zero if empty.
    pub unit_amount_decimal: String,
    /// The flat amount of the tier, in cents.
    pub flat_amount: Option<i64>,
}

impl NewPrice {
    /// A monthly volume-tiered price of a meter. A tier is its last quantity and its unit amount in cents.
    pub fn volume(id: &str, product: &str, meter: &str, tiers: &[(Option<i64>, &str)]) -> NewPrice {
        NewPrice {
            id: id.to_owned(),
            product: product.to_owned(),
            meter: Some(meter.to_owned()),
            tiers_mode: Some("volume".to_owned()),
            tiers: tiers
                .iter()
                .map(|(up_to, unit)| NewTier::of(*up_to, unit))
                .collect(),
            ..NewPrice::default()
        }
    }

    /// A monthly price of a meter, in cents per unit.
    pub fn per_unit(id: &str, product: &str, meter: &str, unit_amount: &str) -> NewPrice {
        NewPrice {
            id: id.to_owned(),
            product: product.to_owned(),
            meter: Some(meter.to_owned()),
            tiers: vec![NewTier::of(None, unit_amount)],
            ..NewPrice::default()
        }
    }

    /// A monthly licensed price, in cents per seat.
    pub fn licensed(id: &str, product: &str, unit_amount: &str) -> NewPrice {
        NewPrice {
            id: id.to_owned(),
            product: product.to_owned(),
            tiers: vec![NewTier::of(None, unit_amount)],
            ..NewPrice::default()
        }
    }
}

impl NewTier {
    fn of(up_to: Option<i64>, unit_amount: &str) -> NewTier {
        NewTier {
            up_to,
            unit_amount_decimal: unit_amount.to_owned(),
            flat_amount: None,
        }
    }
}

/// A subscription to create.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewSubscription {
    /// The subscription's id.
    pub id: String,
    /// The customer's id.
    pub customer: String,
    /// The ids of its prices.
    pub prices: Vec<String>,
    /// The quantities of licensed prices, in the order of `prices`; 1 if absent.
    pub quantities: Vec<Option<i64>>,
    /// The billing cycle anchor in seconds; now if absent. An anchor in the past simulates a subscription that started
    /// then: its current period contains the present time and is billed as a whole, earlier periods are not billed.
    pub anchor: Option<i64>,
    /// When a trial that starts now ends, in seconds; no trial if absent.
    pub trial_end: Option<i64>,
    /// What happens at its end, since no customer has a payment method: `create_invoice` (the default), `cancel` or `pause`.
    pub missing_payment_method: Option<String>,
    /// The classic billing mode instead of the flexible one.
    pub classic: bool,
}

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionSnapshot {
    /// The subscription's id.
    pub id: String,
    /// The customer's id.
    pub customer: String,
    /// `active`, `trialing`, `paused` or `canceled`.
    pub status: String,
    /// The billing cycle anchor, in seconds.
    pub anchor: i64,
    /// Whether it is in the flexible billing mode.
    pub flexible: bool,
    /// When it is to end, in seconds.
    pub cancel_at: Option<i64>,
    /// When it ended, in seconds.
    pub ended_at: Option<i64>,
    /// Its items.
    pub items: Vec<ItemSnapshot>,
}

/// An item of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemSnapshot {
    /// The item's id.
    pub id: String,
    /// The price's id.
    pub price: String,
    /// The event name of the price's meter; `None` for a licensed price.
    pub event_name: Option<String>,
    /// The quantity of a licensed price.
    pub quantity: Option<i64>,
    /// The current period's start, in seconds.
    pub period_start: i64,
    /// The current period's end, in seconds.
    pub period_end: i64,
}

/// An invoice; a draft with its usage so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceSnapshot {
    /// The invoice's id.
    pub id: String,
    /// The customer's id.
    pub customer: String,
    /// The subscription's id.
    pub subscription: String,
    /// `draft`, `open`, `paid` (at once if nothing was due), `uncollectible` or `void`.
    pub status: String,
    /// Why it was created, such as `subscription_cycle`.
    pub billing_reason: String,
    /// When it was created, in seconds.
    pub created: i64,
    /// When it became final, in seconds.
    pub finalized_at: Option<i64>,
    /// The start of the period that it bills usage of, in seconds.
    pub period_start: i64,
    /// The end of that period, in seconds.
    pub period_end: i64,
    /// The amount due, in cents.
    pub amount_due: i64,
    /// Its lines.
    pub lines: Vec<InvoiceLineSnapshot>,
}

/// A line of an invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceLineSnapshot {
    /// The line's id.
    pub id: String,
    /// The subscription item's id.
    pub item: String,
    /// The price's id.
    pub price: String,
    /// The event name of the price's meter; `None` for a fee.
    pub event_name: Option<String>,
    /// The quantity used, or the number of seats.
    pub quantity: i64,
    /// The amount in cents; negative for a credit.
    pub amount: i64,
    /// The start of the line's period, in seconds.
    pub period_start: i64,
    /// The end of the line's period, in seconds.
    pub period_end: i64,
    /// Whether it is a proration.
    pub proration: bool,
}

/// Usage that no invoice of this subscription will bill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscardedUsage {
    /// The customer's id.
    pub customer: String,
    /// The subscription's id.
    pub subscription: String,
    /// The price's id.
    pub price: String,
    /// The event name of the price's meter.
    pub event_name: String,
    /// The quantity.
    pub quantity: i64,
    /// The start of its time range, in seconds.
    pub from: i64,
    /// The end of that range, in seconds.
    pub to: i64,
    /// `canceled_without_invoice`, `item_removed_in_classic_mode`, `item_removed_without_proration`, `in_trial`,
    /// `while_paused`, `invoice_voided`; or `late`: it arrived after its range was invoiced or discarded.
    pub reason: String,
    /// When its range became final, in seconds.
    pub at: i64,
}

/// How webhooks are delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookOptions {
    /// Withhold deliveries until [`crate::Control::deliver_webhooks`].
    pub on_demand: bool,
    /// How many times each event is delivered: 1 as usual, 2 for duplicates, 0 to drop it.
    pub copies: u32,
    /// Send the newest queued delivery first.
    pub newest_first: bool,
    /// Real time before each delivery is sent, in milliseconds.
    pub delay_ms: u64,
}

impl Default for WebhookOptions {
    fn default() -> Self {
        WebhookOptions {
            on_demand: false,
            copies: 1,
            newest_first: false,
            delay_ms: 0,
        }
    }
}

/// One delivery of an event to a webhook, with all its attempts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliverySnapshot {
    /// The URL that it was sent to.
    pub url: String,
    /// The event's id.
    pub event: String,
    /// The event's type.
    pub kind: String,
    /// The number of attempts.
    pub attempts: u32,
    /// The HTTP status of the last attempt; `None` without a response.
    pub status: Option<u16>,
}

impl DeliverySnapshot {
    /// Whether the receiver answered with a 2xx status.
    pub fn is_accepted(&self) -> bool {
        self.status
            .is_some_and(|status| (200..300).contains(&status))
    }
}

/// A webhook to register.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewWebhook {
    pub(crate) url: String,
    /// Every secret signs; two simulate a secret that is being rolled.
    pub(crate) secrets: Vec<String>,
    /// The subscribed event types, where a final `*` matches any suffix; all types if empty.
    #[serde(default)]
    pub(crate) kinds: Vec<String>,
}

/// A thin event to send.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewThinEvent {
    pub(crate) kind: String,
    pub(crate) meter: Option<String>,
}

/// A change of the billing settings; absent fields stay unchanged.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BillingChange {
    pub(crate) grace_secs: Option<u64>,
    /// Whether final invoices lack usage that is not in summaries yet.
    pub(crate) invoices_lag: Option<bool>,
    /// Whether lines have no quantity.
    pub(crate) hide_quantities: Option<bool>,
}

/// A number of deliveries.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) count: usize,
}

/// A number of accepted deliveries to wait for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhookWait {
    pub(crate) accepted: usize,
    pub(crate) timeout_ms: u64,
}
