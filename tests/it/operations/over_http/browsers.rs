//! Web pages: only those of origins that the setting names may call; and gRPC-Web, which they may speak.

use prost::Message as _;
use serde_json::json;
use tonic::Code;
use usage_proto::v1::{GetResponse, IncrementRequest};

use super::{
    super::access::first_admin, Answer, GET, INCREMENT, JSON, call, detail, envelope, envelopes,
    post, send,
};
use crate::support::world::{World, hours_ago, on_both_engines, on_sqlite};

on_both_engines!(grpc_web_is_served);

on_sqlite!(
    no_web_page_may_call_without_the_setting,
    a_call_by_a_foreign_name_fails_as_other_calls_do,
    pages_of_the_origins_of_the_setting_may_call,
    grpc_web_can_be_text,
);

const PAGE: (&str, &str) = ("origin", "https://dash.example.com");
const OTHER: (&str, &str) = ("origin", "https://other.example.com");
const METHOD: (&str, &str) = ("access-control-request-method", "POST");
const HEADERS: (&str, &str) = (
    "access-control-request-headers",
    "authorization,connect-protocol-version,content-type",
);

fn cors_headers(answer: &Answer) -> Vec<String> {
    let names = answer.headers.keys().map(ToString::to_string);
    names
        .filter(|name| name.starts_with("access-control-"))
        .collect()
}

/// The details have the id that the header has.
#[track_caller]
fn assert_names_its_request(answer: &Answer) {
    let request = detail(&answer.json(), "google.rpc.RequestInfo");
    let id = answer.header("x-request-id");
    assert!(!id.is_empty());
    assert_eq!(request["debug"]["requestId"], id);
}

