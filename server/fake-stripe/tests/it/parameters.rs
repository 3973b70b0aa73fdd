//! Empty values, metadata, and limits on lengths and counts.

use serde_json::json;

use crate::billing_world::SUB;
use crate::client::World;

#[tokio::test]
async fn an_empty_value_unsets_or_is_refused() {
    let world = World::billing().await;
    world.subscribe(&["price_basic"]).await;
    for (method, path, name) in [
        ("GET", "/v1/subscriptions", "customer"),
        ("GET", "/v1/prices", "lookup_keys[0]"),
        ("POST", "/v1/billing/meter_events", "event_name"),
        ("POST", SUB, "trial_end"),
        ("POST", SUB, "items[0][price]"),
        ("POST", SUB, "pause_collection[behavior]"),
        ("POST", SUB, "items"),
    ] {
        let reply = world.call(method, path, &[(name, "")]).await;
        assert_eq!(reply.refusal(), (400, "parameter_invalid_empty"), "{name}");
        assert_eq!(reply.body["error"]["param"], name);
        assert!(
            reply
                .message()
                .starts_with(&format!("You passed an empty string for '{name}'.")),
            "{}",
            reply.message()
        );
    }
    let end = ("cancel_at", "min_period_end");
    let feedback = ("cancellation_details[feedback]", "unused");
    let described = [("description", "x"), end, feedback];
    let set = world.post(SUB, &described).await.ok();
    assert_eq!(set["cancellation_details"]["feedback"], "unused");
    let unset = [
        ("description", ""),
        ("cancel_at", ""),
        ("cancellation_details[feedback]", ""),
    ];
    let unset = world.post(SUB, &unset).await.ok();
    assert_eq!(
        [
            &unset["description"],
            &unset["cancel_at"],
            &unset["cancellation_details"]["feedback"]
        ],
        [&json!(null); 3]
    );
}

#[tokio::test]
async fn metadata_is_merged_and_cleared_by_an_empty_string() {
    let world = World::billing().await;
    let items = world.subscribe(&["price_basic"]).await;
    let item = format!("/v1/subscription_items/{}", items[0]);
    for path in [
        "/v1/customers/cus_1",
        "/v1/products/prod_calls",
        "/v1/prices/price_basic",
        SUB,
        &item,
    ] {
        let both = [("metadata[a]", "1"), ("metadata[b]", "2")];
        let set = world.post(path, &both).await.ok();
        assert_eq!(set["metadata"], json!({ "a": "1", "b": "2" }), "{path}");
        let one = world.post(path, &[("metadata[a]", "")]).await.ok();
        assert_eq!(one["metadata"], json!({ "b": "2" }), "{path}");
        let none = world.post(path, &[("metadata", "")]).await.ok();
        assert_eq!(none["metadata"], json!({}), "{path}");
        let text = world.post(path, &[("metadata", "x")]).await;
        assert_eq!(text.status, 400, "{path}");
    }
}

#[tokio::test]
async fn metadata_has_limits() {
    let world = World::billing().await;
    let path = "/v1/customers/cus_1";
    let set = async |key: &str, value: &str| {
        let name = format!("metadata[{key}]");
        world.post(path, &[(&name, value)]).await
    };
    set(&"k".repeat(40), &"v".repeat(500)).await.ok();
    assert_eq!(set(&"k".repeat(41), "v").await.status, 400);
    let long = set("k", &"v".repeat(501)).await;
    assert_eq!(long.body["error"]["param"], "metadata[k]");
    assert!(long.message().contains("is 501 characters"));
    for n in 1..50 {
        set(&format!("k{n}"), "v").await.ok();
    }
    let full = set("one_more", "v").await;
    assert_eq!(
        full.message(),
        "Metadata can have up to 50 keys, and would have 51."
    );
    // The 50 that are there can be changed, and make room.
    set("k1", "w").await.ok();
    set("k1", "").await.ok();
    set("one_more", "v").await.ok();
}

