//! Usage reports: their states, every transition between them, and their identifier at Stripe.

use uuid::Uuid;

use super::{
    DAY_MS, HOUR_MS, Millis, account::BillingTarget, account_id::AccountId, names::names,
    stream::Stream,
};

/// Stripe's largest quantity in one meter event: fifteen digits.
pub const MAX_REPORT_QUANTITY: i64 = 999_999_999_999_999;
/// Stripe rejects events older than this.
pub const MAX_EVENT_AGE_MS: Millis = 35 * DAY_MS;
/// Stripe deduplicates identifiers for at least 24 hours. After this time, delivery is checked before a report is sent
/// again.
pub const NO_RESPONSE_MS: Millis = 23 * HOUR_MS;
/// How many new identifiers a report may get.
pub const MAX_GENERATION: i32 = 2;

/// How far a report has come on its way to an invoice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Increments of its window are added to it.
    Open,
    /// Its quantity no longer changes, and it waits to be sent.
    Closed,
    /// Sent to Stripe at least once, without a final answer.
    Sending,
    /// Stripe accepted it.
    Accepted,
    /// Stripe's totals include it.
    Confirmed,
    /// Final invoices charge the usage of its billing period, as Stripe's totals contain it.
    Invoiced,
    /// Stripe accepted it, but its totals do not include it.
    Missing,
    /// Stripe rejected it permanently.
    Rejected,
    /// The customer was deleted at Stripe.
    CustomerDeleted,
    /// Stripe has not responded for 23 hours, or may have it from before a restore. Delivery is checked before it is sent
    /// again.
    Unknown,
    /// Never billed: free, in a trial, from before the time that its link bills from, or billed by another integration.
    NotBillable,
    /// The account has no link yet.
    NoCustomer,
    /// Linked, but no item of a living subscription charges its time. It waits for one.
    Uncharged,
    /// Too old for Stripe, or its invoice became final before Stripe accepted it. An admin has to resolve it.
    TooLate,
    /// An admin decided not to bill it.
    WrittenOff,
}

names!(State {
    Open = "open",
    Closed = "closed",
    Sending = "sending",
    Accepted = "accepted",
    Confirmed = "confirmed",
    Invoiced = "invoiced",
    Missing = "missing",
    Rejected = "rejected",
    CustomerDeleted = "customer_deleted",
    Unknown = "unknown",
    NotBillable = "not_billable",
    NoCustomer = "no_customer",
    Uncharged = "uncharged",
    TooLate = "too_late",
    WrittenOff = "written_off",
});

impl State {
    /// States in which the sender sends a report or checks its delivery.
    pub const DUE: [Self; 4] = [Self::Closed, Self::Sending, Self::Unknown, Self::Uncharged];
    /// States of usage that Stripe has not accepted and still may.
    pub const NOT_SENT: [Self; 6] = [
        Self::Open,
        Self::Closed,
        Self::Sending,
        Self::NoCustomer,
        Self::Unknown,
        Self::Uncharged,
    ];
    /// States that need an admin's decision.
    pub const NEEDS_DECISION: [Self; 6] = [
        Self::Missing,
        Self::Rejected,
        Self::CustomerDeleted,
        Self::Unknown,
        Self::Uncharged,
        Self::TooLate,
    ];
    /// States in which Stripe has accepted the report.
    pub const REPORTED: [Self; 3] = [Self::Accepted, Self::Confirmed, Self::Invoiced];
    /// States in which Stripe's totals were found to include the report.
    pub const IN_TOTALS: [Self; 2] = [Self::Confirmed, Self::Invoiced];

    /// Whether Stripe has accepted the report.
    pub fn is_reported(self) -> bool {
        Self::REPORTED.contains(&self)
    }
}

