//! Requests that count: their increments, what of them the caller may count, and the result of each.

use sha2::{Digest as _, Sha256};
use usage_proto::v1;

use super::{usage_service::UsageRpc, wire};
use crate::{
    domain::{
        access::{Caller, Denial},
        hex::hex,
        increment::{Batch, BatchKey, Increment, MAX_BATCH, Outcome, check_key},
        meter::Meters,
        violation::Violation,
    },
    error::Result,
};

impl UsageRpc {
    pub(super) fn parse(
        &self,
        request: v1::IncrementRequest,
    ) -> std::result::Result<Increment, Vec<Violation>> {
        let raw = wire::raw_increment(request).map_err(|violation| vec![violation])?;
        Increment::parse(raw, &self.meters, self.clock.now())
    }

    /// The denial of each item, in the caller's order; none for a caller without limits.
    pub(super) fn denials(
        &self,
        caller: &Caller,
        items: &[v1::IncrementRequest],
    ) -> Vec<Option<Violation>> {
        if caller.scope.is_unlimited() {
            return Vec::new();
        }
        let denial = |item: &v1::IncrementRequest| {
            let checked = check_usage(&self.meters, caller, &item.account_id, &item.meter);
            checked.err().map(Denial::violation)
        };
        items.iter().map(denial).collect()
    }

    pub(super) fn parse_batch(
        &self,
        caller: &Caller,
        request: v1::IncrementBatchRequest,
        denials: &[Option<Violation>],
    ) -> Result<Batch> {
        let count = request.increments.len();
        if !(1..=MAX_BATCH).contains(&count) {
            return Err(Violation::invalid(
                "increments",
                format!("increments has {count} items; give 1 to {MAX_BATCH}"),
            )
            .into());
        }
        check_key(&request.idempotency_key)?;
        let key = (!request.idempotency_key.is_empty()).then(|| BatchKey {
            caller: caller.name.as_str().into(),
            key: request.idempotency_key.as_str().into(),
            fingerprint: fingerprint(&request.increments),
        });
        let first = |mut violations: Vec<Violation>| {
            if violations.is_empty() {
                Violation::invalid("increments", "not valid")
            } else {
                violations.swap_remove(0)
            }
        };
        let items = request.increments.into_iter().enumerate();
        let items = items.map(|(nth, item)| match denials.get(nth) {
            Some(Some(denial)) => Err(denial.clone()),
            _ => self.parse(item).map_err(first),
        });
        Ok(Batch {
            key,
            items: items.collect(),
        })
    }
}

/// A digest of a batch's contents that does not depend on the wire encoding.
fn fingerprint(increments: &[v1::IncrementRequest]) -> String {
    let mut digest = Sha256::new();
    let number = |digest: &mut Sha256, number: Option<i64>| {
        digest.update([u8::from(number.is_some())]);
        digest.update(number.unwrap_or_default().to_be_bytes());
    };
    // Each text is prefixed with its length, so that different batches have different inputs.
    let text = |digest: &mut Sha256, text: &str| {
        digest.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(text);
    };
    for item in increments {
        text(&mut digest, &item.account_id);
        text(&mut digest, &item.meter);
        text(&mut digest, &item.idempotency_key);
        number(&mut digest, item.quantity);
        number(&mut digest, item.timestamp.as_ref().map(|at| at.seconds));
        number(
            &mut digest,
            item.timestamp
                .as_ref()
                .map(|at| i64::from(at.nanos / 1_000_000)),
        );
        let mut dimensions: Vec<_> = item.dimensions.iter().collect();
        dimensions.sort();
        number(&mut digest, i64::try_from(dimensions.len()).ok());
        for (name, value) in dimensions {
            text(&mut digest, name);
            text(&mut digest, value);
        }
    }
    hex(&digest.finalize())
}

pub(super) fn increment_result(outcome: Outcome) -> v1::IncrementResult {
    let (outcome, error) = match outcome {
        Outcome::Counted => (v1::IncrementOutcome::Counted, None),
        Outcome::Duplicate => (v1::IncrementOutcome::Duplicate, None),
        Outcome::Refused(violation) => (
            v1::IncrementOutcome::Refused,
            Some(v1::IncrementError {
                reason: wire::reason(violation.reason).into(),
                field: violation.field,
                message: violation.message,
            }),
        ),
    };
    v1::IncrementResult {
        outcome: outcome.into(),
        error,
    }
}

/// Whether a caller may count or correct what a request is about. An empty meter is the default one.
pub(super) fn check_usage(
    meters: &Meters,
    caller: &Caller,
    account: &str,
    meter: &str,
) -> std::result::Result<(), Denial> {
    if caller.scope.is_unlimited() {
        return Ok(());
    }
    // An invalid meter is denied, too, before it is told which ones there are.
    let resolved = meters.resolve(meter);
    let meter = resolved.as_ref().map_or(meter, |known| &known.name);
    caller.check_usage(account, meter)
}
