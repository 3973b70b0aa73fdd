//! Checks a key with one plain request, because async-stripe does not expose the headers of an answer, and reads the id
//! of its account, because async-stripe's crate for accounts is large.

use std::time::Duration;

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;

use super::{REQUEST_TIMEOUT, failure::truncate};
use crate::domain::Millis;

/// The base URL of Stripe's API.
const STRIPE_API_BASE: &str = "https://api.stripe.com";
/// The largest answer that is read.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// What Stripe answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyCheck {
    /// The HTTP status.
    pub(crate) status: u16,
    /// Stripe's clock, in whole seconds.
    pub(crate) date: Option<Millis>,
    /// Whether the key is of live mode, if the answer says so.
    pub(crate) is_live: Option<bool>,
    /// Stripe's message if it refuses.
    pub(crate) message: String,
}

/// Reads the balance: a cheap request that every unrestricted key may make.
///
/// # Errors
/// Why there is no answer.
pub(crate) async fn check_key(
    secret_key: &str,
    api_base: Option<&str>,
) -> Result<KeyCheck, String> {
    let (status, date, body) = get("/v1/balance", secret_key, api_base).await?;
    Ok(key_check(status, date, &body))
}

/// The id of the account that a key belongs to; `None` if the key may not read it.
///
/// # Errors
/// Why there is no answer.
pub(super) async fn find_account_id(
    secret_key: &str,
    api_base: Option<&str>,
) -> Result<Option<String>, String> {
    let (status, _, body) = get("/v1/account", secret_key, api_base).await?;
    let id = body.get("id").and_then(Value::as_str);
    Ok(id.filter(|_| status.is_success()).map(str::to_owned))
}

/// Reads an object: the status, Stripe's clock and the body, null if it is not JSON.
async fn get(
    path: &str,
    secret_key: &str,
    api_base: Option<&str>,
) -> Result<(StatusCode, Option<Millis>, Value), String> {
    let base = api_base.unwrap_or(STRIPE_API_BASE).trim_end_matches('/');
    let connector = HttpsConnectorBuilder::new()
        .with_webpki_roots()
        .https_or_http()
        .enable_http1()
        .build();
    let client: Client<_, Empty<&'static [u8]>> =
        Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::get(format!("{base}{path}"))
        .header(header::AUTHORIZATION, format!("Bearer {secret_key}"))
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    with_timeout(REQUEST_TIMEOUT, async {
        let answer = client.request(request).await.map_err(with_causes)?;
        let status = answer.status();
        let date = answer.headers().get(header::DATE);
        let date = date
            .and_then(|date| date.to_str().ok())
            .and_then(parse_date);
        let body = Limited::new(answer.into_body(), MAX_BODY_BYTES).collect();
        let body = body.await.map_err(|error| error.to_string())?.to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        Ok((status, date, body))
    })
    .await
}

async fn with_timeout<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", limit.as_secs())))
}

/// An error with its causes: the outermost one only says that connecting failed.
fn with_causes(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    truncate(&text)
}

/// Parses an HTTP date.
fn parse_date(text: &str) -> Option<Millis> {
    let date = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    Some(date.timestamp_millis())
}

fn key_check(status: StatusCode, date: Option<Millis>, body: &Value) -> KeyCheck {
    let message = body.pointer("/error/message").and_then(Value::as_str);
    KeyCheck {
        status: status.as_u16(),
        date,
        is_live: body.get("livemode").and_then(Value::as_bool),
        message: truncate(message.unwrap_or("no message")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_http_date_is_parsed() {
        assert_eq!(
            parse_date("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(784_111_777_000)
        );
        assert_eq!(parse_date("yesterday"), None);
    }
}
