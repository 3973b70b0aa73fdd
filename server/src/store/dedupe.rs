//! The deduplication of a group commit: which calls of the group count, and which repeat an idempotency key.

use std::collections::HashMap;

use sea_orm::{ConnectionTrait, DbErr};
use uuid::Uuid;

use super::{
    batch_keys::KeyedBatches,
    connection::{Examined, Transaction},
    group::{Entry, EntryOutcome, Group},
    keys::{Keyed, find_keys},
};
use crate::{
    domain::{
        Millis, account_deletion,
        account_id::AccountId,
        increment::{Increment, KeyedContent, Outcome},
        stored_key::stored_key,
    },
    entity::idempotency_key,
    planted_defects::{Defect, planted},
};

/// The position of one increment in a group.
type Place = (usize, usize);
/// An increment with its key and its position.
type Placed<'a> = (Place, Keyed<'a>);
/// The stored keys.
type KnownKeys = HashMap<(Uuid, AccountId), idempotency_key::Model>;

/// The outcome of each increment of a group, as far as it is known.
pub(super) struct Dedupe<'a> {
    entries: &'a [Entry],
    /// One list per call. Unused for what a batch repeats.
    outcomes: Vec<Vec<Outcome>>,
    batches: KeyedBatches<'a>,
    /// The increments with a key, in the order of the keys, which is the order of their locks; known once repeats were
    /// looked for.
    keyed: Vec<Placed<'a>>,
}

impl<'a> Dedupe<'a> {
    pub(super) fn new(group: &'a Group) -> Self {
        let outcomes = group
            .entries
            .iter()
            .map(|entry| match entry {
                Entry::One(_) => vec![Outcome::Counted],
                Entry::Batch(batch) => batch
                    .items
                    .iter()
                    .map(|item| {
                        item.as_ref()
                            .err()
                            .cloned()
                            .map_or(Outcome::Counted, Outcome::Refused)
                    })
                    .collect(),
            })
            .collect();
        Self {
            entries: &group.entries,
            outcomes,
            batches: KeyedBatches::new(&group.entries),
            keyed: Vec::new(),
        }
    }

    /// Every valid increment without an outcome so far, with its position.
    fn increments(&self) -> impl Iterator<Item = (Place, &'a Increment)> + '_ {
        self.entries
            .iter()
            .enumerate()
            .flat_map(move |(index, entry)| {
                let items: Box<dyn Iterator<Item = (Place, &'a Increment)>> = match entry {
                    Entry::One(increment) => Box::new(std::iter::once(((index, 0), increment))),
                    Entry::Batch(batch) => {
                        let items = batch.items.iter().enumerate();
                        let dropped = planted(Defect::LastOfBatchDropped) && items.len() > 1;
                        let items = items.take(batch.items.len().saturating_sub(dropped.into()));
                        let items =
                            items.filter(move |(item, _)| self.batches.is_own(index, *item));
                        Box::new(items.filter_map(move |(item, increment)| {
                            Some(((index, item), increment.as_ref().ok()?))
                        }))
                    }
                };
                items
            })
    }

    fn outcome(&self, (entry, item): Place) -> Option<&Outcome> {
        self.outcomes.get(entry)?.get(item)
    }

    fn set_outcome(&mut self, (entry, item): Place, outcome: Outcome) {
        if let Some(place) = self
            .outcomes
            .get_mut(entry)
            .and_then(|items| items.get_mut(item))
        {
            *place = outcome;
        }
    }

    /// The increments that count.
    pub(super) fn counted(&self) -> Vec<&'a Increment> {
        self.increments()
            .filter(|(place, _)| self.outcome(*place) == Some(&Outcome::Counted))
            .map(|(_, increment)| increment)
            .collect()
    }

    /// Whether a batch has a key.
    pub(super) fn has_batch_keys(&self) -> bool {
        !self.batches.is_empty()
    }

    /// Stores the keys of batches, and finds what of them was counted before.
    pub(super) async fn dedupe_batch_keys(
        &mut self,
        tx: &Transaction,
        now: Millis,
    ) -> Result<(), DbErr> {
        self.batches.look_up(tx, now).await
    }

    /// Refuses the increments of deleted accounts, also those that repeat a key.
    pub(super) fn refuse(&mut self, is_deleted: impl Fn(&AccountId) -> bool) {
        let of_deleted = self.increments();
        let of_deleted = of_deleted.filter(|(_, increment)| is_deleted(&increment.account_id));
        let places: Vec<Place> = of_deleted.map(|(place, _)| place).collect();
        for place in places {
            self.set_outcome(place, Outcome::Refused(account_deletion::refusal()));
        }
    }

