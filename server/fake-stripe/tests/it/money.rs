//! The customer's balance, amounts too small to be charged, currencies, and what becomes of invoices by hand.

use fake_stripe::NewPrice;
use serde_json::{Value, json};

use crate::billing_world::{HALF, MONTH_END, SUB, half_way};
use crate::client::World;

async fn customer(world: &World) -> Value {
    world.get("/v1/customers/cus_1", &[]).await.ok()
}

async fn newest_invoice(world: &World) -> Value {
    let list = world.get("/v1/invoices", &[("limit", "1")]).await.ok();
    list["data"][0].clone()
}

fn amounts(invoice: &Value) -> [Value; 5] {
    [
        "total",
        "starting_balance",
        "amount_due",
        "ending_balance",
        "status",
    ]
    .map(|name| invoice[name].clone())
}

#[tokio::test]
async fn a_credit_becomes_the_balance_and_pays_the_next_invoice() {
    let (world, items) = half_way(&["price_basic", "price_seat"], |_| {}).await;
    assert_eq!(customer(&world).await["currency"], "usd");
    let remove = [("proration_behavior", "always_invoice")];
    let seat = format!("/v1/subscription_items/{}", items[1]);
    world.call("DELETE", &seat, &remove).await.ok();
    let credit = newest_invoice(&world).await;
    assert_eq!(
        amounts(&credit),
        [
            json!(-1_500),
            json!(0),
            json!(0),
            json!(-1_500),
            json!("paid")
        ]
    );
    assert_eq!(customer(&world).await["balance"], -1_500);

    // 200 units at 5 cents.
    world.use_at("more", 180, HALF).await.ok();
    world.clock_at(MONTH_END).await;
    let draft = newest_invoice(&world).await;
    assert_eq!(
        amounts(&draft),
        [
            json!(1_000),
            json!(-1_500),
            json!(0),
            json!(null),
            json!("draft")
        ]
    );
    assert_eq!(customer(&world).await["balance"], -1_500, "not yet used");
    world.use_at("late", 200, HALF).await.ok();
    world.clock_at(MONTH_END + 3_600).await;
    assert_eq!(
        amounts(&newest_invoice(&world).await),
        [
            json!(2_000),
            json!(-1_500),
            json!(500),
            json!(0),
            json!("open")
        ]
    );
    assert_eq!(customer(&world).await["balance"], 0);
}

#[tokio::test]
async fn an_amount_below_the_smallest_charge_moves_to_the_balance() {
    let world = World::billing().await;
    world.subscribe(&["price_pro"]).await;
    world.clock_at(MONTH_END - 60).await;
    world.use_at("a", 12, MONTH_END - 60).await.ok();
    world.clock_at(MONTH_END + 3_600).await;
    assert_eq!(
        amounts(&newest_invoice(&world).await),
        [json!(48), json!(0), json!(0), json!(48), json!("paid")]
    );
    assert_eq!(customer(&world).await["balance"], 48);
    world.use_at("b", 1, MONTH_END + 60).await.ok();
    let ended = world.call("DELETE", SUB, &[("invoice_now", "true")]).await;
    assert_eq!(ended.ok()["status"], "canceled");
    assert_eq!(
        amounts(&newest_invoice(&world).await),
        [json!(4), json!(48), json!(52), json!(0), json!("open")]
    );
}

#[tokio::test]
async fn one_currency_at_a_time() {
    let (world, _) = half_way(&["price_seat"], |_| {}).await;
    let euros = NewPrice {
        currency: "eur".to_owned(),
        ..NewPrice::licensed("price_euro", "prod_seats", "2000")
    };
    world.control.create_price(&euros).await.unwrap();
    let mixed = [
        ("customer", "cus_1"),
        ("items[0][price]", "price_seat"),
        ("items[1][price]", "price_euro"),
    ];
    assert_eq!(world.post("/v1/subscriptions", &mixed).await.status, 400);
    let add = [("items[0][price]", "price_euro")];
    assert_eq!(world.post(SUB, &add).await.status, 400);
    let new = [("customer", "cus_1"), ("items[0][price]", "price_euro")];
    let second = world.post("/v1/subscriptions", &new).await;
    assert_eq!(second.status, 400);
    assert!(
        second
            .message()
            .starts_with("You cannot combine currencies on a single customer."),
        "{}",
        second.message()
    );
    // The first invoice is still open after the subscription ended.
    world.call("DELETE", SUB, &[]).await.ok();
    assert_eq!(world.post("/v1/subscriptions", &new).await.status, 400);
    let id = newest_invoice(&world).await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let paid = [("paid_out_of_band", "true")];
    world
        .post(&format!("/v1/invoices/{id}/pay"), &paid)
        .await
        .ok();
    world.post("/v1/subscriptions", &new).await.ok();
    assert_eq!(customer(&world).await["currency"], "eur");

    let unknown = [
        ("currency", "xyz"),
        ("product", "prod_seats"),
        ("unit_amount", "1"),
    ];
    let reply = world.post("/v1/prices", &unknown).await;
    assert_eq!(
        (reply.status, reply.message()),
        (501, "fake-stripe does not support currency=xyz")
    );
    let wrong = [
        ("currency", "dollars"),
        ("product", "prod_seats"),
        ("unit_amount", "1"),
    ];
    assert_eq!(world.post("/v1/prices", &wrong).await.status, 400);
}

