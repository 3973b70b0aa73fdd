//! One plain request, for what async-stripe hides: the headers of Stripe's answer.

use std::time::Duration;

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;

use super::{REQUEST_TIMEOUT, cut};
use crate::domain::Millis;

/// Where Stripe's API is.
const STRIPE: &str = "https://api.stripe.com";
/// What is read of an answer at most.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// What Stripe answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probed {
    /// The HTTP status.
    pub(crate) status: u16,
    /// Stripe's clock, in whole seconds.
    pub(crate) date: Option<Millis>,
    /// Whether the key is one of live mode, where the answer says so.
    pub(crate) is_live: Option<bool>,
    /// What Stripe says where it refuses.
    pub(crate) message: String,
}

/// Asks for the balance, the cheapest thing that any key of full rights may see.
///
/// # Errors
/// Why there is no answer, in words.
pub(crate) async fn key_check(secret_key: &str, api_base: Option<&str>) -> Result<Probed, String> {
    let base = api_base.unwrap_or(STRIPE).trim_end_matches('/');
    let connector = HttpsConnectorBuilder::new()
        .with_webpki_roots()
        .https_or_http()
        .enable_http1()
        .build();
    let client: Client<_, Empty<&'static [u8]>> =
        Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::get(format!("{base}/v1/balance"))
        .header(header::AUTHORIZATION, format!("Bearer {secret_key}"))
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    within(REQUEST_TIMEOUT, async {
        let answer = client.request(request).await.map_err(causes)?;
        let status = answer.status();
        let date = answer.headers().get(header::DATE);
        let date = date.and_then(|date| date.to_str().ok()).and_then(read_date);
        let body = Limited::new(answer.into_body(), MAX_BODY_BYTES).collect();
        let body = body.await.map_err(|error| error.to_string())?.to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        Ok(read(status, date, &body))
    })
    .await
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", limit.as_secs())))
}

/// An error with what it comes from: the outermost one only says that it could not connect.
fn causes(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    cut(&text)
}

/// Reads an HTTP date.
fn read_date(text: &str) -> Option<Millis> {
    let date = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    Some(date.timestamp_millis())
}

fn read(status: StatusCode, date: Option<Millis>, body: &Value) -> Probed {
    let message = body.pointer("/error/message").and_then(Value::as_str);
    Probed {
        status: status.as_u16(),
        date,
        is_live: body.get("livemode").and_then(Value::as_bool),
        message: cut(message.unwrap_or("no message")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_read_as_http_writes_it() {
        assert_eq!(
            read_date("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(784_111_777_000)
        );
        assert_eq!(read_date("yesterday"), None);
    }
}
