//! Calls as JSON and as protobuf, who may make them, and what they leave in the audit table and the metrics.

use std::io::{Read as _, Write as _};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use prost::Message as _;
use serde_json::json;
use usage_client::proto::{KeyRole, ListAuditEntriesRequest};
use usage_proto::v1::{IncrementRequest, IncrementResponse};
use usage_server::domain::{access::Requirement, method_roles::METHODS};

use super::{
    super::access::{access, create, first_admin, new_key, roles::kinds_of_keys},
    GET, INCREMENT, JSON, call, envelope, envelopes, post, send,
};
use crate::support::world::{World, on_both_engines, on_sqlite, poll};

on_both_engines!(
    a_unit_is_counted_once_and_shown,
    each_kind_of_key_is_answered_as_the_role_table_says,
    what_admins_do_is_audited,
);

on_sqlite!(
    a_call_can_be_made_as_protobuf_by_get_and_compressed,
    a_health_check_needs_no_key,
    calls_are_in_the_metrics,
    a_key_has_one_limit_over_grpc_and_http,
    a_batch_of_a_thousand_increments_is_counted,
);

async fn a_unit_is_counted_once_and_shown(world: World) {
    let increment = json!({ "accountId": "acct", "quantity": "3", "idempotencyKey": "k" });
    let counted = call(&world, INCREMENT, None, &increment).await;
    assert_eq!(counted.status, 200, "{}", counted.text());
    assert_eq!(counted.header("content-type"), "application/json");
    assert!(!counted.header("x-request-id").is_empty());
    // What has its default is left out.
    assert_eq!(counted.json(), json!({}));
    let again = call(&world, INCREMENT, None, &increment).await;
    assert_eq!(again.json(), json!({ "duplicate": true }));
    let shown = call(&world, GET, None, &json!({ "account_id": "acct" })).await;
    assert_eq!(shown.status, 200, "{}", shown.text());
    let usage = &shown.json()["meters"][0];
    assert_eq!(usage["meter"], "api_calls");
    assert_eq!(usage["quantities"]["total"], "3");
    assert_eq!(world.usage_of("acct", "api_calls").await.0, 3);
    world.finish().await;
}

async fn a_call_can_be_made_as_protobuf_by_get_and_compressed(world: World) {
    let url = world.http_url();
    let message = IncrementRequest {
        account_id: "acct".to_owned(),
        idempotency_key: "k".to_owned(),
        ..IncrementRequest::default()
    };
    let proto = [("content-type", "application/proto")];
    for duplicate in [false, true] {
        let answer = post(&world, INCREMENT, &proto, message.encode_to_vec()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("content-type"), "application/proto");
        let answer = IncrementResponse::decode(&*answer.body).unwrap();
        assert_eq!(answer.duplicate, duplicate);
    }
    // By GET: only what reads.
    let query = "connect=v1&encoding=json&message=%7B%22accountId%22%3A%22acct%22%7D";
    let got = send("GET", &format!("{url}{GET}?{query}"), &[], "").await;
    assert_eq!(got.status, 200, "{}", got.text());
    assert_eq!(got.json()["meters"][0]["quantities"]["total"], "1");
    assert_eq!(got.header("cache-control"), "no-store");
    let refused = send("GET", &format!("{url}{INCREMENT}?{query}"), &[], "").await;
    assert_eq!(refused.status, 405);
    assert_eq!(refused.header("allow"), "POST");
    // Both messages compressed.
    let increments: Vec<_> = (0..200)
        .map(|nth| json!({ "accountId": format!("account-{nth}") }))
        .collect();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    let batch = json!({ "increments": increments }).to_string();
    gzip.write_all(batch.as_bytes()).unwrap();
    let headers = [
        ("content-encoding", "gzip"),
        ("accept-encoding", "br, gzip"),
        ("connect-protocol-version", "1"),
        JSON,
    ];
    let path = "/usage.v1.UsageService/IncrementBatch";
    let answer = post(&world, path, &headers, gzip.finish().unwrap()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-encoding"), "gzip");
    let mut text = String::new();
    let mut unzipped = GzDecoder::new(&*answer.body);
    unzipped.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("INCREMENT_OUTCOME_COUNTED").count(), 200);
    world.finish().await;
}