async fn a_call_by_a_foreign_name_fails_as_other_calls_do(world: World) {
    let named = [JSON, ("host", "evil.example"), ("x-request-id", "my-call")];
    let refused = post(&world, INCREMENT, &named, r#"{"accountId":"acct"}"#).await;
    refused.assert_error(421, "failed_precondition", "HOST_NOT_LOCAL");
    assert_names_its_request(&refused);
    assert_eq!(refused.header("x-request-id"), "my-call");
    assert!(refused.text().contains("localhost"), "{}", refused.text());
    // What is not a call gets a text.
    let openapi = format!("{}/openapi.json", world.http_url());
    let refused = send("GET", &openapi, &named[1..], "").await;
    assert_eq!(refused.status, 421);
    assert!(refused.text().starts_with("HOST_NOT_LOCAL: "));
    assert_eq!(refused.header("x-request-id"), "my-call");
    assert_eq!(world.count_rows("all_reports").await, 0);
    world.finish().await;
}

async fn no_web_page_may_call_without_the_setting(world: World) {
    let url = format!("{}{INCREMENT}", world.http_url());
    let preflight = send("OPTIONS", &url, &[PAGE, METHOD, HEADERS], "").await;
    let called = post(&world, INCREMENT, &[JSON, PAGE], r#"{"accountId":"acct"}"#).await;
    let null = post(&world, INCREMENT, &[JSON, ("origin", "null")], "{}").await;
    for answer in [preflight, called, null] {
        assert_eq!(answer.status, 403, "{}", answer.text());
        assert!(
            answer.text().contains("HTTP_CORS_ORIGINS"),
            "{}",
            answer.text()
        );
        answer.assert_error(403, "permission_denied", "ORIGIN_NOT_ALLOWED");
        assert_names_its_request(&answer);
        assert!(cors_headers(&answer).is_empty());
    }
    let openapi = format!("{}/openapi.json", world.http_url());
    assert_eq!(send("GET", &openapi, &[PAGE], "").await.status, 403);
    assert_eq!(world.count_rows("all_reports").await, 0);
    let program = call(&world, INCREMENT, None, &json!({ "accountId": "acct" })).await;
    assert!(cors_headers(&program).is_empty());
    assert_eq!(world.http_get("/health/live").await.0, 200);
    world.finish().await;
}

async fn pages_of_the_origins_of_the_setting_may_call(mut world: World) {
    let flag = "--http-cors-origins=https://dash.example.com,http://localhost:3000";
    world.reconfigure(&[flag]).await;
    let (_, admin) = first_admin(&world).await;
    let url = format!("{}{INCREMENT}", world.http_url());
    // A browser sends no key before it knows that it may.
    for origin in [PAGE, ("origin", "http://localhost:3000")] {
        let preflight = send("OPTIONS", &url, &[origin, METHOD, HEADERS], "").await;
        assert_eq!(preflight.status, 204, "{}", preflight.text());
        assert_eq!(preflight.header("access-control-allow-origin"), origin.1);
        assert_eq!(
            preflight.header("access-control-allow-methods"),
            "GET, POST"
        );
        let allowed = preflight.header("access-control-allow-headers");
        for header in HEADERS.1.split(',') {
            assert!(allowed.split(", ").any(|one| one == header), "{header}");
        }
        assert_eq!(preflight.header("access-control-allow-credentials"), "");
    }
    let bearer = format!("Bearer {admin}");
    let headers = [JSON, PAGE, ("authorization", &*bearer)];
    let counted = post(&world, INCREMENT, &headers, r#"{"accountId":"acct"}"#).await;
    let refused = post(&world, INCREMENT, &[JSON, PAGE], "{}").await;
    assert_eq!((counted.status, refused.status), (200, 401));
    for answer in [counted, refused] {
        assert_eq!(answer.header("access-control-allow-origin"), PAGE.1);
        let exposed = answer.header("access-control-expose-headers");
        assert!(exposed.contains("x-request-id") && exposed.contains("grpc-status"));
        let varies = answer.headers.get_all("vary").iter();
        assert!(varies.into_iter().any(|value| value == "origin"));
    }
    for other in [
        OTHER,
        ("origin", "https://dash.example.com.evil.example"),
        ("origin", "http://dash.example.com"),
    ] {
        let headers = [JSON, other, ("authorization", &*bearer)];
        let refused = post(&world, INCREMENT, &headers, r#"{"accountId":"acct"}"#).await;
        assert_eq!(refused.status, 403, "{}", refused.text());
        let preflight = send("OPTIONS", &url, &[other, METHOD], "").await;
        assert_eq!(preflight.status, 403);
        assert!(cors_headers(&preflight).is_empty());
    }
    // Health, metrics and webhooks are not for pages.
    let metrics = format!("{}/metrics", world.http_url());
    let headers = [PAGE, ("authorization", &*bearer)];
    let metrics = send("GET", &metrics, &headers, "").await;
    assert!(cors_headers(&metrics).is_empty());
    let openapi = format!("{}/openapi.json", world.http_url());
    let openapi = send("GET", &openapi, &headers, "").await;
    assert_eq!(openapi.header("access-control-allow-origin"), PAGE.1);
    let got = post(
        &world,
        GET,
        &[JSON, PAGE, headers[1]],
        r#"{"accountId":"acct"}"#,
    )
    .await;
    assert_eq!(got.json()["meters"][0]["quantities"]["total"], "1");
    world.finish().await;
}

/// The code in the trailers, which are the last frame of an answer, or in the headers of an answer without a message.
fn grpc_code(answer: &Answer, frames: &[(u8, Vec<u8>)]) -> Code {
    let in_header = answer.header("grpc-status").to_owned();
    let trailers = frames.last().filter(|(flag, _)| *flag == 0x80);
    let trailers = trailers.map(|(_, text)| String::from_utf8_lossy(text).into_owned());
    let in_trailers = trailers.unwrap_or_default();
    let in_trailers = in_trailers
        .lines()
        .find_map(|line| line.strip_prefix("grpc-status:"))
        .map(|code| code.trim().to_owned());
    let code = in_trailers.unwrap_or(in_header);
    Code::from_bytes(code.as_bytes())
}

async fn grpc_web_is_served(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(1)).await;
    let web = [
        ("content-type", "application/grpc-web+proto"),
        ("x-grpc-web", "1"),
    ];
    let account = IncrementRequest {
        account_id: "acct".to_owned(),
        ..IncrementRequest::default()
    };
    let message = envelope(0, &account.encode_to_vec());
    let answer = post(&world, INCREMENT, &web, message.clone()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/grpc-web+proto");
    let frames = envelopes(&answer.body);
    assert_eq!(frames[0].0, 0);
    assert_eq!(grpc_code(&answer, &frames), Code::Ok);
    // The account is the first field of this request too.
    let answer = post(&world, GET, &web, message).await;
    let frames = envelopes(&answer.body);
    let got = GetResponse::decode(&*frames[0].1).unwrap();
    assert_eq!(got.meters[0].quantities.unwrap().total, 6);
    let wrong = post(&world, INCREMENT, &web, envelope(0, b"")).await;
    let frames = envelopes(&wrong.body);
    assert_eq!(grpc_code(&wrong, &frames), Code::InvalidArgument);
    assert!(!wrong.header("x-request-id").is_empty());
    // A stream.
    let all = usage_proto::v1::ForceReportRequest {
        all: true,
        ..Default::default()
    };
    let path = "/usage.v1.UsageService/ForceReport";
    let answer = post(&world, path, &web, envelope(0, &all.encode_to_vec())).await;
    let frames = envelopes(&answer.body);
    assert!(frames.len() >= 3, "{frames:?}");
    assert_eq!(grpc_code(&answer, &frames), Code::Ok);
    let (_, _) = first_admin(&world).await;
    let refused = post(&world, GET, &web, envelope(0, b"")).await;
    let frames = envelopes(&refused.body);
    assert_eq!(grpc_code(&refused, &frames), Code::Unauthenticated);
    world.finish().await;
}

async fn grpc_web_can_be_text(world: World) {
    let web = [
        ("content-type", "application/grpc-web-text"),
        ("accept", "application/grpc-web-text"),
    ];
    // The message without fields, in base64.
    let answer = post(
        &world,
        "/usage.v1.UsageService/ListMeters",
        &web,
        "AAAAAAA=",
    )
    .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let media_type = answer.header("content-type");
    assert_eq!(media_type, "application/grpc-web-text+proto");
    let text = answer.text();
    assert!(text.len() > 20 && text.is_ascii(), "{text}");
    let wrong = post(&world, INCREMENT, &web, "no base64").await;
    let frames = if wrong.body.is_empty() {
        Vec::new()
    } else {
        vec![(0, wrong.body.clone())]
    };
    assert_eq!(grpc_code(&wrong, &frames), Code::InvalidArgument);
    world.finish().await;
}
