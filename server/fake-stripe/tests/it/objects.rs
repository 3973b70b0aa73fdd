//! Keys, customers, meters, and what every call has in common.

use crate::client::{World, answer};

#[tokio::test]
async fn only_the_secret_key_is_accepted() {
    let world = World::new().await;
    let url = format!("{}/v1/customers", world.fake_stripe.base_url());
    let reply = answer(world.http.get(&url)).await;
    assert_eq!(reply.status, 401);
    assert!(
        reply
            .message()
            .starts_with("You did not provide an API key.")
    );
    let reply = answer(world.http.get(&url).bearer_auth("sk_test_wrong")).await;
    assert_eq!(
        (reply.status, reply.body["error"]["type"].as_str()),
        (401, Some("invalid_request_error"))
    );
    assert!(reply.message().starts_with("Invalid API Key provided"));
    let reply = answer(world.http.get(&url).basic_auth("sk_test_fake", Some(""))).await;
    assert_eq!(reply.status, 200);
    assert_eq!(world.control.stats().await.unwrap().unauthorized, 2);
}

#[tokio::test]
async fn every_answer_carries_stripes_headers() {
    let world = World::new().await;
    let reply = world.get("/v1/customers", &[]).await;
    assert!(reply.header("request-id").unwrap().starts_with("req_"));
    assert_eq!(
        reply.header("stripe-version"),
        Some(fake_stripe::API_VERSION)
    );
    assert_eq!(reply.header("date"), Some("Sun, 15 Nov 2026 10:20:30 GMT"));
    let request = world
        .request("GET", "/v1/customers", &[])
        .header("stripe-version", "2025-03-31.basil");
    assert_eq!(
        answer(request).await.header("stripe-version"),
        Some("2025-03-31.basil")
    );
}

#[tokio::test]
async fn a_customer_is_created_and_deleted() {
    let world = World::new().await;
    let created = world
        .post(
            "/v1/customers",
            &[("name", "First"), ("metadata[plan]", "pro")],
        )
        .await
        .ok();
    let id = created["id"].as_str().unwrap();
    assert!(id.starts_with("cus_"));
    let path = format!("/v1/customers/{id}");
    let updated = world
        .post(
            &path,
            &[
                ("email", "a@example.com"),
                ("metadata[plan]", ""),
                ("metadata[team]", "7"),
            ],
        )
        .await
        .ok();
    assert_eq!(updated["name"], "First");
    assert_eq!(updated["metadata"], serde_json::json!({ "team": "7" }));
    assert_eq!(world.get(&path, &[]).await.ok(), updated);
    assert_eq!(world.call("DELETE", &path, &[]).await.ok()["deleted"], true);
    assert_eq!(world.get(&path, &[]).await.ok()["deleted"], true);
    assert_eq!(
        world.post(&path, &[("name", "x")]).await.refusal(),
        (404, "resource_missing")
    );
    assert_eq!(
        world.get("/v1/customers/cus_none", &[]).await.refusal(),
        (404, "resource_missing")
    );
    let listed = world.get("/v1/customers", &[]).await.ok();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn lists_are_walked_by_cursors() {
    let world = World::new().await;
    for n in 2..=25 {
        world
            .control
            .create_customer(&format!("cus_{n}"))
            .await
            .unwrap();
    }
    let mut seen = Vec::new();
    let mut cursor = None::<String>;
    loop {
        let mut pairs = vec![("limit", "10")];
        pairs.extend(cursor.as_deref().map(|cursor| ("starting_after", cursor)));
        let page = world.get("/v1/customers", &pairs).await.ok();
        seen.extend(
            page["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["id"].as_str().unwrap().to_owned()),
        );
        cursor = seen.last().cloned();
        if page["has_more"] == false {
            break;
        }
    }
    let newest_first: Vec<String> = (1..=25).rev().map(|n| format!("cus_{n}")).collect();
    assert_eq!(seen, newest_first);
    let refusal = world
        .get("/v1/customers", &[("starting_after", "cus_none")])
        .await;
    assert_eq!(refusal.refusal(), (400, "resource_missing"));
}

#[tokio::test]
async fn a_meter_is_made_renamed_and_switched_off() {
    let world = World::new().await;
    let pairs = [
        ("display_name", "Tokens"),
        ("event_name", "tokens"),
        ("default_aggregation[formula]", "sum"),
        ("customer_mapping[type]", "by_id"),
        ("customer_mapping[event_payload_key]", "who"),
        ("value_settings[event_payload_key]", "many"),
    ];
    let meter = world.post("/v1/billing/meters", &pairs).await.ok();
    let path = format!("/v1/billing/meters/{}", meter["id"].as_str().unwrap());
    assert_eq!(meter["status"], "active");
    assert_eq!(
        world.post("/v1/billing/meters", &pairs).await.status,
        400,
        "the event name is taken"
    );
    assert_eq!(
        world
            .post(&path, &[("display_name", "All tokens")])
            .await
            .ok()["display_name"],
        "All tokens"
    );
    let event = [
        ("event_name", "tokens"),
        ("payload[who]", "cus_1"),
        ("payload[many]", "7"),
    ];
    world.post("/v1/billing/meter_events", &event).await.ok();

    let off = world.post(&format!("{path}/deactivate"), &[]).await.ok();
    assert_eq!(off["status"], "inactive");
    assert_eq!(
        off["status_transitions"]["deactivated_at"],
        crate::client::NOW
    );
    assert_eq!(
        world.post(&format!("{path}/deactivate"), &[]).await.status,
        400
    );
    let active = world
        .get("/v1/billing/meters", &[("status", "active")])
        .await
        .ok();
    assert_eq!(active["data"].as_array().unwrap().len(), 1);
    assert_eq!(
        world
            .post("/v1/billing/meter_events", &event)
            .await
            .refusal(),
        (400, "archived_meter")
    );
    assert_eq!(
        world.post(&format!("{path}/reactivate"), &[]).await.ok()["status"],
        "active"
    );
    assert_eq!(world.get(&path, &[]).await.ok()["status"], "active");
    assert_eq!(
        world
            .get("/v1/billing/meters/mtr_none", &[])
            .await
            .refusal(),
        (404, "resource_missing")
    );
}

#[tokio::test]
async fn unknown_and_missing_parameters_and_urls_are_named() {
    let world = World::new().await;
    let reply = world.post("/v1/customers", &[("colour", "red")]).await;
    assert_eq!(reply.refusal(), (400, "parameter_unknown"));
    assert_eq!(reply.message(), "Received unknown parameter: colour");
    let reply = world
        .post("/v1/billing/meter_events", &[("event_name", "calls")])
        .await;
    assert_eq!(reply.refusal(), (400, "parameter_missing"));
    assert_eq!(reply.message(), "Missing required param: payload.");
    for (method, path) in [
        ("GET", "/v1/nothing"),
        ("POST", "/v1/billing"),
        ("DELETE", "/v1/billing/meters/mtr_1"),
        ("GET", "/v1/customers/"),
    ] {
        let reply = world.call(method, path, &[]).await;
        assert_eq!(reply.status, 404);
        assert!(
            reply
                .message()
                .starts_with(&format!("Unrecognized request URL ({method}: {path}).")),
            "{}",
            reply.message()
        );
    }
}
