//! The client against a server in this process.

mod fake_server;

use super::*;
use crate::{Batch, ErrorKind, ForceReport, Increment, ListReports, ReportEvent, ReportPage};
use fake_server::{REPORTS, connect, listen, start};
use tokio::io::AsyncReadExt as _;

#[tokio::test]
async fn increment_is_sent_with_key_and_deadline() {
    let (client, server) = connect().await;
    let counted = client.increment("a").await.unwrap();
    let increments = server.increments.lock().unwrap();
    assert_eq!(
        counted.key.as_deref(),
        Some(&*increments[0].idempotency_key)
    );
    assert!(!counted.duplicate);
    assert_eq!(increments[0].quantity, None);
    let deadlines = server.deadlines.lock().unwrap();
    let micros: u64 = deadlines[0].strip_suffix('u').unwrap().parse().unwrap();
    assert!((9_000_000..=10_000_000).contains(&micros), "{deadlines:?}");
}

#[tokio::test]
async fn attempts_of_one_call_share_a_key() {
    let (client, server) = connect().await;
    let client = client.with_retry(Retry::default());
    let counted = client.increment("fails_twice").quantity(2).await.unwrap();
    let increments = server.increments.lock().unwrap();
    assert_eq!(increments.len(), 3);
    for request in increments.iter() {
        assert_eq!(*request, increments[0]);
        assert_eq!(Some(&*request.idempotency_key), counted.key.as_deref());
    }
}

#[tokio::test]
async fn increment_without_key_is_not_retried_if_it_may_have_counted() {
    let (client, server) = connect().await;
    let client = client.with_retry(Retry::default());
    let error = client
        .increment("fails_twice")
        .without_key()
        .await
        .unwrap_err();
    assert!(error.may_have_taken_effect(), "{error}");
    assert_eq!(server.increments.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn token_is_sent_and_never_printed() {
    let (server, address) = start().await;
    let builder = UsageClient::builder(address.to_string()).api_key("s3cret");
    let printed_builder = format!("{builder:?}");
    let client = builder.connect_lazy().unwrap();
    client.increment("a").await.unwrap();
    assert_eq!(
        server.authorization.lock().unwrap().as_deref(),
        Some("Bearer s3cret")
    );
    for printed in [printed_builder, format!("{client:?}")] {
        assert!(!printed.contains("s3cret"), "{printed}");
    }
    let unsendable = UsageClient::builder("127.0.0.1:1").api_key("s3cret\n");
    let error = unsendable.connect_lazy().unwrap_err();
    assert_eq!(error.violations()[0].field, "api_key");
    assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
}

#[tokio::test]
async fn clones_share_a_key_once_it_is_generated() {
    let (client, _) = connect().await;
    let mut increment = Increment::new("a");
    let first = client.increment(increment.clone()).await.unwrap();
    let second = client.increment(increment.clone()).await.unwrap();
    assert_ne!(first.key, second.key);
    increment.ensure_key();
    let third = client.increment(increment.clone()).await.unwrap();
    let fourth = client.increment(increment).await.unwrap();
    assert_eq!(third.key, fourth.key);
    assert!(fourth.duplicate);
}

#[tokio::test]
async fn an_increment_without_a_key_sends_none() {
    let (client, server) = connect().await;
    let increment = Increment::new("a").without_key();
    assert_eq!(client.increment(increment).await.unwrap().key, None);
    assert_eq!(server.increments.lock().unwrap()[0].idempotency_key, "");
}

#[tokio::test]
async fn batch_outcome_has_its_key() {
    let (client, _) = connect().await;
    let outcome = client
        .increment_batch(Batch::new().push("a").push("b"))
        .await
        .unwrap();
    assert!(outcome.key.is_some());
    assert_eq!(outcome.results.len(), 2);
}

#[tokio::test]
async fn deadline_error_has_the_key() {
    let (client, _) = connect().await;
    let client = client.with_timeout(Duration::from_millis(50));
    let error = client.increment("no_answer").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline, "{error}");
    assert!(error.is_retryable() && error.may_have_taken_effect());
    assert!(error.idempotency_key().is_some());
    let silent = ForceReport::accounts(["no_answer"]);
    let error = client.force_report(silent).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline, "{error}");
}

