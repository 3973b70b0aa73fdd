//! Which account and mode the key belongs to, and the guard that refuses requests to another one.

use std::sync::{Arc, PoisonError, RwLock};

use stripe_billing::billing_meter::RetrieveBillingMeter;

use super::{
    Failure, Stripe,
    failure::{failure, is_missing_object},
    timed,
};

/// Allows requests, or answers them with a failure. At first it allows them: commands need no comparison.
#[derive(Clone, Debug, Default)]
pub(super) struct AccountGuard(Arc<RwLock<State>>);

#[derive(Clone, Debug, Default)]
struct State {
    /// Why requests are not sent.
    refusal: Option<Failure>,
    /// The meter by which the account was found to be the right one.
    known_by: Option<String>,
}

impl AccountGuard {
    pub(super) fn check(&self) -> Result<(), Failure> {
        match &self.read().refusal {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

impl Stripe {
    /// Sends requests from now on. `known_by` is the meter of the account that usage is reported to.
    pub(crate) fn allow_requests(&self, known_by: Option<&str>) {
        self.guard.set(State {
            refusal: None,
            known_by: known_by.map(str::to_owned),
        });
    }

    /// Answers every request with this failure from now on.
    pub(crate) fn refuse_requests(&self, failure: Failure) {
        self.guard.set(State {
            refusal: Some(failure),
            known_by: None,
        });
    }

    /// Why no request is sent, if so.
    pub(crate) fn refusal(&self) -> Option<Failure> {
        self.guard.read().refusal.clone()
    }

    /// Whether the account was found to be the one that has a meter.
    pub(crate) fn is_known_by(&self, meter: &str) -> bool {
        self.guard.read().known_by.as_deref() == Some(meter)
    }

    /// Whether the key's account and mode have a meter, and whether they are of live mode. Also while requests are refused.
    pub(crate) async fn find_meter_mode(&self, meter: &str) -> Result<Option<bool>, Failure> {
        let request = RetrieveBillingMeter::new(meter);
        match timed("meters", request.send(&self.client)).await {
            Ok(meter) => Ok(Some(meter.livemode)),
            Err(error) if is_missing_object(&error) => Ok(None),
            Err(error) => Err(failure(&error)),
        }
    }

    /// The mode of the key, by its prefix.
    pub(crate) fn is_live_key(&self) -> Option<bool> {
        self.is_live
    }
}
