//! The client against a server in this process that answers by the name of the account.

use super::*;
use crate::{ErrorKind, ReportEvent};
use proto::{
    ReportRunProgress, ReportRunStarted, ReportRunSummary,
    force_report_response::Event,
    usage_service_server::{UsageService, UsageServiceServer},
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{io::AsyncReadExt as _, net::TcpListener};
use tokio_stream::wrappers::TcpListenerStream;

/// How many reports the server has.
const REPORTS: usize = 2_500;

#[derive(Debug, Clone, Default)]
struct Fake {
    seen: Arc<Mutex<Vec<proto::IncrementRequest>>>,
    deadlines: Arc<Mutex<Vec<String>>>,
    /// As whom the last call came.
    caller: Arc<Mutex<Option<String>>>,
}

#[tonic::async_trait]
impl UsageService for Fake {
    async fn increment(
        &self,
        request: Request<proto::IncrementRequest>,
    ) -> Result<Response<proto::IncrementResponse>, Status> {
        let deadline = request.metadata().get("grpc-timeout").unwrap();
        let deadline = deadline.to_str().unwrap().to_owned();
        self.deadlines.lock().unwrap().push(deadline);
        let caller = request.metadata().get("authorization");
        let caller = caller.map(|token| token.to_str().unwrap().to_owned());
        *self.caller.lock().unwrap() = caller;
        let request = request.into_inner();
        match &*request.account_id {
            "silent" => std::future::pending().await,
            "stopping" => return Err(Status::unavailable("stopping")),
            "shaken" => {
                let mut seen = self.seen.lock().unwrap();
                seen.push(request);
                if seen.len() < 3 {
                    return Err(Status::unavailable("shaken"));
                }
                return Ok(Response::new(proto::IncrementResponse::default()));
            }
            _ => {}
        }
        let mut seen = self.seen.lock().unwrap();
        let duplicate = seen.contains(&request) && !request.idempotency_key.is_empty();
        seen.push(request);
        Ok(Response::new(proto::IncrementResponse { duplicate }))
    }

    async fn increment_batch(
        &self,
        request: Request<proto::IncrementBatchRequest>,
    ) -> Result<Response<proto::IncrementBatchResponse>, Status> {
        let counted = |_| proto::IncrementResult {
            outcome: proto::IncrementOutcome::Counted.into(),
            error: None,
        };
        let increments = request.into_inner().increments.into_iter();
        Ok(Response::new(proto::IncrementBatchResponse {
            results: increments.map(counted).collect(),
            duplicate: false,
        }))
    }

    async fn get(
        &self,
        _: Request<proto::GetRequest>,
    ) -> Result<Response<proto::GetResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn correct(
        &self,
        _: Request<proto::CorrectRequest>,
    ) -> Result<Response<proto::CorrectResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn reconcile(
        &self,
        _: Request<proto::ReconcileRequest>,
    ) -> Result<Response<proto::ReconcileResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn resolve_report(
        &self,
        _: Request<proto::ResolveReportRequest>,
    ) -> Result<Response<proto::ResolveReportResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_reports(
        &self,
        request: Request<proto::ListReportsRequest>,
    ) -> Result<Response<proto::ListReportsResponse>, Status> {
        let request = request.into_inner();
        if request.account_id == "endless" {
            return Ok(Response::new(proto::ListReportsResponse {
                reports: Vec::new(),
                next_page_token: "0".to_owned(),
            }));
        }
        let moment = Some(prost_types::Timestamp::default());
        let start = request.page_token.parse().unwrap_or(0_usize);
        let end = REPORTS.min(start.saturating_add(usize::try_from(request.page_size).unwrap()));
        let report = |number: usize| proto::UsageReport {
            id: number.to_string(),
            window: Some(proto::Period {
                start: moment,
                end: moment,
            }),
            ..Default::default()
        };
        Ok(Response::new(proto::ListReportsResponse {
            reports: (start..end).map(report).collect(),
            next_page_token: if end < REPORTS {
                end.to_string()
            } else {
                String::new()
            },
        }))
    }

    type ForceReportStream =
        tokio_stream::Iter<std::vec::IntoIter<Result<proto::ForceReportResponse, Status>>>;

    async fn force_report(
        &self,
        request: Request<proto::ForceReportRequest>,
    ) -> Result<Response<Self::ForceReportStream>, Status> {
        let run_id = || "run".to_owned();
        let started = Some(Event::Started(ReportRunStarted { run_id: run_id() }));
        let progress = Some(Event::Progress(ReportRunProgress::default()));
        let summary = Some(Event::Summary(ReportRunSummary {
            run_id: run_id(),
            ..Default::default()
        }));
        let accounts = request.into_inner().account_ids;
        let events = match accounts.first().map(String::as_str) {
            Some("cut") => vec![started, progress],
            Some("nameless") => vec![progress],
            Some("silent") => std::future::pending().await,
            // The one in the middle is what a newer server may send.
            _ => vec![started, progress, None, summary],
        };
        let events = events.into_iter();
        let messages = events.map(|event| Ok(proto::ForceReportResponse { event }));
        let messages: Vec<_> = messages.collect();
        Ok(Response::new(tokio_stream::iter(messages)))
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn connect() -> (UsageClient, Fake) {
    let fake = Fake::default();
    let (listener, address) = listen().await;
    let service = UsageServiceServer::new(fake.clone());
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let client = UsageClient::connect(address.to_string()).await.unwrap();
    (client.with_retry(Retry::never()), fake)
}

#[tokio::test]
async fn an_increment_is_sent_with_a_key_and_a_deadline() {
    let (client, fake) = connect().await;
    let counted = client.increment("a").await.unwrap();
    let seen = fake.seen.lock().unwrap();
    assert_eq!(counted.key.as_deref(), Some(&*seen[0].idempotency_key));
    assert!(!counted.duplicate);
    assert_eq!(seen[0].quantity, None);
    let deadlines = fake.deadlines.lock().unwrap();
    let micros: u64 = deadlines[0].strip_suffix('u').unwrap().parse().unwrap();
    assert!((9_000_000..=10_000_000).contains(&micros), "{deadlines:?}");
}

#[tokio::test]
async fn all_attempts_of_a_call_have_one_key() {
    let (client, fake) = connect().await;
    let client = client.with_retry(Retry::default());
    let counted = client.increment("shaken").quantity(2).await.unwrap();
    let seen = fake.seen.lock().unwrap();
    assert_eq!(seen.len(), 3);
    for request in seen.iter() {
        assert_eq!(*request, seen[0]);
        assert_eq!(Some(&*request.idempotency_key), counted.key.as_deref());
    }
}

#[tokio::test]
async fn what_has_no_key_is_not_repeated_where_it_may_have_counted() {
    let (client, fake) = connect().await;
    let client = client.with_retry(Retry::default());
    let error = client.increment("shaken").without_key().await.unwrap_err();
    assert!(error.may_have_taken_effect(), "{error}");
    assert_eq!(fake.seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_token_goes_with_each_call_and_is_never_shown() {
    let fake = Fake::default();
    let (listener, address) = listen().await;
    let service = UsageServiceServer::new(fake.clone());
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let builder = UsageClient::builder(address.to_string()).bearer_token("s3cret");
    let shown = format!("{builder:?}");
    let client = builder.connect_lazy().unwrap();
    client.increment("a").await.unwrap();
    assert_eq!(
        fake.caller.lock().unwrap().as_deref(),
        Some("Bearer s3cret")
    );
    for shown in [shown, format!("{client:?}")] {
        assert!(!shown.contains("s3cret"), "{shown}");
    }
    let unsendable = UsageClient::builder("127.0.0.1:1").bearer_token("s3cret\n");
    let error = unsendable.connect_lazy().unwrap_err();
    assert_eq!(error.violations()[0].field, "bearer_token");
    assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
}

#[tokio::test]
async fn each_call_mints_a_key_of_its_own_and_clones_of_one_share_theirs() {
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
async fn without_a_key_none_is_sent() {
    let (client, fake) = connect().await;
    let increment = Increment::new("a").without_key();
    assert_eq!(client.increment(increment).await.unwrap().key, None);
    assert_eq!(fake.seen.lock().unwrap()[0].idempotency_key, "");
}

#[tokio::test]
async fn a_batch_answers_with_its_key() {
    let (client, _) = connect().await;
    let outcome = client
        .increment_batch(Batch::new().push("a").push("b"))
        .await
        .unwrap();
    assert!(outcome.key.is_some());
    assert_eq!(outcome.results.len(), 2);
}

#[tokio::test]
async fn a_silent_server_meets_the_deadline_and_the_key_is_known() {
    let (client, _) = connect().await;
    let client = client.with_timeout(Duration::from_millis(50));
    let error = client.increment("silent").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline, "{error}");
    assert!(error.is_retryable() && error.may_have_taken_effect());
    assert!(error.idempotency_key().is_some());
    let silent = ForceReport::accounts(["silent"]);
    let error = client.force_report(silent).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Deadline, "{error}");
}

#[tokio::test]
async fn a_refusal_of_the_server_is_no_broken_connection() {
    let (client, _) = connect().await;
    let error = client.increment("stopping").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let error = client.get("a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unimplemented, "{error:?}");
}

#[tokio::test]
async fn where_nobody_listens_nothing_was_counted() {
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
async fn a_connection_that_breaks_under_a_call_may_have_counted() {
    let (listener, address) = listen().await;
    let breaking = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        // With the account the whole request has come.
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
async fn all_reports_come_once_and_the_rest_can_be_asked_for() {
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
async fn pages_without_end_end() {
    let (client, _) = connect().await;
    let endless = ListReports::new().account("endless");
    let error = client.list_all_reports(endless, 10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
}

#[tokio::test]
async fn a_run_is_followed_to_its_summary() {
    let (client, _) = connect().await;
    let mut run = client.force_report(ForceReport::all()).await.unwrap();
    assert_eq!(run.run_id(), Some("run"));
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
async fn a_run_that_is_cut_off_is_an_error_and_can_be_watched() {
    let (client, _) = connect().await;
    let cut = ForceReport::accounts(["cut"]);
    let mut run = client.force_report(cut).await.unwrap();
    run.next().await.unwrap();
    run.next().await.unwrap();
    let error = run.next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport);
    assert!(error.is_retryable());
    assert_eq!(run.run_id(), Some("run"));
    let nameless = ForceReport::accounts(["nameless"]);
    let error = client.force_report(nameless).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
}

#[tokio::test]
async fn an_address_that_is_none_is_named() {
    for address in ["ftp://127.0.0.1:1", "http://a b", ""] {
        let error = UsageClient::connect_lazy(address).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert_eq!(error.violations()[0].field, "endpoint");
    }
}

#[tokio::test]
async fn calls_can_be_spawned_and_shared() {
    fn shared<T: Send + Sync + Clone + std::fmt::Debug + 'static>(it: &T) -> T {
        it.clone()
    }
    let (client, _) = connect().await;
    let client = shared(&client);
    let calls = tokio::spawn(async move {
        client.increment("a").await?;
        client.increment_batch(Batch::new()).await?;
        client.list_all_reports(ListReports::new(), 1).await?;
        let run = client.force_report(ForceReport::all()).await?;
        run.summary().await
    });
    calls.await.unwrap().unwrap();
}
