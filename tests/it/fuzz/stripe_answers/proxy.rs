//! A proxy before the fake Stripe, which changes one field of an answer at a time.

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
use fake_stripe::BROKEN_BODIES;
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

use super::{cases::Case, variants::Variants};
use crate::support::random::Random;

const MAX_BODY: usize = 16 << 20;
/// Changes that a failure prints.
const LAST: usize = 40;
/// Names after which a path has an id.
const COLLECTIONS: [&str; 6] = [
    "customers",
    "invoices",
    "meters",
    "prices",
    "products",
    "subscriptions",
];

/// The proxy, which ends when this is dropped.
pub(super) struct AnswerProxy {
    url: String,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    behind: String,
    client: reqwest::Client,
    changes: Mutex<Changes>,
}

struct Changes {
    variants: Variants,
    /// Written changes that were not made yet: each is made before random ones.
    cases: Vec<Case>,
    /// None: every answer is passed on as it is.
    random: Option<Random>,
    /// Whether only answers to requests that change something are changed.
    only_writes: bool,
    answers: u64,
    last: Vec<String>,
}

impl AnswerProxy {
    /// Starts before a fake Stripe. At first it only learns which fields answers have.
    pub(super) async fn start(behind: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let changes = Changes {
            variants: Variants::default(),
            cases: Vec::new(),
            random: None,
            only_writes: false,
            answers: 0,
            last: Vec::new(),
        };
        let client = reqwest::Client::builder().no_proxy().build();
        let shared = Arc::new(Shared {
            behind: behind.to_owned(),
            client: client.expect("a client"),
            changes: Mutex::new(changes),
        });
        let router = Router::new()
            .fallback(forward)
            .with_state(Arc::clone(&shared));
        let serving = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("a socket");
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

    /// Changes answers from now on, or passes them on as they are.
    pub(super) fn change(&self, random: Option<Random>) {
        self.shared.changes().random = random;
    }

    /// Makes these changes first.
    pub(super) fn begin_with(&self, cases: Vec<Case>) {
        self.shared.changes().cases = cases;
    }

    /// Changes only answers to requests that change something.
    pub(super) fn change_only_writes(&self) {
        self.shared.changes().only_writes = true;
    }

    /// The written changes that were not made yet.
    pub(super) fn cases_left(&self) -> Vec<String> {
        let changes = self.shared.changes();
        changes.cases.iter().map(|case| case.name.clone()).collect()
    }

    /// How many answers there have been.
    pub(super) fn answers(&self) -> u64 {
        self.shared.changes().answers
    }

    /// How many variants were tried, and how many are known.
    pub(super) fn counts(&self) -> (usize, usize) {
        self.shared.changes().variants.counts()
    }

    /// The endpoints that have been seen, each with the number of its variants that were not tried.
    pub(super) fn endpoints(&self) -> BTreeMap<String, usize> {
        self.shared.changes().variants.endpoints()
    }

    /// The last changes, for a failure.
    pub(super) fn last(&self) -> String {
        self.shared.changes().last.join("\n")
    }
}

impl Drop for AnswerProxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Shared {
    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(
        &self,
        request: Request,
    ) -> Result<(StatusCode, HeaderMap, Vec<u8>), reqwest::Error> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().expect("a path");
        let mut headers = parts.headers;
        for name in ["host", "content-length", "connection", "transfer-encoding"] {
            headers.remove(name);
        }
        let body = to_bytes(body, MAX_BODY).await.expect("a body");
        let asked = self
            .client
            .request(parts.method, format!("{}{path}", self.behind))
            .headers(headers)
            .body(body);
        let answer = asked.send().await?;
        let (status, mut headers) = (answer.status(), answer.headers().clone());
        for name in ["content-length", "connection", "transfer-encoding"] {
            headers.remove(name);
        }
        Ok((status, headers, answer.bytes().await?.to_vec()))
    }
}

impl Changes {
    /// Learns an answer's fields, and changes one of them in most answers.
    fn changed(&mut self, endpoint: &str, body: Vec<u8>) -> Vec<u8> {
        self.answers += 1;
        let Ok(mut answer) = serde_json::from_slice::<Value>(&body) else {
            return body;
        };
        self.variants.learn(endpoint, &answer);
        if self.only_writes && endpoint.starts_with("GET ") {
            return body;
        }
        let mut cases = self.cases.iter();
        let made = match cases.position(|case| case.is_of(endpoint, &answer)) {
            Some(place) => {
                let case = self.cases.remove(place);
                Some((case.name, case.variant.made(&answer).to_string()))
            }
            None => self.changed_at_random(endpoint, &mut answer),
        };
        let Some((name, changed)) = made else {
            return body;
        };
        if self.last.len() >= LAST {
            self.last.remove(0);
        }
        self.last.push(name);
        changed.into_bytes()
    }

    /// What was changed, and the text of the answer; none if it is passed on.
    fn changed_at_random(
        &mut self,
        endpoint: &str,
        answer: &mut Value,
    ) -> Option<(String, String)> {
        let random = self.random.as_mut()?;
        if random.one_in(3) {
            return None;
        }
        if random.one_in(25) {
            let broken = random.pick(&BROKEN_BODIES);
            return Some((format!("{endpoint}: {broken:?}"), broken.to_owned()));
        }
        let name = self.variants.apply(random, endpoint, answer)?;
        Some((name, answer.to_string()))
    }
}

async fn forward(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let endpoint = endpoint(request.method().as_str(), request.uri().path());
    let Ok((status, headers, body)) = shared.answer(request).await else {
        let mut gone = Response::new(Body::empty());
        *gone.status_mut() = StatusCode::BAD_GATEWAY;
        return gone;
    };
    let kind = if status.is_success() {
        ""
    } else {
        ", an error"
    };
    let body = shared.changes().changed(&format!("{endpoint}{kind}"), body);
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A request's method and path, with `{id}` for an id.
fn endpoint(method: &str, path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        let is_id = names
            .last()
            .is_some_and(|before| COLLECTIONS.contains(before));
        names.push(if is_id { "{id}" } else { name });
    }
    format!("{method} {}", names.join("/"))
}
