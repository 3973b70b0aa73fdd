//! Changes of subscriptions, and their steps.

use uuid::Uuid;

use super::{Millis, account_id::AccountId, clock_check::is_ahead, names::names};

/// The kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Other prices from the boundary on.
    ChangePlan,
    /// It ends at the boundary.
    Cancel,
}

names!(ChangeKind {
    ChangePlan = "change_plan",
    Cancel = "cancel",
});

/// The step of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Usage from before the boundary is sent, until Stripe's totals contain it.
    Draining,
    /// The request to Stripe is being made.
    Changing,
    /// Stripe made the change.
    Done,
    /// Draining took too long; nothing was changed.
    Undone,
    /// Stripe rejected it; nothing was changed.
    Refused,
    /// An admin ended it before Stripe made it; nothing was changed.
    Aborted,
}

names!(Step {
    Draining = "draining",
    Changing = "changing",
    Done = "done",
    Undone = "undone",
    Refused = "refused",
    Aborted = "aborted",
});

/// A change of an account's subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionChange {
    /// The account.
    pub account_id: AccountId,
    /// A `UUIDv7`.
    pub id: Uuid,
    /// Its kind.
    pub kind: ChangeKind,
    /// What was requested, as JSON.
    pub request: String,
    /// Who requested it.
    pub requested_by: String,
    /// `sub_...`
    pub subscription: String,
    /// Its current step.
    pub step: Step,
    /// Usage before it is billed as before the change, usage from it on as after the change.
    pub boundary_at: Millis,
    /// When it began.
    pub started_at: Millis,
    /// When it gives up, unless Stripe was asked to make it: a check that begins later ends it, whatever Stripe shows.
    pub deadline_at: Millis,
    /// When Stripe was last asked to make it. Before the first time, a refusal is certain to leave everything as it was.
    pub requested_at: Option<Millis>,
    /// When a replica last worked on it.
    pub heartbeat_at: Millis,
    /// The replica that works on it.
    pub holder: String,
    /// When it ended.
    pub finished_at: Option<Millis>,
    /// Why it waits, or was undone, rejected or aborted.
    pub error: Option<String>,
}

impl SubscriptionChange {
    /// Whether it has waited long enough. One that began in the future was stored by a clock that was ahead.
    pub fn is_overdue(&self, now: Millis) -> bool {
        now >= self.deadline_at || is_ahead(self.started_at, now)
    }
}
