//! The keys of batches: which batches of a group repeat a key, which of their items are counted, and the results that are
//! kept for their retries.
//!
//! A key belongs to the caller who sent it. What a key of an API denied is not kept: it is counted by the first repetition
//! that is allowed to.

use std::collections::{HashMap, HashSet};

use sea_orm::{
    ActiveValue::Set, ColumnTrait as _, DbErr, EntityTrait as _, QueryFilter as _,
    QuerySelect as _, TryInsertResult, sea_query::Expr,
};

use super::{
    batch_results::{decode_results, encode_results},
    connection::Transaction,
    group::Entry,
};
use crate::{
    domain::{
        Millis,
        increment::{Batch, BatchKey, Increment, Outcome},
        violation::{Reason, Violation, quoted},
    },
    entity::batch_key::{ActiveModel, Column, Entity, Model},
};

/// The caller whose batches were sent while no call needed a key.
const ANYONE: &str = "";

/// A batch with a key, and its position in the group.
type KeyedBatch<'a> = (usize, &'a Batch, &'a BatchKey);

/// What gives an item of a repeated batch its outcome.
#[derive(Clone, Debug)]
enum Source {
    /// This call.
    Own,
    /// An earlier transaction.
    Stored(Outcome),
    /// An earlier batch of the group, by its position.
    Earlier(usize),
}

impl Source {
    fn of_stored(outcome: Outcome) -> Self {
        match &outcome {
            Outcome::Refused(violation) if violation.reason == Reason::PermissionDenied => {
                Self::Own
            }
            _ => Self::Stored(outcome),
        }
    }
}

/// The batches of a group that have keys.
pub(super) struct KeyedBatches<'a> {
    /// In the order of their keys, which is the order of the locks; those with the same key in the order of their arrival.
    batches: Vec<KeyedBatch<'a>>,
    /// One for each item of a batch that repeats a key.
    repeats: HashMap<usize, Vec<Source>>,
    /// Batches whose key was used with other content.
    refused: HashMap<usize, Violation>,
    /// The results that are stored under the key of a batch.
    stored: HashMap<usize, String>,
    /// Batches whose key was stored by this transaction.
    new: HashSet<usize>,
}

