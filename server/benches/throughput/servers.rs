//! The measured servers: the service, and two others with the same contract to compare it with.
//!
//! Each has a separate runtime, a real socket and a new database.

use prost_types::Timestamp;
use tokio::{net::TcpListener, runtime::Runtime, task::JoinHandle};
use tokio_stream::Empty;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    transport::server::{Server, TcpIncoming},
};
use usage_proto::v1::{
    self,
    usage_service_server::{UsageService, UsageServiceServer},
};
use usage_server::{Listeners, store::Store};

use crate::{
    naive::Naive,
    support::{engines::Database, service},
};

/// Connections to PostgreSQL: the service's default, and the same for one transaction a call.
const CONNECTIONS: u32 = 16;

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The same call that does nothing: the limit of the transport.
    Noop,
    /// One transaction a call.
    Naive,
    /// The service.
    Ours,
}

/// A server under load.
pub(crate) struct Running {
    runtime: Runtime,
    endpoint: String,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
    database: Option<(Side, Database)>,
}

impl Running {
    /// Starts one side. All but the one that does nothing need a database.
    pub(crate) fn start(side: Side, database: Option<Database>) -> Self {
        let database = match (side, database) {
            (Side::Ours, Some(database)) => return Self::start_ours(database, &[]),
            (_, database) => database,
        };
        let runtime = Runtime::new().expect("a runtime");
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let serving = match (side, &database) {
            (Side::Naive, Some(database)) => {
                let naive = runtime.block_on(async {
                    let store = Store::open(&database.url, 1).await.expect("the database");
                    store.migrate().await.expect("the schema");
                    store.close().await.expect("a clean end");
                    Naive::open(&database.url, CONNECTIONS)
                        .await
                        .expect("the database")
                });
                runtime.spawn(Reference { naive: Some(naive) }.serve(listener, token))
            }
            _ => runtime.spawn(Reference { naive: None }.serve(listener, token)),
        };
        Self {
            runtime,
            endpoint,
            shutdown,
            serving,
            database: database.map(|database| (side, database)),
        }
    }

    /// Starts the service with flags.
    pub(crate) fn start_ours(database: Database, flags: &[String]) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let (listener, _) = bind(&runtime);
        Self::start_on(runtime, Listeners::grpc_only(listener), database, flags)
    }

    /// Starts the service with flags and its pages. Returns where they are too.
    pub(crate) fn start_with_pages(database: Database, flags: &[String]) -> (Self, String) {
        let runtime = Runtime::new().expect("a runtime");
        let (listener, _) = bind(&runtime);
        let (http, pages) = bind(&runtime);
        let listeners = Listeners {
            http: Some(http),
            ..Listeners::grpc_only(listener)
        };
        (Self::start_on(runtime, listeners, database, flags), pages)
    }

    fn start_on(
        runtime: Runtime,
        listeners: Listeners,
        database: Database,
        flags: &[String],
    ) -> Self {
        let address = listeners.grpc.local_addr().expect("an address");
        let endpoint = format!("http://{address}");
        let shutdown = CancellationToken::new();
        let config = service::config(&database, flags);
        let serving = runtime.spawn(service::run(listeners, config, shutdown.clone()));
        Self {
            runtime,
            endpoint,
            shutdown,
            serving,
            database: Some((Side::Ours, database)),
        }
    }

    /// Where it listens.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Stops the server. The database must contain exactly the acknowledged increments.
    pub(crate) fn stop_and_verify(self, acknowledged: u64) {
        self.shutdown.cancel();
        self.runtime.block_on(async {
            self.serving.await.expect("no panic in the server");
            if let Some((side, database)) = &self.database {
                verify_counted(*side, database, acknowledged).await;
            }
        });
    }
}

/// A free port, and its address.
fn bind(runtime: &Runtime) -> (TcpListener, String) {
    let bound = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
    let listener = bound.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, format!("http://{address}"))
}

/// The database of a stopped server must contain exactly the acknowledged increments.
pub(crate) async fn verify(database: &Database, acknowledged: u64) {
    verify_counted(Side::Ours, database, acknowledged).await;
}

async fn verify_counted(side: Side, database: &Database, acknowledged: u64) {
    let totals = service::ledger_totals(database).await;
    assert_eq!(
        totals.counted(),
        i128::from(acknowledged),
        "acknowledged and counted increments differ"
    );
    // One transaction a call writes no row to `commits`.
    assert!(
        totals.is_balanced() || side == Side::Naive,
        "the ledger check fails: {totals:?}"
    );
}

