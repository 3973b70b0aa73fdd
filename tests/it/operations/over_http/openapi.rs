//! The description of the services: it has every method, and each one answers as it says.

use std::collections::BTreeSet;

use jsonschema::Validator;
use serde_json::{Value, json};
use usage_client::proto::KeyRole;
use usage_server::domain::method_roles::METHODS;

use super::{
    super::access::{access, create, first_admin, new_key},
    Answer, INCREMENT, JSON, call, envelope, envelopes, post, send,
};
use crate::support::world::{World, hours_ago, on_both_engines, on_sqlite};

on_both_engines!(each_method_answers_as_it_is_described);
on_sqlite!(the_description_is_whole);

const STREAM: &str = "application/connect+json";

struct Description(Value);

impl Description {
    async fn read(world: &World) -> Self {
        let url = format!("{}/openapi.json", world.http_url());
        let answer = send("GET", &url, &[], "").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), "application/json");
        Self(answer.json())
    }

    fn operation(&self, path: &str) -> &Value {
        &self.0["paths"][path]["post"]
    }

    #[track_caller]
    fn assert_valid(&self, schema: &Value, instance: &Value, what: &str) {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "components": self.0["components"],
            "allOf": [schema],
        });
        let validator: Validator = jsonschema::options()
            .should_validate_formats(true)
            .build(&schema)
            .unwrap();
        let errors: Vec<String> = validator
            .iter_errors(instance)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{what}: {errors:?}\n{instance:#}");
    }

    #[track_caller]
    fn assert_error(&self, error: &Value, path: &str) {
        let schema = json!({ "$ref": "#/components/schemas/connect.Error" });
        self.assert_valid(&schema, error, path);
    }
}

/// The parts of a body of a method: the type of its content, and the schema of a message.
fn content_of(content: &Value) -> (&str, &Value) {
    let (media_type, of) = content.as_object().unwrap().iter().next().unwrap();
    let schema = &of["schema"];
    if media_type == STREAM {
        (media_type, &schema["x-message"])
    } else {
        (media_type, schema)
    }
}

