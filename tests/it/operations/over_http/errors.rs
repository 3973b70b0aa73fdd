//! Each form of an error: its code, its status of HTTP, its reason, and its details.

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{super::access::first_admin, GET, INCREMENT, JSON, call, detail, post, send};
use crate::support::{
    commit_lock::CommitLock,
    world::{World, on_both_engines, on_sqlite, within},
};

on_both_engines!(errors_have_their_code_status_and_reason);

on_sqlite!(
    an_error_has_the_details_of_grpc,
    a_deadline_that_passes_is_deadline_exceeded,
    what_the_protocol_does_not_allow_is_refused,
    other_types_of_content_are_not_read,
    a_refusal_closes_no_connection_without_saying_so,
);

async fn errors_have_their_code_status_and_reason(world: World) {
    let increment =
        |quantity: i64| json!({ "accountId": "acct", "quantity": quantity, "idempotencyKey": "k" });
    assert_eq!(
        call(&world, INCREMENT, None, &increment(1)).await.status,
        200
    );
    let account = json!({ "accountId": "acct" });
    for (path, message, status, code, reason) in [
        (
            INCREMENT,
            json!({}),
            400,
            "invalid_argument",
            "INVALID_FIELD",
        ),
        (
            INCREMENT,
            json!({ "accountId": "acct", "meter": "other" }),
            400,
            "invalid_argument",
            "UNKNOWN_METER",
        ),
        (INCREMENT, increment(2), 409, "already_exists", "KEY_REUSED"),
        (
            "/usage.v1.AccountService/GetAccount",
            json!({ "accountId": "missing" }),
            404,
            "not_found",
            "ACCOUNT_NOT_FOUND",
        ),
        (
            "/usage.v1.AccountService/AbortSubscriptionChange",
            account.clone(),
            404,
            "not_found",
            "ACCOUNT_NOT_FOUND",
        ),
        (
            "/usage.v1.UsageService/Nothing",
            account.clone(),
            501,
            "unimplemented",
            "UNIMPLEMENTED",
        ),
        (
            "/usage.v2.Other/Get",
            account,
            501,
            "unimplemented",
            "UNIMPLEMENTED",
        ),
    ] {
        let answer = call(&world, path, None, &message).await;
        answer.assert_error(status, code, reason);
        assert!(answer.json()["message"].as_str().unwrap().len() > 10);
    }
    let free = json!({ "accountId": "acct", "free": {} });
    let put = call(&world, "/usage.v1.AccountService/PutAccount", None, &free).await;
    assert_eq!(put.status, 200, "{}", put.text());
    let abort = "/usage.v1.AccountService/AbortSubscriptionChange";
    let answer = call(&world, abort, None, &json!({ "accountId": "acct" })).await;
    answer.assert_error(400, "failed_precondition", "NO_CHANGE_IN_PROGRESS");
    world.finish().await;
}

async fn an_error_has_the_details_of_grpc(world: World) {
    let headers = [JSON, ("x-request-id", "my-request")];
    let wrong = json!({ "accountId": "a b", "quantity": "-1" });
    let answer = post(&world, INCREMENT, &headers, wrong.to_string()).await;
    answer.assert_error(400, "invalid_argument", "INVALID_FIELD");
    let error = answer.json();
    let info = detail(&error, "google.rpc.ErrorInfo");
    assert_eq!(info["debug"]["domain"], "usage-billing");
    assert!(!info["value"].as_str().unwrap().contains('='));
    let request = detail(&error, "google.rpc.RequestInfo");
    assert_eq!(request["debug"]["requestId"], "my-request");
    assert_eq!(answer.header("x-request-id"), "my-request");
    let fields = detail(&error, "google.rpc.BadRequest");
    let fields = fields["debug"]["fieldViolations"]
        .as_array()
        .unwrap()
        .clone();
    let fields: Vec<_> = fields.iter().map(|one| one["field"].clone()).collect();
    assert_eq!(fields, ["account_id", "quantity"]);
    for header in ["grpc-status", "grpc-message", "grpc-status-details-bin"] {
        assert_eq!(answer.header(header), "");
    }
    world.finish().await;
}

async fn a_deadline_that_passes_is_deadline_exceeded(world: World) {
    let lock = CommitLock::commits_of(&world).await;
    let increment = json!({ "accountId": "acct" }).to_string();
    for timeout in ["0", "1", "200"] {
        let headers = [JSON, ("connect-timeout-ms", timeout)];
        let answer = post(&world, INCREMENT, &headers, increment.clone()).await;
        answer.assert_error(504, "deadline_exceeded", "DEADLINE_EXCEEDED");
    }
    lock.release().await;
    let long = [JSON, ("connect-timeout-ms", "9999999999")];
    assert_eq!(post(&world, INCREMENT, &long, increment).await.status, 200);
    world.finish().await;
}