/// A change of a report's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    /// It is closed. The links at the time of its first increment decide its billing.
    Close(BillingTarget),
    /// The account's links changed for the time of its first increment.
    Relink(BillingTarget),
    /// It is about to be sent to Stripe.
    Send,
    /// Stripe accepted it, now or in an earlier attempt.
    Accept,
    /// Stripe rejected it permanently.
    Reject,
    /// Its customer does not exist at Stripe.
    MarkCustomerDeleted,
    /// Stripe did not respond for 23 hours, or may have it from before a restore.
    MarkUnknown,
    /// It did not arrive at Stripe, and is sent again under the identifier of the next generation.
    SendUnderNewIdentifier,
    /// After a restore, Stripe's totals do not include it. It is sent under its own identifier, which Stripe refuses if
    /// it was sent a short time ago.
    SendAfterLookUp,
    /// No item of a living subscription charges its time.
    MarkUncharged,
    /// The customer's subscription changed: it is decided again whether an item charges its time.
    DecideAgain,
    /// Its time is in a trial, or after an end of the subscription that was requested here.
    MarkNotBillable,
    /// It is too old for Stripe, or its invoice is final.
    MarkTooLate,
    /// Stripe's totals include it.
    Confirm,
    /// A day later Stripe's totals still do not include it.
    MarkMissing,
    /// The final invoices of its billing period charge all usage that Stripe's totals contain.
    Invoice,
    /// They no longer do: one became void or uncollectible, or the totals changed.
    TakeOffInvoice,
    /// An admin decided to send it again under a new identifier.
    Retry,
    /// An admin decided not to bill it.
    WriteOff,
}

impl State {
    /// The state after a transition; `None` if the transition is not possible. Every transition is here.
    pub fn after(self, transition: &Transition) -> Option<Self> {
        let closed_as = |target: &BillingTarget| match target {
            BillingTarget::NoCustomer => Self::NoCustomer,
            BillingTarget::NotBillable | BillingTarget::Elsewhere(_) => Self::NotBillable,
            BillingTarget::Billed(_) => Self::Closed,
        };
        match (self, transition) {
            // A report that is closed and was never sent can still get another link.
            (Self::Open, Transition::Close(target))
            | (
                Self::NoCustomer | Self::NotBillable | Self::Closed | Self::Uncharged,
                Transition::Relink(target),
            ) => Some(closed_as(target)),
            (Self::Closed | Self::Sending | Self::Uncharged, Transition::Send) => {
                Some(Self::Sending)
            }
            (Self::Sending | Self::Unknown, Transition::Accept) => Some(Self::Accepted),
            (Self::Sending, Transition::Reject) => Some(Self::Rejected),
            (Self::Closed | Self::Sending | Self::Uncharged, Transition::MarkCustomerDeleted) => {
                Some(Self::CustomerDeleted)
            }
            (Self::Closed | Self::Sending | Self::Uncharged, Transition::MarkUnknown) => {
                Some(Self::Unknown)
            }
            (Self::Closed | Self::Sending | Self::Uncharged, Transition::MarkUncharged) => {
                Some(Self::Uncharged)
            }
            (Self::Uncharged, Transition::DecideAgain) => Some(Self::Closed),
            (Self::Closed | Self::Sending | Self::Uncharged, Transition::MarkNotBillable) => {
                Some(Self::NotBillable)
            }
            (Self::Unknown, Transition::SendUnderNewIdentifier | Transition::SendAfterLookUp) => {
                Some(Self::Closed)
            }
            // `Sending` and `Unknown` become too late only if no attempt can have arrived.
            (
                Self::Closed | Self::Sending | Self::NoCustomer | Self::Unknown | Self::Uncharged,
                Transition::MarkTooLate,
            ) => Some(Self::TooLate),
            (Self::Accepted | Self::Missing, Transition::Confirm)
            | (Self::Invoiced, Transition::TakeOffInvoice) => Some(Self::Confirmed),
            (Self::Accepted, Transition::MarkMissing) => Some(Self::Missing),
            (Self::Confirmed, Transition::Invoice) => Some(Self::Invoiced),
            (state, Transition::Retry) if Self::NEEDS_DECISION.contains(&state) => {
                Some(Self::Closed)
            }
            (state, Transition::WriteOff) if Self::NEEDS_DECISION.contains(&state) => {
                Some(Self::WrittenOff)
            }
            _ => None,
        }
    }
}