impl<'a> KeyedBatches<'a> {
    pub(super) fn new(entries: &'a [Entry]) -> Self {
        let batches = entries.iter().enumerate();
        let mut batches: Vec<KeyedBatch<'a>> = batches
            .filter_map(|(index, entry)| match entry {
                Entry::Batch(batch) => Some((index, batch, batch.key.as_ref()?)),
                Entry::One(_) => None,
            })
            .collect();
        batches
            .sort_by(|(a, _, left), (b, _, right)| place(left).cmp(&place(right)).then(a.cmp(b)));
        Self {
            batches,
            repeats: HashMap::new(),
            refused: HashMap::new(),
            stored: HashMap::new(),
            new: HashSet::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Whether an item of the group gets its outcome from this call.
    pub(super) fn is_own(&self, entry: usize, item: usize) -> bool {
        let repeated = self.repeats.get(&entry).and_then(|items| items.get(item));
        !self.refused.contains_key(&entry) && matches!(repeated, None | Some(Source::Own))
    }

    /// Why a batch is refused as a whole.
    pub(super) fn refused(&self, entry: usize) -> Option<&Violation> {
        self.refused.get(&entry)
    }

    /// Whether the key of a batch was known before it.
    pub(super) fn is_repeated(&self, entry: usize) -> bool {
        self.repeats.contains_key(&entry)
    }

    /// The outcome of each item of a batch; `outcomes` has those that this transaction found, of each entry.
    pub(super) fn outcomes(&self, entry: usize, outcomes: &[Vec<Outcome>]) -> Vec<Outcome> {
        let own = outcomes.get(entry).map_or(&[][..], Vec::as_slice);
        let Some(sources) = self.repeats.get(&entry) else {
            return own.to_vec();
        };
        let items = own.iter().zip(sources).enumerate();
        let items = items.map(|(item, (own, source))| match source {
            Source::Own => own,
            Source::Stored(outcome) => outcome,
            Source::Earlier(earlier) => outcomes
                .get(*earlier)
                .and_then(|items| items.get(item))
                .unwrap_or(own),
        });
        items.cloned().collect()
    }

    /// Stores the keys, and finds which batches repeat one.
    pub(super) async fn look_up(&mut self, tx: &Transaction, now: Millis) -> Result<(), DbErr> {
        let batches = std::mem::take(&mut self.batches);
        for same in batches.chunk_by(|(_, _, left), (_, _, right)| place(left) == place(right)) {
            self.look_up_one(tx, same, now).await?;
        }
        self.batches = batches;
        Ok(())
    }

    /// Looks up the key of batches that all have the same one.
    async fn look_up_one(
        &mut self,
        tx: &Transaction,
        same: &[KeyedBatch<'_>],
        now: Millis,
    ) -> Result<(), DbErr> {
        let Some((first, batch, key)) = same.first() else {
            return Ok(());
        };
        let is_new = insert(tx, key, now).await?;
        let known = if is_new {
            counted_by_anyone(tx, key).await?
        } else {
            Some(find(tx, key).await?)
        };
        let fingerprint = known
            .as_ref()
            .map_or(&key.fingerprint, |row| &row.fingerprint);
        let accepted = same
            .iter()
            .find(|(_, _, key)| key.fingerprint == *fingerprint);
        let mut sources = match (&known, accepted) {
            (Some(row), Some((_, batch, _))) => {
                let stored = decode_results(&row.results, batch.items.len())?;
                stored.into_iter().map(Source::of_stored).collect()
            }
            (Some(_), None) => Vec::new(),
            (None, _) => vec![Source::Own; batch.items.len()],
        };
        let mut is_repeated = known.is_some();
        for (index, batch, key) in same {
            if key.fingerprint != *fingerprint {
                self.refused.insert(*index, reused(&key.key));
                continue;
            }
            if is_repeated {
                self.repeats.insert(*index, sources.clone());
            }
            is_repeated = true;
            // What this batch counts or refuses, the later ones only repeat.
            for (source, item) in sources.iter_mut().zip(&batch.items) {
                if matches!(source, Source::Own) && !is_denied(item) {
                    *source = Source::Earlier(*index);
                }
            }
        }
        if is_new {
            self.new.insert(*first);
        } else if let Some(row) = known {
            self.stored.insert(*first, row.results);
        }
        Ok(())
    }

    /// Stores what has changed of the results of each key; false if nothing of any key is new. Most batches counted every
    /// item, which is stored as nothing.
    pub(super) async fn store_results(
        &self,
        tx: &Transaction,
        outcomes: &[Vec<Outcome>],
    ) -> Result<bool, DbErr> {
        let mut is_changed = !self.new.is_empty();
        let same = self
            .batches
            .chunk_by(|(_, _, left), (_, _, right)| place(left) == place(right));
        for same in same {
            let accepted = same.iter().rev();
            let mut accepted = accepted.filter(|(index, ..)| !self.refused.contains_key(index));
            // The last one repeats what the others counted.
            let (Some((first, ..)), Some((last, _, key))) = (same.first(), accepted.next()) else {
                continue;
            };
            let results = encode_results(&self.outcomes(*last, outcomes));
            if self.stored.get(first).map_or("", String::as_str) == results {
                continue;
            }
            is_changed = true;
            Entity::update_many()
                .col_expr(Column::Results, Expr::value(results))
                .filter(Column::Caller.eq(&*key.caller))
                .filter(Column::Key.eq(&*key.key))
                .exec(tx)
                .await?;
        }
        Ok(is_changed)
    }
}

fn place(key: &BatchKey) -> (&str, &str) {
    (&key.caller, &key.key)
}

/// Whether the caller may not count an item. Another key of the same caller may.
fn is_denied(item: &Result<Increment, Violation>) -> bool {
    matches!(item, Err(violation) if violation.reason == Reason::PermissionDenied)
}

/// Stores a key; false if it is known.
async fn insert(tx: &Transaction, key: &BatchKey, now: Millis) -> Result<bool, DbErr> {
    let row = ActiveModel {
        caller: Set(key.caller.to_string()),
        key: Set(key.key.to_string()),
        fingerprint: Set(key.fingerprint.clone()),
        results: Set(String::new()),
        created_at: Set(now),
    };
    let inserted = Entity::insert(row)
        .on_conflict_do_nothing()
        .exec_without_returning(tx)
        .await?;
    Ok(matches!(inserted, TryInsertResult::Inserted(rows) if rows > 0))
}

/// A key that is known.
async fn find(tx: &Transaction, key: &BatchKey) -> Result<Model, DbErr> {
    let gone = || DbErr::RecordNotFound("a batch key that conflicted".to_owned());
    let query = || Entity::find_by_id((key.caller.to_string(), key.key.to_string()));
    let row = query().one(tx).await?.ok_or_else(gone)?;
    if !row.results.contains(Reason::PermissionDenied.name()) {
        return Ok(row);
    }
    // Of two repetitions at once that may count what was denied, one counts it.
    let locked = query().lock_exclusive().one(tx).await?;
    locked.ok_or_else(gone)
}

/// The same batch, if it was sent while no call needed a key: its caller may have got one before its retry.
async fn counted_by_anyone(tx: &Transaction, key: &BatchKey) -> Result<Option<Model>, DbErr> {
    if &*key.caller == ANYONE {
        return Ok(None);
    }
    let row = Entity::find_by_id((ANYONE.to_owned(), key.key.to_string()));
    let row = row.one(tx).await?;
    Ok(row.filter(|row| row.fingerprint == key.fingerprint))
}

fn reused(key: &str) -> Violation {
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
