//! Texts that are no message, or far too much of one: refused with the field at fault, and nothing is counted.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{INCREMENT, JSON, call, detail, post};
use crate::support::world::{World, on_sqlite, within};

on_sqlite!(
    an_error_names_the_field,
    what_is_not_json_is_malformed,
    what_is_too_large_is_refused_and_told,
    a_request_that_never_ends_is_given_up,
    many_hostile_requests_leave_the_service_well,
);

const BATCH: &str = "/usage.v1.UsageService/IncrementBatch";

async fn an_error_names_the_field(world: World) {
    for (path, text, field) in [
        (INCREMENT, r#"{"accountId": 7}"#, "accountId"),
        (
            INCREMENT,
            r#"{"accountId": "a", "quantity": 1.5}"#,
            "quantity",
        ),
        (
            INCREMENT,
            r#"{"quantity": 9223372036854775808}"#,
            "quantity",
        ),
        (INCREMENT, r#"{"quantity": "NaN"}"#, "quantity"),
        (INCREMENT, r#"{"quantity": "Infinity"}"#, "quantity"),
        (INCREMENT, r#"{"quantity": true}"#, "quantity"),
        (INCREMENT, r#"{"idempotncyKey": "k"}"#, "idempotncyKey"),
        (
            INCREMENT,
            r#"{"accountId": "a", "accountId": "b"}"#,
            "accountId",
        ),
        (
            INCREMENT,
            r#"{"accountId": "a", "account_id": "b"}"#,
            "account_id",
        ),
        (
            INCREMENT,
            r#"{"timestamp": "1999-99-99T00:00:00Z"}"#,
            "timestamp",
        ),
        (
            BATCH,
            r#"{"increments": [{}, {"quantity": {}}]}"#,
            "increments[1].quantity",
        ),
        (
            BATCH,
            r#"{"increments": [{"key": "k"}]}"#,
            "increments[0].key",
        ),
    ] {
        let answer = post(&world, path, &[JSON], text).await;
        answer.assert_error(400, "invalid_argument", "INVALID_FIELD");
        let error = answer.json();
        let fields = detail(&error, "google.rpc.BadRequest");
        let named = &fields["debug"]["fieldViolations"][0]["field"];
        assert_eq!(named, field, "{text}");
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with(field), "{text}: {message}");
    }
    assert_eq!(world.count_rows("all_reports").await, 0);
    world.finish().await;
}

async fn what_is_not_json_is_malformed(world: World) {
    let deep = |open: &str, close: &str| {
        format!(
            "{{\"accountId\": {}1{}}}",
            open.repeat(20_000),
            close.repeat(20_000)
        )
    };
    let many = format!("{{\"increments\": [{}{{}}]}}", "{},".repeat(600_000));
    let names: Vec<String> = (0..150_000).map(|nth| format!("\"{nth}\":1,")).collect();
    let names = names.concat();
    let texts = [
        String::new(),
        "[]".to_owned(),
        "null".to_owned(),
        "{".to_owned(),
        "{} {}".to_owned(),
        "{\"quantity\": NaN}".to_owned(),
        "{\"quantity\": 1e999}".to_owned(),
        format!("{{\"quantity\": {}}}", "9".repeat(1_000_000)),
        "{\"accountId\": \"\\ud800\"}".to_owned(),
        deep("[", "]"),
        deep("{\"a\":", "}"),
        many,
        format!("{{{names}\"a\":1}}"),
    ];
    for text in texts {
        let start: String = text.chars().take(40).collect();
        let answer = post(&world, INCREMENT, &[JSON], text).await;
        assert_eq!(answer.status, 400, "{start}: {}", answer.text());
        answer.assert_error(400, "invalid_argument", "MALFORMED_MESSAGE");
        assert!(answer.body.len() < 2_000, "{start}: {}", answer.text());
    }
    let not_utf8 = post(
        &world,
        INCREMENT,
        &[JSON],
        &b"{\"accountId\": \"\xff\"}"[..],
    )
    .await;
    assert_eq!(not_utf8.status, 400, "{}", not_utf8.text());
    assert_eq!(world.count_rows("all_reports").await, 0);
    world.finish().await;
}

async fn what_is_too_large_is_refused_and_told(world: World) {
    const LARGE: usize = 10 * 1024 * 1024;
    let account = json!({ "accountId": "a".repeat(LARGE) }).to_string();
    let plain = post(&world, INCREMENT, &[JSON], account.clone()).await;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(account.as_bytes()).unwrap();
    let headers = [JSON, ("content-encoding", "gzip")];
    let bomb = post(&world, INCREMENT, &headers, gzip.finish().unwrap()).await;
    for answer in [plain, bomb] {
        answer.assert_error(429, "resource_exhausted", "MESSAGE_TOO_LARGE");
        let text = answer.text();
        assert!(text.contains("2097152 bytes"), "{text}");
    }
    // What fits is read, and refused for its field, without repeating it.
    let account = json!({ "accountId": "a".repeat(1024 * 1024) });
    let answer = call(&world, INCREMENT, None, &account).await;
    answer.assert_error(400, "invalid_argument", "INVALID_FIELD");
    assert!(answer.body.len() < 2_000);
    assert_eq!(world.count_rows("all_reports").await, 0);
    world.finish().await;
}

/// Callers without a key share little.
async fn a_request_that_never_ends_is_given_up(world: World) {
    let address = world.http_url().trim_start_matches("http://").to_owned();
    let head = format!(
        "POST {INCREMENT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: 2000000\r\n\r\n{{\"accountId\":"
    );
    let mut open = Vec::new();
    for _ in 0..40 {
        let mut connection = TcpStream::connect(&address).await.unwrap();
        connection.write_all(head.as_bytes()).await.unwrap();
        open.push(connection);
    }
    let counted = call(&world, INCREMENT, None, &json!({ "accountId": "acct" })).await;
    assert_eq!(counted.status, 200, "{}", counted.text());
    let mut first = open.remove(0);
    let mut text = vec![0; 12];
    within("an answer", first.read_exact(&mut text))
        .await
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&text), "HTTP/1.1 504");
    drop(open);
    world.finish().await;
}

async fn many_hostile_requests_leave_the_service_well(world: World) {
    let many = format!("{{\"increments\": [{}{{}}]}}", "{},".repeat(600_000));
    let calls = (0..24).map(|_| post(&world, BATCH, &[JSON], many.clone()));
    for answer in futures_util::future::join_all(calls).await {
        assert!([400, 429].contains(&answer.status), "{}", answer.text());
    }
    let counted = call(&world, INCREMENT, None, &json!({ "accountId": "acct" })).await;
    assert_eq!(counted.status, 200, "{}", counted.text());
    world.finish().await;
}