/// What the quantity of a report consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Increments.
    Usage,
    /// A correction by an admin.
    Correction,
    /// Usage that Stripe has and a restored backup lacked. It is counted and shown, and never sent.
    AlreadySent,
}

names!(Kind {
    Usage = "usage",
    Correction = "correction",
    AlreadySent = "already_sent",
});

/// A usage report: the total of one account and meter in one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The account.
    pub account_id: AccountId,
    /// A `UUIDv7`.
    pub id: Uuid,
    /// The meter.
    pub meter: String,
    /// The first moment of the window.
    pub window_start: Millis,
    /// The end of the window, as far as it is known while the report is open.
    pub window_end: Millis,
    /// The end of the window; set when the report is closed.
    pub period_end: Option<Millis>,
    /// When it was closed.
    pub closed_at: Option<Millis>,
    /// The total.
    pub quantity: i64,
    /// The earliest time of its increments.
    pub first_at: Millis,
    /// The latest time of its increments.
    pub last_at: Millis,
    /// Its state.
    pub state: State,
    /// Whether a boundary inside the window became known too late to split it.
    pub straddled: bool,
    /// The number of new identifiers that it got.
    pub generation: i32,
    /// The meter event's timestamp.
    pub event_timestamp: Option<Millis>,
    /// The Stripe customer it is billed to.
    pub customer: Option<String>,
    /// How many times it was sent under its current identifier.
    pub attempts: i32,
    /// When it was first sent under its current identifier.
    pub first_sent_at: Option<Millis>,
    /// When it was last sent to Stripe.
    pub last_sent_at: Option<Millis>,
    /// When Stripe accepted it.
    pub reported_at: Option<Millis>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// The run that closed it.
    pub run_id: Option<Uuid>,
    /// Whether it was counted or entered as a correction.
    pub kind: Kind,
    /// Why a correction was entered.
    pub note: Option<String>,
    /// Who entered a correction.
    pub entered_by: Option<String>,
    /// The time it is billed at, if not in the period of its window.
    pub bill_at: Option<Millis>,
    /// When Stripe's totals were first found to include it.
    pub confirmed_at: Option<Millis>,
    /// When it was looked up at Stripe after a restore.
    pub looked_up_at: Option<Millis>,
}

impl Report {
    /// Whether another integration bills it. Its customer and its event timestamp are those of the meter event that would be
    /// sent.
    pub fn is_billed_elsewhere(&self) -> bool {
        is_billed_elsewhere(self.state, self.customer.as_deref(), self.event_timestamp)
            && self.last_sent_at.is_none()
            && self.attempts == 0
    }

    /// The stream of its meter event; `None` while it has no customer.
    pub fn stream(&self) -> Option<Stream> {
        Some(Stream {
            customer: self.customer.clone()?,
            meter: self.meter.clone(),
        })
    }

    /// Whether Stripe may have it, with any quantity, from before a restore of the database: it has to be looked up
    /// before it is sent. Usage that is counted again after the restore is included.
    pub fn needs_look_up(&self, restored_at: Option<Millis>) -> bool {
        restored_at.is_some_and(|restored_at| {
            self.first_at < restored_at && self.looked_up_at.is_none_or(|at| at < restored_at)
        })
    }
}

/// Whether another integration bills a report that was never sent: of all that are not billable, only those have a time at
/// which their meter event would be.
pub fn is_billed_elsewhere(
    state: State,
    customer: Option<&str>,
    event_timestamp: Option<Millis>,
) -> bool {
    state == State::NotBillable && customer.is_some() && event_timestamp.is_some()
}

/// The meter event's unique name at Stripe: the same on every retry of a generation.
pub fn identifier(id: Uuid, generation: i32) -> String {
    if generation == 0 {
        format!("usage_{}", id.simple())
    } else {
        format!("usage_{}_{generation}", id.simple())
    }
}

#[cfg(test)]
mod states_page;
#[cfg(test)]
mod tests;
