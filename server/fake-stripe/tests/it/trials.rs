//! Trials: what is charged from when on, and how they end.

use serde_json::{Value, json};

use crate::billing_world::{MONTH_END, SUB, lines};
use crate::client::{NOW, World};

const DAY: i64 = 86_400;
/// The end of the trial: ten days after the start.
const TRIAL_END: i64 = NOW + 10 * DAY;
/// A month later: 2026-12-25 10:20:30 UTC.
const FIRST_END: i64 = TRIAL_END + 30 * DAY;

async fn trialing(prices: &[&str], missing_payment_method: Option<&str>) -> World {
    let world = World::billing().await;
    world
        .subscribe_with(prices, |new| {
            new.trial_end = Some(TRIAL_END);
            new.missing_payment_method = missing_payment_method.map(str::to_owned);
        })
        .await;
    world.use_at("in_trial", 20, NOW).await.ok();
    world
}

async fn kinds(world: &World) -> Vec<String> {
    let list = world.get("/v1/events", &[("limit", "100")]).await.ok();
    let kind = |event: &Value| event["type"].as_str().unwrap().to_owned();
    let mut kinds: Vec<String> = list["data"].as_array().unwrap().iter().map(kind).collect();
    kinds.reverse();
    kinds
}

#[tokio::test]
async fn a_trial_charges_nothing_and_the_first_period_begins_at_its_end() {
    let world = trialing(&["price_basic", "price_seat"], None).await;
    let subscription = world.get(SUB, &[]).await.ok();
    assert_eq!(
        [
            &subscription["status"],
            &subscription["trial_start"],
            &subscription["trial_end"],
            &subscription["billing_cycle_anchor"]
        ],
        [
            &json!("trialing"),
            &json!(NOW),
            &json!(TRIAL_END),
            &json!(TRIAL_END)
        ]
    );
    let item = &subscription["items"]["data"][0];
    assert_eq!(
        (&item["current_period_start"], &item["current_period_end"]),
        (&json!(NOW), &json!(TRIAL_END))
    );
    let first = &world.invoices().await[0];
    assert_eq!(
        (lines(first), first.status.as_str()),
        (vec![("price_seat", 1, 0)], "paid")
    );

    world.clock_at(TRIAL_END).await;
    world.use_at("late_in_trial", 3, TRIAL_END - 1).await.ok();
    world.use_at("first", 7, TRIAL_END).await.ok();
    let subscription = world.get(SUB, &[]).await.ok();
    assert_eq!(subscription["status"], "active");
    let item = &subscription["items"]["data"][0];
    assert_eq!(
        (&item["current_period_start"], &item["current_period_end"]),
        (&json!(TRIAL_END), &json!(FIRST_END))
    );
    let second = &world.invoices().await[1];
    assert_eq!(
        (lines(second), second.status.as_str()),
        (vec![("price_seat", 1, 3_000)], "draft")
    );
    assert_eq!((second.period_start, second.period_end), (NOW, TRIAL_END));

    let kinds = kinds(&world).await;
    let notice = "customer.subscription.trial_will_end".to_owned();
    assert_eq!(kinds.iter().filter(|kind| **kind == notice).count(), 1);

    world.clock_at(FIRST_END).await;
    let third = &world.invoices().await[2];
    assert_eq!(lines(third), [("calls", 7, 70), ("price_seat", 1, 3_000)]);
    assert_eq!(
        world.discarded().await,
        [("in_trial".to_owned(), 20), ("late".to_owned(), 3)]
    );
}

#[tokio::test]
async fn a_trial_is_asked_for_in_days_and_has_a_limit() {
    let world = World::billing().await;
    let with = |name: &'static str, value: &'static str| {
        [
            ("customer", "cus_1"),
            ("items[0][price]", "price_basic"),
            (name, value),
        ]
    };
    let path = "/v1/subscriptions";
    let made = world
        .post(path, &with("trial_period_days", "10"))
        .await
        .ok();
    assert_eq!(
        [&made["status"], &made["trial_end"], &made["latest_invoice"]],
        [&json!("trialing"), &json!(TRIAL_END), &json!(null)]
    );
    let listed = world.get(path, &[("status", "trialing")]).await.ok();
    assert_eq!(listed["data"], json!([made]));
    // A short trial is announced at once.
    world.post(path, &with("trial_period_days", "2")).await.ok();
    world.get(SUB, &[]).await.refusal();
    let notice = "customer.subscription.trial_will_end".to_owned();
    assert!(kinds(&world).await.contains(&notice));
    for (name, value) in [
        ("trial_period_days", "731"),
        ("trial_period_days", "-1"),
        ("trial_end", "1500000000"),
        ("trial_end", "1900000000"),
        ("trial_end", "soon"),
    ] {
        let reply = world.post(path, &with(name, value)).await;
        assert_eq!(
            (reply.status, &reply.body["error"]["param"]),
            (400, &json!(name))
        );
    }
    let none = world.post(path, &with("trial_end", "now")).await.ok();
    assert_eq!(
        (&none["status"], &none["trial_end"]),
        (&json!("active"), &json!(null))
    );
    let from_plan = world.post(path, &with("trial_from_plan", "true")).await;
    assert_eq!(from_plan.status, 501);
}