    /// Finds the increments that repeat a stored key, and those that repeat a key of the group.
    pub(super) async fn look_up_keys<C: ConnectionTrait + Send>(
        &mut self,
        db: &Examined<C>,
    ) -> Result<(), DbErr> {
        let keyed = self.read_keys();
        let rows = find_keys(db, &firsts_of(&keyed)).await?;
        let known = rows.into_iter();
        let known = known.map(|row| ((row.key, row.account_id.clone()), row));
        self.set_repeated(&keyed, &known.collect());
        self.keyed = keyed;
        Ok(())
    }

    /// Finds the increments that repeat a key of the group. Of two calls with the same key, the earlier one counts.
    pub(super) fn find_repeats(&mut self) {
        let keyed = self.read_keys();
        self.set_repeated(&keyed, &KnownKeys::new());
        self.keyed = keyed;
    }

    /// The keys of the increments that count, in their order.
    pub(super) fn counted_keys(&self) -> Vec<Keyed<'a>> {
        let keyed = self.keyed.iter();
        keyed
            .filter(|(place, _)| self.outcome(*place) == Some(&Outcome::Counted))
            .map(|(_, keyed)| *keyed)
            .collect()
    }

    fn read_keys(&self) -> Vec<Placed<'a>> {
        let mut keyed: Vec<Placed<'a>> = self
            .increments()
            .filter(|(place, _)| self.outcome(*place) == Some(&Outcome::Counted))
            .filter_map(|(place, increment)| {
                let key = stored_key(&increment.account_id, increment.key.as_deref()?);
                Some((place, Keyed { key, increment }))
            })
            .collect();
        keyed.sort_unstable_by(|(a, left), (b, right)| {
            let accounts = || left.increment.account_id.cmp(&right.increment.account_id);
            left.key.cmp(&right.key).then_with(accounts).then(a.cmp(b))
        });
        keyed
    }

    /// Sets the outcome of each increment whose key is stored, or is used by an earlier one of the group.
    fn set_repeated(&mut self, keyed: &[Placed<'a>], known: &KnownKeys) {
        let mut repeated = Vec::new();
        for same in keyed.chunk_by(have_same_key) {
            let Some(((_, first), rest)) = same.split_first() else {
                continue;
            };
            let stored = if known.is_empty() {
                None
            } else {
                known.get(&(first.key, first.increment.account_id.clone()))
            };
            let used_for = stored.map_or_else(|| first.increment.content(), content);
            let repeats = if stored.is_some() { same } else { rest };
            for (place, Keyed { increment, .. }) in repeats {
                let key = increment.key.as_deref().unwrap_or_default();
                let outcome = used_for
                    .differs_from(&increment.content(), key)
                    .map_or(Outcome::Duplicate, Outcome::Refused);
                repeated.push((*place, outcome));
            }
        }
        for (place, outcome) in repeated {
            self.set_outcome(place, outcome);
        }
    }

    /// Stores the results of batches for their retries; false if there is nothing new to store.
    pub(super) async fn store_batch_results(&self, tx: &Transaction) -> Result<bool, DbErr> {
        self.batches.store_results(tx, &self.outcomes).await
    }

    pub(super) fn outcomes(&self) -> Vec<EntryOutcome> {
        let entries = self.entries.iter().enumerate();
        let outcomes = entries.map(|(index, entry)| match entry {
            Entry::One(_) => {
                let own = self.outcome((index, 0)).cloned();
                let own = own.filter(|_| !planted(Defect::DuplicateAnsweredAsNew));
                EntryOutcome::One(own.unwrap_or(Outcome::Counted))
            }
            Entry::Batch(_) => self.batch_outcome(index),
        });
        outcomes.collect()
    }

    fn batch_outcome(&self, index: usize) -> EntryOutcome {
        if let Some(violation) = self.batches.refused(index) {
            return EntryOutcome::BatchRefused(violation.clone());
        }
        let items = self.batches.outcomes(index, &self.outcomes);
        let counted = items.iter().enumerate();
        let counted = counted.filter(|(item, outcome)| {
            **outcome == Outcome::Counted && self.batches.is_own(index, *item)
        });
        EntryOutcome::Batch {
            replayed: self.batches.is_repeated(index),
            counted: counted.count(),
            items,
        }
    }
}

fn have_same_key((_, left): &Placed<'_>, (_, right): &Placed<'_>) -> bool {
    left.key == right.key && left.increment.account_id == right.increment.account_id
}

/// The first increment of each key.
fn firsts_of<'a>(keyed: &[Placed<'a>]) -> Vec<Keyed<'a>> {
    keyed
        .chunk_by(have_same_key)
        .filter_map(|same| same.first().map(|(_, keyed)| *keyed))
        .collect()
}

fn content(row: &idempotency_key::Model) -> KeyedContent<'_> {
    KeyedContent {
        meter: &row.meter,
        quantity: row.quantity,
        stated_at: row.stated_at,
    }
}
