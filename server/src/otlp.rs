//! Sends spans by OTLP, if a setting names a collector: those of requests, runs, changes and requests to Stripe.
//!
//! What is sent has names, times, codes and ids of requests, runs and changes: no account, no customer, no quantity and no
//! text of an error, because events are left out. Spans wait in a bounded queue. What does not fit, or cannot be sent, is
//! dropped: nothing else waits for it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry::{
    Context, KeyValue,
    trace::{
        Link, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
        TraceState, TracerProvider as _,
    },
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SamplingDecision, SamplingResult,
        SdkTracerProvider, ShouldSample, SpanData, SpanExporter as Export,
    },
};
use tonic::transport::ClientTlsConfig;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

use crate::{config::LogConfig, domain::trace_parent::TraceParent, log_limit::LogLimit};

/// Spans that wait to be sent. More are dropped.
const MAX_QUEUE: usize = 8_192;
/// Spans in one request.
const MAX_BATCH: usize = 512;
/// How long spans wait for others.
const DELAY: Duration = Duration::from_secs(2);
/// How long a request to the collector may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last spans may take when the process ends.
const FLUSHED_WITHIN: Duration = Duration::from_secs(5);
/// The spans of this service have targets that begin so.
const TARGET: &str = env!("CARGO_CRATE_NAME");
/// The codes of gRPC that are faults of the server.
const FAULTS: [&str; 6] = [
    "UNKNOWN",
    "DEADLINE_EXCEEDED",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
];

/// Whether spans are sent.
static IS_ON: AtomicBool = AtomicBool::new(false);

/// Whether spans are sent.
pub(crate) fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Records a share of the traces. A caller can only leave its own out: who it is, is not known yet.
#[derive(Clone, Debug)]
struct Limited(Sampler);

impl ShouldSample for Limited {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let left_out = parent.and_then(|parent| {
            let of_parent = parent.span().span_context().clone();
            (of_parent.is_valid() && !of_parent.is_sampled()).then_some(of_parent)
        });
        match left_out {
            Some(of_parent) => SamplingResult {
                decision: SamplingDecision::Drop,
                attributes: Vec::new(),
                trace_state: of_parent.trace_state().clone(),
            },
            // The id of the trace decides, so that all of its spans are recorded or none.
            None => self
                .0
                .should_sample(parent, trace_id, name, kind, attributes, links),
        }
    }
}

/// The connection to the collector.
#[derive(Debug)]
pub struct Otlp(SdkTracerProvider);

impl Otlp {
    /// Starts sending, if there is a collector. It may be unreachable: then spans are dropped.
    ///
    /// # Errors
    /// One sentence that says what is wrong with the settings.
    pub fn start(config: &LogConfig) -> Result<Option<Self>, String> {
        let Some(endpoint) = &config.otlp_endpoint else {
            return Ok(None);
        };
        let mut exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(TIMEOUT);
        if endpoint.starts_with("https:") {
            exporter = exporter.with_tls_config(ClientTlsConfig::new().with_native_roots());
        }
        let exporter = exporter
            .build()
            .map_err(|error| format!("OTLP_ENDPOINT cannot be used: {error}"))?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(MAX_QUEUE)
            .with_max_export_batch_size(MAX_BATCH)
            .with_scheduled_delay(DELAY)
            .build();
        let processor = BatchSpanProcessor::builder(Logged::new(exporter))
            .with_batch_config(batches)
            .build();
        let sampler = Sampler::TraceIdRatioBased(config.otlp_sample.ratio());
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder()
            .with_service_name("usage-server")
            .with_attribute(version);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Limited(sampler))
            .with_resource(resource.build())
            .build();
        IS_ON.store(true, Ordering::Relaxed);
        Ok(Some(Self(provider)))
    }

    /// Turns spans of the log into spans of traces.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("usage-server"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_level(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(filter_fn(|of| {
                of.is_span() && of.target().starts_with(TARGET)
            }))
    }

    /// Sends what waits, for a limited time, and then nothing more.
    pub async fn stop(self) {
        IS_ON.store(false, Ordering::Relaxed);
        let flushing =
            tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(FLUSHED_WITHIN));
        match flushing.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last spans were not sent"),
            Err(error) => tracing::error!(%error, "the sending of spans failed"),
        }
    }
}

/// Puts the span of a request into the trace of its caller, or into a new one. Returns the span in its trace.
pub(crate) fn join(span: &Span, caller: Option<&TraceParent>) -> Option<TraceParent> {
    if let Some(caller) = caller {
        let flags = if caller.is_sampled() {
            TraceFlags::SAMPLED
        } else {
            TraceFlags::default()
        };
        let remote = SpanContext::new(
            TraceId::from(caller.trace()),
            SpanId::from(caller.parent()),
            flags,
            true,
            TraceState::default(),
        );
        let parent = Context::new().with_remote_span_context(remote);
        if let Err(error) = span.set_parent(parent) {
            tracing::debug!(%error, "a span has no parent");
        }
    }
    current(span)
}

/// A span in its trace.
pub(crate) fn current(span: &Span) -> Option<TraceParent> {
    let context = span.context();
    let context = context.span().span_context().clone();
    TraceParent::new(
        u128::from_be_bytes(context.trace_id().to_bytes()),
        u64::from_be_bytes(context.span_id().to_bytes()),
        context.is_sampled(),
    )
}

/// Logs, once a minute, that spans cannot be sent.
#[derive(Debug)]
struct Logged {
    exporter: SpanExporter,
    limit: LogLimit,
    is_failing: AtomicBool,
}

impl Logged {
    fn new(exporter: SpanExporter) -> Self {
        Self {
            exporter,
            limit: LogLimit::new(),
            is_failing: AtomicBool::new(false),
        }
    }
}

impl Export for Logged {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        batch.iter_mut().for_each(describe);
        let sent = self.exporter.export(batch).await;
        let was_failing = self.is_failing.swap(sent.is_err(), Ordering::Relaxed);
        match &sent {
            Err(error) => {
                if let Some(unlogged) = self.limit.count() {
                    tracing::warn!(%error, spans, unlogged, "spans cannot be sent to OTLP_ENDPOINT and are dropped");
                }
            }
            Ok(()) if was_failing => tracing::info!("spans are sent again"),
            Ok(()) => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Names a span as those who read traces expect it, without showing more in the log.
fn describe(span: &mut SpanData) {
    let attribute = |name: &str| {
        let found = span.attributes.iter().find(|of| of.key.as_str() == name);
        found.map(|of| of.value.as_str().into_owned())
    };
    match &*span.name {
        "request" => {
            span.span_kind = SpanKind::Server;
            let code = attribute("code");
            if let Some(method) = attribute("method") {
                span.name = method.trim_start_matches('/').to_owned().into();
            }
            if let Some(code) = code.filter(|code| FAULTS.contains(&code.as_str())) {
                span.status = Status::error(code);
            }
        }
        "stripe" => {
            span.span_kind = SpanKind::Client;
            if attribute("outcome").is_some_and(|outcome| outcome != "ok") {
                span.status = Status::error("no success");
            }
            if let Some(call) = attribute("call") {
                span.name = format!("stripe {call}").into();
            }
        }
        _ => {}
    }
}
