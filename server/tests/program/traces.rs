//! Traces: `traceparent` is accepted, is in the log and reaches Stripe; spans reach a collector over OTLP.

use std::{
    collections::HashMap,
    net::TcpListener as StdListener,
    sync::{Arc, Mutex},
};

use fake_stripe::{FakeStripe, Settings};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message as _;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use usage_client::{
    ForceReport,
    proto::{
        PutAccountRequest, StripeBilling, account_service_client::AccountServiceClient,
        put_account_request::Billing,
    },
};

use crate::{
    log::{events, first_event},
    process::{HTTP, Process, wait_until, within},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
/// What no span may contain.
const ACCOUNT: &str = "account-in-no-span";
const CUSTOMER: &str = "cus_in_no_span";

fn trace_parent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let sent = request.into_inner().resource_spans;
        let scopes = sent.into_iter().flat_map(|resource| resource.scope_spans);
        let spans = scopes.flat_map(|scope| scope.spans);
        self.0.lock().unwrap().extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts it, and returns its URL.
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(self.clone());
        let sockets = TcpListenerStream::new(listener);
        tokio::spawn(
            Server::builder()
                .add_service(service)
                .serve_with_incoming(sockets),
        );
        url
    }

    fn spans(&self) -> Vec<Span> {
        self.0.lock().unwrap().clone()
    }

    fn named(&self, name: &str) -> Vec<Span> {
        let mut spans = self.spans();
        spans.retain(|span| span.name == name);
        spans
    }
}

/// The attributes of a span that are texts.
fn attributes(span: &Span) -> HashMap<String, String> {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    let texts = span.attributes.iter().filter_map(|of| {
        let Value::StringValue(text) = of.value.as_ref()?.value.as_ref()? else {
            return None;
        };
        Some((of.key.clone(), text.clone()))
    });
    texts.collect()
}

fn hex(bytes: &[u8]) -> String {
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16));
    bytes.iter().flat_map(digits).flatten().collect()
}

async fn stripe() -> FakeStripe {
    let stripe = FakeStripe::start(Settings::default()).await.unwrap();
    stripe.control().create_meter("api_calls").await.unwrap();
    let control = stripe.control();
    control.create_subscribed_customer(CUSTOMER).await.unwrap();
    stripe
}

async fn start(folder: &TempDir, stripe: &FakeStripe, environment: &[(&str, &str)]) -> Process {
    let mut command = Process::binary();
    let url = format!("sqlite://{}", folder.path().join("usage.db").display());
    command
        .env("DATABASE_URL", url)
        .env("STRIPE_SECRET_KEY", stripe.secret_key())
        .env("STRIPE_API_BASE", stripe.base_url())
        .envs(environment.iter().copied());
    Process::start(command, &[HTTP.to_owned()]).await
}

/// Links the account in a trace, for which Stripe is asked.
async fn link(process: &Process, trace_parent: &str) {
    let mut calls = AccountServiceClient::new(process.channel().await);
    let mut request = Request::new(PutAccountRequest {
        account_id: ACCOUNT.to_owned(),
        billing: Some(Billing::Stripe(StripeBilling {
            customer: CUSTOMER.to_owned(),
            ..StripeBilling::default()
        })),
        ..PutAccountRequest::default()
    });
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", trace_parent.parse().unwrap());
    within("a link", calls.put_account(request)).await.unwrap();
}

/// The `traceparent` headers that Stripe got.
async fn at_stripe(stripe: &FakeStripe) -> Vec<String> {
    let requests = stripe.control().requests().await.unwrap();
    let traces = requests.into_iter().filter_map(|of| of.traceparent);
    traces.collect()
}

