//! Draining: everything that was used before a boundary is at Stripe, and Stripe's totals show it.

use super::{Subscriptions, follow::FollowError};
use crate::{
    error::Result,
    store::operations::{Operation, Outstanding, Shown},
    usage::{MINUTE_MS, Millis, subscription::Facts, window::Interval},
};

/// How far usage before an operation's boundary has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// Stripe shows all of it: what was used since then, and what it was given.
    Shown(Millis, Vec<Shown>),
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
    ) -> std::result::Result<Drained, FollowError> {
        let since = self
            .charging_since(&operation.account_id, facts, operation.boundary_at)
            .await?;
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
        let mut given = Vec::new();
        for item in &facts.items {
            let Some(meter) = self.options.meters.find(&item.meter) else {
                continue;
            };
            let lane = (facts.customer.clone(), item.meter.clone());
            let ours = self.store.sent_sum(&lane, range).await?;
            given.push(Shown {
                lane,
                range,
                sum: ours,
            });
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
        Ok(Drained::Shown(since, given))
    }

    /// Since when the items have been charging for what is used just before a boundary.
    pub(super) async fn charging_since(
        &self,
        account_id: &str,
        facts: &Facts,
        boundary: Millis,
    ) -> Result<Millis> {
        let items: Vec<&str> = facts.items.iter().map(|item| item.item.as_str()).collect();
        let at = boundary.saturating_sub(1);
        let known = self.store.charging_since(account_id, &items, at).await?;
        let stripes = facts.charges_since().unwrap_or(boundary).min(boundary);
        Ok(known.map_or(stripes, |known| known.min(stripes)))
    }
}

/// The whole minutes around an interval: Stripe's totals know no smaller ones.
fn minutes(interval: Interval) -> Interval {
    let floor = |at: Millis| at.saturating_sub(at.rem_euclid(MINUTE_MS));
    Interval {
        start: floor(interval.start),
        end: floor(interval.end.saturating_add(MINUTE_MS).saturating_sub(1)),
    }
}
