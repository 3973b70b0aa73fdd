//! Products and prices: creation, search and errors.

use serde_json::json;

use crate::client::World;

const VOLUME: &[(&str, &str)] = &[
    ("currency", "usd"),
    ("product", "prod_1"),
    ("recurring[interval]", "month"),
    ("recurring[usage_type]", "metered"),
    ("recurring[meter]", "mtr_1"),
    ("billing_scheme", "tiered"),
    ("tiers_mode", "volume"),
    ("tiers[0][up_to]", "100"),
    ("tiers[0][unit_amount]", "10"),
    ("tiers[0][flat_amount]", "500"),
    ("tiers[1][up_to]", "inf"),
    ("tiers[1][unit_amount_decimal]", "0.25"),
    ("lookup_key", "calls_basic"),
    ("metadata[plan]", "basic"),
];

async fn world() -> World {
    let world = World::new().await;
    let product = [("id", "prod_1"), ("name", "Calls")];
    world.post("/v1/products", &product).await.ok();
    world
}

#[tokio::test]
async fn a_product_is_created_found_and_deleted() {
    let world = world().await;
    let path = "/v1/products/prod_1";
    let changed = [
        ("name", "All calls"),
        ("metadata[plan]", "pro"),
        ("unit_label", "call"),
    ];
    let updated = world.post(path, &changed).await.ok();
    assert_eq!(world.get(path, &[]).await.ok(), updated);
    let query = [("query", "metadata[\"plan\"]:\"pro\" AND active:\"true\"")];
    let found = world.get("/v1/products/search", &query).await.ok();
    assert_eq!(found["data"], json!([updated]));
    let listed = world
        .get("/v1/products", &[("ids[0]", "prod_1")])
        .await
        .ok();
    assert_eq!(listed["data"][0]["name"], "All calls");
    let again = world
        .post("/v1/products", &[("id", "prod_1"), ("name", "x")])
        .await;
    assert_eq!(again.refusal(), (400, "resource_already_exists"));
    assert_eq!(world.call("DELETE", path, &[]).await.ok()["deleted"], true);
    assert_eq!(
        world.get(path, &[]).await.refusal(),
        (404, "resource_missing")
    );
}

#[tokio::test]
async fn a_price_keeps_its_tiers_to_itself_until_asked() {
    let world = world().await;
    let price = world.post("/v1/prices", VOLUME).await.ok();
    assert_eq!(price["tiers_mode"], "volume");
    assert_eq!(price["recurring"]["meter"], "mtr_1");
    assert!(price.get("tiers").is_none());
    let path = format!("/v1/prices/{}", price["id"].as_str().unwrap());
    let expanded = world.get(&path, &[("expand[]", "tiers")]).await.ok();
    let tier = json!({
        "flat_amount": 500,
        "flat_amount_decimal": "500",
        "unit_amount": 10,
        "unit_amount_decimal": "10",
        "up_to": 100,
    });
    assert_eq!(expanded["tiers"][0], tier);
    assert_eq!(expanded["tiers"][1]["unit_amount_decimal"], "0.25");
    let keys = [("lookup_keys[]", "calls_basic"), ("expand[]", "data.tiers")];
    let listed = world.get("/v1/prices", &keys).await.ok();
    assert_eq!(listed["data"], json!([expanded]));

    let off = world.post(&path, &[("active", "false")]).await.ok();
    assert_eq!(off["active"], false);
    let active = world.get("/v1/prices", &[("active", "true")]).await.ok();
    assert_eq!(active["data"], json!([]));
    let deleted = world.call("DELETE", "/v1/products/prod_1", &[]).await;
    assert_eq!(deleted.status, 400, "the product has a price");
}

#[tokio::test]
async fn a_lookup_key_is_taken_or_transferred() {
    let world = world().await;
    let first = world.post("/v1/prices", VOLUME).await.ok();
    assert_eq!(
        world.post("/v1/prices", VOLUME).await.refusal(),
        (400, "resource_already_exists")
    );
    let mut transfer = VOLUME.to_vec();
    transfer.push(("transfer_lookup_key", "true"));
    world.post("/v1/prices", &transfer).await.ok();
    let path = format!("/v1/prices/{}", first["id"].as_str().unwrap());
    assert_eq!(world.get(&path, &[]).await.ok()["lookup_key"], json!(null));
}

#[tokio::test]
async fn invalid_prices_are_rejected() {
    let world = world().await;
    let with = |name: &'static str, value: Option<&'static str>| {
        let mut pairs: Vec<(&str, &str)> = VOLUME
            .iter()
            .copied()
            .filter(|(key, _)| *key != name)
            .collect();
        pairs.extend(value.map(|value| (name, value)));
        pairs
    };
    let refused = [
        (with("recurring[meter]", None), "recurring[meter]"),
        (
            with("recurring[meter]", Some("mtr_none")),
            "recurring[meter]",
        ),
        (
            with("recurring[usage_type]", Some("licensed")),
            "recurring[meter]",
        ),
        (with("tiers_mode", None), "tiers_mode"),
        (with("tiers[1][up_to]", Some("200")), "tiers"),
        (with("tiers[0][up_to]", Some("0")), "tiers[0][up_to]"),
        (with("unit_amount", Some("3")), "unit_amount"),
        (with("billing_scheme", None), "billing_scheme"),
        (with("product", Some("prod_none")), "product"),
        (
            with("recurring[interval]", Some("hour")),
            "recurring[interval]",
        ),
    ];
    for (pairs, param) in refused {
        let reply = world.post("/v1/prices", &pairs).await;
        assert_eq!(reply.status, 400, "{pairs:?}");
        assert_eq!(reply.body["error"]["param"], param);
    }
    world.control.deactivate_meter("calls").await.unwrap();
    let reply = world.post("/v1/prices", VOLUME).await;
    assert_eq!(reply.message(), "The meter mtr_1 is inactive.");
}

#[tokio::test]
async fn a_key_is_checked_by_the_balance() {
    let world = World::new().await;
    assert_eq!(world.get("/v1/balance", &[]).await.ok()["livemode"], false);
    world.get("/v1/account", &[]).await.ok();
}