#[tokio::test]
async fn a_trial_ends_early_or_later() {
    let world = trialing(&["price_basic", "price_seat"], None).await;
    let later = (TRIAL_END + DAY).to_string();
    let moved = world.post(SUB, &[("trial_end", &later)]).await.ok();
    assert_eq!(
        moved["items"]["data"][1]["current_period_end"],
        TRIAL_END + DAY
    );
    world.clock_at(TRIAL_END).await;
    let status = async || world.get(SUB, &[]).await.ok()["status"].clone();
    assert_eq!(status().await, "trialing");
    let active = world.post(SUB, &[("trial_end", "now")]).await.ok();
    assert_eq!(
        [
            &active["status"],
            &active["trial_end"],
            &active["billing_cycle_anchor"]
        ],
        [&json!("active"), &json!(TRIAL_END), &json!(TRIAL_END)]
    );
    let last = world.invoices().await.pop().unwrap();
    assert_eq!(
        (lines(&last), last.status.as_str()),
        (vec![("price_seat", 1, 3_000)], "open")
    );
    assert_eq!(world.discarded().await, [("in_trial".to_owned(), 20)]);
    world.use_at("first", 7, TRIAL_END).await.ok();
    world.clock_at(FIRST_END).await;
    let cycle = world.invoices().await.pop().unwrap();
    assert_eq!(lines(&cycle)[0], ("calls", 7, 70));
}

#[tokio::test]
async fn an_anchor_after_the_trial_makes_a_short_first_period() {
    let world = World::billing().await;
    let (end, anchor) = (TRIAL_END.to_string(), MONTH_END.to_string());
    let pairs = [
        ("customer", "cus_1"),
        ("items[0][price]", "price_basic"),
        ("items[1][price]", "price_seat"),
        ("trial_end", &end),
        ("billing_cycle_anchor", &anchor),
    ];
    world.post("/v1/subscriptions", &pairs).await.ok();
    world.clock_at(TRIAL_END).await;
    // 20 of the 30 days before the anchor.
    let first = world.invoices().await.pop().unwrap();
    assert_eq!(lines(&first), [("price_seat", 1, 2_000)]);
    world.use_at("first", 7, TRIAL_END).await.ok();
    world.clock_at(MONTH_END).await;
    let second = world.invoices().await.pop().unwrap();
    assert_eq!(lines(&second), [("calls", 7, 70), ("price_seat", 1, 3_000)]);
    let early = (MONTH_END + DAY).to_string();
    let mut pairs = pairs;
    let later = (MONTH_END + 2 * DAY).to_string();
    pairs[3].1 = &later;
    pairs[4].1 = &early;
    assert_eq!(world.post("/v1/subscriptions", &pairs).await.status, 501);
}

#[tokio::test]
async fn changes_and_a_cancel_within_a_trial_bill_nothing() {
    let world = trialing(&["price_basic", "price_seat"], None).await;
    world.clock_at(NOW + 2 * DAY).await;
    let items = world.get(SUB, &[]).await.ok()["items"]["data"].clone();
    let (metered, seat) = (&items[0]["id"], &items[1]["id"]);
    let pairs = [
        ("items[0][id]", metered.as_str().unwrap()),
        ("items[0][price]", "price_pro"),
        ("items[1][id]", seat.as_str().unwrap()),
        ("items[1][quantity]", "5"),
        ("proration_behavior", "always_invoice"),
    ];
    let changed = world.post(SUB, &pairs).await.ok();
    assert_eq!(changed["items"]["data"][0]["current_period_end"], TRIAL_END);
    world.use_at("second", 4, NOW + 2 * DAY).await.ok();
    world.clock_at(NOW + 3 * DAY).await;
    let both = [("invoice_now", "true"), ("prorate", "true")];
    let ended = world.call("DELETE", SUB, &both).await.ok();
    assert_eq!(ended["status"], "canceled");
    assert_eq!(world.invoices().await.len(), 1, "that of the start");
    let trial = "in_trial".to_owned();
    assert_eq!(world.discarded().await, [(trial.clone(), 20), (trial, 4)]);

    // At its end.
    let world = trialing(&["price_basic"], None).await;
    let planned = world
        .post(SUB, &[("cancel_at_period_end", "true")])
        .await
        .ok();
    assert_eq!(planned["cancel_at"], TRIAL_END);
    world.clock_at(FIRST_END + 2 * DAY).await;
    let ended = world.get(SUB, &[]).await.ok();
    assert_eq!(
        (&ended["status"], &ended["ended_at"]),
        (&json!("canceled"), &json!(TRIAL_END))
    );
    assert_eq!(world.invoices().await, []);
}