/// Every method, in the form that it has.
async fn each_kind_of_key_is_answered_as_the_role_table_says(mut world: World) {
    let keys = kinds_of_keys(&mut world).await;
    let mut streams = 0;
    for (path, needed) in METHODS {
        if path.starts_with("/grpc.") {
            continue;
        }
        for (kind, key, role) in &keys {
            let bearer = format!("Bearer {}", key.as_deref().unwrap_or_default());
            let mut headers = vec![JSON];
            if key.is_some() {
                headers.push(("authorization", &bearer));
            }
            let mut answer = post(&world, path, &headers, "{}").await;
            let mut code = answer.json_or_null()["code"].clone();
            if answer.status == 415 {
                streams += 1;
                headers[0].1 = "application/connect+json";
                answer = post(&world, path, &headers, envelope(0, b"{}")).await;
                let last = envelopes(&answer.body).pop().expect("an end");
                assert_eq!((answer.status, last.0), (200, 2), "{path}");
                let end: serde_json::Value = serde_json::from_slice(&last.1).unwrap();
                code = end["error"]["code"].clone();
            }
            let refused = ["unauthenticated", "permission_denied"];
            let refused = refused.into_iter().find(|refused| code == *refused);
            let expected = match (needed, role) {
                (Requirement::Nothing, _) => None,
                (_, None) => Some("unauthenticated"),
                (needed, Some(role)) if needed.is_met_by(*role) => None,
                _ => Some("permission_denied"),
            };
            assert_eq!(refused, expected, "{kind}: {path}: {}", answer.text());
            assert!(answer.status < 500, "{kind}: {path}: {}", answer.text());
        }
    }
    // `ForceReport`, `ExportAccount` and `ExportSignOff`.
    assert_eq!(streams, 3 * keys.len());
    world.finish().await;
}

async fn a_health_check_needs_no_key(world: World) {
    let (_, admin) = first_admin(&world).await;
    let check = "/grpc.health.v1.Health/Check";
    let answer = call(&world, check, None, &json!({})).await;
    assert_eq!(answer.json(), json!({ "status": "SERVING" }));
    let list = "/usage.v1.UsageService/ListMeters";
    let refused = call(&world, list, None, &json!({})).await;
    refused.assert_error(401, "unauthenticated", "UNAUTHENTICATED");
    assert_eq!(refused.header("www-authenticate"), "Bearer");
    assert_eq!(
        call(&world, list, Some(&admin), &json!({})).await.status,
        200
    );
    // Who calls is asked before anything is read, and before a method is looked for.
    for path in [list, "/usage.v1.UsageService/Nothing"] {
        let refused = post(&world, path, &[JSON], "no JSON").await;
        refused.assert_error(401, "unauthenticated", "UNAUTHENTICATED");
    }
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let refused = call(&world, reflection, Some(&admin), &json!({})).await;
    refused.assert_error(501, "unimplemented", "UNIMPLEMENTED");
    world.finish().await;
}

