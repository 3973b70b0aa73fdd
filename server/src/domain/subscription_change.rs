//! A change of a subscription: what it does and how far it is.

use uuid::Uuid;

use super::{Millis, account_id::AccountId};

/// What is done to a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Other prices from the boundary on.
    ChangePlan,
    /// It ends at the boundary.
    Cancel,
}

/// How far a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Usage from before the boundary is sent, until Stripe's totals contain it.
    Draining,
    /// Stripe is being called.
    Changing,
    /// Stripe made the change.
    Done,
    /// Draining took too long; nothing was changed.
    Undone,
    /// Stripe refused; nothing was changed.
    Refused,
}

/// A change of an account's subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionChange {
    /// The account.
    pub account_id: AccountId,
    /// A `UUIDv7`.
    pub id: Uuid,
    /// What it does.
    pub kind: ChangeKind,
    /// What was requested, as JSON.
    pub request: String,
    /// Who requested it.
    pub requested_by: String,
    /// `sub_...`
    pub subscription: String,
    /// How far it is.
    pub step: Step,
    /// Usage before it is billed as before the change, usage from it on as after the change.
    pub boundary_at: Millis,
    /// When it began.
    pub started_at: Millis,
    /// When draining gives up.
    pub deadline_at: Millis,
    /// When a replica last worked on it.
    pub heartbeat_at: Millis,
    /// The replica that works on it.
    pub holder: String,
    /// When it ended.
    pub finished_at: Option<Millis>,
    /// Why it was undone or refused.
    pub error: Option<String>,
}
