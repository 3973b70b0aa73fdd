//! What a key for each caller, a log of requests, and traces cost: the same load on a server of its own for each setting,
//! in turns, beside the server without them.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use tokio::{net::TcpListener, runtime::Runtime};
use tonic::{
    Request, Response, Status,
    transport::server::{Server, TcpIncoming},
};
use usage_client::{CreateKey, KeyRole, UsageClient};

use crate::{
    background,
    load::{ACCOUNTS, Load, Work},
    servers::verify,
    support::{
        engines::{Database, Engine, Engines},
        process::ServerProcess,
    },
};

/// How often each setting is measured: in turns, so that a slow moment of the machine meets all of them.
const ROUNDS: usize = 3;
/// Cells that are shorter only show that they can be measured.
const BRIEF: Duration = Duration::from_millis(500);
/// Connections that the calls are spread over.
const CONNECTIONS: usize = 4;

/// A setting that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    /// The defaults, without keys.
    None,
    /// Each call has an API key.
    Key,
    /// A line for each hundredth request.
    LogHundredth,
    /// Each hundredth trace is sent to a collector.
    TraceHundredth,
    /// All traces are sent to a collector.
    TraceAll,
}

impl Setting {
    const ALL: [Self; 5] = [
        Self::None,
        Self::Key,
        Self::LogHundredth,
        Self::TraceHundredth,
        Self::TraceAll,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Key => "key",
            Self::LogHundredth => "log-1%",
            Self::TraceHundredth => "traces-1%",
            Self::TraceAll => "traces-all",
        }
    }

    fn flags(self, collector: &str) -> Vec<String> {
        let traces = |share: &str| {
            vec![
                format!("--otlp-endpoint={collector}"),
                format!("--otlp-sample={share}"),
            ]
        };
        match self {
            Self::None | Self::Key => Vec::new(),
            Self::LogHundredth => vec!["--log-requests=0.01".to_owned()],
            Self::TraceHundredth => traces("0.01"),
            Self::TraceAll => traces("1"),
        }
    }
}

/// What the row is called.
pub(crate) fn name(engine: Engine) -> String {
    format!("{} options", engine.name())
}

/// Measures and prints them.
pub(crate) fn measure(engine: Engine, engines: &Engines, duration: Duration) {
    let runtime = Runtime::new().expect("a runtime");
    let collector = runtime.block_on(start_collector());
    let mut speeds = [const { Vec::new() }; Setting::ALL.len()];
    let rounds = if duration < BRIEF { 1 } else { ROUNDS };
    for _ in 0..rounds {
        for (setting, speeds) in Setting::ALL.into_iter().zip(&mut speeds) {
            let database = engines.database(engine);
            speeds.push(measure_one(
                &runtime, &database, setting, &collector, duration,
            ));
        }
    }
    let medians = speeds.map(|mut speeds| {
        speeds.sort_unstable();
        speeds[rounds / 2]
    });
    let plain = medians[0];
    let cells = Setting::ALL
        .into_iter()
        .zip(medians)
        .map(|(setting, median)| {
            let ratio = median as f64 / plain as f64;
            format!("{}={median} ({ratio:.2})", setting.name())
        });
    let cells: Vec<String> = cells.collect();
    println!("bench: {} {}", name(engine), cells.join(" "));
}

/// Increments a second with one setting.
fn measure_one(
    runtime: &Runtime,
    database: &Database,
    setting: Setting,
    collector: &str,
    duration: Duration,
) -> u64 {
    let server = ServerProcess::start(database, &setting.flags(collector));
    let key = (setting == Setting::Key).then(|| runtime.block_on(create_keys(server.endpoint())));
    let load = Load {
        work: Work::unary(128, ACCOUNTS),
        connections: CONNECTIONS,
        duration,
    };
    let measured = load.run_with_key(server.endpoint(), key.as_deref());
    server.stop();
    background::run(verify(database, measured.acknowledged));
    measured.per_sec
}

/// The first key is an admin's; returns that of a writer.
async fn create_keys(endpoint: &str) -> String {
    let open = UsageClient::connect(endpoint).await.expect("a connection");
    let admin = open.create_key(CreateKey::new("admin", KeyRole::Admin));
    let key = admin.await.expect("a key").text;
    let admin = UsageClient::builder(endpoint).api_key(key).connect().await;
    let writer = CreateKey::new("load", KeyRole::Writer);
    let writer = admin.expect("a connection").create_key(writer).await;
    writer.expect("a key").text
}

/// A collector that takes everything and keeps nothing. Returns its URL.
async fn start_collector() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let server = Server::builder().add_service(TraceServiceServer::new(Collector));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    url
}

struct Collector;

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        _: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