async fn what_the_protocol_does_not_allow_is_refused(world: World) {
    for (name, value, status, code, reason) in [
        (
            "connect-protocol-version",
            "2",
            400,
            "invalid_argument",
            "INVALID_FIELD",
        ),
        (
            "connect-timeout-ms",
            "1.5",
            400,
            "invalid_argument",
            "INVALID_FIELD",
        ),
        (
            "connect-timeout-ms",
            "12345678901",
            400,
            "invalid_argument",
            "INVALID_FIELD",
        ),
        (
            "content-encoding",
            "br",
            501,
            "unimplemented",
            "UNIMPLEMENTED",
        ),
        (
            "content-encoding",
            "gzip",
            400,
            "invalid_argument",
            "MALFORMED_MESSAGE",
        ),
    ] {
        let answer = post(
            &world,
            INCREMENT,
            &[JSON, (name, value)],
            r#"{"accountId":"a"}"#,
        )
        .await;
        answer.assert_error(status, code, reason);
    }
    let url = format!("{}{GET}", world.http_url());
    for (query, field) in [
        ("encoding=json", "message"),
        ("encoding=json&message=%7B%7D&base64=1", "message"),
        (
            "encoding=json&message=%7B%7D&connect=v2",
            "connect-protocol-version",
        ),
    ] {
        let answer = send("GET", &format!("{url}?{query}"), &[], "").await;
        answer.assert_error(400, "invalid_argument", "INVALID_FIELD");
        let fields = detail(&answer.json(), "google.rpc.BadRequest");
        assert_eq!(fields["debug"]["fieldViolations"][0]["field"], field);
    }
    // A stranger is not told what the protocol demands before it is known who calls.
    let (_, _) = first_admin(&world).await;
    let wrong = [JSON, ("connect-protocol-version", "2")];
    let refused = post(&world, INCREMENT, &wrong, "{}").await;
    refused.assert_error(401, "unauthenticated", "UNAUTHENTICATED");
    assert_eq!(world.count_rows("all_reports").await, 0);
    world.finish().await;
}

async fn other_types_of_content_are_not_read(world: World) {
    let increment = r#"{"accountId":"acct"}"#;
    for other in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/grpc",
        "application/grpc+proto",
        "application/connect+json",
        "application/jsonp",
        "",
    ] {
        let answer = post(&world, INCREMENT, &[("content-type", other)], increment).await;
        assert_eq!(answer.status, 415, "{other}");
        assert!(answer.text().contains("application/json"), "{other}");
        assert!(!answer.header("x-request-id").is_empty());
    }
    for method in ["PUT", "DELETE", "GET", "OPTIONS"] {
        let url = format!("{}{INCREMENT}", world.http_url());
        let answer = send(method, &url, &[JSON], increment).await;
        assert_eq!(answer.status, 405, "{method}");
    }
    assert_eq!(world.count_rows("all_reports").await, 0);
    let ours = [("content-type", "Application/JSON; charset=utf-8")];
    assert_eq!(post(&world, INCREMENT, &ours, increment).await.status, 200);
    world.finish().await;
}

/// The head of the next answer on a connection, which must have one.
async fn next_head(connection: &mut TcpStream) -> String {
    within("an answer", async {
        let mut bytes = Vec::new();
        loop {
            let read = connection.read_buf(&mut bytes).await.unwrap();
            assert_ne!(read, 0, "closed without saying so");
            let text = String::from_utf8_lossy(&bytes);
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let lengths = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            if body.len() == lengths.unwrap().parse::<usize>().unwrap() {
                return head.to_owned();
            }
        }
    })
    .await
}

/// Nothing is read from whoever may not call. A connection of HTTP/1 is of no more use then.
async fn a_refusal_closes_no_connection_without_saying_so(world: World) {
    first_admin(&world).await;
    let address = world.http_url().trim_start_matches("http://").to_owned();
    let mut closed = 0;
    for length in [2, 20_000] {
        let request = format!(
            "POST {INCREMENT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{}",
            " ".repeat(length)
        );
        let mut connection = TcpStream::connect(&address).await.unwrap();
        for _ in 0..20 {
            connection.write_all(request.as_bytes()).await.unwrap();
            let head = next_head(&mut connection).await;
            assert!(head.starts_with("HTTP/1.1 401"), "{head}");
            if head.contains("connection: close") {
                connection = TcpStream::connect(&address).await.unwrap();
                closed += 1;
            }
        }
    }
    assert!(closed > 0);
    world.finish().await;
}