async fn the_description_is_whole(world: World) {
    let description = Description::read(&world).await;
    let whole = &description.0;
    assert_eq!(whole["openapi"], "3.1.0");
    let described: BTreeSet<&str> = whole["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let served = METHODS.iter().map(|(path, _)| *path);
    let served: BTreeSet<&str> = served
        .filter(|path| !path.starts_with("/grpc.reflection."))
        .collect();
    assert_eq!(described, served);
    // Each reference leads somewhere, and each operation has another name.
    let text = whole.to_string();
    let mut references = 0;
    for part in text.split("\"$ref\":\"#").skip(1) {
        let pointer = part.split('"').next().unwrap();
        assert!(
            whole.pointer(pointer).is_some_and(Value::is_object),
            "{pointer}"
        );
        references += 1;
    }
    assert!(references > 100, "{references}");
    let ids: Vec<&str> = text
        .split("\"operationId\":\"")
        .skip(1)
        .map(|part| part.split('"').next().unwrap())
        .collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    let keys = &whole["components"]["securitySchemes"];
    assert_eq!(keys["apiKey"]["scheme"], "bearer");
    // What does not come to the services has the errors of the description too.
    for header in [
        ("origin", "https://other.example.com"),
        ("host", "evil.example"),
    ] {
        let refused = post(&world, INCREMENT, &[JSON, header], "{}").await;
        assert_ne!(refused.status, 200);
        description.assert_error(&refused.json(), header.0);
    }
    // With keys, it needs one of any role.
    let (_, admin) = first_admin(&world).await;
    let mut with_key = access(&world, Some(&admin)).await;
    let writer = create(&mut with_key, new_key("writer", KeyRole::Writer))
        .await
        .text;
    let url = format!("{}/openapi.json", world.http_url());
    assert_eq!(send("GET", &url, &[], "").await.status, 401);
    let bearer = format!("Bearer {writer}");
    let answer = send("GET", &url, &[("authorization", &bearer)], "").await;
    assert_eq!(answer.status, 200);
    world.finish().await;
}

/// A request of each method that is answered, in an order in which each one can be.
fn requests(report: &str, key: &str) -> Vec<(&'static str, Value)> {
    let account = json!({ "accountId": "acct" });
    let hour = hours_ago(2).to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let until = hours_ago(-1).to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let period = json!({ "start": hour, "end": until });
    let call_to_find = json!({ "accountId": "acct", "idempotencyKey": "key" });
    let usage_of_all = json!({ "meter": "api_calls", "period": period, "pageSize": 5 });
    let summary = json!({ "period": period, "granularity": "GRANULARITY_HOUR", "topAccounts": 3 });
    let mut requests = vec![
        ("UsageService/ListMeters", json!({})),
        (
            "UsageService/Increment",
            json!({ "accountId": "acct", "quantity": "7", "timestamp": hour, "idempotencyKey": "key" }),
        ),
        (
            "UsageService/IncrementBatch",
            json!({ "increments": [{ "accountId": "acct" }, { "accountId": "a b" }], "dryRun": true }),
        ),
        (
            "UsageService/Get",
            json!({ "accountId": "acct", "period": period, "granularity": "GRANULARITY_HOUR", "timeZone": "UTC" }),
        ),
        (
            "UsageService/Correct",
            json!({ "accountId": "acct", "quantity": "-1", "reason": "test", "requestedBy": "a test" }),
        ),
        ("UsageService/ForceReport", json!({ "all": true })),
        ("UsageService/ListUsage", usage_of_all),
        ("UsageService/GetSummary", summary),
        ("UsageService/ListReports", json!({ "pageSize": 5 })),
        ("UsageService/Reconcile", account.clone()),
        ("UsageService/FindIncrement", call_to_find),
        ("UsageService/ExplainInvoice", account.clone()),
        (
            "UsageService/ResolveReport",
            json!({ "accountId": "acct", "reportId": report, "action": "RESOLVE_ACTION_WRITE_OFF", "reason": "test" }),
        ),
        (
            "UsageService/AcknowledgeDifference",
            json!({ "accountId": "acct", "differenceId": "01990000-0000-7000-8000-000000000000", "reason": "test" }),
        ),
        ("AccountService/GetAccount", account.clone()),
        ("AccountService/ListAccounts", json!({ "pageSize": 1 })),
        (
            "AccountService/PutAccount",
            json!({ "accountId": "other", "free": {} }),
        ),
        ("AccountService/AbortSubscriptionChange", account.clone()),
        (
            "AccountService/ChangePlan",
            json!({ "accountId": "acct", "prices": ["price_missing"] }),
        ),
        (
            "AccountService/CancelSubscription",
            json!({ "accountId": "acct", "atPeriodEnd": {}, "requestedBy": "a test" }),
        ),
        ("AccountService/ExportAccount", account),
        (
            "AccountService/DeleteAccount",
            json!({ "accountId": "acct", "dryRun": true }),
        ),
    ];
    requests.extend(requests_of_operators(key));
    requests
}

/// Those of keys and operations.
fn requests_of_operators(key: &str) -> Vec<(&'static str, Value)> {
    vec![
        ("AccessService/ListKeys", json!({})),
        (
            "AccessService/CreateKey",
            json!({ "name": "one more", "role": "KEY_ROLE_READER" }),
        ),
        ("AccessService/RevokeKey", json!({ "id": key })),
        ("AccessService/ListAuditEntries", json!({})),
        ("OperationsService/ListRuns", json!({})),
        ("OperationsService/CompareShadow", json!({ "pageSize": 5 })),
        (
            "OperationsService/GetSignOff",
            json!({ "month": "2026-10" }),
        ),
        (
            "OperationsService/ExportSignOff",
            json!({ "month": "2026-10", "format": "SIGN_OFF_FORMAT_CSV", "open": true }),
        ),
        (
            "OperationsService/SwitchBilling",
            json!({ "billFrom": "2100-01-01T00:00:00Z", "requestedBy": "a test" }),
        ),
        ("OperationsService/Doctor", json!({})),
    ]
}

/// The methods whose request above is refused: what they decide about takes hours to come about, or there is none.
const REFUSED: [&str; 5] = [
    "/usage.v1.UsageService/ResolveReport",
    "/usage.v1.UsageService/AcknowledgeDifference",
    "/usage.v1.AccountService/AbortSubscriptionChange",
    "/usage.v1.AccountService/ChangePlan",
    "/usage.v1.OperationsService/SwitchBilling",
];

async fn each_method_answers_as_it_is_described(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(1)).await;
    let description = Description::read(&world).await;
    let (_, admin) = first_admin(&world).await;
    let mut with_key = access(&world, Some(&admin)).await;
    let spare = create(&mut with_key, new_key("spare", KeyRole::Reader)).await;
    let spare = spare.key.unwrap().id;
    let report = "01990000-0000-7000-8000-000000000000";
    let mut answered = BTreeSet::new();
    let methods = requests(report, &spare).into_iter();
    let methods = methods.map(|(name, request)| (format!("/usage.v1.{name}"), request));
    let check = ("/grpc.health.v1.Health/Check".to_owned(), json!({}));
    for (path, request) in methods.chain([check]) {
        let operation = description.operation(&path);
        let (media_type, schema) = content_of(&operation["requestBody"]["content"]);
        description.assert_valid(schema, &request, &path);
        let (answers, error) = if media_type == STREAM {
            stream(&world, &path, &admin, &request).await
        } else {
            let answer = call(&world, &path, Some(&admin), &request).await;
            one(&answer)
        };
        let (of_answer, schema) = content_of(&operation["responses"]["200"]["content"]);
        assert_eq!(of_answer, media_type);
        for answer in &answers {
            description.assert_valid(schema, answer, &path);
        }
        if let Some(error) = &error {
            description.assert_error(error, &path);
        }
        assert_eq!(
            error.is_some(),
            REFUSED.contains(&&*path),
            "{path}: {answers:?} {error:?}"
        );
        // What is wrong is refused as described too.
        let wrong = call(&world, &path, Some(&admin), &json!({ "noSuchField": 1 })).await;
        if media_type != STREAM {
            wrong.assert_error(400, "invalid_argument", "INVALID_FIELD");
            description.assert_error(&wrong.json(), &path);
        }
        answered.insert(path);
    }
    // A stream of health never ends.
    let missing = METHODS.iter().map(|(path, _)| *path).find(|path| {
        let is_tried = answered.contains(*path) || path.ends_with("Health/Watch");
        !is_tried && !path.starts_with("/grpc.reflection.")
    });
    assert_eq!(missing, None, "a method is not tried here");
    world.finish().await;
}

/// The message of an answer, or its error.
fn one(answer: &Answer) -> (Vec<Value>, Option<Value>) {
    if answer.status == 200 {
        (vec![answer.json()], None)
    } else {
        (Vec::new(), Some(answer.json()))
    }
}

async fn stream(
    world: &World,
    path: &str,
    key: &str,
    request: &Value,
) -> (Vec<Value>, Option<Value>) {
    let bearer = format!("Bearer {key}");
    let headers = [("content-type", STREAM), ("authorization", &*bearer)];
    let body = envelope(0, request.to_string().as_bytes());
    let answer = post(world, path, &headers, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let messages = envelopes(&answer.body).into_iter();
    let mut messages: Vec<Value> = messages
        .map(|(_, message)| serde_json::from_slice(&message).unwrap())
        .collect();
    let end = messages.pop().unwrap();
    assert!(!messages.is_empty() || end["error"].is_object(), "{path}");
    (messages, end.get("error").cloned())
}
