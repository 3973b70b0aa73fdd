//! Period ends: drafts, their grace, finalization, and what usage is on which invoice.

use std::time::Duration;

use fake_stripe::{NewPrice, NewSubscription};
use serde_json::json;

use crate::billing_world::{DAY, HOUR, MONTH_END, lines};
use crate::client::{NOW, World};

#[tokio::test]
async fn a_month_of_usage_is_drafted_then_final() {
    let world = World::billing().await;
    let items = world.subscribe(&["price_basic"]).await;
    world.use_at("a", 60, NOW).await.ok();
    world.clock_at(MONTH_END - 1).await;
    world.use_at("b", 90, MONTH_END - 1).await.ok();
    assert!(
        world.invoices().await.is_empty(),
        "nothing is due before the end"
    );

    world.clock_at(MONTH_END).await;
    let drafts = world.invoices().await;
    assert_eq!((drafts.len(), drafts[0].status.as_str()), (1, "draft"));
    assert_eq!(lines(&drafts[0]), [("calls", 150, 750)]);
    world.use_at("late", 10, MONTH_END - 5).await.ok();
    world.use_at("next", 7, MONTH_END).await.ok();
    world
        .control
        .advance_clock(Duration::from_secs(3_599))
        .await
        .unwrap();
    assert_eq!(world.invoices().await[0].status, "draft");
    world
        .control
        .advance_clock(Duration::from_secs(1))
        .await
        .unwrap();

    let path = format!("/v1/invoices/{}", drafts[0].id);
    let invoice = world.get(&path, &[]).await.ok();
    assert_eq!(invoice["status"], "open");
    assert_eq!(invoice["amount_due"], 800);
    assert_eq!(
        invoice["status_transitions"]["finalized_at"],
        MONTH_END + 3_600
    );
    assert_eq!(
        (&invoice["period_start"], &invoice["period_end"]),
        (&json!(NOW), &json!(MONTH_END))
    );
    let line = &invoice["lines"]["data"][0];
    assert_eq!(
        (&line["quantity"], &line["amount"]),
        (&json!(160), &json!(800))
    );
    assert_eq!(line["pricing"]["price_details"]["price"], "price_basic");
    assert_eq!(
        line["parent"]["subscription_item_details"]["subscription_item"],
        items[0].as_str()
    );
    let page = world.get(&format!("{path}/lines"), &[]).await.ok();
    assert_eq!(page["data"], invoice["lines"]["data"]);

    world.use_at("too_late", 1_000, MONTH_END - 5).await.ok();
    assert_eq!(
        world.get(&path, &[]).await.ok(),
        invoice,
        "final invoices never change"
    );
    assert_eq!(world.discarded().await, [("late".to_owned(), 1_000)]);
    let again = world.post(&format!("{path}/finalize"), &[]).await;
    assert_eq!(again.refusal(), (400, "invoice_not_editable"));
}

#[tokio::test]
async fn a_draft_is_finalized_by_hand_and_the_grace_is_settable() {
    let world = World::billing().await;
    world.subscribe(&["price_basic"]).await;
    world
        .control
        .set_grace(Duration::from_hours(72))
        .await
        .unwrap();
    world.clock_at(MONTH_END + 71 * 3_600).await;
    let listed = world
        .get(
            "/v1/invoices",
            &[("subscription", "sub_1"), ("status", "draft")],
        )
        .await
        .ok();
    let draft = &listed["data"][0];
    assert_eq!(draft["automatically_finalizes_at"], MONTH_END + 72 * 3_600);
    let path = format!("/v1/invoices/{}/finalize", draft["id"].as_str().unwrap());
    let final_one = world.post(&path, &[]).await.ok();
    assert_eq!(
        (&final_one["status"], &final_one["amount_due"]),
        (&json!("paid"), &json!(0))
    );
    world.control.advance_clock(HOUR).await.unwrap();
    assert_eq!(world.invoices().await.len(), 1);
}

