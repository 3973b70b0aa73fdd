//! A fake Stripe that has one of everything that is read: a customer, a subscription with usage, its invoices and a product
//! with a mark.

use chrono::DateTime;
use fake_stripe::{FakeStripe, NewPrice, NewSubscription, Settings};

use super::super::{MeterEvent, Stripe};
use crate::{
    config::{Reporting, StripeConfig},
    domain::{DAY_MS, HOUR_MS, Millis, SECOND_MS, window::Interval},
};

/// The names and ids of its objects.
pub(super) const API_CALLS: &str = "api_calls";
pub(super) const METER: &str = "mtr_1";
pub(super) const PRICE: &str = "price_1";
pub(super) const SEATS: &str = "price_seats";
pub(super) const PRODUCT: &str = "prod_1";
pub(super) const CUSTOMER: &str = "cus_1";
pub(super) const SUBSCRIPTION: &str = "sub_1";
pub(super) const LOOKUP_KEY: &str = "calls";
const START: &str = "2027-03-10T00:00:00Z";
/// The end of its first billing period.
const END: &str = "2027-04-10T00:00:00Z";

/// The fake Stripe.
pub(super) struct Sample {
    fake: FakeStripe,
}

impl Sample {
    pub(super) async fn start() -> Self {
        let fake = FakeStripe::start(Settings::default()).await.unwrap();
        let sample = Self { fake };
        let control = sample.fake.control();
        let start = at(START);
        control.set_clock(start + DAY_MS).await.unwrap();
        control
            .create_meter_with_id(METER, API_CALLS)
            .await
            .unwrap();
        let tiers = [(Some(100), "10"), (None, "5")];
        let volume = NewPrice {
            lookup_key: Some(LOOKUP_KEY.to_owned()),
            ..NewPrice::volume(PRICE, PRODUCT, METER, &tiers)
        };
        let seats = NewPrice::licensed(SEATS, "prod_seats", "1000");
        for price in [volume, seats] {
            control.create_price(&price).await.unwrap();
        }
        control.create_customer(CUSTOMER).await.unwrap();
        let subscription = NewSubscription {
            id: SUBSCRIPTION.to_owned(),
            customer: CUSTOMER.to_owned(),
            prices: vec![PRICE.to_owned()],
            anchor: Some(start.div_euclid(SECOND_MS)),
            ..NewSubscription::default()
        };
        control.create_subscription(&subscription).await.unwrap();
        let stripe = sample.stripe_at(sample.url());
        stripe.send(&event(start + HOUR_MS), "first").await.unwrap();
        // The invoice of the first billing period is final.
        control.set_clock(at(END) + 3 * HOUR_MS).await.unwrap();
        sample
    }

    pub(super) fn url(&self) -> &str {
        self.fake.base_url()
    }

    /// A client that sends its requests to a URL.
    pub(super) fn stripe_at(&self, url: &str) -> Stripe {
        let config = StripeConfig {
            stripe_secret_key: None,
            stripe_secret_key_file: None,
            stripe_api_base: Some(url.to_owned()),
            reporting: Reporting::On,
        };
        Stripe::new(self.fake.secret_key(), &config).unwrap()
    }

    pub(super) async fn stop(self) {
        self.fake.stop().await;
    }
}

/// A meter event at a time.
pub(super) fn event(timestamp: Millis) -> MeterEvent {
    MeterEvent {
        event_name: API_CALLS.to_owned(),
        customer: CUSTOMER.to_owned(),
        quantity: 7,
        timestamp,
        identifier: format!("event-{timestamp}"),
    }
}

/// An event that is not too old after the first billing period.
pub(super) fn late_event() -> MeterEvent {
    event(at(END) + HOUR_MS)
}

/// The first billing period.
pub(super) fn period() -> Interval {
    Interval {
        start: at(START),
        end: at(END),
    }
}

fn at(text: &str) -> Millis {
    DateTime::parse_from_rfc3339(text)
        .unwrap()
        .timestamp_millis()
}
