//! The calls that share one transaction of the group commit, and their outcomes.

use uuid::Uuid;

use crate::domain::{
    increment::{Batch, Increment, Outcome},
    violation::Violation,
};

/// One call.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// One increment.
    One(Increment),
    /// A batch.
    Batch(Batch),
}

/// The outcome of a call.
#[derive(Clone, Debug)]
pub(crate) enum EntryOutcome {
    /// Of one increment.
    One(Outcome),
    /// Of a batch.
    Batch {
        /// Whether its key was used before. These are the stored outcomes then, but for what was denied.
        replayed: bool,
        /// How many of its items this call counted.
        counted: usize,
        /// One for each item.
        items: Vec<Outcome>,
    },
    /// The batch's key was used with different content.
    BatchRefused(Violation),
}

/// Calls that share a transaction.
#[derive(Debug)]
pub(crate) struct Group {
    /// The transaction's id, the same when it is retried.
    pub(crate) id: Uuid,
    /// The calls, in the order of their arrival.
    pub(crate) entries: Vec<Entry>,
}
