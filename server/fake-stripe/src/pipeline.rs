//! What each call below `/v1` goes through, in this order: the log, the API key, the rate limit, the idempotency key,
//! the lock on customer and meter, latency, a scripted fault, and at last the endpoint itself.
//!
//! A call is worked on in a task of its own: like Stripe, the fake Stripe finishes what a client no longer waits for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State as Shared};
use axum::http::Response;

use crate::billing::run;
use crate::control_types::LoggedRequest;
use crate::errors::StripeError;
use crate::exchange::{Answer, Call, bad_gateway, find, respond};
use crate::faults::{Fault, FaultKind, scripted_error};
use crate::idempotency::{Claim, Verdict};
use crate::limits::Occupied;
use crate::listener::Breaker;
use crate::meters::DEFAULT_CUSTOMER_KEY;
use crate::params::{self, Params};
use crate::state::{App, State};
use crate::{ids, routes};

const MAX_BODY_BYTES: usize = 256 * 1024;

/// Answers a call, or breaks its connection.
pub(crate) async fn handle(
    Shared(app): Shared<Arc<App>>,
    ConnectInfo(breaker): ConnectInfo<Breaker>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
        breaker.break_connection();
        return Response::default();
    };
    let mut pairs = params::pairs(parts.uri.query().unwrap_or_default().as_bytes());
    pairs.extend(params::pairs(&body));
    let path = parts.uri.path().to_owned();
    let (customer, event_name) = app.look(|state| subject_of(state, &path, &pairs));
    let call = Call {
        request_id: ids::request(),
        method: parts.method.as_str().to_owned(),
        path,
        headers: parts.headers,
        pairs,
        customer,
        event_name,
    };
    let sent = tokio::spawn(process(Arc::clone(&app), call)).await;
    if let Ok((Some(answer), call)) = sent {
        respond(&app, &answer, &call)
    } else {
        breaker.break_connection();
        Response::default()
    }
}

/// The customer and the event name that a call is about.
fn subject_of(
    state: &State,
    path: &str,
    pairs: &[(String, String)],
) -> (Option<String>, Option<String>) {
    let segments: Vec<&str> = path.split('/').collect();
    let owned = |text: &str| Some(text.to_owned());
    match segments.as_slice() {
        ["", "v1", "customers", id, ..] => (owned(id), None),
        ["", "v1", "billing", "meters", id, ..] => {
            let event_name = state.meters.get(id).map(|meter| meter.event_name.clone());
            (find(pairs, "customer").and_then(owned), event_name)
        }
        _ => {
            let event_name = find(pairs, "event_name");
            let meter = event_name.and_then(|event_name| state.active_meter(event_name));
            let key = meter.map_or(DEFAULT_CUSTOMER_KEY, |meter| meter.customer_key.as_str());
            let customer =
                find(pairs, &format!("payload[{key}]")).or_else(|| find(pairs, "customer"));
            (customer.and_then(owned), event_name.and_then(owned))
        }
    }
}

/// Works on a call from its arrival to its end. No answer means that the connection breaks.
async fn process(app: Arc<App>, call: Call) -> (Option<Answer>, Call) {
    let sequence = app.with(|state| {
        state.stats.requests = state.stats.requests.saturating_add(1);
        let received_at_ms = state.clock.now_ms();
        state.log.arrive(LoggedRequest {
            received_at_ms,
            method: call.method.clone(),
            path: call.path.clone(),
            params: call.pairs.clone(),
            identifier: call.param("identifier").map(str::to_owned),
            customer: call.customer.clone(),
            event_name: call.event_name.clone(),
            idempotency_key: call.idempotency_key().map(str::to_owned),
            ..LoggedRequest::default()
        })
    });
    let answer = match admit(&app, &call) {
        Err(error) => Some(Answer::error(&error, &call)),
        Ok(Admitted::Again(answer)) => Some(answer),
        Ok(Admitted::In { claim, occupied }) => {
            let outcome = work(&app, &call, sequence).await;
            if let (Some(claim), Some(answer)) = (claim, outcome.remembered) {
                claim.answer(&answer);
            }
            drop(occupied);
            outcome.sent
        }
    };
    app.with(|state| {
        state.log.amend(sequence, |request| {
            request.status = answer.as_ref().map(|answer| answer.status);
            request.replayed = answer
                .as_ref()
                .is_some_and(|answer| answer.request_id != call.request_id);
            request.finished = true;
        });
    });
    (answer, call)
}

enum Admitted {
    /// Worked on, with what it occupies until its end.
    In {
        claim: Option<Claim>,
        occupied: Option<Occupied>,
    },
    /// Not worked on again: this is its answer.
    Again(Answer),
}