#[tokio::test]
async fn error_from_the_server_is_not_a_transport_error() {
    let (client, _) = connect().await;
    let error = client.increment("unavailable").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let error = client.get("a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unimplemented, "{error:?}");
}

#[tokio::test]
async fn refused_connection_has_no_effect() {
    let (listener, address) = listen().await;
    drop(listener);
    let eager = UsageClient::connect(address.to_string()).await.unwrap_err();
    let lazy = UsageClient::connect_lazy(address.to_string()).unwrap();
    let lazy = lazy.with_retry(Retry::never());
    for error in [eager, lazy.increment("a").await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Transport, "{error:?}");
        assert!(error.is_retryable() && !error.may_have_taken_effect());
        assert!(error.to_string().contains("refused"), "{error}");
    }
}

#[tokio::test]
async fn connection_lost_during_a_call_may_have_counted() {
    let (listener, address) = listen().await;
    let breaking = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        // The account is the last part of the request.
        while !bytes.windows(7).any(|part| part == b"acct_42") {
            assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
        }
    });
    let client = UsageClient::connect_lazy(address.to_string()).unwrap();
    let client = client.with_retry(Retry::never());
    let error = client.increment("acct_42").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport, "{error:?}");
    assert!(error.is_retryable() && error.may_have_taken_effect());
    breaking.await.unwrap();
}

#[tokio::test]
async fn all_reports_are_listed_once_and_the_list_can_be_continued() {
    let (client, _) = connect().await;
    let ids = |page: &ReportPage| -> Vec<_> {
        let reports = page.reports.iter();
        reports.map(|report| report.id.clone()).collect()
    };
    let all = client.list_all_reports(ListReports::new(), 5_000).await;
    let all = all.unwrap();
    assert_eq!(
        ids(&all),
        (0..REPORTS).map(|id| id.to_string()).collect::<Vec<_>>()
    );
    assert_eq!(all.next_page_token, None);
    let some = client.list_all_reports(ListReports::new(), 1_100).await;
    let some = some.unwrap();
    assert_eq!(some.reports.len(), 1_100);
    let rest = ListReports::new().page_token(some.next_page_token.clone().unwrap());
    let rest = client.list_all_reports(rest, 5_000).await.unwrap();
    assert_eq!([ids(&some), ids(&rest)].concat(), ids(&all));
}

#[tokio::test]
async fn endless_empty_pages_are_malformed() {
    let (client, _) = connect().await;
    let endless = ListReports::new().account("endless_pages");
    let error = client.list_all_reports(endless, 10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
}

#[tokio::test]
async fn run_is_watched_until_its_summary() {
    let (client, _) = connect().await;
    let mut run = client.force_report(ForceReport::all()).await.unwrap();
    assert_eq!(run.run_id(), Some("run"));
    assert_eq!(run.not_retried(), Some("no answer"));
    let mut events = Vec::new();
    while let Some(event) = run.next().await.unwrap() {
        events.push(event);
    }
    assert!(matches!(
        &events[..],
        [
            ReportEvent::Started { .. },
            ReportEvent::Progress(_),
            ReportEvent::Summary(_)
        ]
    ));
    assert_eq!(run.next().await.unwrap(), None);
    let run = client.force_report(ForceReport::all()).await.unwrap();
    assert_eq!(run.summary().await.unwrap().run_id.as_deref(), Some("run"));
}

#[tokio::test]
async fn run_that_is_cut_off_is_an_error_with_its_id() {
    let (client, _) = connect().await;
    let cut = ForceReport::accounts(["cut_off"]);
    let mut run = client.force_report(cut).await.unwrap();
    run.next().await.unwrap();
    run.next().await.unwrap();
    let error = run.next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport);
    assert!(error.is_retryable());
    assert_eq!(run.run_id(), Some("run"));
    let nameless = ForceReport::accounts(["no_run_id"]);
    let error = client.force_report(nameless).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
}

#[tokio::test]
async fn invalid_address_is_rejected() {
    for address in ["ftp://127.0.0.1:1", "http://a b", ""] {
        let error = UsageClient::connect_lazy(address).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert_eq!(error.violations()[0].field, "endpoint");
    }
}

#[tokio::test]
async fn calls_can_be_spawned() {
    fn clone_shared<T: Send + Sync + Clone + std::fmt::Debug + 'static>(it: &T) -> T {
        it.clone()
    }
    let (client, _) = connect().await;
    let client = clone_shared(&client);
    let calls = tokio::spawn(async move {
        client.increment("a").await?;
        client.increment_batch(Batch::new()).await?;
        client.list_all_reports(ListReports::new(), 1).await?;
        let run = client.force_report(ForceReport::all()).await?;
        run.summary().await
    });
    calls.await.unwrap().unwrap();
}
