//! Subscriptions that end: at once, at a period's end, at a moment, with their customer.

use serde_json::json;

use crate::billing_world::{HALF, MONTH_END, SUB, half_way, lines};
use crate::client::NOW;

#[tokio::test]
async fn a_cancel_bills_usage_only_with_invoice_now() {
    for (pairs, billed) in [(&[("invoice_now", "true")][..], true), (&[][..], false)] {
        let (world, _) = half_way(&["price_basic"], |_| {}).await;
        let ended = world.call("DELETE", SUB, pairs).await.ok();
        assert_eq!(
            (&ended["status"], &ended["ended_at"]),
            (&json!("canceled"), &json!(HALF))
        );
        world.clock_at(MONTH_END + 7_200).await;
        let invoices = world.invoices().await;
        if billed {
            assert_eq!(lines(&invoices[0]), [("calls", 20, 200)]);
            assert_eq!((invoices.len(), invoices[0].status.as_str()), (1, "open"));
            assert_eq!(world.discarded().await, []);
        } else {
            assert_eq!(invoices, []);
            let discarded = world.control.discarded_usage().await.unwrap();
            assert_eq!(
                (discarded[0].quantity, discarded[0].reason.as_str()),
                (20, "canceled_without_invoice")
            );
            assert_eq!(
                (discarded[0].event_name.as_str(), discarded[0].from),
                ("calls", NOW)
            );
        }
        assert_eq!(
            world.call("DELETE", SUB, &[]).await.refusal(),
            (404, "resource_missing")
        );
        assert_eq!(
            world
                .post(SUB, &[("cancel_at_period_end", "true")])
                .await
                .status,
            400
        );
        world.post(SUB, &[("metadata[why]", "done")]).await.ok();
    }
}

#[tokio::test]
async fn a_cancel_prorates_seats_on_demand_and_drops_what_was_pending_without_invoice() {
    let (world, items) = half_way(&["price_basic", "price_seat"], |_| {}).await;
    let both = [("invoice_now", "true"), ("prorate", "true")];
    world.call("DELETE", SUB, &both).await.ok();
    let last = world.invoices().await.pop().unwrap();
    assert_eq!(
        lines(&last),
        [("calls", 20, 200), ("price_seat", 1, -1_500)]
    );
    assert_eq!((last.amount_due, items.len()), (0, 2));

    let (world, items) = half_way(&["price_basic", "price_seat"], |_| {}).await;
    world
        .call(
            "DELETE",
            &format!("/v1/subscription_items/{}", items[0]),
            &[],
        )
        .await
        .ok();
    assert_eq!(world.discarded().await, []);
    world.call("DELETE", SUB, &[]).await.ok();
    assert_eq!(
        world.discarded().await,
        [("canceled_without_invoice".to_owned(), 20)]
    );
}

#[tokio::test]
async fn a_cancel_at_period_end_bills_the_period_and_no_next_one() {
    let (world, _) = half_way(&["price_basic", "price_seat"], |_| {}).await;
    let planned = world
        .post(SUB, &[("cancel_at_period_end", "true")])
        .await
        .ok();
    assert_eq!(
        (&planned["cancel_at"], &planned["status"]),
        (&json!(MONTH_END), &json!("active"))
    );
    world
        .post(SUB, &[("cancel_at_period_end", "false")])
        .await
        .ok();
    assert_eq!(world.get(SUB, &[]).await.ok()["cancel_at"], json!(null));
    world
        .post(SUB, &[("cancel_at", "min_period_end")])
        .await
        .ok();
    world.clock_at(MONTH_END + 10).await;
    world.use_at("late", 1, MONTH_END - 1).await.ok();
    world.clock_at(MONTH_END + 3_600).await;
    let ended = world.get(SUB, &[]).await.ok();
    assert_eq!(
        (&ended["status"], &ended["ended_at"]),
        (&json!("canceled"), &json!(MONTH_END))
    );
    assert_eq!(lines(&world.invoices().await[1]), [("calls", 21, 210)]);
}

#[tokio::test]
async fn a_cancel_at_a_moment_bills_up_to_it() {
    let (world, _) = half_way(&["price_basic", "price_seat"], |_| {}).await;
    let moment = (NOW + 20 * 86_400).to_string();
    world.post(SUB, &[("cancel_at", &moment)]).await.ok();
    world.clock_at(MONTH_END).await;
    let last = world.invoices().await.pop().unwrap();
    assert_eq!(
        lines(&last),
        [("calls", 20, 200), ("price_seat", 1, -1_000)]
    );
    assert_eq!(
        world.get(SUB, &[]).await.ok()["ended_at"],
        NOW + 20 * 86_400
    );
}

#[tokio::test]
async fn a_deleted_customer_ends_its_subscriptions() {
    let (world, _) = half_way(&["price_basic"], |_| {}).await;
    world.call("DELETE", "/v1/customers/cus_1", &[]).await.ok();
    assert_eq!(world.get(SUB, &[]).await.ok()["status"], "canceled");
    assert_eq!(
        world.discarded().await,
        [("canceled_without_invoice".to_owned(), 20)]
    );
    let kinds: Vec<String> = world.get("/v1/events", &[]).await.ok()["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        kinds,
        [
            "customer.deleted",
            "customer.subscription.deleted",
            "customer.subscription.created"
        ]
    );
    let again = [("customer", "cus_1"), ("items[0][price]", "price_basic")];
    let reply = world.post("/v1/subscriptions", &again).await;
    assert_eq!(reply.refusal(), (400, "resource_missing"));
    world.control.delete_customer("cus_1").await.unwrap();
}