/// Ends the server as a service manager does.
async fn terminate(process: Process) -> String {
    let id = Pid::from_raw(process.id().try_into().unwrap()).unwrap();
    kill_process(id, Signal::TERM).unwrap();
    let (code, log) = process.ended().await;
    assert_eq!(code, Some(0), "{log}");
    log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_is_in_the_log_and_reaches_stripe() {
    let (folder, stripe) = (TempDir::new().unwrap(), stripe().await);
    let process = start(&folder, &stripe, &[]).await;
    // One that is not valid is left out.
    link(&process, "00-1-2-01").await;
    assert_eq!(at_stripe(&stripe).await, Vec::<String>::new());
    let linked = "what an account is billed to was changed";
    let event = first_event(&process, linked).await;
    assert!(event["spans"][0].get("trace_id").is_none(), "{event}");
    let header = trace_parent("01");
    link(&process, &header).await;
    let traces = at_stripe(&stripe).await;
    assert!(!traces.is_empty());
    assert!(traces.iter().all(|of| *of == header), "{traces:?}");
    let run = process.client().force_report(ForceReport::all()).await;
    within("a run", run.unwrap().summary()).await.unwrap();
    // A run is not of the trace that linked its account.
    assert_eq!(at_stripe(&stripe).await, traces);
    process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_reach_a_collector_and_show_no_account() {
    let (folder, stripe, collector) = (
        TempDir::new().unwrap(),
        stripe().await,
        Collector::default(),
    );
    let url = collector.start().await;
    let settings = [("OTLP_ENDPOINT", url.as_str()), ("LOG_REQUESTS", "1")];
    let process = start(&folder, &stripe, &settings).await;
    link(&process, &trace_parent("01")).await;
    let client = process.client();
    client.increment(ACCOUNT).await.unwrap();
    client.increment("").await.unwrap_err();
    let run = client.force_report(ForceReport::all()).await.unwrap();
    within("a run", run.summary()).await.unwrap();
    first_event(&process, "a report run ended").await;
    let logged = events(&process, "request");
    // The last spans are sent at the end.
    terminate(process).await;
    let put = collector.named("usage.v1.AccountService/PutAccount");
    assert_eq!(put.len(), 1);
    let put = &put[0];
    assert_eq!(
        (hex(&put.trace_id), hex(&put.parent_span_id)),
        (TRACE.to_owned(), PARENT.to_owned())
    );
    assert_eq!(put.kind(), SpanKind::Server);
    assert_eq!(attributes(put)["code"], "OK");
    // Requests to Stripe are spans below it, and Stripe is told of them.
    let asked: Vec<Span> = collector
        .spans()
        .into_iter()
        .filter(|span| span.name.starts_with("stripe ") && span.trace_id == put.trace_id)
        .collect();
    assert!(!asked.is_empty());
    let traces = at_stripe(&stripe).await;
    for span in &asked {
        assert_eq!(span.parent_span_id, put.span_id);
        assert_eq!(span.kind(), SpanKind::Client);
        let header = format!("00-{TRACE}-{}-01", hex(&span.span_id));
        assert!(traces.contains(&header), "{header} is not in {traces:?}");
    }
    // Calls without a trace get one, which is in the log too.
    let increments = collector.named("usage.v1.UsageService/Increment");
    assert_eq!(increments.len(), 2);
    for span in &increments {
        let request_id = &attributes(span)["request_id"];
        let event = logged
            .iter()
            .find(|event| event["spans"][0]["request_id"] == **request_id);
        assert_eq!(event.unwrap()["spans"][0]["trace_id"], hex(&span.trace_id));
        assert!(span.events.is_empty());
        // A refused call is no fault of the server.
        assert!(
            span.status
                .as_ref()
                .is_none_or(|of| of.code() != StatusCode::Error)
        );
    }
    let codes: Vec<String> = increments
        .iter()
        .map(|span| attributes(span)["code"].clone())
        .collect();
    assert!(codes.contains(&"INVALID_ARGUMENT".to_owned()), "{codes:?}");
    assert!(!collector.named("report_run").is_empty());
    assert!(!collector.named("stripe meter_event").is_empty());
    for span in collector.spans() {
        let bytes = span.encode_to_vec();
        let text = String::from_utf8_lossy(&bytes);
        for hidden in [ACCOUNT, CUSTOMER] {
            assert!(!text.contains(hidden), "{span:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_can_leave_its_trace_out_and_no_more() {
    for (sample, recorded) in [("1", 1), ("0", 0)] {
        let (folder, stripe, collector) = (
            TempDir::new().unwrap(),
            stripe().await,
            Collector::default(),
        );
        let url = collector.start().await;
        let settings = [("OTLP_ENDPOINT", url.as_str()), ("OTLP_SAMPLE", sample)];
        let process = start(&folder, &stripe, &settings).await;
        process.client().increment("acct").await.unwrap();
        link(&process, &trace_parent("00")).await;
        link(&process, &trace_parent("01")).await;
        terminate(process).await;
        let put = collector.named("usage.v1.AccountService/PutAccount");
        assert_eq!(put.len(), recorded, "OTLP_SAMPLE={sample}");
        let others = collector.named("usage.v1.UsageService/Increment");
        assert_eq!(others.len(), recorded, "OTLP_SAMPLE={sample}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_is_told_once_and_stops_nothing() {
    let (folder, stripe) = (TempDir::new().unwrap(), stripe().await);
    // A port that is free again.
    let closed = StdListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://{closed}");
    let process = start(&folder, &stripe, &[("OTLP_ENDPOINT", &url)]).await;
    let client = process.client();
    let lost = "spans cannot be sent to OTLP_ENDPOINT and are dropped";
    wait_until("a line about the collector", || async {
        client.increment("acct").await.unwrap();
        !events(&process, lost).is_empty()
    })
    .await;
    for _ in 0..1_000 {
        client.increment("acct").await.unwrap();
    }
    let log = terminate(process).await;
    assert_eq!(log.matches(lost).count(), 1, "{log}");
}

#[test]
fn a_collector_needs_a_url() {
    for wrong in ["127.0.0.1:4317", "grpc://host:4317", "http://"] {
        let mut command = Process::binary();
        let output = command.args(["serve", "--otlp-endpoint", wrong]).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("must be http://HOST:PORT"), "{error}");
    }
}
