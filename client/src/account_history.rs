//! What happened to the billing of an account.

use crate::{
    Error, proto,
    wire::{non_empty, optional_time, required_time},
};
use chrono::{DateTime, Utc};
use std::fmt;

/// What happened to the billing of an account in a period.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountHistory {
    /// The links that apply from a time in it, the latest first: at most 100.
    pub links: Vec<AccountLink>,
    /// The changes of its subscription by this service with their boundary in it, the latest first: at most 100.
    pub changes: Vec<ListedSubscriptionChange>,
    /// The link in force just before it; none if the account had none.
    pub link_before: Option<AccountLink>,
    /// Whether there are more links or changes than are listed: ask for a shorter time.
    pub truncated: bool,
}

/// The billing of an account from a time on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountLink {
    /// Its number within the account; a larger one outranks a smaller one.
    pub version: i64,
    /// The time from which it applies.
    pub valid_from: DateTime<Utc>,
    /// When it was recorded.
    pub recorded_at: DateTime<Utc>,
    /// The Stripe customer; none if free.
    pub stripe_customer: Option<String>,
    /// The Stripe subscription, if it was known.
    pub subscription: Option<String>,
    /// The subscription has ended: nothing is billed to the customer from `valid_from` on.
    pub ended: bool,
    /// [`cancel_subscription`](crate::UsageClient::cancel_subscription) ended it.
    pub end_requested: bool,
}

/// What a change of a subscription does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SubscriptionChangeKind {
    /// Other prices from the boundary on.
    ChangePlan,
    /// It ends at the boundary.
    Cancel,
    /// A kind that this version of the client does not know, by its number.
    Unrecognised(i32),
}

/// How far a change of a subscription is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SubscriptionChangeState {
    /// It waits until Stripe shows all usage from before the boundary.
    Draining,
    /// Stripe is asked to make it.
    Changing,
    /// Stripe made it.
    Done,
    /// It waited too long; nothing was changed.
    Undone,
    /// Stripe rejected it; nothing was changed.
    Refused,
    /// An admin ended it before Stripe made it; nothing was changed.
    Aborted,
    /// A state that this version of the client does not know, by its number.
    Unrecognised(i32),
}

impl SubscriptionChangeKind {
    fn from_wire(number: i32) -> Self {
        use proto::SubscriptionChangeKind as Wire;
        match Wire::try_from(number) {
            Ok(Wire::ChangePlan) => Self::ChangePlan,
            Ok(Wire::Cancel) => Self::Cancel,
            Ok(Wire::Unspecified) | Err(_) => Self::Unrecognised(number),
        }
    }
}

impl fmt::Display for SubscriptionChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChangePlan => f.write_str("change plan"),
            Self::Cancel => f.write_str("cancel"),
            Self::Unrecognised(number) => write!(f, "{number}"),
        }
    }
}

impl SubscriptionChangeState {
    fn from_wire(number: i32) -> Self {
        use proto::SubscriptionChangeState as Wire;
        match Wire::try_from(number) {
            Ok(Wire::Draining) => Self::Draining,
            Ok(Wire::Changing) => Self::Changing,
            Ok(Wire::Done) => Self::Done,
            Ok(Wire::Undone) => Self::Undone,
            Ok(Wire::Refused) => Self::Refused,
            Ok(Wire::Aborted) => Self::Aborted,
            Ok(Wire::Unspecified) | Err(_) => Self::Unrecognised(number),
        }
    }
}

impl fmt::Display for SubscriptionChangeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Draining => f.write_str("draining"),
            Self::Changing => f.write_str("changing"),
            Self::Done => f.write_str("done"),
            Self::Undone => f.write_str("undone"),
            Self::Refused => f.write_str("refused"),
            Self::Aborted => f.write_str("aborted"),
            Self::Unrecognised(number) => write!(f, "{number}"),
        }
    }
}

/// A change of a subscription in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedSubscriptionChange {
    /// Its id.
    pub id: String,
    /// What it does.
    pub kind: SubscriptionChangeKind,
    /// How far it is.
    pub state: SubscriptionChangeState,
    /// The subscription.
    pub subscription: String,
    /// Of a plan change, the prices from the boundary on.
    pub prices: Vec<String>,
    /// Usage before this time is charged as before the change, usage from it on as after the change.
    pub boundary: DateTime<Utc>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended; none while it is in progress.
    pub finished_at: Option<DateTime<Utc>>,
    /// Who first requested it.
    pub requested_by: Option<String>,
    /// Why it waits, or was not made.
    pub error: Option<String>,
}

impl AccountHistory {
    pub(crate) fn from_wire(history: proto::AccountHistory) -> Result<Self, Error> {
        let links = history.links.into_iter().map(AccountLink::from_wire);
        let changes = history.changes.into_iter();
        let changes = changes.map(ListedSubscriptionChange::from_wire);
        Ok(Self {
            links: links.collect::<Result<_, _>>()?,
            changes: changes.collect::<Result<_, _>>()?,
            link_before: history
                .link_before
                .map(AccountLink::from_wire)
                .transpose()?,
            truncated: history.truncated,
        })
    }
}

impl AccountLink {
    fn from_wire(link: proto::AccountLink) -> Result<Self, Error> {
        Ok(Self {
            version: link.version,
            valid_from: required_time(link.valid_from, "history.links.valid_from")?,
            recorded_at: required_time(link.recorded_at, "history.links.recorded_at")?,
            stripe_customer: non_empty(link.stripe_customer),
            subscription: non_empty(link.subscription),
            ended: link.ended,
            end_requested: link.end_requested,
        })
    }
}

impl ListedSubscriptionChange {
    fn from_wire(change: proto::ListedSubscriptionChange) -> Result<Self, Error> {
        Ok(Self {
            id: change.id,
            kind: SubscriptionChangeKind::from_wire(change.kind),
            state: SubscriptionChangeState::from_wire(change.state),
            subscription: change.subscription,
            prices: change.prices,
            boundary: required_time(change.boundary, "history.changes.boundary")?,
            started_at: required_time(change.started_at, "history.changes.started_at")?,
            finished_at: optional_time(change.finished_at, "history.changes.finished_at")?,
            requested_by: non_empty(change.requested_by),
            error: non_empty(change.error),
        })
    }
}
