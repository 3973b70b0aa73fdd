//! A faulty proxy of the gRPC service: it rejects calls, is overloaded, loses responses or responds too late.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
    transport::{Channel, Server},
};
use tonic_types::{ErrorDetails, StatusExt as _};

/// The behavior for one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behavior {
    /// Forwards the call.
    Normal,
    /// Does not forward the call, and returns this status.
    Refuses(Code),
    /// Does not forward the call, and returns this status, with a reason of the service and perhaps a retry delay.
    RefusesFor(Code, &'static str, Option<Duration>),
    /// Does not forward the call, and returns a retry delay.
    Overloaded,
    /// Forwards the call, and returns this status instead of the response.
    LosesResponse(Code),
    /// Forwards the call, and does not respond until the caller's deadline.
    RespondsTooLate,
}

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// A proxy with scripted faults.
pub(crate) struct FlakyServer {
    endpoint: String,
    behaviors: Arc<Mutex<VecDeque<Behavior>>>,
    calls: Arc<AtomicU64>,
    timeouts: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
    _serving: JoinHandle<()>,
}

impl FlakyServer {
    /// Starts in front of a real server. It uses one behavior per call, and then forwards every call.
    pub(crate) async fn start(before: &str, behaviors: impl IntoIterator<Item = Behavior>) -> Self {
        let behaviors = Arc::new(Mutex::new(behaviors.into_iter().collect()));
        let calls = Arc::new(AtomicU64::new(0));
        let timeouts = Arc::new(Mutex::default());
        let behind = Channel::from_shared(before.to_owned()).expect("an address");
        let stop = CancellationToken::new();
        let service = FlakyService {
            behind: behind.connect_lazy(),
            behaviors: Arc::clone(&behaviors),
            calls: Arc::clone(&calls),
            timeouts: Arc::clone(&timeouts),
            stop: stop.clone(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let stopped = stop.clone().cancelled_owned();
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopped);
        Self {
            endpoint,
            behaviors,
            calls,
            timeouts,
            stop,
            _serving: tokio::spawn(async move { serving.await.expect("a server that runs") }),
        }
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The number of calls so far.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// How long each call had until its deadline, the first call first.
    pub(crate) fn timeouts(&self) -> Vec<Duration> {
        let timeouts = self.timeouts.lock();
        let timeouts = timeouts.unwrap_or_else(PoisonError::into_inner);
        timeouts.iter().map(|text| duration(text)).collect()
    }

    /// The number of behaviors not used yet.
    pub(crate) fn behaviors_left(&self) -> usize {
        self.behaviors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }
}

impl Drop for FlakyServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[derive(Clone)]
struct FlakyService {
    behind: Channel,
    behaviors: Arc<Mutex<VecDeque<Behavior>>>,
    calls: Arc<AtomicU64>,
    timeouts: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
}

impl NamedService for FlakyService {
    const NAME: &'static str = "usage.v1.UsageService";
}

impl Service<Request> for FlakyService {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.answer(request).await) })
    }
}

impl FlakyService {
    async fn answer(mut self, request: Request) -> Response {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if let Some(timeout) = request.headers().get("grpc-timeout") {
            let timeout = timeout.to_str().expect("a text").to_owned();
            let timeouts = self.timeouts.lock();
            timeouts
                .unwrap_or_else(PoisonError::into_inner)
                .push(timeout);
        }
        let behavior = {
            let mut behaviors = self
                .behaviors
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            behaviors.pop_front().unwrap_or(Behavior::Normal)
        };
        match behavior {
            Behavior::Normal => self.forward(request).await,
            Behavior::Refuses(code) => Status::new(code, "not now").into_http(),
            Behavior::RefusesFor(code, reason, retry_after) => {
                let mut details = ErrorDetails::new();
                details.set_error_info(reason, "usage-billing", HashMap::new());
                if retry_after.is_some() {
                    details.set_retry_info(retry_after);
                }
                Status::with_error_details(code, "not now", details).into_http()
            }
            Behavior::Overloaded => {
                let mut details = ErrorDetails::new();
                details.set_retry_info(Some(Duration::from_millis(20)));
                let text = "the waiting calls are those that were accepted";
                Status::with_error_details(Code::ResourceExhausted, text, details).into_http()
            }
            Behavior::LosesResponse(code) => {
                self.forward(request).await;
                Status::new(code, "the answer is lost").into_http()
            }
            Behavior::RespondsTooLate => {
                let answer = self.forward(request).await;
                // The caller's deadline drops this future.
                self.stop.cancelled().await;
                answer
            }
        }
    }

    async fn forward(&mut self, request: Request) -> Response {
        std::future::poll_fn(|context| self.behind.poll_ready(context))
            .await
            .expect("a server behind");
        self.behind.call(request).await.expect("an answer")
    }
}

/// Reads a header `grpc-timeout`: a number and a letter for its unit.
fn duration(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.len() - 1);
    let number = number.parse().expect("a number");
    match unit {
        "n" => Duration::from_nanos(number),
        "u" => Duration::from_micros(number),
        "m" => Duration::from_millis(number),
        "S" => Duration::from_secs(number),
        other => panic!("a deadline in {other}"),
    }
}
