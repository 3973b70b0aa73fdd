//! Subscriptions that change: what is billed, what is prorated, what is never billed, what is refused.

use serde_json::json;

use crate::billing_world::{HALF, MONTH_END, SUB, half_way, lines};
use crate::client::{NOW, World};

#[tokio::test]
async fn a_subscription_is_created_listed_and_found() {
    let world = World::billing().await;
    let pairs = [
        ("customer", "cus_1"),
        ("items[0][price]", "price_basic"),
        ("billing_mode[type]", "classic"),
        ("metadata[team]", "7"),
    ];
    let made = world.post("/v1/subscriptions", &pairs).await.ok();
    assert_eq!(made["billing_mode"]["type"], "classic");
    assert_eq!(
        made["items"]["data"][0]["price"]["recurring"]["meter"],
        "mtr_1"
    );
    let path = format!("/v1/subscriptions/{}", made["id"].as_str().unwrap());
    assert_eq!(world.get(&path, &[]).await.ok(), made);
    // The classic mode begins with an invoice over nothing.
    assert_eq!(lines(&world.invoices().await[0]), [("calls", 0, 0)]);
    for n in 2..=4 {
        world
            .subscribe_with(&["price_basic"], |new| new.id = format!("sub_{n}"))
            .await;
    }
    let mut pairs = vec![("customer", "cus_1"), ("limit", "3")];
    let page = world.get("/v1/subscriptions", &pairs).await.ok();
    assert_eq!(
        (page["has_more"].as_bool(), &page["data"][0]["id"]),
        (Some(true), &json!("sub_4"))
    );
    pairs.push(("starting_after", "sub_2"));
    let rest = world.get("/v1/subscriptions", &pairs).await.ok();
    assert_eq!(rest["data"], json!([made]));
    let future = (NOW + 1).to_string();
    let none = world
        .get("/v1/subscriptions", &[("created[gte]", &future)])
        .await
        .ok();
    assert_eq!(none["data"], json!([]));
    let query = [("query", "metadata['team']:'7'")];
    let found = world.get("/v1/subscriptions/search", &query).await.ok();
    assert_eq!(found["data"], json!([made]));
    world.call("DELETE", SUB, &[]).await.refusal();
    world.call("DELETE", &path, &[]).await.ok();
    let listed = world.get("/v1/subscriptions", &[]).await.ok();
    assert_eq!(listed["data"].as_array().unwrap().len(), 3);
    let canceled = world
        .get("/v1/subscriptions", &[("status", "canceled")])
        .await
        .ok();
    assert_eq!(canceled["data"][0]["id"], made["id"]);
}

#[tokio::test]
async fn a_plan_change_bills_the_old_price_at_once_and_the_new_one_from_then() {
    let (world, items) = half_way(&["price_basic", "price_seat"], |_| {}).await;
    let change = [
        ("items[0][id]", items[0].as_str()),
        ("items[0][deleted]", "true"),
        ("items[1][price]", "price_pro"),
        ("proration_behavior", "always_invoice"),
    ];
    let changed = world.post(SUB, &change).await.ok();
    assert_eq!(changed["items"]["data"][1]["price"]["id"], "price_pro");
    let invoice = world.invoices().await.remove(1);
    assert_eq!(
        (lines(&invoice), invoice.status.as_str()),
        (vec![("calls", 20, 200)], "open")
    );
    assert_eq!(
        (invoice.lines[0].period_start, invoice.lines[0].period_end),
        (NOW, HALF)
    );
    assert_eq!(changed["latest_invoice"], invoice.id.as_str());

    world.use_at("after", 30, HALF).await.ok();
    world.use_at("too_late", 1, HALF - 1).await.ok();
    world.clock_at(MONTH_END).await;
    let month = world.invoices().await.remove(2);
    assert_eq!(
        lines(&month),
        [("calls", 30, 120), ("price_seat", 1, 3_000)]
    );
    assert_eq!(world.discarded().await, [("late".to_owned(), 1)]);
}