async fn what_admins_do_is_audited(world: World) {
    let (_, admin) = first_admin(&world).await;
    let mut keys = access(&world, Some(&admin)).await;
    let reader = create(&mut keys, new_key("reader", KeyRole::Reader))
        .await
        .text;
    let free = json!({ "accountId": "acct", "free": {} });
    let path = "/usage.v1.AccountService/PutAccount";
    let denied = call(&world, path, Some(&reader), &free).await;
    denied.assert_error(403, "permission_denied", "PERMISSION_DENIED");
    let bearer = format!("Bearer {admin}");
    let headers = [
        JSON,
        ("authorization", &*bearer),
        ("x-request-id", "from-curl"),
    ];
    let put = post(&world, path, &headers, free.to_string()).await;
    assert_eq!(put.status, 200, "{}", put.text());
    assert_eq!(put.header("x-request-id"), "from-curl");
    assert_eq!(put.json()["account"]["accountId"], "acct");
    let listed = keys
        .list_audit_entries(ListAuditEntriesRequest::default())
        .await;
    let entries = listed.unwrap().into_inner().entries;
    let of_call: Vec<_> = entries
        .iter()
        .filter(|entry| entry.request_id == "from-curl")
        .collect();
    assert!(!of_call.is_empty(), "{entries:?}");
    assert!(of_call.iter().all(|entry| entry.key_name == "root"));
    assert!(
        of_call
            .iter()
            .all(|entry| entry.address.starts_with("127.0.0.1:"))
    );
    let refused = denied.header("x-request-id");
    let refused = entries.iter().find(|entry| entry.request_id == refused);
    assert_eq!(refused.unwrap().key_name, "reader");
    world.finish().await;
}

async fn calls_are_in_the_metrics(world: World) {
    let counted = async |code: &str| {
        let (_, metrics) = world.http_get("/metrics").await;
        let method = "usage.v1.UsageService/Increment";
        let name = format!("usage_calls_total{{method=\"{method}\",code=\"{code}\"}} ");
        let mut lines = metrics.lines();
        let line = lines.find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("no {name} in {metrics}"))
            .parse::<u64>()
            .unwrap()
    };
    // Other tests of the process count too.
    let before = (counted("OK").await, counted("INVALID_ARGUMENT").await);
    call(&world, INCREMENT, None, &json!({ "accountId": "acct" })).await;
    call(&world, INCREMENT, None, &json!({ "accountId": 7 })).await;
    poll("the calls in the metrics", async || {
        let now = (counted("OK").await, counted("INVALID_ARGUMENT").await);
        (now.0 > before.0 && now.1 > before.1).then_some(())
    })
    .await;
    world.finish().await;
}

async fn a_key_has_one_limit_over_grpc_and_http(mut world: World) {
    world.reconfigure(&["--requests-per-sec=1"]).await;
    let (_, admin) = first_admin(&world).await;
    let mut limited = None;
    for _ in 0..20 {
        let mut grpc = access(&world, Some(&admin)).await;
        // One of the two takes what there is for a second.
        let _ = grpc
            .list_keys(usage_client::proto::ListKeysRequest::default())
            .await;
        let list = "/usage.v1.UsageService/ListMeters";
        let answer = call(&world, list, Some(&admin), &json!({})).await;
        if answer.status != 200 {
            limited = Some(answer);
            break;
        }
    }
    let limited = limited.expect("a refusal");
    limited.assert_error(429, "resource_exhausted", "RATE_LIMITED");
    let retry = super::detail(&limited.json(), "google.rpc.RetryInfo");
    assert!(
        retry["debug"]["retryDelay"]
            .as_str()
            .unwrap()
            .ends_with('s')
    );
    world.finish().await;
}

async fn a_batch_of_a_thousand_increments_is_counted(world: World) {
    let now = chrono::DateTime::from_timestamp_millis(world.clock.now()).unwrap();
    let increments: Vec<_> = (0..1_000)
        .map(|nth| {
            json!({
                "accountId": format!("{nth:0>128}"),
                "meter": "api_calls",
                "quantity": "999999999",
                "idempotencyKey": format!("{nth:\u{20ac}>80}"),
                "timestamp": now.to_rfc3339(),
            })
        })
        .collect();
    let path = "/usage.v1.UsageService/IncrementBatch";
    let answer = call(&world, path, None, &json!({ "increments": increments })).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let counted = answer.text().matches("INCREMENT_OUTCOME_COUNTED").count();
    assert_eq!(counted, 1_000);
    world.finish().await;
}
