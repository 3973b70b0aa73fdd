//! A server in this process, whose answers depend on the name of the account.

use crate::{Retry, UsageClient, proto};
use proto::{
    ReportRunProgress, ReportRunStarted, ReportRunSummary,
    force_report_response::Event,
    usage_service_server::{UsageService, UsageServiceServer},
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// The number of reports that the server has.
pub(super) const REPORTS: usize = 2_500;

#[derive(Debug, Clone, Default)]
pub(super) struct FakeServer {
    pub(super) increments: Arc<Mutex<Vec<proto::IncrementRequest>>>,
    /// The `grpc-timeout` header of each increment.
    pub(super) deadlines: Arc<Mutex<Vec<String>>>,
    /// The `authorization` header of the last increment.
    pub(super) authorization: Arc<Mutex<Option<String>>>,
}

#[tonic::async_trait]
impl UsageService for FakeServer {
    async fn increment(
        &self,
        request: Request<proto::IncrementRequest>,
    ) -> Result<Response<proto::IncrementResponse>, Status> {
        let deadline = request.metadata().get("grpc-timeout").unwrap();
        let deadline = deadline.to_str().unwrap().to_owned();
        self.deadlines.lock().unwrap().push(deadline);
        let authorization = request.metadata().get("authorization");
        let authorization = authorization.map(|value| value.to_str().unwrap().to_owned());
        *self.authorization.lock().unwrap() = authorization;
        let request = request.into_inner();
        match &*request.account_id {
            "no_answer" => std::future::pending().await,
            "unavailable" => return Err(Status::unavailable("unavailable")),
            "fails_twice" => {
                let mut increments = self.increments.lock().unwrap();
                increments.push(request);
                if increments.len() < 3 {
                    return Err(Status::unavailable("fails_twice"));
                }
                return Ok(Response::new(proto::IncrementResponse::default()));
            }
            _ => {}
        }
        let mut increments = self.increments.lock().unwrap();
        let duplicate = increments.contains(&request) && !request.idempotency_key.is_empty();
        increments.push(request);
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

    async fn list_meters(
        &self,
        _: Request<proto::ListMetersRequest>,
    ) -> Result<Response<proto::ListMetersResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn reconcile(
        &self,
        _: Request<proto::ReconcileRequest>,
    ) -> Result<Response<proto::ReconcileResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn find_increment(
        &self,
        _: Request<proto::FindIncrementRequest>,
    ) -> Result<Response<proto::FindIncrementResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn explain_invoice(
        &self,
        _: Request<proto::ExplainInvoiceRequest>,
    ) -> Result<Response<proto::ExplainInvoiceResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn resolve_report(
        &self,
        _: Request<proto::ResolveReportRequest>,
    ) -> Result<Response<proto::ResolveReportResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn acknowledge_difference(
        &self,
        _: Request<proto::AcknowledgeDifferenceRequest>,
    ) -> Result<Response<proto::AcknowledgeDifferenceResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_usage(
        &self,
        _: Request<proto::ListUsageRequest>,
    ) -> Result<Response<proto::ListUsageResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_summary(
        &self,
        _: Request<proto::GetSummaryRequest>,
    ) -> Result<Response<proto::GetSummaryResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_reports(
        &self,
        request: Request<proto::ListReportsRequest>,
    ) -> Result<Response<proto::ListReportsResponse>, Status> {
        let request = request.into_inner();
        if request.account_id == "endless_pages" {
            return Ok(Response::new(proto::ListReportsResponse {
                reports: Vec::new(),
                next_page_token: "0".to_owned(),
                archives: Vec::new(),
            }));
        }
        let instant = Some(prost_types::Timestamp::default());
        let start = request.page_token.parse().unwrap_or(0_usize);
        let end = REPORTS.min(start.saturating_add(usize::try_from(request.page_size).unwrap()));
        let report = |number: usize| proto::UsageReport {
            id: number.to_string(),
            window: Some(proto::Period {
                start: instant,
                end: instant,
            }),
            ..Default::default()
        };
        Ok(Response::new(proto::ListReportsResponse {
            reports: (start..end).map(report).collect(),
            archives: Vec::new(),
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
        let started = Some(Event::Started(ReportRunStarted {
            run_id: run_id(),
            not_retried: "no answer".to_owned(),
        }));
        let progress = Some(Event::Progress(ReportRunProgress::default()));
        let summary = Some(Event::Summary(ReportRunSummary {
            run_id: run_id(),
            ..Default::default()
        }));
        let accounts = request.into_inner().account_ids;
        let events = match accounts.first().map(String::as_str) {
            Some("cut_off") => vec![started, progress],
            Some("no_run_id") => vec![progress],
            Some("no_answer") => std::future::pending().await,
            // `None` is how an event of a newer server is decoded.
            _ => vec![started, progress, None, summary],
        };
        let events = events.into_iter();
        let messages = events.map(|event| Ok(proto::ForceReportResponse { event }));
        let messages: Vec<_> = messages.collect();
        Ok(Response::new(tokio_stream::iter(messages)))
    }
}

pub(super) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Starts a server, and a client of it that does not retry.
pub(super) async fn connect() -> (UsageClient, FakeServer) {
    let (server, address) = start().await;
    let client = UsageClient::connect(address.to_string()).await.unwrap();
    (client.with_retry(Retry::never()), server)
}

pub(super) async fn start() -> (FakeServer, SocketAddr) {
    let server = FakeServer::default();
    let (listener, address) = listen().await;
    let service = UsageServiceServer::new(server.clone());
    let router = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    (server, address)
}
