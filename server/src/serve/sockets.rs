//! The sockets: gRPC; and HTTP for the same services as JSON, webhooks, health and metrics. Each serves until the shutdown.

use std::{sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{codec::CompressionEncoding, service::Routes, transport::server::Server};
use tonic_health::pb::health_server::HealthServer;
use tower::{ServiceBuilder, util::BoxCloneSyncService};
use tower_http::catch_panic::CatchPanicLayer;
use tower_layer::layer_fn;
use usage_proto::v1::{
    FILE_DESCRIPTOR_SET, access_service_server::AccessServiceServer,
    account_service_server::AccountServiceServer,
    operations_service_server::OperationsServiceServer, usage_service_server::UsageServiceServer,
};

use super::{
    answers::AnswerLimit,
    call_metrics::CallMetrics,
    call_places::CallPlaces,
    connect::{self, Messages, RpcStack},
    error::ServeError,
    grpc_errors::GrpcErrors,
    listeners::Listeners,
    request_bodies::RequestLimit,
    requests::NameRequests,
    services::RpcServices,
};
use crate::{
    config::Config,
    connections::{LimitedListener, Places, Protocol, Security},
    contract::Contract,
    domain::http_paths::HttpSocket,
    error::Error,
    http::{Http, HttpServer, RpcOverHttp, cors::Cors},
    metrics::{Calls, Exporter},
    request_log::RequestLog,
    tls::{Clients, Tls},
};

/// How long open calls may take to end at the shutdown, and how long their commits may take after that.
pub(super) const CALLERS_END_WITHIN: Duration = Duration::from_secs(5);
/// The largest message that is accepted: a batch of 1,000 increments with the longest fields.
pub(super) const MAX_MESSAGE_BYTES: usize = 2 * 1024 * 1024;
/// The largest sum of a call's headers. More gets HTTP 431.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// The largest frame: that which every peer supports.
const MAX_FRAME_BYTES: u32 = 16 * 1024;
/// Calls that a caller resets before they begin, and those that are reset because of its errors, after which its connection
/// is closed.
const MAX_RESETS: usize = 20;
const MAX_ERROR_RESETS: usize = 100;
/// The largest message of a health check, which names a service. It needs no key.
const MAX_HEALTH_BYTES: usize = 1_024;
/// The largest question to reflection: the name of something.
const MAX_REFLECTION_BYTES: usize = 4 * 1_024;
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

/// Serves every socket until the shutdown. The failure of one ends them all.
pub(super) async fn serve_sockets(
    listeners: Listeners,
    config: &Config,
    tls: Option<&Arc<Tls>>,
    rpc: RpcServices,
    http: (Http, Option<Exporter>),
    shutdown: &CancellationToken,
) -> Result<(), ServeError> {
    let Listeners {
        grpc,
        http: all,
        webhooks,
        metrics,
    } = listeners;
    let contract = Contract::shared().map_err(|error| ServeError::Io(Box::new(error)))?;
    let stack = rpc_stack(rpc, config, &contract)?;
    let rpc = RpcOverHttp {
        service: connect::over_http(stack.clone(), Arc::clone(&contract)),
        cors: Arc::new(Cors::new(config.addresses.http_cors_origins.clone())),
        contract,
        streams_per_connection: config.streams_per_connection,
    };
    let (http, exporter) = http;
    let (slots, writes_without_key) = (
        config.schedule.window_mins,
        config.console_writes_without_key,
    );
    let console =
        (!config.no_console).then(|| http.console(stack.clone(), slots, writes_without_key));
    let http = HttpServer::new(http, exporter, rpc, console);
    let serving = tokio::try_join!(
        serve_grpc(grpc, config, tls, stack, shutdown),
        serve_http([all, webhooks, metrics], http, config, tls, shutdown),
    );
    serving.map(|((), ())| ())
}

/// The services of gRPC within their layers. All sockets have the same, with the same limits.
fn rpc_stack(
    rpc: RpcServices,
    config: &Config,
    contract: &Arc<Contract>,
) -> Result<RpcStack, ServeError> {
    let io = |error: Box<dyn std::error::Error + Send + Sync>| ServeError::Io(error);
    let reflection = reflection_builder()
        .build_v1()
        .map_err(|error| io(Box::new(error)))?;
    // Older tools know only this one.
    let old_reflection = reflection_builder()
        .build_v1alpha()
        .map_err(|error| io(Box::new(error)))?;
    let health = HealthServer::new(rpc.health);
    let routes = Routes::new(limited!(health).max_decoding_message_size(MAX_HEALTH_BYTES))
        .add_service(limited!(reflection).max_decoding_message_size(MAX_REFLECTION_BYTES))
        .add_service(limited!(old_reflection).max_decoding_message_size(MAX_REFLECTION_BYTES))
        .add_service(limited!(UsageServiceServer::new(rpc.usage)))
        .add_service(limited!(AccountServiceServer::new(rpc.accounts)))
        .add_service(limited!(AccessServiceServer::new(rpc.access)))
        .add_service(limited!(OperationsServiceServer::new(rpc.operations)))
        .prepare();
    let stack = ServiceBuilder::new()
        .layer(NameRequests(RequestLog::new(config.log.log_requests)))
        .layer(CallMetrics(Calls::new()))
        .layer(GrpcErrors)
        // Otherwise a panic would break the caller's connection, with all other calls on it.
        .layer(CatchPanicLayer::custom(panicked))
        .layer(CallPlaces(config.addresses.trusted_proxies()))
        .layer(rpc.check)
        // Their limits are those of callers.
        .layer(AnswerLimit::default())
        .layer(RequestLimit::default())
        .layer(Messages(Arc::clone(contract)))
        .service(routes);
    Ok(BoxCloneSyncService::new(stack))
}

/// Serves gRPC until the shutdown, then waits a limited time for open calls.
async fn serve_grpc(
    listener: TcpListener,
    config: &Config,
    tls: Option<&Arc<Tls>>,
    stack: RpcStack,
    shutdown: &CancellationToken,
) -> Result<(), ServeError> {
    let io = |error: Box<dyn std::error::Error + Send + Sync>| ServeError::Io(error);
    let address = listener.local_addr().map_err(|error| io(Box::new(error)))?;
    let router = Server::builder()
        .max_concurrent_streams(config.streams_per_connection)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .http2_max_pending_accept_reset_streams(Some(MAX_RESETS))
        .http2_max_local_error_reset_streams(Some(MAX_ERROR_RESETS))
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        // The services are within it already.
        .layer(layer_fn(move |_: Routes| stack.clone()))
        .add_routes(Routes::default());
    tracing::info!(%address, "serving");
    let security = security(tls, Clients::Authenticated);
    let places = Places {
        all: MAX_CONNECTIONS,
        of_address: config.connections_of_address(),
    };
    let listener = LimitedListener::new(listener, Protocol::Http2, security, places);
    let closing = listener.close_unwanted();
    let serving =
        router.serve_with_incoming_shutdown(Box::pin(listener.into_stream()), shutdown.cancelled());
    tokio::select! {
        never = closing => match never {},
        served = serving => served.map_err(|error| io(Box::new(error))),
        () = overdue(shutdown) => {
            tracing::warn!("some callers did not end in time; their connections are closed");
            Ok(())
        }
    }
}

/// Serves HTTP until the shutdown, on the sockets that there are.
async fn serve_http(
    sockets: [Option<TcpListener>; 3],
    server: HttpServer,
    config: &Config,
    tls: Option<&Arc<Tls>>,
    shutdown: &CancellationToken,
) -> Result<(), ServeError> {
    let [all, webhooks, metrics] = sockets;
    let receives_webhooks = all.is_some() || webhooks.is_some();
    let secrets = config.webhooks.secrets().map_err(ServeError::Config)?;
    match (receives_webhooks, secrets.is_empty()) {
        (true, true) => tracing::warn!(
            "STRIPE_WEBHOOK_SECRETS is not set: webhooks are refused with 503; changes at Stripe are found by polling"
        ),
        (false, false) => tracing::warn!(
            "STRIPE_WEBHOOK_SECRETS is set, and neither HTTP_LISTEN nor WEBHOOK_LISTEN: no webhooks are received"
        ),
        _ => {}
    }
    let main = if webhooks.is_some() {
        HttpSocket::WithoutWebhooks
    } else {
        HttpSocket::All
    };
    let serve = async |listener: Option<TcpListener>, socket, clients| match listener {
        Some(listener) => {
            let security = security(tls, clients);
            server.serve(listener, security, socket, shutdown).await
        }
        None => Ok(()),
    };
    let serving = async {
        tokio::try_join!(
            serve(all, main, Clients::Authenticated),
            serve(webhooks, HttpSocket::Webhooks, Clients::Anonymous),
            serve(metrics, HttpSocket::Metrics, Clients::Anonymous),
        )
    };
    tokio::select! {
        done = serving => done.map(drop).map_err(|error| ServeError::Io(Box::new(error))),
        () = overdue(shutdown) => {
            tracing::warn!("some HTTP requests did not end in time; their connections are closed");
            Ok(())
        }
    }
}

/// What a socket speaks.
fn security(tls: Option<&Arc<Tls>>, clients: Clients) -> Security {
    tls.map_or(Security::Plain, |tls| {
        Security::Tls(Arc::clone(tls), clients)
    })
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
    // The panic is in the log.
    tonic::Status::from(Error::Internal("a panic".into()).logged()).into_http()
}
