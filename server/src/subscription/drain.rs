//! Draining: everything that was used before a boundary is at Stripe, and Stripe's totals show it.

use super::{Subscriptions, follow::FollowError};
use crate::{
    store::operations::{Operation, Outstanding},
    usage::{MINUTE_MS, Millis, subscription::Facts, window::Interval},
};

/// How far usage before an operation's boundary has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// Stripe shows all of it.
    Shown,
    /// Some of it is on its way, or not shown yet.
    NotYet(Outstanding),
    /// An admin has to decide on some of it.
    Undecided(u64),
}

impl Subscriptions {
    /// How far usage of the present period from before the boundary has come.
    pub(super) async fn drained(
        &self,
        operation: &Operation,
        facts: &Facts,
    ) -> Result<Drained, FollowError> {
        let since = charging_since(facts, operation.boundary_at);
        let outstanding = self
            .store
            .outstanding(&operation.account_id, since, operation.boundary_at)
            .await?;
        if outstanding.undecided > 0 {
            return Ok(Drained::Undecided(outstanding.undecided));
        }
        if outstanding.waiting > 0 {
            return Ok(Drained::NotYet(outstanding));
        }
        let range = minutes(Interval {
            start: since,
            end: operation.boundary_at,
        });
        for item in &facts.items {
            let Some(meter) = self.options.meters.find(&item.meter) else {
                continue;
            };
            let lane = (facts.customer.clone(), item.meter.clone());
            let ours = self.store.sent_sum(&lane, range).await?;
            if ours.reports == 0 {
                continue;
            }
            let shown = self
                .stripe
                .total(&meter.event_name, &facts.customer, range)
                .await?;
            // More than ours is somebody else's, unless a correction downwards is not shown yet.
            let is_shown = shown == ours.quantity || (shown > ours.quantity && !ours.has_negative);
            if !is_shown {
                return Ok(Drained::NotYet(outstanding));
            }
        }
        Ok(Drained::Shown)
    }
}

/// Since when the present period charges; it began at the latest at the boundary.
pub(super) fn charging_since(facts: &Facts, boundary: Millis) -> Millis {
    facts.charges_since().unwrap_or(boundary).min(boundary)
}

/// The whole minutes around an interval: Stripe's totals know no smaller ones.
fn minutes(interval: Interval) -> Interval {
    let floor = |at: Millis| at.saturating_sub(at.rem_euclid(MINUTE_MS));
    Interval {
        start: floor(interval.start),
        end: floor(interval.end.saturating_add(MINUTE_MS).saturating_sub(1)),
    }
}