#[tokio::test]
async fn prorations_go_to_the_next_invoice_by_default() {
    let (world, items) = half_way(&["price_basic", "price_seat"], |_| {}).await;
    let path = format!("/v1/subscription_items/{}", items[1]);
    let updated = world.post(&path, &[("quantity", "3")]).await.ok();
    assert_eq!(updated["quantity"], 3);
    assert_eq!(world.invoices().await.len(), 1);
    world.clock_at(MONTH_END).await;
    assert_eq!(
        lines(&world.invoices().await[1]),
        [
            ("price_seat", 1, -1_500),
            ("price_seat", 3, 4_500),
            ("calls", 20, 200),
            ("price_seat", 3, 9_000)
        ]
    );
    assert!(world.invoices().await[1].lines[0].proration);

    let none = [("quantity", "1"), ("proration_behavior", "none")];
    world.post(&path, &none).await.ok();
    world
        .call("DELETE", &path, &[("proration_behavior", "always_invoice")])
        .await
        .ok();
    let credit = world.invoices().await.remove(2);
    assert_eq!(
        (lines(&credit), credit.status.as_str()),
        (vec![("price_seat", 1, -3_000)], "paid")
    );
    assert_eq!(credit.amount_due, 0);
}

#[tokio::test]
async fn a_proration_date_shifts_the_share() {
    let (world, items) = half_way(&["price_basic", "price_seat"], |_| {}).await;
    let date = (NOW + 6 * 86_400).to_string();
    let pairs = [
        ("items[0][id]", items[1].as_str()),
        ("items[0][deleted]", "true"),
        ("proration_date", &date),
        ("proration_behavior", "always_invoice"),
    ];
    world.post(SUB, &pairs).await.ok();
    assert_eq!(
        lines(&world.invoices().await[1]),
        [("price_seat", 1, -2_400)]
    );
    let pairs = [
        ("items[0][price]", "price_seat"),
        ("proration_date", "1500000000"),
    ];
    assert_eq!(world.post(SUB, &pairs).await.status, 400);
}

#[tokio::test]
async fn a_removed_metered_item_is_billed_only_in_the_flexible_mode_with_proration() {
    for (classic, behavior, discard_reason) in [
        (false, "create_prorations", None),
        (false, "none", Some("item_removed_without_proration")),
        (
            true,
            "create_prorations",
            Some("item_removed_in_classic_mode"),
        ),
    ] {
        let (world, items) =
            half_way(&["price_basic", "price_seat"], |new| new.classic = classic).await;
        let path = format!("/v1/subscription_items/{}", items[0]);
        let pairs = [("proration_behavior", behavior), ("clear_usage", "true")];
        world.call("DELETE", &path, &pairs).await.ok();
        world.use_at("after", 9, HALF).await.ok();
        world.clock_at(MONTH_END).await;
        let month = world.invoices().await.pop().unwrap();
        let calls: Vec<_> = lines(&month)
            .into_iter()
            .filter(|line| line.0 == "calls")
            .collect();
        match discard_reason {
            None => assert_eq!(calls, [("calls", 20, 200)]),
            Some(reason) => {
                assert!(calls.is_empty(), "{calls:?}");
                assert_eq!(world.discarded().await, [(reason.to_owned(), 20)]);
            }
        }
    }
}

#[tokio::test]
async fn usage_not_yet_aggregated_is_lost_to_a_price_change() {
    let world = World::billing().await;
    let items = world.subscribe(&["price_basic", "price_seat"]).await;
    world
        .control
        .set_summary_delay(std::time::Duration::from_mins(1))
        .await
        .unwrap();
    world.clock_at(HALF).await;
    world.use_at("fresh", 20, HALF - 100).await.ok();
    world
        .control
        .advance_clock(std::time::Duration::from_secs(59))
        .await
        .unwrap();
    let pairs = [
        ("items[0][id]", items[0].as_str()),
        ("items[0][price]", "price_pro"),
        ("proration_behavior", "always_invoice"),
    ];
    world.post(SUB, &pairs).await.ok();
    assert_eq!(
        world.invoices().await.len(),
        1,
        "only that of the first seat"
    );
    assert_eq!(world.discarded().await, [("late".to_owned(), 20)]);
}

