//! The two sockets: gRPC, and HTTP for webhooks, health and metrics. Each serves until the shutdown.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{codec::CompressionEncoding, transport::server::Server};
use tonic_health::pb::health_server::HealthServer;
use tower_http::catch_panic::CatchPanicLayer;
use usage_proto::v1::{
    FILE_DESCRIPTOR_SET, access_service_server::AccessServiceServer,
    account_service_server::AccountServiceServer, usage_service_server::UsageServiceServer,
};

use super::{
    answers::AnswerLimit, call_metrics::CallMetrics, error::ServeError, grpc_errors::GrpcErrors,
    services::RpcServices,
};
use crate::{
    config::Config,
    connections::{LimitedListener, Protocol},
    error::Error,
    http::{self, Http},
    metrics::{Calls, Exporter},
};

/// How long open calls may take to end at the shutdown, and how long their commits may take after that.
pub(super) const CALLERS_END_WITHIN: Duration = Duration::from_secs(5);
/// The largest message that is accepted: a batch of 1,000 increments with the longest fields.
const MAX_MESSAGE_BYTES: usize = 2 * 1024 * 1024;
/// The interval of keep-alive pings on an idle connection.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Open gRPC connections. A new one takes the place of the longest one without a call.
const MAX_CONNECTIONS: usize = 4_096;

/// A service that reads compressed messages, up to the limit. Each is a type without a common trait.
macro_rules! limited {
    ($service:expr) => {
        $service
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    };
}

/// Serves gRPC until the shutdown, then waits a limited time for open calls.
pub(super) async fn serve_rpc(
    listener: TcpListener,
    config: &Config,
    rpc: RpcServices,
    shutdown: &CancellationToken,
) -> Result<(), ServeError> {
    let io = |error: Box<dyn std::error::Error + Send + Sync>| ServeError::Io(error);
    let reflection = reflection_builder()
        .build_v1()
        .map_err(|error| io(Box::new(error)))?;
    // Older tools know only this one.
    let old_reflection = reflection_builder()
        .build_v1alpha()
        .map_err(|error| io(Box::new(error)))?;
    let address = listener.local_addr().map_err(|error| io(Box::new(error)))?;
    let router = Server::builder()
        .max_concurrent_streams(config.streams_per_connection)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .trace_fn(|request| tracing::info_span!("request", method = request.uri().path()))
        .layer(CallMetrics(Calls::new()))
        .layer(GrpcErrors)
        // Otherwise a panic would break the caller's connection, with all other calls on it.
        .layer(CatchPanicLayer::custom(panicked))
        .layer(AnswerLimit::default())
        .layer(rpc.check)
        .add_service(limited!(HealthServer::new(rpc.health)))
        .add_service(limited!(reflection))
        .add_service(limited!(old_reflection))
        .add_service(limited!(UsageServiceServer::new(rpc.usage)))
        .add_service(limited!(AccountServiceServer::new(rpc.accounts)))
        .add_service(limited!(AccessServiceServer::new(rpc.access)));
    tracing::info!(%address, "serving");
    let listener = LimitedListener::new(listener, Protocol::Http2, MAX_CONNECTIONS);
    let closing_stalled = listener.close_stalled();
    let serving =
        router.serve_with_incoming_shutdown(Box::pin(listener.into_stream()), shutdown.cancelled());
    tokio::select! {
        never = closing_stalled => match never {},
        served = serving => served.map_err(|error| io(Box::new(error))),
        () = overdue(shutdown) => {
            tracing::warn!("some callers did not end in time; their connections are closed");
            Ok(())
        }
    }
}

/// Serves HTTP until the shutdown, if there is a listener for it.
pub(super) async fn serve_http(
    listener: Option<TcpListener>,
    http: Http,
    exporter: Option<Exporter>,
    shutdown: &CancellationToken,
) -> Result<(), ServeError> {
    let (Some(listener), Some(exporter)) = (listener, exporter) else {
        if !http.webhook_secrets.is_empty() {
            tracing::warn!(
                "STRIPE_WEBHOOK_SECRETS is set and HTTP_LISTEN is not: no webhooks are received"
            );
        }
        return Ok(());
    };
    let serving = http::serve(listener, http, exporter, shutdown.clone());
    tokio::select! {
        served = serving => served.map_err(|error| ServeError::Io(Box::new(error))),
        () = overdue(shutdown) => {
            tracing::warn!("some HTTP requests did not end in time; their connections are closed");
            Ok(())
        }
    }
}

/// Describes the services, both versions of reflection, and the `google.rpc` types of error details.
fn reflection_builder() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
}

/// Resolves when the time for open calls is over.
async fn overdue(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(CALLERS_END_WITHIN).await;
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> ::http::Response<tonic::body::Body> {
    tracing::error!("a request handler panicked");
    tonic::Status::from(Error::Internal("a request handler panicked".into())).into_http()
}
