//! A server's moods, played before the real one: it refuses, it is full, it counts and loses the answer, it
//! answers too late.

use std::{
    collections::VecDeque,
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

/// What it does with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// It answers as the server behind it does.
    Well,
    /// It does nothing, and says this.
    Refuses(Code),
    /// It does nothing, and asks to wait a moment.
    Full,
    /// The server behind it does its work, and the answer is this.
    Loses(Code),
    /// The server behind it does its work, and no answer comes until the caller has given up.
    Slow,
}

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// A server that has moods.
pub(crate) struct Moody {
    endpoint: String,
    moods: Arc<Mutex<VecDeque<Mood>>>,
    calls: Arc<AtomicU64>,
    stop: CancellationToken,
    _serving: JoinHandle<()>,
}

impl Moody {
    /// Before a real server; after these moods it answers well.
    pub(crate) async fn start(before: &str, moods: impl IntoIterator<Item = Mood>) -> Self {
        let moods = Arc::new(Mutex::new(moods.into_iter().collect()));
        let calls = Arc::new(AtomicU64::new(0));
        let behind = Channel::from_shared(before.to_owned()).expect("an address");
        let stop = CancellationToken::new();
        let service = Played {
            behind: behind.connect_lazy(),
            moods: Arc::clone(&moods),
            calls: Arc::clone(&calls),
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
            moods,
            calls,
            stop,
            _serving: tokio::spawn(async move { serving.await.expect("a server that runs") }),
        }
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// How many calls have come.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// How many moods are still to come.
    pub(crate) fn moods_left(&self) -> usize {
        self.moods
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }
}

impl Drop for Moody {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[derive(Clone)]
struct Played {
    behind: Channel,
    moods: Arc<Mutex<VecDeque<Mood>>>,
    calls: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl NamedService for Played {
    const NAME: &'static str = "usage.v1.UsageService";
}

impl Service<Request> for Played {
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

impl Played {
    async fn answer(mut self, request: Request) -> Response {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mood = {
            let mut moods = self.moods.lock().unwrap_or_else(PoisonError::into_inner);
            moods.pop_front().unwrap_or(Mood::Well)
        };
        match mood {
            Mood::Well => self.forward(request).await,
            Mood::Refuses(code) => Status::new(code, "not now").into_http(),
            Mood::Full => {
                let mut details = ErrorDetails::new();
                details.set_retry_info(Some(Duration::from_millis(20)));
                let text = "as much is waiting as is taken";
                Status::with_error_details(Code::ResourceExhausted, text, details).into_http()
            }
            Mood::Loses(code) => {
                self.forward(request).await;
                Status::new(code, "the answer is lost").into_http()
            }
            Mood::Slow => {
                let answer = self.forward(request).await;
                // The caller's deadline drops this before.
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
