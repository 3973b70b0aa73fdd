//! What the tests of billing have in common: a world with prices, and the reading of invoices.

use std::time::Duration;

use fake_stripe::{InvoiceLineSnapshot, InvoiceSnapshot, NewPrice, NewSubscription};

use crate::client::{NOW, Reply, World, event};

pub(crate) const HOUR: Duration = Duration::from_hours(1);
pub(crate) const DAY: Duration = Duration::from_hours(24);
/// The end of the first month of a subscription that begins at `NOW`: 2026-12-15 10:20:30 UTC.
pub(crate) const MONTH_END: i64 = NOW + 30 * 86_400;

/// The middle of that month.
pub(crate) const HALF: i64 = NOW + 15 * 86_400;
pub(crate) const SUB: &str = "/v1/subscriptions/sub_1";

impl World {
    /// A world with the volume price `price_basic` on `calls` (10 cents each, 5 beyond 100 units), the volume price
    /// `price_pro` (4 cents), the price by the unit `price_flat`, and seats at 30 dollars, `price_seat`.
    pub(crate) async fn billing() -> World {
        let world = World::new().await;
        let prices = [
            NewPrice::volume(
                "price_basic",
                "prod_calls",
                "mtr_1",
                &[(Some(100), "10"), (None, "5")],
            ),
            NewPrice::volume("price_pro", "prod_calls", "mtr_1", &[(None, "4")]),
            NewPrice::per_unit("price_flat", "prod_calls", "mtr_1", "0.5"),
            NewPrice::licensed("price_seat", "prod_seats", "3000"),
        ];
        for price in &prices {
            world.control.create_price(price).await.unwrap();
        }
        world
    }

    /// Begins the subscription `sub_1` of `cus_1`, and answers the ids of its items.
    pub(crate) async fn subscribe(&self, prices: &[&str]) -> Vec<String> {
        self.subscribe_with(prices, |_| {}).await
    }

    pub(crate) async fn subscribe_with(
        &self,
        prices: &[&str],
        change: impl FnOnce(&mut NewSubscription),
    ) -> Vec<String> {
        let mut new = NewSubscription {
            id: "sub_1".to_owned(),
            customer: "cus_1".to_owned(),
            prices: prices.iter().map(|price| (*price).to_owned()).collect(),
            ..NewSubscription::default()
        };
        change(&mut new);
        let made = self.control.create_subscription(&new).await.unwrap();
        made.items.into_iter().map(|item| item.id).collect()
    }

    /// An event of `calls` by `cus_1` at this time.
    pub(crate) async fn use_at(&self, identifier: &str, value: i64, timestamp: i64) -> Reply {
        let (value, timestamp) = (value.to_string(), timestamp.to_string());
        let mut pairs = event(identifier, &value);
        pairs.push(("timestamp", &timestamp));
        self.post("/v1/billing/meter_events", &pairs).await
    }

    pub(crate) async fn clock_at(&self, secs: i64) {
        self.control.set_clock(secs * 1_000).await.unwrap();
    }

    pub(crate) async fn invoices(&self) -> Vec<InvoiceSnapshot> {
        self.control.invoices().await.unwrap()
    }

    /// Reason and quantity of usage that is never billed.
    pub(crate) async fn discarded(&self) -> Vec<(String, i64)> {
        let all = self.control.discarded_usage().await.unwrap();
        all.into_iter()
            .map(|one| (one.reason, one.quantity))
            .collect()
    }
}

/// Event name or price, quantity and amount of each line.
pub(crate) fn lines(invoice: &InvoiceSnapshot) -> Vec<(&str, i64, i64)> {
    let read = |line: &InvoiceLineSnapshot| (line.quantity, line.amount);
    invoice
        .lines
        .iter()
        .map(|line| {
            let (quantity, amount) = read(line);
            let name = line.event_name.as_deref().unwrap_or(&line.price);
            (name, quantity, amount)
        })
        .collect()
}

/// A subscription with usage in its first half, in the middle of its period.
pub(crate) async fn half_way(
    prices: &[&str],
    change: impl FnOnce(&mut NewSubscription),
) -> (World, Vec<String>) {
    let world = World::billing().await;
    let items = world.subscribe_with(prices, change).await;
    world.use_at("early", 20, NOW).await.ok();
    world.clock_at(HALF).await;
    (world, items)
}
