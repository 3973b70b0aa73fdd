//! Meter events that Stripe refused: what it refuses for certain is not sent again, unless an admin decides so.

use std::collections::BTreeMap;

use fake_stripe::{Fault, FaultKind, LoggedRequest};

use crate::{
    faults::EVENTS,
    world::{Outcome, World, text},
};

/// The status of a refusal.
const REFUSED: u16 = 400;

/// Refused events, by their identifiers.
#[derive(Debug, Default)]
pub(crate) struct Refusals(BTreeMap<String, Refusal>);

#[derive(Debug)]
struct Refusal {
    /// The number of the request.
    sequence: u64,
    /// Whether it decided: it was the first request about the report, and the server recorded the answer.
    is_final: bool,
}

impl Refusals {
    /// Notes what was refused lately. `is_calm`: neither the disk nor the server failed meanwhile.
    pub(crate) async fn note(&mut self, world: &World, is_calm: bool) -> Outcome<()> {
        for request in world.stripe.requests().await.map_err(text)? {
            let Some(identifier) = request.identifier.clone().filter(|_| is_refusal(&request))
            else {
                continue;
            };
            let first = format!("{identifier}-1");
            let is_first = request.idempotency_key.as_deref() == Some(first.as_str());
            self.0.entry(identifier).or_insert(Refusal {
                sequence: request.sequence,
                is_final: is_calm && is_first,
            });
        }
        Ok(())
    }

    /// A database without the answers was put in place.
    pub(crate) fn forget(&mut self) {
        for refusal in self.0.values_mut() {
            refusal.is_final = false;
        }
    }

    pub(crate) fn contains(&self, identifier: &str) -> bool {
        self.0.contains_key(identifier)
    }

    /// Checks that nothing was sent again that Stripe had refused.
    pub(crate) async fn check(&self, world: &World) -> Outcome<()> {
        let requests = world.stripe.requests().await.map_err(text)?;
        let is_again = |request: &&LoggedRequest| {
            let identifier = request.identifier.as_ref();
            let refusal = identifier.and_then(|identifier| self.0.get(identifier));
            refusal.is_some_and(|refusal| refusal.is_final && request.sequence > refusal.sequence)
        };
        match requests.iter().find(is_again) {
            Some(again) => Err(format!("sent again after Stripe had refused it: {again:?}")),
            None => Ok(()),
        }
    }
}

/// Whether Stripe still refuses events.
pub(crate) async fn may_follow(world: &World) -> Outcome<bool> {
    let left = world.stripe.faults().await.map_err(text)?;
    let refuses = |fault: &Fault| matches!(&fault.kind, FaultKind::Status { status, .. } if *status == REFUSED);
    Ok(left.iter().any(refuses))
}

/// Whether a fault refused an event.
fn is_refusal(request: &LoggedRequest) -> bool {
    request.status == Some(REFUSED) && request.fault.is_some() && request.path.starts_with(EVENTS)
}