/// Everything that can turn a call away before the endpoint begins.
fn admit(app: &Arc<App>, call: &Call) -> Result<Admitted, StripeError> {
    app.authorizer.check(&call.headers).inspect_err(|_| {
        app.with(|state| state.stats.unauthorized = state.stats.unauthorized.saturating_add(1));
    })?;
    if call.is_meter_event() {
        app.with(|state| {
            if state.rate_limit.admit(Instant::now()) {
                return Ok(());
            }
            state.stats.rate_limited = state.stats.rate_limited.saturating_add(1);
            Err(StripeError::rate_limit())
        })?;
    }
    let claim = match call.idempotency_key() {
        Some(key) if call.method == "POST" => {
            let verdict = Claim::make(app, key, &call.path, &call.pairs).inspect_err(|_| {
                app.with(|state| {
                    state.stats.idempotency_conflicts =
                        state.stats.idempotency_conflicts.saturating_add(1);
                });
            })?;
            match verdict {
                Verdict::First(claim) => Some(claim),
                Verdict::Replay(answer) => return Ok(Admitted::Again(answer)),
            }
        }
        _ => None,
    };
    let occupied = match (&call.customer, &call.event_name) {
        (Some(customer), Some(event_name)) if call.is_meter_event() => {
            let (occupied, alone) = Occupied::enter(app, (customer.clone(), event_name.clone()));
            if !alone {
                app.with(|state| {
                    state.stats.lock_timeouts = state.stats.lock_timeouts.saturating_add(1);
                });
                return Err(StripeError::lock_timeout());
            }
            Some(occupied)
        }
        _ => None,
    };
    Ok(Admitted::In { claim, occupied })
}

/// What the client sees, and what an idempotency key remembers.
struct Outcome {
    sent: Option<Answer>,
    remembered: Option<Answer>,
}

impl Outcome {
    const BROKEN: Outcome = Outcome {
        sent: None,
        remembered: None,
    };

    fn plain(answer: Answer) -> Outcome {
        let remembered = Some(answer.clone()).filter(|answer| answer.started);
        Outcome {
            sent: Some(answer),
            remembered,
        }
    }

    fn sending(self, sent: Option<Answer>) -> Outcome {
        Outcome { sent, ..self }
    }
}

async fn work(app: &App, call: &Call, sequence: u64) -> Outcome {
    let latency = app.look(|state| state.latency);
    if !app.pause(latency).await {
        return Outcome::BROKEN;
    }
    let fault = app.with(|state| {
        let fault = state.faults.take(&call.subject())?;
        state.stats.faults_met = state.stats.faults_met.saturating_add(1);
        state.log.amend(sequence, |request| {
            request.fault = serde_json::to_string(&fault).ok();
        });
        Some(fault)
    });
    match fault {
        None => Outcome::plain(execute(app, call)),
        Some(fault) => meet(app, call, &fault).await,
    }
}

/// Works on a call that meets a fault.
async fn meet(app: &App, call: &Call, fault: &Fault) -> Outcome {
    if !fault.after && !keep_back(app, fault).await {
        return Outcome::BROKEN;
    }
    let carried_out = match fault.kind {
        FaultKind::Drop | FaultKind::UndecodableError => false,
        FaultKind::Status { .. } => fault.after,
        FaultKind::Pass | FaultKind::AcceptThenDrop | FaultKind::Undecodable | FaultKind::Lose => {
            true
        }
    };
    let truth = carried_out.then(|| execute(app, call));
    if fault.kind == FaultKind::Lose {
        lose(app, call);
    }
    let stays = !fault.after || keep_back(app, fault).await;
    let outcome = match (&fault.kind, truth) {
        (FaultKind::Status { status, error }, _) => {
            Outcome::plain(Answer::error(&scripted_error(*status, error), call))
        }
        (FaultKind::Pass | FaultKind::Lose, Some(truth)) => Outcome::plain(truth),
        (FaultKind::AcceptThenDrop, Some(truth)) => Outcome::plain(truth).sending(None),
        (FaultKind::Undecodable, Some(truth)) => {
            let half = truth.body.len().div_euclid(2);
            let garbled = Answer {
                status: 200,
                body: truth.body.slice(..half),
                ..truth.clone()
            };
            Outcome::plain(truth).sending(Some(garbled))
        }
        (FaultKind::UndecodableError, _) => Outcome::BROKEN.sending(Some(bad_gateway(call))),
        _ => Outcome::BROKEN,
    };
    if stays {
        outcome
    } else {
        outcome.sending(None)
    }
}

/// Drops an event that was taken, as Stripe's validation behind its own back does.
fn lose(app: &App, call: &Call) {
    app.with(|state| {
        let event = call
            .param("identifier")
            .and_then(|identifier| state.events.find_mut(identifier));
        if let Some(event) = event {
            event.cancelled = true;
        }
    });
}

/// Waits out a fault's hold and delay; false where the fake Stripe stopped first.
async fn keep_back(app: &App, fault: &Fault) -> bool {
    if let Some(hold) = &fault.hold {
        app.with(|state| state.faults.enter(hold));
        let released = app.until(|state| state.faults.is_released(hold)).await;
        app.with(|state| state.faults.leave(hold));
        if !released {
            return false;
        }
    }
    app.pause(Duration::from_millis(fault.delay_ms)).await
}

/// Calls the endpoint.
fn execute(app: &App, call: &Call) -> Answer {
    let result = Params::nest(&call.pairs).and_then(|params| {
        app.with(|state| {
            run::catch_up(state);
            routes::dispatch(state, &call.method, &call.path, params)
        })
    });
    match result {
        Ok(body) => Answer::json(200, &body, call),
        Err(error) => Answer::error(&error, call),
    }
}
