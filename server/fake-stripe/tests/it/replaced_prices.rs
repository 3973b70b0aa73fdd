//! The price of an item that is replaced, and a subscription that ends before another begins: which usage is on which
//! invoice.

use fake_stripe::InvoiceSnapshot;

use crate::billing_world::{HALF, MONTH_END, SUB, half_way, lines};
use crate::client::NOW;

fn usage(invoices: &[InvoiceSnapshot]) -> Vec<(String, i64, i64)> {
    let mut all = Vec::new();
    for line in invoices.iter().flat_map(|one| &one.lines) {
        if line.event_name.is_some() && line.quantity != 0 {
            all.push((line.price.clone(), line.quantity, line.amount));
        }
    }
    all
}

#[tokio::test]
async fn usage_is_billed_at_the_price_of_its_time() {
    for (classic, behavior, before, reason) in [
        (false, "create_prorations", true, None),
        (false, "always_invoice", true, None),
        (false, "none", false, Some("item_removed_without_proration")),
        (
            true,
            "create_prorations",
            false,
            Some("item_removed_in_classic_mode"),
        ),
    ] {
        let (world, items) = half_way(&["price_basic"], |new| new.classic = classic).await;
        let replace = [("price", "price_pro"), ("proration_behavior", behavior)];
        let path = format!("/v1/subscription_items/{}", items[0]);
        let replaced = world.post(&path, &replace).await.ok();
        assert_eq!(replaced["id"], items[0].as_str(), "the item stays");
        assert_eq!(
            (
                &replaced["current_period_start"],
                &replaced["current_period_end"]
            ),
            (&NOW.into(), &MONTH_END.into())
        );
        // Of before the replacement, but received after it: on no invoice.
        world.use_at("too_late", 3, HALF - 60).await.ok();
        world.use_at("after", 50, HALF).await.ok();
        world.clock_at(MONTH_END + 3_600).await;
        let mut expected = vec![("price_pro".to_owned(), 50, 200)];
        if before {
            expected.insert(0, ("price_basic".to_owned(), 20, 200));
        }
        assert_eq!(usage(&world.invoices().await), expected, "{behavior}");
        let mut lost: Vec<(String, i64)> = reason
            .map(|reason| (reason.to_owned(), 20))
            .into_iter()
            .collect();
        lost.push(("late".to_owned(), 3));
        assert_eq!(world.discarded().await, lost, "{behavior}");
    }
}

#[tokio::test]
async fn usage_between_two_subscriptions_is_on_no_invoice() {
    let (world, _) = half_way(&["price_basic"], |_| {}).await;
    let now = [("invoice_now", "true")];
    world.call("DELETE", SUB, &now).await.ok();
    world.clock_at(HALF + 86_400).await;
    world.use_at("gap", 5, HALF + 3_600).await.ok();
    world
        .subscribe_with(&["price_basic"], |new| new.id = "sub_2".to_owned())
        .await;
    world.use_at("old", 7, HALF + 86_000).await.ok();
    world.use_at("new", 9, HALF + 86_400).await.ok();
    world.clock_at(HALF + 32 * 86_400).await;
    let read: Vec<_> = world
        .invoices()
        .await
        .iter()
        .map(|one| (one.subscription.clone(), lines(one)[0].1))
        .collect();
    assert_eq!(read, [("sub_1".to_owned(), 20), ("sub_2".to_owned(), 9)]);
}
