//! The log of the program: its form, the ids of requests in it, and what it says once.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::channel,
    thread,
};

use fake_stripe::{FakeStripe, Settings};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use sea_orm::{ConnectionTrait as _, Database};
use serde_json::Value;
use tempfile::TempDir;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;
use usage_client::{
    Correct, ErrorKind, ForceReport, ListAuditEntries, PutAccount,
    proto::{IncrementRequest, usage_service_client::UsageServiceClient},
};
use uuid::Uuid;

use crate::{
    connections::{exchange, http_address, start},
    process::{HTTP, Process, TIMEOUT, wait_until, within},
};

/// The start of a colour.
const ESCAPE: char = '\u{1b}';

/// A server that writes its log as people read it.
fn spawn(folder: &TempDir, stderr: Stdio, environment: &[(&str, &str)]) -> Child {
    let mut command = Process::binary();
    command
        .args(["serve", "--listen=127.0.0.1:0", "--http-listen=off"])
        .env("DATABASE_URL", url(folder))
        .envs(environment.iter().copied())
        .stderr(stderr)
        .stdout(Stdio::null());
    command.spawn().unwrap()
}

fn url(folder: &TempDir) -> String {
    format!("sqlite://{}", folder.path().join("usage.db").display())
}

/// Reads a log until the server serves, and then ends the server.
fn first_lines(log: File, mut server: Child) -> String {
    let (send, lines_read) = channel();
    // A read can wait for ever.
    thread::spawn(move || {
        let mut text = String::new();
        let lines = BufReader::new(log).lines().map_while(Result::ok);
        for line in lines {
            text.push_str(&line);
            text.push('\n');
            if line.contains("serving") {
                break;
            }
        }
        let _ = send.send(text);
    });
    let text = lines_read.recv_timeout(TIMEOUT);
    server.kill().unwrap();
    server.wait().unwrap();
    let text = text.expect("a log");
    assert!(text.contains("serving"), "{text}");
    text
}

/// The log on a terminal.
fn on_a_terminal(environment: &[(&str, &str)]) -> String {
    let folder = TempDir::new().unwrap();
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let stderr = File::options()
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    let server = spawn(&folder, stderr.into(), environment);
    first_lines(File::from(terminal), server)
}

#[test]
fn only_a_terminal_gets_colours() {
    assert!(on_a_terminal(&[]).contains(ESCAPE));
    assert!(on_a_terminal(&[("NO_COLOR", "")]).contains(ESCAPE), "unset");
    assert!(!on_a_terminal(&[("NO_COLOR", "1")]).contains(ESCAPE));
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    let mut server = spawn(&folder, File::create(&path).unwrap().into(), &[]);
    let begun = std::time::Instant::now();
    let read = || std::fs::read_to_string(&path).unwrap();
    while !read().contains("serving") {
        assert!(begun.elapsed() < TIMEOUT, "{}", read());
        thread::yield_now();
    }
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(!read().contains(ESCAPE), "{}", read());
}

#[test]
fn with_json_an_error_at_the_start_is_json_too() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_usage-server"));
    Process::clean(&mut command);
    let output = command
        .args([
            "serve",
            "--log-json",
            "--listen=127.0.0.1:0",
            "--http-listen=off",
        ])
        .env("DATABASE_URL", "sqlite:///nowhere/usage.db")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let last = &lines.last().unwrap()["fields"];
    assert_eq!(last["message"], "the command failed");
    assert!(!last["error"].as_str().unwrap().is_empty(), "{text}");
}

/// The events of a log, with a message.
pub(crate) fn events(process: &Process, message: &str) -> Vec<Value> {
    let log = process.log();
    let events = log.lines().map(|line| serde_json::from_str(line).unwrap());
    events
        .filter(|event: &Value| event["fields"]["message"] == message)
        .collect()
}

