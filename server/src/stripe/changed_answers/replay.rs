//! An HTTP server that records a fake Stripe's answers, and gives them again with one of them replaced.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::Response,
};
use http::StatusCode;
use tokio::{net::TcpListener, task::JoinHandle};

const MAX_BODY: usize = 1 << 20;
/// What is answered to a request that was not recorded, as Stripe does if it has no such object.
const MISSING: &str = r#"{"error": {"code": "resource_missing", "message": "No such object", "type": "invalid_request_error"}}"#;

/// The server, which ends when this is dropped.
pub(super) struct Replay {
    url: String,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    behind: String,
    client: reqwest::Client,
    script: Mutex<Script>,
}

#[derive(Default)]
struct Script {
    /// The answers by method and path.
    recorded: BTreeMap<String, Vec<u8>>,
    /// The request that gets another answer; none while answers are recorded.
    replaced: Option<(String, Vec<u8>)>,
}

impl Replay {
    /// Starts before a fake Stripe.
    pub(super) async fn start(behind: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            behind: behind.to_owned(),
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            script: Mutex::default(),
        });
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        let serving = tokio::spawn(async move {
            axum::serve(listener, router).await.unwrap();
        });
        Self {
            url,
            shared,
            serving,
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Records answers from now on, and forgets those before.
    pub(super) fn record(&self) {
        *self.shared.script() = Script::default();
    }

    /// The answers since then, by method and path.
    pub(super) fn recorded(&self) -> BTreeMap<String, Vec<u8>> {
        self.shared.script().recorded.clone()
    }

    /// Gives a request this answer from now on, and all others those that were recorded.
    pub(super) fn give(&self, request: &str, body: &[u8]) {
        self.shared.script().replaced = Some((request.to_owned(), body.to_vec()));
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to give; none while answers are recorded.
    fn given(&self, request: &str) -> Option<(StatusCode, Vec<u8>)> {
        let script = self.script();
        let (replaced, body) = script.replaced.as_ref()?;
        let found = if replaced == request {
            Some(body)
        } else {
            script.recorded.get(request)
        };
        Some(match found {
            Some(body) => (StatusCode::OK, body.clone()),
            None => (StatusCode::NOT_FOUND, MISSING.as_bytes().to_vec()),
        })
    }

    /// Records the fake Stripe's answer, which must be a success.
    async fn forward(&self, place: String, request: Request) -> (StatusCode, Vec<u8>) {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, MAX_BODY).await.unwrap();
        let mut headers = parts.headers;
        for name in ["host", "content-length", "connection", "transfer-encoding"] {
            headers.remove(name);
        }
        let url = format!("{}{}", self.behind, parts.uri);
        let request = self.client.request(parts.method, url);
        let answer = request.headers(headers).body(body).send().await.unwrap();
        let status = answer.status();
        let body = answer.bytes().await.unwrap().to_vec();
        let text = String::from_utf8_lossy(&body);
        assert!(status.is_success(), "{place}: {status} {text}");
        self.script().recorded.insert(place, body.clone());
        (status, body)
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let place = format!("{} {}", request.method(), request.uri());
    let (status, body) = if let Some(given) = shared.given(&place) {
        given
    } else {
        shared.forward(place, request).await
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
}
