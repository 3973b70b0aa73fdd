//! The increments of a group, summed by account, meter and window.

use std::{collections::HashMap, sync::Arc};

use sea_orm::DbErr;

use super::{boundaries::BoundaryCache, connection::Transaction};
use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        increment::Increment,
        window::{Boundaries, Interval, Slots},
    },
    planted_defects::{Defect, planted},
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

impl Addition {
    /// The primary key of its open report.
    pub(super) fn key(&self) -> (&AccountId, Millis, &str) {
        (&self.account_id, self.window.start, &self.meter)
    }
}

/// The windows of the accounts of a group, split at their boundaries.
#[derive(Debug)]
pub(super) struct Windows {
    slots: Slots,
    boundaries: HashMap<AccountId, Arc<Boundaries>>,
}

impl Windows {
    /// The windows of the accounts of some increments, and the version of their boundaries, as seen by this transaction.
    pub(super) async fn read(
        tx: &Transaction,
        counted: &[&Increment],
        cache: &BoundaryCache,
        slots: Slots,
        now: Millis,
    ) -> Result<(Self, i64), DbErr> {
        let accounts = counted.iter().map(|increment| increment.account_id.clone());
        let (boundaries, version) = cache.load(tx, accounts, now).await?;
        Ok((Self { slots, boundaries }, version))
    }

    /// The windows of the accounts of some increments, and the version of their boundaries; absent if not all are
    /// remembered, or if a change has ended since.
    pub(super) fn remembered(
        counted: &[&Increment],
        cache: &BoundaryCache,
        slots: Slots,
        moves: u64,
    ) -> Option<(Self, i64)> {
        let accounts = counted.iter().map(|increment| &increment.account_id);
        let (boundaries, version) = cache.remembered(accounts, moves)?;
        Some((Self { slots, boundaries }, version))
    }

    /// Whether an account was deleted, so that nothing is counted for it.
    pub(super) fn is_deleted(&self, account: &AccountId) -> bool {
        let own = self.boundaries.get(account);
        own.is_some_and(|own| own.is_deleted())
    }

    /// The window in which an increment counts.
    pub(super) fn around(&self, increment: &Increment) -> Interval {
        self.boundaries.get(&increment.account_id).map_or_else(
            || self.slots.around(increment.at),
            |own| own.window_around(self.slots, increment.at),
        )
    }
}

/// Sums increments by account, window and meter, so that a busy account is written once per group. In the order of the
/// primary key of open reports.
pub(super) fn sum_by_window(counted: &[&Increment], windows: &Windows) -> Vec<Addition> {
    let mut sums: Vec<Addition> = Vec::new();
    // Most accounts have one. Of the others, the last one is kept here, and all of them below.
    let mut last_of_account: HashMap<&AccountId, usize> = HashMap::new();
    let mut places: HashMap<(&AccountId, Millis, &str), usize> = HashMap::new();
    for increment in counted {
        let account = &increment.account_id;
        let last = last_of_account.get(account).copied();
        let is_last = |place: &usize| {
            sums.get(*place).is_some_and(|sum| {
                sum.window.contains(increment.at)
                    && (sum.meter == increment.meter || planted(Defect::MetersMixed))
            })
        };
        let key = || (account, windows.around(increment).start, &*increment.meter);
        let same = last
            .filter(is_last)
            .or_else(|| last.and_then(|_| places.get(&key()).copied()));
        if let Some(sum) = same.and_then(|place| sums.get_mut(place)) {
            // The limits of a group keep this far below the maximum of an i64.
            if !planted(Defect::IncrementLostInSum) {
                sum.quantity = sum.quantity.saturating_add(increment.quantity);
            }
            sum.first_at = Ord::min(sum.first_at, increment.at);
            sum.last_at = Ord::max(sum.last_at, increment.at);
            last_of_account.extend(same.map(|place| (account, place)));
            continue;
        }
        last_of_account.insert(account, sums.len());
        places.insert(key(), sums.len());
        sums.push(Addition {
            account_id: account.clone(),
            meter: Arc::clone(&increment.meter),
            window: windows.around(increment),
            quantity: increment.quantity,
            first_at: increment.at,
            last_at: increment.at,
        });
    }
    sums.sort_unstable_by(|left, right| left.key().cmp(&right.key()));
    sums
}
