//! The steps of each request below `/v1`, in this order: the log, the checks of `admission`, latency, a scripted fault,
//! and the endpoint itself.
//!
//! Each request runs in a separate task: like Stripe, the fake Stripe finishes requests whose client disconnected.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State as Shared};
use axum::http::Response;
use serde_json::Value;

use crate::admission::{Admitted, admit};
use crate::api_version::ApiVersion;
use crate::control_types::LoggedRequest;
use crate::errors::StripeError;
use crate::fault::{Fault, FaultKind};
use crate::faults::scripted_error;
use crate::http_exchange::{Answer, Call, bad_gateway, find, respond};
use crate::listener::Breaker;
use crate::meters::{self, DEFAULT_CUSTOMER_KEY};
use crate::params::{self, Params};
use crate::state::{App, State};
use crate::{ids, routes};

const MAX_BODY_BYTES: usize = 256 * 1024;
/// Beyond this the connection breaks.
const MAX_READ_BYTES: usize = 32 * MAX_BODY_BYTES;

/// Answers a request, or breaks its connection.
pub(crate) async fn handle(
    Shared(app): Shared<Arc<App>>,
    ConnectInfo(breaker): ConnectInfo<Breaker>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    // Read as a whole, so that the client is there for the refusal of a long one.
    let Ok(body) = to_bytes(body, MAX_READ_BYTES).await else {
        breaker.break_connection();
        return Response::default();
    };
    let mut pairs = params::pairs(parts.uri.query().unwrap_or_default().as_bytes());
    let too_long = body.len() > MAX_BODY_BYTES;
    if !too_long {
        pairs.extend(params::pairs(&body));
    }
    let path = parts.uri.path().to_owned();
    let (customer, event_name) = app.read(|state| subject_of(state, &path, &pairs));
    let call = Call {
        request_id: ids::request(),
        method: parts.method.as_str().to_owned(),
        path,
        headers: parts.headers,
        pairs,
        customer,
        event_name,
    };
    if too_long {
        let what = format!("a request of more than {MAX_BODY_BYTES} bytes");
        let answer = refuse(&StripeError::unsupported(what), &call);
        return respond(&app.read(|state| state.clock.http_date()), &answer, &call);
    }
    let sent = tokio::spawn(process(Arc::clone(&app), call)).await;
    if let Ok((Some(answer), call)) = sent {
        respond(&app.read(|state| state.clock.http_date()), &answer, &call)
    } else {
        breaker.break_connection();
        Response::default()
    }
}

/// The customer and the event name that a request is about.
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
            let meter = event_name.and_then(|event_name| meters::active(&state.meters, event_name));
            let key = meter.map_or(DEFAULT_CUSTOMER_KEY, |meter| meter.customer_key.as_str());
            let customer =
                find(pairs, &format!("payload[{key}]")).or_else(|| find(pairs, "customer"));
            (customer.and_then(owned), event_name.and_then(owned))
        }
    }
}

/// Processes a request from its arrival to its end. `None` means that the connection is broken.
async fn process(app: Arc<App>, call: Call) -> (Option<Answer>, Call) {
    let sequence = app.update(|state| {
        state.stats.requests = state.stats.requests.saturating_add(1);
        let received_at_ms = state.clock.now_ms();
        state.log.append(LoggedRequest {
            received_at_ms,
            method: call.method.clone(),
            path: call.path.clone(),
            params: call.pairs.clone(),
            identifier: call.param("identifier").map(str::to_owned),
            customer: call.customer.clone(),
            event_name: call.event_name.clone(),
            idempotency_key: call.idempotency_key().map(str::to_owned),
            traceparent: call.header("traceparent").map(str::to_owned),
            ..LoggedRequest::default()
        })
    });
    let answer = match admit(&app, &call) {
        Err(error) => Some(refuse(&error, &call)),
        Ok(Admitted::Replay(answer)) => Some(answer),
        Ok(Admitted::Run(mut held)) => {
            let outcome = run(&app, &call, sequence).await;
            if let Some(answer) = &outcome.stored {
                held.store(answer);
            }
            drop(held);
            outcome.sent
        }
    };
    app.update(|state| {
        state.log.update(sequence, |request| {
            request.status = answer.as_ref().map(|answer| answer.status);
            request.replayed = answer
                .as_ref()
                .is_some_and(|answer| answer.request_id != call.request_id);
            request.finished = true;
        });
    });
    (answer, call)
}

/// The response for the client, and the response to store under the idempotency key.
struct Outcome {
    sent: Option<Answer>,
    stored: Option<Answer>,
}

impl Outcome {
    const BROKEN: Outcome = Outcome {
        sent: None,
        stored: None,
    };

    fn answered(answer: Answer) -> Outcome {
        let stored = Some(answer.clone()).filter(|answer| answer.started);
        Outcome {
            sent: Some(answer),
            stored,
        }
    }

    fn with_sent(self, sent: Option<Answer>) -> Outcome {
        Outcome { sent, ..self }
    }
}

