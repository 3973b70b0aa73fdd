//! Draining: checks whether Stripe has accepted all usage from before a change's boundary, and its totals include it.

use super::SubscriptionChanges;
use crate::{
    domain::{
        MINUTE_MS, Millis, account_id::AccountId, billing_period::charging_since,
        report_figure::Outstanding, start_of, stream::Stream, subscription::SubscriptionSnapshot,
        subscription_change::SubscriptionChange, window::Interval,
    },
    error::Result,
    store::subscription_changes::ShownAtStripe,
    workers::subscription_sync::sync::SyncError,
};

/// The progress of draining.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// Stripe's totals include all of it: the time since which the items charge, and the accepted events of each
    /// stream.
    ShownAtStripe(Millis, Vec<ShownAtStripe>),
    /// Some of it is not accepted, or not included yet.
    NotYet(Outstanding),
    /// Some reports need an admin's decision.
    NeedsDecision(u64),
}

impl SubscriptionChanges {
    /// Checks the usage of the current period from before the boundary.
    pub(super) async fn drained(
        &self,
        change: &SubscriptionChange,
        snapshot: &SubscriptionSnapshot,
    ) -> std::result::Result<Drained, SyncError> {
        let since = self
            .charging_since(&change.account_id, snapshot, change.boundary_at)
            .await?;
        let outstanding = self
            .store
            .outstanding(&change.account_id, since, change.boundary_at)
            .await?;
        if outstanding.needs_decision > 0 {
            return Ok(Drained::NeedsDecision(outstanding.needs_decision));
        }
        if outstanding.waiting > 0 {
            return Ok(Drained::NotYet(outstanding));
        }
        // Before the moment from which this service bills, Stripe's totals are those of another integration.
        let moment = self.store.billing_start().await?.moment();
        let range = minutes(Interval {
            start: since.max(moment).min(change.boundary_at),
            end: change.boundary_at,
        });
        let mut sent = Vec::new();
        for item in &snapshot.items {
            let Some(meter) = self.sync.configured.find(&item.meter) else {
                continue;
            };
            let stream = Stream {
                customer: snapshot.customer.clone(),
                meter: item.meter.clone(),
            };
            let ours = self.store.sent_sum(&stream, range).await?;
            sent.push(ShownAtStripe {
                stream,
                range,
                sum: ours,
            });
            if ours.reports == 0 {
                continue;
            }
            self.stripe.read_turn().await;
            let shown = self
                .stripe
                .total(&meter.event_name, &snapshot.customer, range)
                .await?;
            // A larger total is due to another sender, unless a negative correction is not included yet.
            let is_shown = shown == ours.quantity || (shown > ours.quantity && !ours.has_negative);
            if !is_shown {
                return Ok(Drained::NotYet(outstanding));
            }
        }
        Ok(Drained::ShownAtStripe(since, sent))
    }

    /// The time since which the items have been charging for usage just before a boundary.
    pub(super) async fn charging_since(
        &self,
        account_id: &AccountId,
        snapshot: &SubscriptionSnapshot,
        boundary: Millis,
    ) -> Result<Millis> {
        let items: Vec<&str> = snapshot
            .items
            .iter()
            .map(|item| item.item.as_str())
            .collect();
        let at = boundary.saturating_sub(1);
        let around = self.store.periods_around(account_id, at).await?;
        let known = charging_since(&around, &items, at);
        let stripes = snapshot.charges_since().unwrap_or(boundary).min(boundary);
        Ok(known.map_or(stripes, |known| known.min(stripes)))
    }
}

/// The whole minutes that contain an interval. Stripe's totals cover whole minutes.
fn minutes(interval: Interval) -> Interval {
    Interval {
        start: start_of(MINUTE_MS, interval.start),
        end: start_of(
            MINUTE_MS,
            interval.end.saturating_add(MINUTE_MS).saturating_sub(1),
        ),
    }
}
