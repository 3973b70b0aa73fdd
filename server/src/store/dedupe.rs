//! The deduplication of a group commit: which calls of the group count, and which repeat an idempotency key.

use std::collections::HashMap;

use sea_orm::{
    ActiveValue::Set, ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _,
    sea_query::Expr,
};

use super::{
    batch_results::{decode_results, encode_results},
    batch_sql::{insert_keys, stored_keys},
    connection::{Pool, Transaction},
    group::{Entry, EntryOutcome, Group},
};
use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        increment::{Batch, Increment, KeyedContent, Outcome},
        violation::{Reason, Violation, quoted},
    },
    entity::{batch_key, idempotency_key},
};

/// The position of one increment in a group.
type Place = (usize, usize);
/// An increment with its position and its key.
type Keyed<'a> = (Place, &'a Increment, &'a str);
/// The stored keys, by account and key.
type KnownKeys = HashMap<(AccountId, String), idempotency_key::Model>;

/// The outcome of each increment of a group, as far as it is known.
pub(super) struct Dedupe<'a> {
    entries: &'a [Entry],
    /// One list per call. Unused for batches in `answered` and `repeats`.
    outcomes: Vec<Vec<Outcome>>,
    /// Batches that count nothing in this transaction, with their outcomes.
    answered: HashMap<usize, EntryOutcome>,
    /// Batches that repeat an earlier one of the same group.
    repeats: HashMap<usize, usize>,
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

    /// Stores the keys of single increments. An increment with a key that was already stored is a duplicate or a
    /// violation.
    pub(super) async fn dedupe_keys(&mut self, tx: &Transaction, now: Millis) -> Result<(), DbErr> {
        let keyed = self.keyed();
        let firsts = firsts_of(&keyed);
        let old: Vec<&Increment> = insert_keys(tx, &firsts, now)
            .await?
            .into_iter()
            .filter_map(|place| firsts.get(place).copied())
            .collect();
        if old.is_empty() && firsts.len() == keyed.len() {
            return Ok(());
        }
        let known = read_known(tx, &old).await?;
        self.set_repeated(&keyed, &known);
        Ok(())
    }

    /// The same outcomes as after `dedupe_keys`, without storing a key.
    pub(super) async fn look_up_keys(&mut self, reader: &Pool) -> Result<(), DbErr> {
        let keyed = self.keyed();
        let known = read_known(reader, &firsts_of(&keyed)).await?;
        self.set_repeated(&keyed, &known);
        Ok(())
    }

    /// The increments with a key. Key order is lock order. Of two calls with the same key in one group, the earlier one
    /// counts.
    fn keyed(&self) -> Vec<Keyed<'a>> {
        let mut keyed: Vec<Keyed<'a>> = self
            .increments()
            .filter_map(|(place, increment)| Some((place, increment, increment.key.as_deref()?)))
            .collect();
        keyed.sort_by(|(place, left, key), (other_place, right, other_key)| {
            (&left.account_id, key, place).cmp(&(&right.account_id, other_key, other_place))
        });
        keyed
    }

    /// Sets the outcome of each increment whose key is stored, or is used by an earlier one of the group.
    fn set_repeated(&mut self, keyed: &[Keyed<'a>], known: &KnownKeys) {
        let mut repeated = Vec::new();
        for same in keyed.chunk_by(have_same_key) {
            let Some(((_, first, key), rest)) = same.split_first() else {
                continue;
            };
            let name = (first.account_id.clone(), (*key).to_owned());
            let stored = known.get(&name);
            let used_for = stored.map_or_else(|| first.content(), content);
            let repeats = if stored.is_some() { same } else { rest };
            for (place, increment, key) in repeats {
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

fn have_same_key((_, left, key): &Keyed<'_>, (_, right, other): &Keyed<'_>) -> bool {
    left.account_id == right.account_id && key == other
}

/// The first increment of each key.
fn firsts_of<'a>(keyed: &[Keyed<'a>]) -> Vec<&'a Increment> {
    keyed
        .chunk_by(have_same_key)
        .filter_map(|same| same.first().map(|(_, increment, _)| *increment))
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

/// The content that the stored keys were used with.
async fn read_known(db: &impl ConnectionTrait, old: &[&Increment]) -> Result<KnownKeys, DbErr> {
    let rows = stored_keys(db, old).await?;
    let named = rows
        .into_iter()
        .map(|row| ((row.account_id.clone(), row.key.clone()), row));
    Ok(named.collect())
}
