//! The increments of a group, summed by account, meter and window.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use sea_orm::DbErr;

use super::{boundaries::BoundaryCache, connection::Transaction};
use crate::domain::{
    Millis,
    account_id::AccountId,
    increment::Increment,
    window::{Boundaries, Interval, Slots},
};

/// The quantity that is added to one open report.
#[derive(Clone, Debug)]
pub(super) struct Addition {
    pub(super) account_id: AccountId,
    pub(super) meter: Arc<str>,
    pub(super) window: Interval,
    pub(super) quantity: i64,
    pub(super) first_at: Millis,
    pub(super) last_at: Millis,
}

/// The windows of the accounts of a group, split at their boundaries.
#[derive(Debug)]
pub(super) struct Windows {
    slots: Slots,
    boundaries: HashMap<AccountId, Arc<Boundaries>>,
}

impl Windows {
    /// Reads the boundaries of the accounts of some increments.
    pub(super) async fn read(
        tx: &Transaction,
        counted: &[&Increment],
        cache: &BoundaryCache,
        slots: Slots,
        now: Millis,
    ) -> Result<Self, DbErr> {
        let accounts = counted.iter().map(|increment| increment.account_id.clone());
        let boundaries = cache.load(tx, accounts, now).await?;
        Ok(Self { slots, boundaries })
    }

    /// The windows of the accounts of some increments, and the version of their boundaries; absent if not all are
    /// remembered.
    pub(super) fn remembered(
        counted: &[&Increment],
        cache: &BoundaryCache,
        slots: Slots,
    ) -> Option<(Self, i64)> {
        let accounts = counted.iter().map(|increment| &increment.account_id);
        let (boundaries, version) = cache.remembered(accounts)?;
        Some((Self { slots, boundaries }, version))
    }

    /// The window in which an increment counts.
    pub(super) fn around(&self, increment: &Increment) -> Interval {
        self.boundaries.get(&increment.account_id).map_or_else(
            || self.slots.around(increment.at),
            |own| own.window_around(self.slots, increment.at),
        )
    }
}

/// Sums increments by account, meter and window, so that a busy account is written once per group.
pub(super) fn sum_by_window(counted: &[&Increment], windows: &Windows) -> Vec<Addition> {
    let mut sums: BTreeMap<(&AccountId, Millis, &str), Addition> = BTreeMap::new();
    for increment in counted {
        let window = windows.around(increment);
        let sum = sums
            .entry((&increment.account_id, window.start, &increment.meter))
            .or_insert_with(|| Addition {
                account_id: increment.account_id.clone(),
                meter: Arc::clone(&increment.meter),
                window,
                quantity: 0,
                first_at: increment.at,
                last_at: increment.at,
            });
        // The limits of a group keep this far below the maximum of an i64.
        sum.quantity = sum.quantity.saturating_add(increment.quantity);
        sum.first_at = Ord::min(sum.first_at, increment.at);
        sum.last_at = Ord::max(sum.last_at, increment.at);
    }
    sums.into_values().collect()
}
