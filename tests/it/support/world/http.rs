//! Helpers for tests of the HTTP server: its address, webhooks signed by the test, and webhooks of the fake Stripe.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use fake_stripe::webhook_signature;

use super::{Server, TIMEOUT, World, within};

/// The secret that webhooks are signed with.
pub(crate) const SECRET: &str = "whsec_world";

/// An HTTP response: its status and body.
pub(crate) type Answer = (u16, String);

impl World {
    /// The address of the HTTP server.
    pub(crate) fn http_url(&self) -> &str {
        self.server.as_ref().expect("a server").http_url()
    }

    /// The running server.
    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().expect("a server")
    }

    /// Makes the fake Stripe send webhooks to the server, also after a restart.
    pub(crate) async fn receive_webhooks(&mut self) {
        self.receives_webhooks = true;
        let url = format!("{}/webhooks/stripe", self.http_url());
        let stripe = self.stripe();
        stripe.remove_webhooks().await.expect("no webhooks");
        stripe
            .register_webhook(&url, SECRET)
            .await
            .expect("a webhook");
    }

    /// Signs a body as Stripe does, some seconds ago by the server's clock.
    pub(crate) fn signed(&self, secrets: &[&str], age_secs: i64, body: &str) -> String {
        let now = self.clock.now().div_euclid(1_000);
        webhook_signature(secrets, now - age_secs, body)
    }

    /// Sends a webhook with a valid signature.
    pub(crate) async fn send_webhook(&self, body: &str) -> Answer {
        let signature = self.signed(&[SECRET], 0, body);
        self.send_signed(body, Some(&signature)).await
    }

    /// Sends a webhook with this signature, or without one.
    pub(crate) async fn send_signed(&self, body: &str, signature: Option<&str>) -> Answer {
        let mut request = http_client()
            .post(format!("{}/webhooks/stripe", self.http_url()))
            .body(body.to_owned());
        if let Some(signature) = signature {
            request = request.header("stripe-signature", signature);
        }
        answer_of(request).await
    }

    /// Sends a GET request to the HTTP server.
    pub(crate) async fn http_get(&self, path: &str) -> Answer {
        http_get(&format!("{}{path}", self.http_url())).await
    }

    /// The value of a series in the metrics, which must be there. All tests of this process share it: a counter shows at
    /// least what a test did since it read it before.
    pub(crate) async fn metric(&self, series: &str) -> u64 {
        let (status, text) = self.http_get("/metrics").await;
        assert_eq!(status, 200);
        metric(&text, series)
    }

    /// Waits until a series is higher than before. What is counted in the database may be counted in the metrics after it.
    pub(crate) async fn wait_until_metric_is_above(&self, series: &str, before: u64) {
        self.wait_until(series, async || self.metric(series).await > before)
            .await;
    }

    /// Sends raw bytes to the HTTP server and returns the first line of the response.
    pub(crate) async fn http_raw(&self, bytes: Vec<u8>) -> String {
        let address = self.http_url().trim_start_matches("http://").to_owned();
        let asking = tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).expect("a connection");
            stream
                .set_read_timeout(Some(TIMEOUT))
                .expect("a read timeout");
            stream.write_all(&bytes).expect("a listener");
            let mut line = Vec::new();
            let mut byte = [0];
            while byte[0] != b'\n' && stream.read(&mut byte).expect("an answer") == 1 {
                line.push(byte[0]);
            }
            String::from_utf8(line).expect("text")
        });
        within("an answer", asking).await.expect("no panic")
    }
}

/// Sends a GET request.
pub(crate) async fn http_get(url: &str) -> Answer {
    answer_of(http_client().get(url)).await
}

/// The value of a series in the text of metrics.
pub(crate) fn metric(text: &str, series: &str) -> u64 {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let value = value.unwrap_or_else(|| panic!("{series} is not in\n{text}"));
    value.parse().expect("a whole number")
}

/// Sends a GET request with an API key, if there is one.
pub(crate) async fn http_get_with_key(url: &str, key: Option<&str>) -> Answer {
    let request = http_client().get(url);
    answer_of(match key {
        Some(key) => request.bearer_auth(key),
        None => request,
    })
    .await
}

/// Sends a POST request without a body.
pub(crate) async fn http_post(url: &str) -> Answer {
    answer_of(http_client().post(url)).await
}

fn http_client() -> reqwest::Client {
    // A proxy from the environment must not be used for a server on loopback.
    reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client")
}

async fn answer_of(request: reqwest::RequestBuilder) -> Answer {
    within("an answer", async {
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.text().await.expect("a text"))
    })
    .await
}
