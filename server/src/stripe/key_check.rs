//! Requests about the key itself. They are also sent while others are refused, and read without async-stripe: its crate
//! for accounts is large.

use http::Method;
use serde_json::Value;

use super::{
    Failure, ShownDate, Stripe,
    failure::failure,
    transport::{Answer, truncate},
};
use crate::domain::Millis;

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

impl Stripe {
    /// Reads the balance: a cheap request that every unrestricted key may make. A refusal is an answer too.
    ///
    /// # Errors
    /// There is no answer.
    pub(crate) async fn check_key(&self) -> Result<KeyCheck, Failure> {
        let answer = self.client.get("/v1/balance").await;
        Ok(key_check(&answer.map_err(|error| failure(&error))?))
    }

    /// The HTTP status with which Stripe answers a request without parameters.
    ///
    /// # Errors
    /// There is no answer.
    pub(crate) async fn status_of(&self, method: Method, path: &str) -> Result<u16, Failure> {
        let answer = self.client.ask(method, path).await;
        Ok(answer.map_err(|error| failure(&error))?.status.as_u16())
    }

    /// The id of the key's account, if Stripe shows it: it is only for people.
    pub(crate) async fn find_account_id(&self) -> Option<String> {
        match self.client.get("/v1/account").await {
            Ok(answer) => {
                let id = body(&answer).get("id")?.as_str()?.to_owned();
                Some(id).filter(|_| answer.status.is_success())
            }
            Err(error) => {
                tracing::debug!(%error, "Stripe did not show the id of the account");
                None
            }
        }
    }

    /// Whether the last requests could not reach Stripe.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.client.is_unreachable()
    }

    /// Stripe's clock, as the last answer to any request showed it.
    pub(crate) fn last_date(&self) -> Option<ShownDate> {
        self.client.last_date()
    }
}

/// The body; null if it is not JSON.
fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_default()
}

fn key_check(answer: &Answer) -> KeyCheck {
    let body = body(answer);
    let message = body.pointer("/error/message").and_then(Value::as_str);
    KeyCheck {
        status: answer.status.as_u16(),
        date: answer.date,
        is_live: body.get("livemode").and_then(Value::as_bool),
        message: truncate(message.unwrap_or("no message")),
    }
}