#[tokio::test]
async fn a_trial_without_a_payment_method_can_end_the_subscription() {
    let world = trialing(&["price_basic"], Some("cancel")).await;
    world.clock_at(TRIAL_END).await;
    let ended = world.get(SUB, &[]).await.ok();
    assert_eq!(
        (&ended["status"], &ended["ended_at"]),
        (&json!("canceled"), &json!(TRIAL_END))
    );
    assert_eq!(world.invoices().await, []);
    assert_eq!(world.discarded().await, [("in_trial".to_owned(), 20)]);
}

#[tokio::test]
async fn a_trial_without_a_payment_method_can_pause_the_subscription() {
    for (anchor, period_end) in [("now", FIRST_END + 5 * DAY), ("unchanged", FIRST_END)] {
        let world = trialing(&["price_basic"], None).await;
        let pause = (
            "trial_settings[end_behavior][missing_payment_method]",
            "pause",
        );
        let set = world.post(SUB, &[pause]).await.ok();
        assert_eq!(
            set["trial_settings"]["end_behavior"]["missing_payment_method"],
            "pause"
        );
        world.clock_at(TRIAL_END + 5 * DAY).await;
        let paused = world
            .get("/v1/subscriptions", &[("status", "paused")])
            .await
            .ok();
        assert_eq!(paused["data"][0]["status"], "paused");
        world.use_at("paused", 5, TRIAL_END + DAY).await.ok();
        let path = format!("{SUB}/resume");
        let resumed = world
            .post(&path, &[("billing_cycle_anchor[type]", anchor)])
            .await
            .ok();
        assert_eq!(resumed["status"], "active");
        let item = &resumed["items"]["data"][0];
        assert_eq!(item["current_period_end"], period_end, "{anchor}");
        let start = period_end - 30 * DAY;
        assert_eq!(item["current_period_start"], start, "{anchor}");
        assert_eq!(world.post(&path, &[]).await.status, 400);
        let kinds = kinds(&world).await;
        for kind in ["paused", "resumed"] {
            assert!(
                kinds.contains(&format!("customer.subscription.{kind}")),
                "{kinds:?}"
            );
        }
        world.use_at("resumed", 7, TRIAL_END + 5 * DAY).await.ok();
        world.clock_at(period_end).await;
        let invoices = world.invoices().await;
        assert_eq!(invoices.len(), 1, "a paused subscription makes none");
        assert_eq!(lines(&invoices[0]), [("calls", 7, 70)]);
        assert_eq!(
            world.discarded().await,
            [("in_trial".to_owned(), 20), ("while_paused".to_owned(), 5)]
        );
    }
}

#[tokio::test]
async fn a_paused_subscription_makes_no_invoices_and_can_be_canceled() {
    let world = trialing(&["price_basic", "price_seat"], Some("pause")).await;
    world.clock_at(TRIAL_END + 70 * DAY).await;
    assert_eq!(world.invoices().await.len(), 1, "that of the start");
    let at_end = world.post(SUB, &[("cancel_at_period_end", "true")]).await;
    assert_eq!(at_end.status, 501);
    let preview = [("subscription", "sub_1")];
    assert_eq!(
        world
            .post("/v1/invoices/create_preview", &preview)
            .await
            .refusal(),
        (404, "invoice_upcoming_none")
    );
    let resume = world.post(&format!("{SUB}/resume"), &[]).await;
    assert_eq!(
        resume.message(),
        "fake-stripe does not support resuming a subscription whose resumption invoice has to be paid"
    );
    world.use_at("paused", 5, TRIAL_END + 69 * DAY).await.ok();
    world
        .call("DELETE", SUB, &[("invoice_now", "true")])
        .await
        .ok();
    assert_eq!(world.invoices().await.len(), 1);
    assert_eq!(
        world.discarded().await,
        [("in_trial".to_owned(), 20), ("while_paused".to_owned(), 5)]
    );
}
