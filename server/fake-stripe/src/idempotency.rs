//! `Idempotency-Key`: a repeated key returns the stored response for 24 hours, errors too, if the endpoint had started.

use std::collections::{HashMap, VecDeque};

use crate::errors::StripeError;
use crate::http_exchange::Answer;

const STORED_FOR_MS: i64 = 24 * 60 * 60 * 1_000;
/// Beyond this number the oldest keys are dropped early.
const MAX_KEYS: usize = 250_000;
const MAX_KEY_CHARS: usize = 255;

/// The first request of each key, and its response.
#[derive(Debug, Default)]
pub(crate) struct IdempotencyKeys {
    entries: HashMap<String, Entry>,
    /// Keys in the order of their first use, the next to be dropped first.
    order: VecDeque<(String, i64)>,
}

/// The first request of a key.
#[derive(Debug)]
struct Entry {
    first_used_ms: i64,
    path: String,
    params: Vec<(String, String)>,
    /// `None` while the first request runs.
    answer: Option<Answer>,
}

/// Whether a key is new or repeated.
#[derive(Debug)]
pub(crate) enum Claim {
    /// The first use: the request runs, and its response is stored with [`IdempotencyKeys::store`].
    First,
    /// A repetition: this stored response is sent.
    Replay(Answer),
}

impl Entry {
    fn check(&self, key: &str, path: &str, params: &[(String, String)]) -> Result<(), StripeError> {
        let message = if self.path != path {
            format!(
                "Keys for idempotent requests can only be used for the same endpoint they were first used for \
                 ('{path}' vs '{}'). Try using a key other than '{key}' if you meant to execute a different request.",
                self.path
            )
        } else if self.params != sorted(params) {
            format!(
                "Keys for idempotent requests can only be used with the same parameters they were first used with. \
                 Try using a key other than '{key}' if you meant to execute a different request."
            )
        } else {
            return Ok(());
        };
        Err(StripeError {
            kind: "idempotency_error".into(),
            ..StripeError::invalid(message)
        })
    }
}

impl IdempotencyKeys {
    /// Claims the key if it is new.
    pub(crate) fn claim(
        &mut self,
        now_ms: i64,
        key: &str,
        path: &str,
        params: &[(String, String)],
    ) -> Result<Claim, StripeError> {
        if key.chars().count() > MAX_KEY_CHARS {
            return Err(StripeError::invalid(format!(
                "Idempotency keys have at most {MAX_KEY_CHARS} characters."
            )));
        }
        self.forget_old(now_ms);
        self.forget_if_old(key, now_ms);
        let Some(entry) = self.entries.get(key) else {
            self.order.push_back((key.to_owned(), now_ms));
            let entry = Entry {
                first_used_ms: now_ms,
                path: path.to_owned(),
                params: sorted(params),
                answer: None,
            };
            self.entries.insert(key.to_owned(), entry);
            return Ok(Claim::First);
        };
        entry.check(key, path, params)?;
        match &entry.answer {
            Some(answer) => Ok(Claim::Replay(answer.clone())),
            None => Err(StripeError::invalid(format!(
                "There is currently another in-progress request using this Idempotent Key (that probably means \
                 you submitted twice, and the other request is still going through): {key}. Please try again \
                 later."
            ))
            .status(409)
            .code("idempotency_key_in_use")),
        }
    }

    /// Stores the response to the first request.
    pub(crate) fn store(&mut self, key: &str, answer: &Answer) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.answer = Some(answer.clone());
        }
    }

    /// Frees a key whose first request has no response to store.
    pub(crate) fn release(&mut self, key: &str) {
        self.entries.remove(key);
    }

    /// Removes an old key that `order` misses: its request outlasted it, or the clock was set back.
    fn forget_if_old(&mut self, key: &str, now_ms: i64) {
        let old = |entry: &Entry| now_ms.saturating_sub(entry.first_used_ms) >= STORED_FOR_MS;
        if self
            .entries
            .get(key)
            .is_some_and(|entry| entry.answer.is_some() && old(entry))
        {
            self.entries.remove(key);
        }
    }

    fn forget_old(&mut self, now_ms: i64) {
        while let Some((key, used_ms)) = self.order.front() {
            let old = now_ms.saturating_sub(*used_ms) >= STORED_FOR_MS;
            if !old && self.order.len() <= MAX_KEYS {
                return;
            }
            // A key that was freed and claimed again has a newer entry, which stays. So does a running request's.
            if self
                .entries
                .get(key)
                .is_some_and(|entry| entry.first_used_ms == *used_ms && entry.answer.is_some())
            {
                self.entries.remove(key);
            }
            self.order.pop_front();
        }
    }
}

/// Parameters are the same in any order.
fn sorted(params: &[(String, String)]) -> Vec<(String, String)> {
    let mut params = params.to_vec();
    params.sort();
    params
}