#[tokio::test]
async fn months_passed_at_once_are_billed_one_by_one() {
    let world = World::billing().await;
    world.subscribe(&["price_basic", "price_seat"]).await;
    world.use_at("a", 5, NOW).await.ok();
    world.control.advance_clock(DAY * 95).await.unwrap();
    let invoices = world.invoices().await;
    let read: Vec<_> = invoices.iter().map(lines).collect();
    let seat = ("price_seat", 1, 3_000);
    assert_eq!(
        read,
        [
            vec![seat],
            vec![("calls", 5, 50), seat],
            vec![("calls", 0, 0), seat],
            vec![("calls", 0, 0), seat],
        ]
    );
    assert_eq!(invoices[0].billing_reason, "subscription_create");
    assert!(
        invoices
            .iter()
            .skip(1)
            .all(|one| one.billing_reason == "subscription_cycle")
    );
    assert!(invoices.is_sorted_by_key(|one| one.created));
    assert!(
        invoices
            .windows(2)
            .skip(1)
            .all(|pair| pair[0].period_end == pair[1].period_start)
    );
}

#[tokio::test]
async fn a_negative_period_bills_nothing() {
    let world = World::billing().await;
    world.subscribe(&["price_basic"]).await;
    world.use_at("a", 5, NOW).await.ok();
    world.use_at("b", -8, NOW).await.ok();
    world.clock_at(MONTH_END + 3_600).await;
    let invoice = world.invoices().await.remove(0);
    assert_eq!(
        (lines(&invoice), invoice.status.as_str()),
        (vec![("calls", 0, 0)], "paid")
    );
}

#[tokio::test]
async fn two_subscriptions_on_one_meter_both_bill_everything() {
    let world = World::billing().await;
    world.subscribe(&["price_basic"]).await;
    world
        .subscribe_with(&["price_flat"], |new| new.id = "sub_2".to_owned())
        .await;
    world.use_at("a", 50, NOW).await.ok();
    world.clock_at(MONTH_END).await;
    let invoices = world.invoices().await;
    let mut read: Vec<_> = invoices
        .iter()
        .map(|one| (one.subscription.as_str(), lines(one)))
        .collect();
    read.sort();
    assert_eq!(
        read,
        [
            ("sub_1", vec![("calls", 50, 500)]),
            ("sub_2", vec![("calls", 50, 25)])
        ]
    );
}

#[tokio::test]
async fn a_cancelled_event_leaves_a_draft_but_not_a_final_invoice() {
    let world = World::billing().await;
    world.subscribe(&["price_basic"]).await;
    world.clock_at(MONTH_END - 60).await;
    world.use_at("a", 5, MONTH_END - 60).await.ok();
    world.use_at("b", 7, MONTH_END - 60).await.ok();
    let cancel = |identifier: &'static str| {
        [
            ("event_name", "calls"),
            ("type", "cancel"),
            ("cancel[identifier]", identifier),
        ]
    };
    let path = "/v1/billing/meter_event_adjustments";
    world.clock_at(MONTH_END).await;
    world.post(path, &cancel("a")).await.ok();
    assert_eq!(lines(&world.invoices().await[0]), [("calls", 7, 70)]);
    world.clock_at(MONTH_END + 3_600).await;
    world.post(path, &cancel("b")).await.ok();
    assert_eq!(lines(&world.invoices().await[0]), [("calls", 7, 70)]);
}

#[tokio::test]
async fn a_preview_shows_the_usage_so_far_and_changes_nothing() {
    let world = World::billing().await;
    world.subscribe(&["price_basic", "price_seat"]).await;
    world.use_at("a", 12, NOW).await.ok();
    let preview = world
        .post("/v1/invoices/create_preview", &[("subscription", "sub_1")])
        .await
        .ok();
    assert_eq!(preview["billing_reason"], "upcoming");
    assert_eq!(preview["amount_due"], 3_120);
    assert_eq!(preview["lines"]["data"][0]["quantity"], 12);
    assert_eq!(
        world.invoices().await.len(),
        1,
        "only that of the first seat"
    );
    let by_customer = [("customer", "cus_1")];
    world
        .post("/v1/invoices/create_preview", &by_customer)
        .await
        .ok();
    world.control.create_customer("cus_2").await.unwrap();
    let none = world
        .post("/v1/invoices/create_preview", &[("customer", "cus_2")])
        .await;
    assert_eq!(none.refusal(), (404, "invoice_upcoming_none"));
}