#[tokio::test]
async fn texts_have_limits() {
    let world = World::billing().await;
    world.subscribe(&["price_basic"]).await;
    for (path, name, limit) in [
        ("/v1/customers/cus_1", "name", 256),
        ("/v1/customers/cus_1", "email", 512),
        ("/v1/customers/cus_1", "description", 5_000),
        ("/v1/billing/meters/mtr_1", "display_name", 250),
        ("/v1/products/prod_calls", "unit_label", 12),
        ("/v1/prices/price_basic", "lookup_key", 200),
        (SUB, "description", 500),
    ] {
        world.post(path, &[(name, &"é".repeat(limit))]).await.ok();
        let reply = world.post(path, &[(name, &"é".repeat(limit + 1))]).await;
        assert_eq!(reply.status, 400, "{name}");
        assert_eq!(reply.body["error"]["param"], name);
        assert!(
            reply
                .message()
                .ends_with(&format!("must be at most {limit} characters")),
            "{}",
            reply.message()
        );
    }
    let long = "x".repeat(101);
    assert_eq!(
        world.event(&long, "1").await.body["error"]["param"],
        "identifier"
    );
}

#[tokio::test]
async fn counts_have_limits() {
    let world = World::billing().await;
    let mut prices = Vec::new();
    for n in 0..21 {
        let id = format!("price_{n}");
        let price = fake_stripe::NewPrice::licensed(&id, "prod_seats", "100");
        world.control.create_price(&price).await.unwrap();
        prices.push((format!("items[{n}][price]"), id));
    }
    let mut pairs = vec![("customer", "cus_1")];
    pairs.extend(prices.iter().map(|(name, id)| (name.as_str(), id.as_str())));
    let many = world.post("/v1/subscriptions", &pairs).await;
    assert_eq!(
        (many.status, &many.body["error"]["param"]),
        (400, &json!("items"))
    );
    pairs.pop();
    let made = world.post("/v1/subscriptions", &pairs).await.ok();
    // The items that are there count too.
    let add = [
        ("subscription", made["id"].as_str().unwrap()),
        ("price", "price_20"),
    ];
    let more = world.post("/v1/subscription_items", &add).await;
    assert_eq!(
        (more.status, more.message().contains("20 items")),
        (400, true)
    );

    for n in 1..500 {
        world
            .subscribe_with(&["price_basic"], |new| new.id = format!("sub_{n}"))
            .await;
    }
    let new = [("customer", "cus_1"), ("items[0][price]", "price_basic")];
    let many = world.post("/v1/subscriptions", &new).await;
    assert_eq!(
        (many.status, &many.body["error"]["param"]),
        (400, &json!("customer"))
    );

    let keys: Vec<String> = (0..11).map(|n| format!("lookup_keys[{n}]")).collect();
    let keys: Vec<(&str, &str)> = keys.iter().map(|name| (name.as_str(), "k")).collect();
    world.get("/v1/prices", &keys[..10]).await.ok();
    let many = world.get("/v1/prices", &keys).await;
    assert_eq!(
        (many.status, &many.body["error"]["param"]),
        (400, &json!("lookup_keys"))
    );
}

#[tokio::test]
async fn searches_speak_stripes_query_language() {
    let world = World::billing().await;
    world.subscribe(&["price_basic"]).await;
    let ids = async |path: &str, query: &str| {
        let found = world.get(path, &[("query", query)]).await.ok();
        let data = found["data"].as_array().unwrap().clone();
        let mut ids: Vec<String> = data
            .iter()
            .map(|one| one["id"].as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        ids
    };
    let products = "/v1/products/search";
    assert_eq!(ids(products, "name~'CALL'").await, ["prod_calls"]);
    assert_eq!(
        ids(products, "-name~\"call\" AND active:'true'").await,
        ["prod_seats"]
    );
    let prices = "/v1/prices/search";
    assert_eq!(
        ids(prices, "product:'prod_seats' OR lookup_key:'none'").await,
        ["price_seat"]
    );
    let subscriptions = "/v1/subscriptions/search";
    assert_eq!(
        ids(subscriptions, "status:'active' created>1000").await,
        ["sub_1"]
    );
    assert_eq!(ids(subscriptions, "created<1000").await, [""; 0]);
    for query in [
        "colour:'red'",
        "name:'a' AND name:'b' OR name:'c'",
        "name~'ab'",
        "name",
    ] {
        let reply = world.get(products, &[("query", query)]).await;
        assert_eq!(
            (reply.status, &reply.body["error"]["param"]),
            (400, &json!("query"))
        );
    }
}
