//! Streams: envelopes, the end of a stream, and its error.

use fake_stripe::Fault;
use prost::Message as _;
use serde_json::{Value, json};
use usage_proto::v1::{ForceReportRequest, ForceReportResponse};

use super::{INCREMENT, call, envelope, envelopes, post};
use crate::support::world::{TIMEOUT, World, hours_ago, on_both_engines, on_sqlite, within};

on_both_engines!(a_forced_report_is_streamed);

on_sqlite!(
    messages_arrive_before_the_end,
    a_stream_ends_with_its_error,
    a_stream_has_one_message_in_its_request,
    an_account_is_exported_as_json,
);

const FORCE_REPORT: &str = "/usage.v1.UsageService/ForceReport";
const STREAM: (&str, &str) = ("content-type", "application/connect+json");

fn parsed(messages: Vec<(u8, Vec<u8>)>) -> Vec<(u8, Value)> {
    let parse = |bytes: Vec<u8>| serde_json::from_slice(&bytes).unwrap();
    let messages = messages.into_iter();
    messages
        .map(|(flags, bytes)| (flags, parse(bytes)))
        .collect()
}

async fn a_forced_report_is_streamed(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(1)).await;
    let all = json!({ "all": true }).to_string();
    let answer = post(&world, FORCE_REPORT, &[STREAM], envelope(0, all.as_bytes())).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), STREAM.1);
    let messages = parsed(envelopes(&answer.body));
    let (first, last) = (&messages[0], &messages[messages.len() - 2]);
    assert!(first.1["started"]["runId"].is_string(), "{messages:?}");
    assert_eq!(
        last.1["summary"]["accepted"]["quantity"], "5",
        "{messages:?}"
    );
    let end = &messages[messages.len() - 1];
    assert_eq!(end, &(2, json!({})));
    assert!(messages[..messages.len() - 1].iter().all(|one| one.0 == 0));
    // The same as protobuf: the run is watched again.
    let again = ForceReportRequest {
        run_id: first.1["started"]["runId"].as_str().unwrap().to_owned(),
        ..ForceReportRequest::default()
    };
    let proto = [("content-type", "application/connect+proto")];
    let body = envelope(0, &again.encode_to_vec());
    let answer = post(&world, FORCE_REPORT, &proto, body).await;
    assert_eq!(answer.header("content-type"), proto[0].1);
    let messages = envelopes(&answer.body);
    ForceReportResponse::decode(&*messages[0].1).unwrap();
    assert_eq!(messages.last().unwrap(), &(2, b"{}".to_vec()));
    world.finish().await;
}

async fn messages_arrive_before_the_end(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(1)).await;
    let gate = Fault::block_until_released("gate").on_path("/v1/billing/meter_events");
    world.stripe().script(gate).await.unwrap();
    let all = json!({ "all": true }).to_string();
    let url = format!("{}{FORCE_REPORT}", world.http_url());
    let request = super::client()
        .post(url)
        .header(STREAM.0, STREAM.1)
        .body(envelope(0, all.as_bytes()));
    let mut answer = within("an answer", request.send()).await.unwrap();
    let first = within("a message", answer.chunk()).await.unwrap().unwrap();
    assert_eq!(first[0], 0);
    assert!(String::from_utf8_lossy(&first).contains("started"));
    let stripe = world.stripe();
    stripe.wait_for_blocked("gate", 1, TIMEOUT).await.unwrap();
    stripe.release("gate").await.unwrap();
    let mut rest = first.to_vec();
    while let Some(chunk) = within("a message", answer.chunk()).await.unwrap() {
        rest.extend(chunk);
    }
    let messages = parsed(envelopes(&rest));
    assert_eq!(messages.last().unwrap(), &(2, json!({})));
    world.wait_until_sent("acct").await;
    world.finish().await;
}

async fn a_stream_ends_with_its_error(world: World) {
    for (message, code, reason) in [
        (
            json!({ "runId": "01990000-0000-7000-8000-000000000000" }),
            "not_found",
            "RUN_NOT_FOUND",
        ),
        (json!({ "all": "yes" }), "invalid_argument", "INVALID_FIELD"),
    ] {
        let body = envelope(0, message.to_string().as_bytes());
        let answer = post(&world, FORCE_REPORT, &[STREAM], body).await;
        assert_eq!(answer.status, 200);
        let messages = parsed(envelopes(&answer.body));
        assert_eq!(messages.len(), 1, "{messages:?}");
        let (flags, end) = &messages[0];
        assert_eq!((*flags, &end["error"]["code"]), (2, &json!(code)));
        let info = super::detail(&end["error"], "google.rpc.ErrorInfo");
        assert_eq!(info["debug"]["reason"], reason);
    }
    world.finish().await;
}

async fn a_stream_has_one_message_in_its_request(world: World) {
    let message = json!({ "all": true }).to_string();
    let one = envelope(0, message.as_bytes());
    let mut cut = one.clone();
    cut.pop();
    for (body, words) in [
        (Vec::new(), "no message"),
        (cut, "no message"),
        ([one.clone(), one.clone()].concat(), "more than one message"),
        (envelope(1, message.as_bytes()), "connect-content-encoding"),
        (envelope(2, message.as_bytes()), "flags"),
        (envelope(0, b"no JSON"), "not valid JSON"),
    ] {
        let answer = post(&world, FORCE_REPORT, &[STREAM], body).await;
        let messages = parsed(envelopes(&answer.body));
        let error = &messages[0].1["error"];
        assert_eq!(error["code"], "invalid_argument", "{error}");
        assert!(
            error["message"].as_str().unwrap().contains(words),
            "{error}"
        );
    }
    // A stream is not one message, and the other way round.
    let refused = call(&world, FORCE_REPORT, None, &json!({ "all": true })).await;
    assert_eq!(refused.status, 415);
    let refused = post(&world, INCREMENT, &[STREAM], envelope(0, b"{}")).await;
    assert_eq!(refused.status, 415);
    assert_eq!(world.count_rows("report_runs").await, 0);
    world.finish().await;
}

async fn an_account_is_exported_as_json(world: World) {
    world.count("acct", 5, hours_ago(1)).await;
    let message = json!({ "accountId": "acct" }).to_string();
    let path = "/usage.v1.AccountService/ExportAccount";
    let answer = post(&world, path, &[STREAM], envelope(0, message.as_bytes())).await;
    let messages = parsed(envelopes(&answer.body));
    assert_eq!(messages.last().unwrap(), &(2, json!({})));
    let lines: Vec<&Value> = messages
        .iter()
        .flat_map(|(_, message)| message["lines"].as_array().into_iter().flatten())
        .collect();
    assert!(!lines.is_empty(), "{messages:?}");
    world.finish().await;
}