/// Waits until the log has an event, because a thread reads it.
pub(crate) async fn first_event(process: &Process, message: &str) -> Value {
    wait_until(message, || async { !events(process, message).is_empty() }).await;
    events(process, message).remove(0)
}

/// The ids of the requests that an event was caused by.
pub(crate) fn request_ids(event: &Value) -> Vec<String> {
    let spans = event["spans"].as_array().cloned().unwrap_or_default();
    let ids = spans.iter().filter_map(|span| span["request_id"].as_str());
    ids.map(str::to_owned).collect()
}

async fn drop_table(folder: &TempDir, table: &str) {
    let database = Database::connect(url(folder)).await.unwrap();
    let drop = format!("DROP TABLE {table}");
    database.execute_unprepared(&drop).await.unwrap();
    database.close().await.unwrap();
}

/// Counts with a header, and returns the error.
async fn refused(process: &Process, id: &str) -> Status {
    let mut calls = UsageServiceClient::new(process.channel().await);
    let mut request = Request::new(IncrementRequest::default());
    let metadata = request.metadata_mut();
    metadata.insert("x-request-id", id.parse().unwrap());
    within("an answer", calls.increment(request))
        .await
        .unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_carries_the_id_of_its_request() {
    let folder = TempDir::new().unwrap();
    let process = start(&folder).await;
    let header = |status: &Status| {
        status
            .metadata()
            .get("x-request-id")
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    let status = refused(&process, "their-id-7").await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(header(&status), "their-id-7");
    let details = status.get_error_details();
    assert_eq!(details.request_info().unwrap().request_id, "their-id-7");
    assert_eq!(details.error_info().unwrap().reason, "INVALID_FIELD");
    // One that a line of the log cannot have is replaced.
    let long = "x".repeat(129);
    for bad in ["with space", "a\"b", &long] {
        let status = refused(&process, bad).await;
        let id = header(&status);
        assert!(Uuid::parse_str(&id).is_ok(), "{id}");
        let info = status.get_details_request_info().unwrap();
        assert_eq!(info.request_id, id);
    }
    let error = process.client().increment("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(Uuid::parse_str(error.request_id().unwrap()).is_ok());
    let address = http_address(&process).await;
    let asked = "GET /nothing HTTP/1.1\r\nhost: localhost\r\nx-request-id: r-9\r\nconnection: close\r\n\r\n";
    let answer = String::from_utf8(exchange(&address, asked.as_bytes()).await).unwrap();
    assert!(answer.contains("x-request-id: r-9\r\n"), "{answer}");
    process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_defect_is_logged_once_with_the_id_that_its_caller_gets() {
    let folder = TempDir::new().unwrap();
    let process = start(&folder).await;
    drop_table(&folder, "account_links").await;
    let client = process.client();
    let error = client.get_account("acct").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
    let event = first_event(&process, "a request failed").await;
    assert_eq!(event["level"], "ERROR");
    assert_eq!(request_ids(&event), [error.request_id().unwrap()]);
    let spans = &event["spans"];
    assert_eq!(spans[0]["method"], "/usage.v1.AccountService/GetAccount");
    for _ in 0..20 {
        client.get_account("acct").await.unwrap_err();
    }
    // What is logged last was logged after all of them.
    client
        .put_account(PutAccount::free("other"))
        .await
        .unwrap_err();
    let failed = events(&process, "a request failed");
    let cause = |event: &Value| event["fields"]["error"].clone();
    let same = failed.iter().filter(|other| cause(other) == cause(&event));
    assert_eq!(same.count(), 1, "{failed:#?}");
    process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_decisions_and_runs_are_logged_once() {
    let folder = TempDir::new().unwrap();
    let stripe = FakeStripe::start(Settings::default()).await.unwrap();
    stripe.control().create_meter("api_calls").await.unwrap();
    stripe
        .control()
        .create_subscribed_customer("cus_1")
        .await
        .unwrap();
    let mut command = Process::binary();
    command
        .env("DATABASE_URL", url(&folder))
        .env("STRIPE_SECRET_KEY", stripe.secret_key())
        .env("STRIPE_API_BASE", stripe.base_url());
    let process = Process::start(command, &[HTTP.to_owned()]).await;
    let client = process.client();
    let put = || client.put_account(PutAccount::stripe("acct", "cus_1"));
    put().await.unwrap();
    // It changes nothing.
    put().await.unwrap();
    client.increment("acct").await.unwrap();
    client
        .correct(Correct::new("acct", 7, "a gift"))
        .await
        .unwrap();
    let run = client.force_report(ForceReport::all()).await.unwrap();
    let run_id = run.run_id().unwrap().to_owned();
    within("a run", run.summary()).await.unwrap();
    let ended = first_event(&process, "a report run ended").await;
    let audited = client.list_audit_entries(ListAuditEntries::new()).await;
    let audited = audited.unwrap().entries;
    let id_of = |action: &str| {
        // Newest first: the last one is that of the first request.
        let mut ids = audited.iter().rev().filter(|entry| entry.action == action);
        ids.next().unwrap().request_id.clone().unwrap()
    };
    for (message, action) in [
        ("what an account is billed to was changed", "PutAccount"),
        ("usage was corrected", "Correct"),
        ("a report run begins", "ForceReport"),
        ("a report run ended", "ForceReport"),
    ] {
        let events = events(&process, message);
        assert_eq!(events.len(), 1, "{message}: {events:#?}");
        assert_eq!(events[0]["level"], "INFO", "{message}");
        assert_eq!(request_ids(&events[0]), [id_of(action)], "{message}");
    }
    let begun = first_event(&process, "a report run begins").await;
    assert_eq!(begun["fields"]["run"], run_id.as_str());
    assert_eq!(ended["spans"][0]["run"], run_id.as_str());
    let counts = &ended["fields"];
    // The correction is a report by itself, which no run closes.
    for (field, count) in [
        ("closed", 1),
        ("units", 1),
        ("sent", 1),
        ("failed", 0),
        ("waiting", 0),
    ] {
        assert_eq!(counts[field], count, "{field}: {counts}");
    }
    process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_of_the_requests_has_a_line() {
    for (share, lines) in [("0", 0), ("1", 3)] {
        let folder = TempDir::new().unwrap();
        let mut command = Process::binary();
        command
            .env("DATABASE_URL", url(&folder))
            .env("LOG_REQUESTS", share);
        let process = Process::start(command, &[HTTP.to_owned()]).await;
        let client = process.client();
        client.increment("acct").await.unwrap();
        let refused = client.increment("").await.unwrap_err();
        client.increment("acct").await.unwrap();
        let address = http_address(&process).await;
        let asked = "GET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        exchange(&address, asked.as_bytes()).await;
        // It is logged after the lines of the requests before it.
        client.put_account(PutAccount::free("other")).await.unwrap();
        first_event(&process, "what an account is billed to was changed").await;
        let events = events(&process, "request");
        let of = |method: &str| {
            let of_method = events
                .iter()
                .filter(|event| event["spans"][0]["method"] == method);
            of_method.collect::<Vec<_>>()
        };
        let counted = of("/usage.v1.UsageService/Increment");
        assert_eq!(counted.len(), lines, "{events:#?}");
        if lines == 0 {
            assert!(events.is_empty(), "{events:#?}");
            continue;
        }
        let codes: Vec<_> = counted
            .iter()
            .map(|event| &event["fields"]["code"])
            .collect();
        assert_eq!(codes, ["OK", "INVALID_ARGUMENT", "OK"]);
        assert_eq!(request_ids(counted[1]), [refused.request_id().unwrap()]);
        assert!(
            counted
                .iter()
                .all(|event| event["fields"]["took_us"].is_u64())
        );
        let live = of("/health/live");
        assert_eq!(live.len(), 1);
        assert_eq!(live[0]["fields"]["code"], "200");
        process.kill();
    }
}
