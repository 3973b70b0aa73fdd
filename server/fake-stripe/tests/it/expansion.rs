//! `expand`: ids become objects, in lists and below other objects; nonsense is refused.

use serde_json::json;

use crate::billing_world::{HALF, SUB, half_way};
use crate::client::World;

#[tokio::test]
async fn ids_become_objects_at_any_level() {
    let (world, _) = half_way(&["price_basic", "price_seat"], |_| {}).await;
    let paths = [
        ("expand[]", "customer"),
        ("expand[]", "latest_invoice.customer"),
        ("expand[]", "items.data.price.product"),
        ("expand[]", "items.data.price.tiers"),
        ("expand[]", "default_payment_method"),
        ("expand[]", "automatic_tax.liability.account"),
        (
            "expand[]",
            "customer.invoice_settings.default_payment_method",
        ),
    ];
    let subscription = world.get(SUB, &paths).await.ok();
    let customer = world.get("/v1/customers/cus_1", &[]).await.ok();
    assert_eq!(subscription["customer"], customer);
    assert_eq!(subscription["latest_invoice"]["customer"], customer);
    assert_eq!(subscription["default_payment_method"], json!(null));
    let items = subscription["items"]["data"].as_array().unwrap();
    for item in items {
        assert_eq!(item["price"]["product"]["object"], "product");
    }
    assert_eq!(items[0]["price"]["tiers"][0]["up_to"], 100);
    assert!(items[1]["price"].get("tiers").is_none());

    let list = [("expand[]", "data.latest_invoice")];
    let listed = world.get("/v1/subscriptions", &list).await.ok();
    let invoice = &listed["data"][0]["latest_invoice"];
    let id = invoice["id"].as_str().unwrap();
    let path = format!("/v1/invoices/{id}");
    assert_eq!(*invoice, world.get(&path, &[]).await.ok());
    let parent = [("expand[]", "parent.subscription_details.subscription")];
    let invoice = world.get(&path, &parent).await.ok();
    let plain = world.get(SUB, &[]).await.ok();
    assert_eq!(
        invoice["parent"]["subscription_details"]["subscription"],
        plain
    );
    let price = [("expand[]", "data.pricing.price_details.price")];
    let lines = world.get(&format!("{path}/lines"), &price).await.ok();
    assert_eq!(
        lines["data"][0]["pricing"]["price_details"]["price"]["id"],
        "price_seat"
    );

    let both = [("expand[]", "latest_invoice"), ("invoice_now", "true")];
    let ended = world.call("DELETE", SUB, &both).await.ok();
    assert_eq!(ended["latest_invoice"]["created"], HALF);
}

#[tokio::test]
async fn what_cannot_be_expanded_is_refused_and_changes_nothing() {
    let world = World::billing().await;
    world.subscribe(&["price_basic"]).await;
    for (path, expand) in [
        (SUB, "status"),
        (SUB, "customers"),
        (SUB, "data.customer"),
        (SUB, "items.price"),
        (SUB, "items.data"),
        (SUB, "customer.name"),
        (SUB, "automatic_tax"),
        (SUB, "automatic_tax.status"),
        ("/v1/account", "business_profile"),
        (SUB, "items.data.price.tiers.up_to"),
        ("/v1/customers/cus_1", "subscriptions.data.id.x.y"),
        ("/v1/billing/meters/mtr_1", "customer"),
    ] {
        let reply = world.get(path, &[("expand[]", expand)]).await;
        assert_eq!(
            (reply.status, &reply.body["error"]["param"]),
            (400, &json!("expand"))
        );
        let text = format!("This property cannot be expanded ({expand}).");
        let levels = "You cannot expand more than 4 levels of a property.";
        assert!(
            reply.message().starts_with(&text) || reply.message().starts_with(levels),
            "{}",
            reply.message()
        );
    }
    // Also on an empty list.
    let pairs = [("customer", "cus_2"), ("expand[]", "customer")];
    assert_eq!(
        world.get("/v1/subscriptions", &pairs).await.message(),
        "This property cannot be expanded (customer). You may want to try expanding 'data.customer' instead."
    );
    let pairs = [("metadata[a]", "1"), ("expand[]", "nonsense")];
    assert_eq!(world.post(SUB, &pairs).await.status, 400);
    assert_eq!(world.get(SUB, &[]).await.ok()["metadata"], json!({}));
    assert_eq!(
        world.get(SUB, &[("expand", "customer")]).await.message(),
        "Invalid array"
    );
    for (path, expand) in [
        ("/v1/account", "settings.branding.icon"),
        ("/v1/customers/cus_1", "tax"),
        ("/v1/prices/price_basic", "currency_options"),
        (SUB, "latest_invoice.payments"),
    ] {
        let reply = world.get(path, &[("expand[]", expand)]).await;
        assert_eq!(reply.refusal(), (501, "fake_stripe_unsupported"));
        assert_eq!(
            reply.message(),
            format!("fake-stripe does not support expand={expand}")
        );
    }
}
