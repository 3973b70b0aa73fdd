//! The checks of a request before its endpoint runs, in this order: the API key, the account and API version, the rate
//! limit, the idempotency key, and the lock on customer and meter.

use std::sync::Arc;
use std::time::Instant;

use crate::api_version::{ApiVersion, check_account};
use crate::errors::StripeError;
use crate::http_exchange::{Answer, Call};
use crate::idempotency::Claim;
use crate::limits::Subject;
use crate::state::{App, State};

/// An accepted request.
#[derive(Debug)]
pub(crate) enum Admitted {
    /// The request runs.
    Run(Held),
    /// The stored response of the idempotency key is sent again.
    Replay(Answer),
}

/// The idempotency key and the lock that a request holds until this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    app: Arc<App>,
    key: Option<String>,
    subject: Option<Subject>,
}

impl Held {
    /// Stores the response under the idempotency key. Without it, the key is free again afterwards.
    pub(crate) fn store(&mut self, answer: &Answer) {
        if let Some(key) = self.key.take() {
            self.app
                .update(|state| state.idempotency.store(&key, answer));
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.app.update(|state| {
            if let Some(key) = &self.key {
                state.idempotency.release(key);
            }
            if let Some(subject) = &self.subject {
                state.in_flight.leave(subject);
            }
        });
    }
}

/// Checks a request.
pub(crate) fn admit(app: &Arc<App>, call: &Call) -> Result<Admitted, StripeError> {
    app.authorizer.check(&call.headers).inspect_err(|_| {
        app.update(|state| state.stats.unauthorized = state.stats.unauthorized.saturating_add(1));
    })?;
    check_account(&call.headers)?;
    ApiVersion::of(&call.headers)?;
    if call.is_meter_event() {
        app.update(check_rate)?;
    }
    let mut held = Held {
        app: Arc::clone(app),
        key: None,
        subject: None,
    };
    if let Some(key) = call.idempotency_key()
        && call.method == "POST"
    {
        match app.update(|state| claim(state, key, call))? {
            Claim::Replay(answer) => return Ok(Admitted::Replay(answer)),
            Claim::First => held.key = Some(key.to_owned()),
        }
    }
    if let (Some(customer), Some(event_name)) = (&call.customer, &call.event_name)
        && call.is_meter_event()
    {
        let subject = (customer.clone(), event_name.clone());
        let alone = app.update(|state| lock(state, &subject));
        held.subject = Some(subject);
        if !alone {
            return Err(StripeError::lock_timeout());
        }
    }
    Ok(Admitted::Run(held))
}

fn check_rate(state: &mut State) -> Result<(), StripeError> {
    if state.rate_limit.admit(Instant::now()) {
        return Ok(());
    }
    state.stats.rate_limited = state.stats.rate_limited.saturating_add(1);
    Err(StripeError::rate_limit())
}

fn claim(state: &mut State, key: &str, call: &Call) -> Result<Claim, StripeError> {
    let now_ms = state.clock.now_ms();
    let claim = state
        .idempotency
        .claim(now_ms, key, &call.path, &call.pairs);
    let counter = match &claim {
        Ok(Claim::First) => return claim,
        Ok(Claim::Replay(_)) => &mut state.stats.replayed,
        Err(_) => &mut state.stats.idempotency_conflicts,
    };
    *counter = counter.saturating_add(1);
    claim
}

/// Locks the customer and meter; false if another request holds the lock.
fn lock(state: &mut State, subject: &Subject) -> bool {
    let running = state.in_flight.enter(subject);
    let highest = &mut state.stats.max_in_flight_per_customer_meter;
    *highest = running.max(*highest);
    let alone = running == 1;
    if !alone {
        state.stats.lock_timeouts = state.stats.lock_timeouts.saturating_add(1);
    }
    alone
}