#[tokio::test]
async fn rejected_changes_change_nothing() {
    let (world, items) = half_way(&["price_flat", "price_seat"], |_| {}).await;
    let before = world.get(SUB, &[]).await.ok();
    let (metered, seat) = (items[0].as_str(), items[1].as_str());
    let refused: [&[(&str, &str)]; 8] = [
        &[("items[0][id]", metered), ("items[0][price]", "price_pro")],
        &[
            ("items[0][id]", metered),
            ("items[0][deleted]", "true"),
            ("items[1][price]", "price_pro"),
        ],
        &[
            ("items[0][id]", metered),
            ("items[0][deleted]", "true"),
            ("items[1][id]", seat),
            ("items[1][deleted]", "true"),
        ],
        &[("items[0][price]", "price_seat")],
        &[("items[0][price]", "price_none")],
        &[("items[0][id]", "si_none"), ("items[0][deleted]", "true")],
        &[("items[0][id]", metered), ("items[0][quantity]", "3")],
        &[("cancel_at", "1500000000")],
    ];
    for pairs in refused {
        assert_eq!(world.post(SUB, pairs).await.status, 400, "{pairs:?}");
    }
    assert_eq!(world.get(SUB, &[]).await.ok(), before);
    assert_eq!(world.discarded().await, []);
    world
        .post("/v1/prices/price_pro", &[("active", "false")])
        .await
        .ok();
    let inactive = [("customer", "cus_1"), ("items[0][price]", "price_pro")];
    assert_eq!(world.post("/v1/subscriptions", &inactive).await.status, 400);
}

#[tokio::test]
async fn a_classic_subscription_migrates_once() {
    let (world, items) = half_way(&["price_basic", "price_seat"], |new| new.classic = true).await;
    let path = format!("{SUB}/migrate");
    let pairs = [("billing_mode[type]", "flexible")];
    let migrated = world.post(&path, &pairs).await.ok();
    assert_eq!(migrated["billing_mode"]["type"], "flexible");
    assert_eq!(migrated["billing_mode"]["updated_at"], HALF);
    assert_eq!(world.post(&path, &pairs).await.status, 400);
    let change = [
        ("price", "price_pro"),
        ("proration_behavior", "always_invoice"),
    ];
    let changed = world
        .post(&format!("/v1/subscription_items/{}", items[0]), &change)
        .await
        .ok();
    assert_eq!(changed["price"]["id"], "price_pro");
    assert_eq!(
        lines(&world.invoices().await.pop().unwrap()),
        [("calls", 20, 200)]
    );
}

#[tokio::test]
async fn only_the_flexible_mode_mixes_intervals() {
    for (classic, status) in [(true, 400), (false, 200)] {
        let (world, _) = half_way(&["price_basic"], |new| new.classic = classic).await;
        let yearly = fake_stripe::NewPrice {
            interval: "year".to_owned(),
            ..fake_stripe::NewPrice::licensed("price_year", "prod_seats", "9000")
        };
        world.control.create_price(&yearly).await.unwrap();
        let add = [("items[0][price]", "price_year")];
        assert_eq!(world.post(SUB, &add).await.status, status);
        let mode = if classic { "classic" } else { "flexible" };
        let new = [
            ("customer", "cus_1"),
            ("items[0][price]", "price_basic"),
            ("items[1][price]", "price_year"),
            ("billing_mode[type]", mode),
        ];
        assert_eq!(world.post("/v1/subscriptions", &new).await.status, status);
    }
}

#[tokio::test]
async fn items_are_added_and_listed() {
    let (world, items) = half_way(&["price_seat"], |_| {}).await;
    let pairs = [
        ("subscription", "sub_1"),
        ("price", "price_basic"),
        ("metadata[a]", "b"),
    ];
    let added = world.post("/v1/subscription_items", &pairs).await.ok();
    assert_eq!(
        (&added["created"], &added["current_period_end"]),
        (&json!(HALF), &json!(MONTH_END))
    );
    let path = format!("/v1/subscription_items/{}", added["id"].as_str().unwrap());
    assert_eq!(world.get(&path, &[]).await.ok(), added);
    let listed = world
        .get("/v1/subscription_items", &[("subscription", "sub_1")])
        .await
        .ok();
    assert_eq!(listed["data"][0]["id"], items[0].as_str());
    assert_eq!(listed["data"][1], added);
    world.use_at("after", 4, HALF + 10).await.ok();
    world.clock_at(MONTH_END).await;
    let month = world.invoices().await.pop().unwrap();
    assert_eq!(lines(&month), [("calls", 4, 40), ("price_seat", 1, 3_000)]);
}
