//! A plain HTTP caller that speaks Stripe's forms and checks each exchange against the contract.

use std::sync::LazyLock;
use std::time::Duration;

use fake_stripe::{Control, FakeStripe, Settings};
use reqwest::header::HeaderMap;
use serde_json::Value;

use crate::contract::Contract;

/// Far longer than anything takes, so that only what hangs runs into it.
pub(crate) const LONG: Duration = Duration::from_secs(30);
/// A moment that frozen clocks stand at: 2026-11-15 10:20:30 UTC.
pub(crate) const NOW: i64 = 1_794_738_030;

pub(crate) static CONTRACT: LazyLock<Contract> = LazyLock::new(Contract::new);

/// An answer of the fake Stripe.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The body of a success.
    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{:#}", self.body);
        self.body
    }

    /// The status and code of a refusal.
    pub(crate) fn refusal(&self) -> (u16, &str) {
        assert_ne!(self.status, 200, "{:#}", self.body);
        (
            self.status,
            self.body["error"]["code"].as_str().unwrap_or_default(),
        )
    }

    pub(crate) fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_default()
    }
}

/// A fake Stripe whose clock stands at `NOW`, with the customer `cus_1` and the meter `mtr_1` for `calls`.
pub(crate) struct World {
    pub(crate) fake_stripe: FakeStripe,
    pub(crate) control: Control,
    pub(crate) http: reqwest::Client,
}

impl World {
    pub(crate) async fn new() -> World {
        World::with(Settings::default()).await
    }

    pub(crate) async fn with(settings: Settings) -> World {
        let fake_stripe = FakeStripe::start(settings).await.unwrap();
        let control = fake_stripe.control();
        control.set_clock(NOW * 1_000).await.unwrap();
        control.create_customer("cus_1").await.unwrap();
        control
            .create_meter_with_id("mtr_1", "calls")
            .await
            .unwrap();
        World {
            fake_stripe,
            control,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    /// A call that is not yet sent, with the right key.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        pairs: &[(&str, &str)],
    ) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.fake_stripe.base_url());
        let encoded = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(pairs)
            .finish();
        let request = match method {
            "POST" => self.http.post(url).form(pairs),
            "DELETE" => self.http.delete(format!("{url}?{encoded}")),
            _ => self.http.get(format!("{url}?{encoded}")),
        };
        request.bearer_auth(self.fake_stripe.secret_key())
    }

    pub(crate) async fn call(&self, method: &str, path: &str, pairs: &[(&str, &str)]) -> Reply {
        let reply = answer(self.request(method, path, pairs)).await;
        CONTRACT.check_answer(method, path, reply.status, &reply.body);
        if reply.status == 200 {
            CONTRACT.check_params(method, path, pairs);
        }
        reply
    }

    pub(crate) async fn post(&self, path: &str, pairs: &[(&str, &str)]) -> Reply {
        self.call("POST", path, pairs).await
    }

    pub(crate) async fn get(&self, path: &str, pairs: &[(&str, &str)]) -> Reply {
        self.call("GET", path, pairs).await
    }

    /// One event of `calls` by `cus_1`, at the time of its receipt.
    pub(crate) async fn event(&self, identifier: &str, value: &str) -> Reply {
        self.post("/v1/billing/meter_events", &event(identifier, value))
            .await
    }

    /// The same under an idempotency key.
    pub(crate) async fn keyed_event(&self, key: &str, identifier: &str, value: &str) -> Reply {
        let request = self.request(
            "POST",
            "/v1/billing/meter_events",
            &event(identifier, value),
        );
        answer(request.header("idempotency-key", key)).await
    }

    /// The aggregates of `cus_1` on `mtr_1` between two times, newest first.
    pub(crate) async fn summary(&self, start: i64, end: i64, more: &[(&str, &str)]) -> Vec<f64> {
        let (start, end) = (start.to_string(), end.to_string());
        let mut pairs = vec![
            ("customer", "cus_1"),
            ("start_time", start.as_str()),
            ("end_time", end.as_str()),
        ];
        pairs.extend(more);
        let list = self
            .get("/v1/billing/meters/mtr_1/event_summaries", &pairs)
            .await
            .ok();
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["aggregated_value"].as_f64().unwrap())
            .collect()
    }
}

pub(crate) fn event<'a>(identifier: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("event_name", "calls"),
        ("identifier", identifier),
        ("payload[stripe_customer_id]", "cus_1"),
        ("payload[value]", value),
    ]
}

pub(crate) async fn answer(request: reqwest::RequestBuilder) -> Reply {
    let response = request.send().await.unwrap();
    Reply {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.json().await.unwrap(),
    }
}