/// A plain tonic server with the same contract.
struct Reference {
    /// `None` for the server that does nothing.
    naive: Option<Naive>,
}

impl Reference {
    async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        Server::builder()
            .add_service(UsageServiceServer::new(self))
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                shutdown.cancelled(),
            )
            .await
            .expect("a server that runs");
    }
}

/// The answer of the service to a query for hours, with a unit in each of them.
fn month_by_hour(request: v1::GetRequest) -> v1::GetResponse {
    let unit = Some(v1::Quantities {
        total: 1,
        not_billable: 1,
        ..v1::Quantities::default()
    });
    let period = request.period.unwrap_or_default();
    let (first, last) = (seconds(period.start), seconds(period.end));
    let hours = (first - first.rem_euclid(HOUR)..last).step_by(3_600);
    let points = hours.map(|start| v1::UsagePoint {
        period: Some(v1::Period {
            start: Some(timestamp(start)),
            end: Some(timestamp(start + HOUR)),
        }),
        quantities: unit,
    });
    v1::GetResponse {
        account_id: request.account_id,
        period: Some(period),
        granularity: request.granularity,
        time_zone: "UTC".to_owned(),
        as_of: period.end,
        meters: vec![v1::MeterUsage {
            meter: request.meter,
            unit: String::new(),
            quantities: unit,
            points: points.collect(),
        }],
    }
}

/// Seconds of an hour.
const HOUR: i64 = 3_600;

fn seconds(at: Option<Timestamp>) -> i64 {
    at.map_or(0, |at| at.seconds)
}

fn timestamp(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}

#[tonic::async_trait]
impl UsageService for Reference {
    async fn increment(
        &self,
        request: Request<v1::IncrementRequest>,
    ) -> Result<Response<v1::IncrementResponse>, Status> {
        let duplicate = match &self.naive {
            Some(naive) => naive.count(request.into_inner()).await?,
            None => false,
        };
        Ok(Response::new(v1::IncrementResponse { duplicate }))
    }

    async fn increment_batch(
        &self,
        request: Request<v1::IncrementBatchRequest>,
    ) -> Result<Response<v1::IncrementBatchResponse>, Status> {
        let counted = v1::IncrementResult {
            outcome: v1::IncrementOutcome::Counted.into(),
            error: None,
        };
        let results = vec![counted; request.into_inner().increments.len()];
        Ok(Response::new(v1::IncrementBatchResponse {
            results,
            duplicate: false,
        }))
    }

    /// A month by hour that is in no database.
    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        Ok(Response::new(month_by_hour(request.into_inner())))
    }

    async fn list_usage(
        &self,
        _: Request<v1::ListUsageRequest>,
    ) -> Result<Response<v1::ListUsageResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn get_summary(
        &self,
        _: Request<v1::GetSummaryRequest>,
    ) -> Result<Response<v1::GetSummaryResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn list_reports(
        &self,
        _: Request<v1::ListReportsRequest>,
    ) -> Result<Response<v1::ListReportsResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn correct(
        &self,
        _: Request<v1::CorrectRequest>,
    ) -> Result<Response<v1::CorrectResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn resolve_report(
        &self,
        _: Request<v1::ResolveReportRequest>,
    ) -> Result<Response<v1::ResolveReportResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn acknowledge_difference(
        &self,
        _: Request<v1::AcknowledgeDifferenceRequest>,
    ) -> Result<Response<v1::AcknowledgeDifferenceResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn list_meters(
        &self,
        _: Request<v1::ListMetersRequest>,
    ) -> Result<Response<v1::ListMetersResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn reconcile(
        &self,
        _: Request<v1::ReconcileRequest>,
    ) -> Result<Response<v1::ReconcileResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn find_increment(
        &self,
        _: Request<v1::FindIncrementRequest>,
    ) -> Result<Response<v1::FindIncrementResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    async fn explain_invoice(
        &self,
        _: Request<v1::ExplainInvoiceRequest>,
    ) -> Result<Response<v1::ExplainInvoiceResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }

    type ForceReportStream = Empty<Result<v1::ForceReportResponse, Status>>;

    async fn force_report(
        &self,
        _: Request<v1::ForceReportRequest>,
    ) -> Result<Response<Self::ForceReportStream>, Status> {
        Err(Status::unimplemented("not measured"))
    }
}
