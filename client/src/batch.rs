//! Batches of increments and their results.

use crate::{Error, Increment, Reason, increment::Key, proto};
use proto::IncrementOutcome;

/// Up to 1,000 increments that are counted in one transaction.
///
/// The batch has one idempotency key, generated unless you set it. Its items have a key only if you set one.
///
/// ```
/// use usage_client::{Batch, Increment};
///
/// let batch: Batch = ["acct_42", "acct_43"].into_iter().collect();
/// let batch = batch.push(Increment::new("acct_44").quantity(3)).key("import-2026-03-01");
/// assert_eq!(batch.len(), 3);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use = "nothing is counted until it is sent"]
pub struct Batch {
    increments: Vec<Increment>,
    key: Key,
    dry_run: bool,
}

impl Batch {
    /// The maximum number of increments in a batch.
    pub const MAX_LEN: usize = 1_000;

    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an increment.
    pub fn push(mut self, increment: impl Into<Increment>) -> Self {
        self.increments.push(increment.into());
        self
    }

    /// The idempotency key of the whole batch, at most 255 bytes. A repeated key with the same content counts nothing
    /// and returns the stored results. It belongs to the caller: to all API keys of one name.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Key::Is(key.into());
        self
    }

    /// Sends no key for the batch; only items with a key are protected from being counted twice.
    pub fn without_key(mut self) -> Self {
        self.key = Key::Without;
        self
    }

    /// Counts nothing: the results are those that the same batch would have now.
    pub fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// The batch's key, generated now if it has none; `None` after [`without_key`](Self::without_key).
    pub fn ensure_key(&mut self) -> Option<&str> {
        self.key.ensure()
    }

    /// The number of increments.
    pub fn len(&self) -> usize {
        self.increments.len()
    }

    /// Whether the batch is empty.
    pub fn is_empty(&self) -> bool {
        self.increments.is_empty()
    }

    pub(crate) fn into_wire(self) -> Result<proto::IncrementBatchRequest, Error> {
        let increments = self.increments.into_iter().enumerate();
        let increments = increments.map(|(index, increment)| {
            let at = |error: Error| error.within(&format!("increments[{index}]"));
            increment.into_wire().map_err(at)
        });
        Ok(proto::IncrementBatchRequest {
            increments: increments.collect::<Result<_, _>>()?,
            idempotency_key: self.key.into_wire()?,
            dry_run: self.dry_run,
        })
    }
}

impl From<Vec<Increment>> for Batch {
    fn from(increments: Vec<Increment>) -> Self {
        increments.into_iter().collect()
    }
}

impl<I: Into<Increment>> FromIterator<I> for Batch {
    fn from_iter<T: IntoIterator<Item = I>>(increments: T) -> Self {
        let mut batch = Self::new();
        batch.extend(increments);
        batch
    }
}

impl<I: Into<Increment>> Extend<I> for Batch {
    fn extend<T: IntoIterator<Item = I>>(&mut self, increments: T) {
        self.increments
            .extend(increments.into_iter().map(Into::into));
    }
}

/// The result of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchOutcome {
    /// Whether the batch's key was used before; `results` are then the stored results.
    pub duplicate: bool,
    /// The key it was sent with; none after [`Batch::without_key`].
    pub key: Option<String>,
    /// One result per increment, in the order of the batch.
    pub results: Vec<IncrementResult>,
}

/// The result of one increment of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum IncrementResult {
    /// Counted.
    Counted,
    /// The item's own key was counted before; it added nothing.
    Duplicate,
    /// Rejected, and not counted.
    #[non_exhaustive]
    Refused {
        /// The reason, the same as in the error of a single increment.
        reason: Reason,
        /// The invalid field, such as `quantity`.
        field: String,
        /// What is wrong, with the value and the limit.
        message: String,
    },
    /// A result that this version of the client does not know, by its number.
    Unrecognised(i32),
}

impl BatchOutcome {
    /// The rejected increments, with their index in the batch.
    pub fn refused(&self) -> impl Iterator<Item = (usize, &IncrementResult)> {
        let results = self.results.iter().enumerate();
        results.filter(|(_, result)| matches!(result, IncrementResult::Refused { .. }))
    }

    pub(crate) fn from_wire(
        response: proto::IncrementBatchResponse,
        sent: usize,
        key: Option<String>,
    ) -> Result<Self, Error> {
        if response.results.len() != sent {
            return Err(Error::malformed(format!(
                "the response to {sent} increments has {} results",
                response.results.len()
            )));
        }
        Ok(Self {
            duplicate: response.duplicate,
            key,
            results: response.results.into_iter().map(Into::into).collect(),
        })
    }
}

impl From<proto::IncrementResult> for IncrementResult {
    fn from(result: proto::IncrementResult) -> Self {
        match IncrementOutcome::try_from(result.outcome) {
            Ok(IncrementOutcome::Counted) => Self::Counted,
            Ok(IncrementOutcome::Duplicate) => Self::Duplicate,
            Ok(IncrementOutcome::Refused) => {
                let error = result.error.unwrap_or_default();
                Self::Refused {
                    reason: Reason::from_number(error.reason),
                    field: error.field,
                    message: error.message,
                }
            }
            Ok(IncrementOutcome::Unspecified) | Err(_) => Self::Unrecognised(result.outcome),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn key_is_generated_for_the_batch_only() {
        let mut batch = Batch::new().push("a").push(Increment::new("b").key("own"));
        let key = batch.ensure_key().unwrap().to_owned();
        let wire = batch.into_wire().unwrap();
        assert_eq!(wire.idempotency_key, key);
        let keys = wire.increments.iter().map(|item| &*item.idempotency_key);
        assert_eq!(keys.collect::<Vec<_>>(), ["", "own"]);
    }

    #[test]
    fn invalid_item_is_named_by_its_index() {
        let batch: Batch = vec![Increment::new("a"), Increment::new("b").key("")].into();
        let error = batch.into_wire().unwrap_err();
        let field = &error.violations()[0].field;
        assert_eq!(field, "increments[1].idempotency_key");
    }

    #[test]
    fn missing_result_is_malformed() {
        let response = proto::IncrementBatchResponse::default();
        let error = BatchOutcome::from_wire(response, 1, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert!(error.may_have_taken_effect());
    }

    #[test]
    fn results_are_decoded() {
        let result = |outcome, error| proto::IncrementResult { outcome, error };
        let error = proto::IncrementError {
            reason: 2,
            field: "meter".to_owned(),
            message: "no such meter".to_owned(),
        };
        let response = proto::IncrementBatchResponse {
            results: vec![
                result(1, None),
                result(2, None),
                result(3, Some(error)),
                result(9, None),
            ],
            duplicate: false,
        };
        let outcome = BatchOutcome::from_wire(response, 4, None).unwrap();
        let refused = IncrementResult::Refused {
            reason: Reason::UnknownMeter,
            field: "meter".to_owned(),
            message: "no such meter".to_owned(),
        };
        assert_eq!(outcome.refused().collect::<Vec<_>>(), [(2, &refused)]);
        assert_eq!(outcome.results[0], IncrementResult::Counted);
        assert_eq!(outcome.results[1], IncrementResult::Duplicate);
        assert_eq!(outcome.results[3], IncrementResult::Unrecognised(9));
    }
}
