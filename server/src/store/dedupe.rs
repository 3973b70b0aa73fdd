//! The deduplication of a group commit: which calls of the group count, and which repeat an idempotency key.

use std::collections::HashMap;

use sea_orm::{
    ActiveValue::Set, ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _,
    sea_query::Expr,
};
use uuid::Uuid;

use super::{
    batch_results::{decode_results, encode_results},
    connection::{Examined, Transaction},
    group::{Entry, EntryOutcome, Group},
    keys::{Keyed, find_keys},
};
use crate::{
    domain::{
        Millis, account_deletion,
        account_id::AccountId,
        increment::{Batch, Increment, KeyedContent, Outcome},
        stored_key::stored_key,
        violation::{Reason, Violation, quoted},
    },
    entity::{batch_key, idempotency_key},
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
    /// One list per call. Unused for batches in `answered` and `repeats`.
    outcomes: Vec<Vec<Outcome>>,
    /// Batches that count nothing in this transaction, with their outcomes.
    answered: HashMap<usize, EntryOutcome>,
    /// Batches that repeat an earlier one of the same group.
    repeats: HashMap<usize, usize>,
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
            answered: HashMap::new(),
            repeats: HashMap::new(),
            keyed: Vec::new(),
        }
    }

    /// Every valid increment without an outcome so far, with its position.
    fn increments(&self) -> impl Iterator<Item = (Place, &'a Increment)> + '_ {
        self.entries.iter().enumerate().flat_map(|(index, entry)| {
            let items: Box<dyn Iterator<Item = (Place, &'a Increment)>> = match entry {
                Entry::One(increment) => Box::new(std::iter::once(((index, 0), increment))),
                Entry::Batch(_)
                    if self.answered.contains_key(&index) || self.repeats.contains_key(&index) =>
                {
                    Box::new(std::iter::empty())
                }
                Entry::Batch(batch) => Box::new(batch.items.iter().enumerate().filter_map(
                    move |(item, increment)| Some(((index, item), increment.as_ref().ok()?)),
                )),
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

    fn keyed_batches(&self) -> Vec<(usize, &'a Batch)> {
        let mut batches: Vec<(usize, &Batch)> = self
            .entries
            .iter()
            .enumerate()
            .filter_map(|(index, entry)| match entry {
                Entry::Batch(batch) if batch.key.is_some() => Some((index, batch)),
                _ => None,
            })
            .collect();
        batches.sort_by(|(a, left), (b, right)| {
            batch_key_of(left).cmp(batch_key_of(right)).then(a.cmp(b))
        });
        batches
    }

    /// Whether a batch has a key.
    pub(super) fn has_batch_keys(&self) -> bool {
        let has_key = |entry: &Entry| matches!(entry, Entry::Batch(batch) if batch.key.is_some());
        self.entries.iter().any(has_key)
    }

    /// Whether a batch with a key is new. Its results are stored then, even if it counted nothing.
    pub(super) fn has_new_batch_keys(&self) -> bool {
        self.keyed_batches().iter().any(|(index, _)| {
            !self.answered.contains_key(index) && !self.repeats.contains_key(index)
        })
    }

    /// Stores the keys of batches. A batch with a key that was already stored gets the stored results.
    pub(super) async fn dedupe_batch_keys(
        &mut self,
        tx: &Transaction,
        now: Millis,
    ) -> Result<(), DbErr> {
        let batches = self.keyed_batches();
        let mut first: Option<(usize, &Batch)> = None;
        for (index, batch) in batches {
            let Some(key) = &batch.key else { continue };
            match first {
                Some((earlier, other)) if batch_key_of(other) == &*key.key => {
                    if other.key.as_ref().map(|other| &other.fingerprint) == Some(&key.fingerprint)
                    {
                        self.repeats.insert(index, earlier);
                    } else {
                        self.answered.insert(
                            index,
                            EntryOutcome::BatchRefused(batch_key_reused(&key.key)),
                        );
                    }
                    continue;
                }
                _ => first = Some((index, batch)),
            }
            let row = batch_key::ActiveModel {
                key: Set(key.key.to_string()),
                fingerprint: Set(key.fingerprint.clone()),
                results: Set(String::new()),
                created_at: Set(now),
            };
            let inserted = batch_key::Entity::insert(row)
                .on_conflict_do_nothing()
                .exec_without_returning(tx)
                .await?;
            if matches!(inserted, sea_orm::TryInsertResult::Inserted(rows) if rows > 0) {
                continue;
            }
            let stored = batch_key::Entity::find_by_id(&*key.key)
                .one(tx)
                .await?
                .ok_or_else(|| DbErr::RecordNotFound("a batch key that conflicted".to_owned()))?;
            let outcome = if stored.fingerprint == key.fingerprint {
                EntryOutcome::Batch {
                    replayed: true,
                    items: decode_results(&stored.results, batch.items.len())?,
                }
            } else {
                EntryOutcome::BatchRefused(batch_key_reused(&key.key))
            };
            self.answered.insert(index, outcome);
        }
        Ok(())
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

    /// Stores the results of new batches for their retries. Most batches counted every item.
    pub(super) async fn store_batch_results(&self, tx: &Transaction) -> Result<(), DbErr> {
        for (index, batch) in self.keyed_batches() {
            let Some(outcomes) = self.outcomes.get(index) else {
                continue;
            };
            let is_new = !self.answered.contains_key(&index) && !self.repeats.contains_key(&index);
            let results = encode_results(outcomes);
            if is_new && !results.is_empty() {
                batch_key::Entity::update_many()
                    .col_expr(batch_key::Column::Results, Expr::value(results))
                    .filter(batch_key::Column::Key.eq(batch_key_of(batch)))
                    .exec(tx)
                    .await?;
            }
        }
        Ok(())
    }

    pub(super) fn outcomes(&self) -> Vec<EntryOutcome> {
        let own = |index: usize| self.outcomes.get(index).cloned().unwrap_or_default();
        self.entries
            .iter()
            .enumerate()
            .map(|(index, entry)| match entry {
                Entry::One(_) => EntryOutcome::One(own(index).pop().unwrap_or(Outcome::Counted)),
                Entry::Batch(_) => match (self.answered.get(&index), self.repeats.get(&index)) {
                    (Some(answer), _) => answer.clone(),
                    (None, Some(earlier)) => match self.answered.get(earlier) {
                        Some(answer) => answer.clone(),
                        None => EntryOutcome::Batch {
                            replayed: true,
                            items: own(*earlier),
                        },
                    },
                    (None, None) => EntryOutcome::Batch {
                        replayed: false,
                        items: own(index),
                    },
                },
            })
            .collect()
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

fn batch_key_of(batch: &Batch) -> &str {
    batch.key.as_ref().map_or("", |key| &*key.key)
}

fn batch_key_reused(key: &str) -> Violation {
    Violation::new(
        Reason::KeyReused,
        "idempotency_key",
        format!(
            "the batch's idempotency_key {} was counted with other content; nothing was counted: \
             use a new key for a new batch",
            quoted(key)
        ),
    )
}

fn content(row: &idempotency_key::Model) -> KeyedContent<'_> {
    KeyedContent {
        meter: &row.meter,
        quantity: row.quantity,
        stated_at: row.stated_at,
    }
}