#[tokio::test]
async fn a_balance_in_another_currency_is_not_supported() {
    let (world, _) = half_way(&["price_seat"], |_| {}).await;
    let euros = NewPrice {
        currency: "eur".to_owned(),
        ..NewPrice::licensed("price_euro", "prod_seats", "2000")
    };
    world.control.create_price(&euros).await.unwrap();
    let first = newest_invoice(&world).await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let credit = [("prorate", "true"), ("invoice_now", "true")];
    world.call("DELETE", SUB, &credit).await.ok();
    world
        .post(&format!("/v1/invoices/{first}/void"), &[])
        .await
        .ok();
    let new = [("customer", "cus_1"), ("items[0][price]", "price_euro")];
    let reply = world.post("/v1/subscriptions", &new).await;
    assert_eq!(reply.refusal(), (501, "fake_stripe_unsupported"));
    let other = World::billing().await;
    assert_eq!(customer(&other).await["currency"], json!(null));
}

#[tokio::test]
async fn an_open_invoice_is_paid_voided_or_marked() {
    let (world, _) = half_way(&["price_basic"], |_| {}).await;
    world.clock_at(MONTH_END).await;
    let draft = newest_invoice(&world).await;
    let path = format!("/v1/invoices/{}", draft["id"].as_str().unwrap());
    for action in ["void", "mark_uncollectible"] {
        let reply = world.post(&format!("{path}/{action}"), &[]).await;
        assert_eq!(reply.refusal(), (400, "invoice_not_editable"));
    }
    assert_eq!(world.post(&format!("{path}/pay"), &[]).await.status, 501);
    world.post(&format!("{path}/finalize"), &[]).await.ok();
    let marked = world
        .post(&format!("{path}/mark_uncollectible"), &[])
        .await
        .ok();
    assert_eq!(
        (
            &marked["status"],
            &marked["status_transitions"]["marked_uncollectible_at"]
        ),
        (&json!("uncollectible"), &json!(MONTH_END))
    );
    let void = world.post(&format!("{path}/void"), &[]).await.ok();
    assert_eq!(
        (&void["status"], &void["status_transitions"]["voided_at"]),
        (&json!("void"), &json!(MONTH_END))
    );
    assert_eq!(world.discarded().await, [("invoice_voided".to_owned(), 20)]);
    assert_eq!(world.post(&format!("{path}/void"), &[]).await.status, 400);

    let (world, _) = half_way(&["price_basic"], |_| {}).await;
    world.clock_at(MONTH_END).await;
    let draft = newest_invoice(&world).await;
    let path = format!("/v1/invoices/{}/pay", draft["id"].as_str().unwrap());
    let paid = world
        .post(&path, &[("paid_out_of_band", "true")])
        .await
        .ok();
    assert_eq!(
        [
            &paid["status"],
            &paid["amount_paid"],
            &paid["amount_remaining"]
        ],
        [&json!("paid"), &json!(200), &json!(0)]
    );
}

#[tokio::test]
async fn usage_after_an_early_finalization_is_late() {
    let (world, _) = half_way(&["price_basic"], |_| {}).await;
    world.clock_at(MONTH_END + 60).await;
    let draft = newest_invoice(&world).await;
    let path = format!("/v1/invoices/{}/finalize", draft["id"].as_str().unwrap());
    assert_eq!(world.post(&path, &[]).await.ok()["amount_due"], 200);
    world.use_at("late", 7, MONTH_END - 1).await.ok();
    world.clock_at(MONTH_END + 3_600).await;
    assert_eq!(newest_invoice(&world).await["amount_due"], 200);
    assert_eq!(world.discarded().await, [("late".to_owned(), 7)]);
}
