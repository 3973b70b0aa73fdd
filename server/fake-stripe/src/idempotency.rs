//! `Idempotency-Key`: the first answer to a key is given again for 24 hours, whatever it was, once the endpoint had
//! begun to work on it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::errors::StripeError;
use crate::http_exchange::Answer;
use crate::state::App;

const STORED_FOR_MS: i64 = 24 * 60 * 60 * 1_000;
/// Beyond this number the oldest keys are dropped early.
const MAX_KEYS: usize = 250_000;
const MAX_KEY_CHARS: usize = 255;

/// The calls that used a key, by key.
#[derive(Debug, Default)]
pub(crate) struct IdempotencyKeys {
    entries: HashMap<String, Entry>,
    /// Keys in the order of their first use, for forgetting.
    order: VecDeque<(String, i64)>,
}

#[derive(Debug)]
struct Entry {
    first_used_ms: i64,
    path: String,
    params: Vec<(String, String)>,
    /// `None` while the first request runs.
    answer: Option<Answer>,
}

/// Whether a key is new or a repetition.
#[derive(Debug)]
pub(crate) enum ClaimResult {
    /// The first use: run the request, then store its response in the claim.
    First(Claim),
    /// A repetition: send the stored response.
    Replay(Answer),
}

/// A key whose first request is running. Dropped without a response, the key is free again.
#[derive(Debug)]
pub(crate) struct Claim {
    app: Arc<App>,
    key: String,
    stored: bool,
}

impl Claim {
    /// Claims the key if it is new.
    pub(crate) fn try_new(
        app: &Arc<App>,
        key: &str,
        path: &str,
        params: &[(String, String)],
    ) -> Result<ClaimResult, StripeError> {
        if key.chars().count() > MAX_KEY_CHARS {
            return Err(StripeError::invalid(format!(
                "Idempotency keys have at most {MAX_KEY_CHARS} characters."
            )));
        }
        app.update(|state| {
            let now_ms = state.clock.now_ms();
            let keys = &mut state.idempotency;
            keys.forget_old(now_ms);
            keys.forget_if_old(key, now_ms);
            let Some(entry) = keys.entries.get(key) else {
                keys.order.push_back((key.to_owned(), now_ms));
                let entry =
                    Entry { first_used_ms: now_ms, path: path.to_owned(), params: sorted(params), answer: None };
                keys.entries.insert(key.to_owned(), entry);
                return Ok(ClaimResult::First(Claim { app: Arc::clone(app), key: key.to_owned(), stored: false }));
            };
            entry.check(key, path, params)?;
            match &entry.answer {
                Some(answer) => {
                    state.stats.replayed = state.stats.replayed.saturating_add(1);
                    Ok(ClaimResult::Replay(answer.clone()))
                }
                None => Err(StripeError::invalid(format!(
                    "There is currently another in-progress request using this Idempotent Key (that probably means \
                     you submitted twice, and the other request is still going through): {key}. Please try again \
                     later."
                ))
                .status(409)
                .code("idempotency_key_in_use")),
            }
        })
    }

    /// Stores the response.
    pub(crate) fn store(mut self, answer: &Answer) {
        self.stored = true;
        self.app.update(|state| {
            if let Some(entry) = state.idempotency.entries.get_mut(&self.key) {
                entry.answer = Some(answer.clone());
            }
        });
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.stored {
            self.app
                .update(|state| state.idempotency.entries.remove(&self.key));
        }
    }
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
    /// A request may outlast its key, and the clock may be set back: `order` alone misses both.
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
            // A key that was freed and claimed again has a younger entry, which stays. So does one still under way.
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