async fn run(app: &App, call: &Call, sequence: u64) -> Outcome {
    let latency = app.read(|state| state.latency);
    if !app.pause(latency).await {
        return Outcome::BROKEN;
    }
    let fault = app.update(|state| {
        let fault = state.faults.take(&call.subject())?;
        state.stats.faults_met = state.stats.faults_met.saturating_add(1);
        state.log.update(sequence, |request| {
            request.fault = serde_json::to_string(&fault).ok();
        });
        Some(fault)
    });
    match fault {
        None => Outcome::answered(execute(app, call)),
        Some(fault) => run_with_fault(app, call, &fault).await,
    }
}

/// Processes a request that a fault applies to.
async fn run_with_fault(app: &App, call: &Call, fault: &Fault) -> Outcome {
    if !fault.after && !block(app, fault).await {
        return Outcome::BROKEN;
    }
    let runs = match fault.kind {
        FaultKind::Drop | FaultKind::UndecodableError => false,
        FaultKind::Status { .. } => fault.after,
        FaultKind::Pass
        | FaultKind::AcceptThenDrop
        | FaultKind::Alter { .. }
        | FaultKind::Undecodable
        | FaultKind::Lose => true,
    };
    let response = runs.then(|| execute(app, call));
    if fault.kind == FaultKind::Lose {
        drop_event(app, call);
    }
    let still_running = !fault.after || block(app, fault).await;
    let outcome = match (&fault.kind, response) {
        (FaultKind::Status { status, error }, _) => {
            Outcome::answered(Answer::error(&scripted_error(*status, error), call))
        }
        (FaultKind::Pass | FaultKind::Lose, Some(response)) => Outcome::answered(response),
        (
            FaultKind::Alter {
                object,
                field,
                json,
            },
            Some(response),
        ) => Outcome::answered(altered(response, object, field, json.as_deref())),
        (FaultKind::AcceptThenDrop, Some(response)) => Outcome::answered(response).with_sent(None),
        (FaultKind::Undecodable, Some(response)) => {
            let half = response.body.len().div_euclid(2);
            let truncated = Answer {
                status: 200,
                body: response.body.slice(..half),
                ..response.clone()
            };
            Outcome::answered(response).with_sent(Some(truncated))
        }
        (FaultKind::UndecodableError, _) => Outcome::BROKEN.with_sent(Some(bad_gateway(call))),
        _ => Outcome::BROKEN,
    };
    if still_running {
        outcome
    } else {
        outcome.with_sent(None)
    }
}

/// The response with another value of a field, or without it.
fn altered(response: Answer, object: &str, field: &str, json: Option<&str>) -> Answer {
    let value = json.and_then(|json| serde_json::from_str(json).ok());
    let Ok(mut body) = serde_json::from_slice(&response.body) else {
        return response;
    };
    alter(&mut body, object, field, value.as_ref());
    Answer {
        body: body.to_string().into(),
        ..response
    }
}

fn alter(body: &mut Value, object: &str, field: &str, value: Option<&Value>) {
    match body {
        Value::Object(fields) => {
            if fields.get("id").and_then(Value::as_str) == Some(object) {
                match value {
                    Some(value) => fields.insert(field.to_owned(), value.clone()),
                    None => fields.remove(field),
                };
            }
            fields
                .values_mut()
                .for_each(|inner| alter(inner, object, field, value));
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| alter(item, object, field, value)),
        _ => {}
    }
}

/// Drops an accepted event, as Stripe's asynchronous validation does.
fn drop_event(app: &App, call: &Call) {
    app.update(|state| {
        let event = call
            .param("identifier")
            .and_then(|identifier| state.events.find_mut(identifier));
        if let Some(event) = event {
            event.cancelled = true;
        }
    });
}

/// Waits for the fault's block and delay; false if the fake Stripe stopped first.
async fn block(app: &App, fault: &Fault) -> bool {
    if let Some(name) = &fault.block {
        app.update(|state| state.faults.enter(name));
        let released = app.wait_until(|state| state.faults.is_released(name)).await;
        app.update(|state| state.faults.leave(name));
        if !released {
            return false;
        }
    }
    app.pause(Duration::from_millis(fault.delay_ms)).await
}

/// Calls the endpoint.
fn execute(app: &App, call: &Call) -> Answer {
    let result = ApiVersion::of(&call.headers).and_then(|version| {
        let params = Params::nest(&call.pairs)?;
        app.update_to_now(|state| {
            let mut body = routes::answer(state, &call.method, &call.path, version, params)?;
            if state.live_mode {
                set_live(&mut body);
            }
            Ok(body)
        })
    });
    match result {
        Ok(body) => Answer::json(200, &body, call),
        Err(error) => refuse(&error, call),
    }
}

/// Sets the mode of an object and of all objects in it, which endpoints answer in test mode.
fn set_live(body: &mut Value) {
    match body {
        Value::Object(fields) => {
            if let Some(live) = fields.get_mut("livemode") {
                *live = Value::Bool(true);
            }
            fields.values_mut().for_each(set_live);
        }
        Value::Array(items) => items.iter_mut().for_each(set_live),
        _ => {}
    }
}

/// The answer of an error. What is unsupported is logged too: a caller may hide its message.
fn refuse(error: &StripeError, call: &Call) -> Answer {
    if error.is_unsupported() {
        tracing::warn!(method = call.method, path = call.path, "{}", error.message);
    }
    Answer::error(error, call)
}