#[tokio::test]
async fn every_anchor_goes_through_a_year_of_months() {
    // 2027-12-29, -30 and -31 and 2028-02-29, each at 12:59:59, and the ends of the following twelve months.
    let ends = |days: [i64; 12], first_month: usize, first_year: i32| {
        let mut months = Vec::new();
        for (index, day) in days.into_iter().enumerate() {
            let month = first_month + index;
            let year = first_year + i32::try_from((month - 1) / 12).unwrap();
            let month = (month - 1) % 12 + 1;
            let text = format!("{year}-{month:02}-{day:02}T12:59:59Z");
            months.push(
                text.parse::<chrono::DateTime<chrono::Utc>>()
                    .unwrap()
                    .timestamp(),
            );
        }
        months
    };
    let at = |text: &str| {
        text.parse::<chrono::DateTime<chrono::Utc>>()
            .unwrap()
            .timestamp()
    };
    let cases = [
        ("2027-12-29T12:59:59Z", ends([29; 12], 1, 2028)),
        (
            "2027-12-30T12:59:59Z",
            ends([30, 29, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30], 1, 2028),
        ),
        (
            "2027-12-31T12:59:59Z",
            ends([31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], 1, 2028),
        ),
        (
            "2028-02-29T12:59:59Z",
            ends([29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 29, 28], 3, 2028),
        ),
    ];
    for (anchor, expected) in cases {
        let world = World::new().await;
        let start = at(anchor);
        world.clock_at(start).await;
        let price = NewPrice::volume("price_1", "prod_1", "mtr_1", &[(None, "1")]);
        world.control.create_price(&price).await.unwrap();
        world.subscribe(&["price_1"]).await;
        for (index, end) in expected.iter().enumerate() {
            world.clock_at(end - 1).await;
            let quantity = i64::try_from(index).unwrap() + 1;
            world
                .use_at(&format!("last_{index}"), quantity, end - 1)
                .await
                .ok();
            world
                .use_at(&format!("first_{index}"), 100, *end)
                .await
                .ok();
        }
        world.control.advance_clock(HOUR * 2).await.unwrap();
        let invoices = world.invoices().await;
        let found: Vec<i64> = invoices.iter().map(|one| one.period_end).collect();
        assert_eq!(found, expected, "{anchor}");
        for (index, invoice) in invoices.iter().enumerate() {
            let first = if index == 0 { 0 } else { 100 };
            let last = i64::try_from(index).unwrap() + 1;
            assert_eq!(
                invoice.lines[0].quantity,
                first + last,
                "{anchor}, month {index}"
            );
        }
    }
}

#[tokio::test]
async fn an_anchor_in_the_future_makes_a_short_first_period() {
    let world = World::billing().await;
    let anchor = NOW + 15 * 86_400;
    let pairs = [
        ("customer", "cus_1".to_owned()),
        ("items[0][price]", "price_basic".to_owned()),
        ("items[1][price]", "price_seat".to_owned()),
        ("items[1][quantity]", "2".to_owned()),
        ("billing_cycle_anchor", anchor.to_string()),
    ];
    let pairs: Vec<(&str, &str)> = pairs
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let made = world.post("/v1/subscriptions", &pairs).await.ok();
    let item = &made["items"]["data"][0];
    assert_eq!(item["current_period_start"], NOW);
    assert_eq!(item["current_period_end"], anchor);
    assert_eq!(made["billing_mode"]["type"], "flexible");
    // From 30 October to 30 November there are 31 days, of which 15 are left.
    let first = world.invoices().await.remove(0);
    assert_eq!(lines(&first), [("price_seat", 2, 2_903)]);
    world.use_at("a", 1, NOW).await.ok();
    world.clock_at(anchor).await;
    assert_eq!(
        lines(&world.invoices().await[1]),
        [("calls", 1, 10), ("price_seat", 2, 6_000)]
    );
    let far = [
        ("customer", "cus_1"),
        ("items[0][price]", "price_basic"),
        ("billing_cycle_anchor", "1900000000"),
    ];
    assert_eq!(world.post("/v1/subscriptions", &far).await.status, 400);
}

#[tokio::test]
async fn an_anchor_in_the_past_stands_for_a_running_subscription() {
    let world = World::billing().await;
    let anchor = NOW - 100 * 86_400;
    world.use_at("before", 3, NOW - 86_400).await.ok();
    let new = NewSubscription {
        id: "sub_1".to_owned(),
        customer: "cus_1".to_owned(),
        prices: vec!["price_basic".to_owned()],
        anchor: Some(anchor),
        ..NewSubscription::default()
    };
    let made = world.control.create_subscription(&new).await.unwrap();
    let item = &made.items[0];
    assert!(
        item.period_start <= NOW - 86_400 && NOW < item.period_end,
        "{item:?}"
    );
    world.clock_at(item.period_end).await;
    assert_eq!(lines(&world.invoices().await[0]), [("calls", 3, 30)]);
}
