//! Counts a group by one statement, as most groups need, or tells that it has to be counted step by step.
//!
//! Each message to the database costs a turn between threads or processes, which under load takes longer than its work.

use std::sync::LazyLock;

use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, Statement, Value};
use uuid::Uuid;

use super::{
    additions::{Addition, Windows, sum_by_window},
    boundaries::current_version,
    commit::CommitOptions,
    connection::Transaction,
    dedupe::Dedupe,
    group::{EntryOutcome, Group},
    keys::{self, Keyed},
    open_reports,
    postgres_arrays::{NO_TIME, numbers, texts, uuids},
    value_rows::{MAX_ROWS, padded, place_of},
};
use crate::domain::{closing::closes_at_once, report::MAX_REPORT_QUANTITY};

/// What one statement writes of a group.
pub(super) struct AtOnce<'a> {
    id: Uuid,
    dedupe: Dedupe<'a>,
    increments: usize,
    additions: Vec<Addition>,
    keyed: Vec<Keyed<'a>>,
    windows: Windows,
    /// The version of the boundaries that the windows are of.
    version: i64,
    options: CommitOptions,
}

/// What of a group was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    All,
    /// A key is stored that was taken for new.
    KnownKeys,
    /// A boundary has changed since the windows were chosen.
    OldBoundaries,
}

/// The n-th id is that of the n-th addition: both are in the order of the primary key. All reports are locked before the
/// first key.
static POSTGRES: LazyLock<String> = LazyLock::new(|| {
    let added = open_reports::POSTGRES;
    format!(
        "WITH added AS ({added} RETURNING account_id, window_start, meter, id), \
        reports AS (SELECT array_agg(id ORDER BY account_id, window_start, meter) AS ids FROM added), \
        stored AS (INSERT INTO idempotency_keys \
            (key, account_id, meter, quantity, stated_at, created_at, report_id) \
            SELECT k, a, m, q, NULLIF(s, $15), $16, (SELECT ids FROM reports)[n] \
            FROM UNNEST($9::uuid[], $10::text[], $11::text[], $12::bigint[], $13::bigint[], $14::bigint[]) \
                AS t(k, a, m, q, s, n) \
            ON CONFLICT DO NOTHING RETURNING 1), \
        recorded AS (INSERT INTO commits (id, increments, quantity, committed_at) \
            SELECT $17::uuid, $18::bigint, $19::bigint, $16 FROM boundary_version \
            WHERE id = 1 AND version = $20 RETURNING 1) \
        SELECT (SELECT COUNT(*) FROM added) AS added, (SELECT COUNT(*) FROM stored) AS stored, \
            (SELECT COUNT(*) FROM recorded) AS recorded"
    )
});

/// For 1, 2, 4 rows and so on; without keys, and with them.
static SQLITE: LazyLock<[Vec<String>; 2]> = LazyLock::new(|| {
    let join = |parts: Vec<&[String]>| -> Vec<String> {
        let sizes = parts.first().map_or(0, |part| part.len());
        let text = |size: usize| -> String {
            let texts = parts.iter().filter_map(|part| part.get(size));
            let texts: Vec<&str> = texts.map(String::as_str).chain([RECORD_SQLITE]).collect();
            texts.join("; ")
        };
        (0..sizes).map(text).collect()
    };
    let (reports, keys) = (open_reports::SQLITE.texts(), keys::INSERT_SQLITE.texts());
    [join(vec![reports]), join(vec![reports, keys])]
});

const RECORD_SQLITE: &str = "INSERT INTO commits (id, increments, quantity, committed_at) \
    SELECT ?, ?, ?, ? FROM boundary_version WHERE id = 1 AND version = ?";

impl<'a> AtOnce<'a> {
    /// What to write for a group whose repeated keys were found; absent if it needs more than one statement.
    pub(super) fn new(
        (group, dedupe): (&'a Group, Dedupe<'a>),
        backend: DbBackend,
        (windows, version): (Windows, i64),
        options: CommitOptions,
    ) -> Option<Self> {
        let counted = dedupe.counted();
        let additions = sum_by_window(&counted, &windows);
        let keyed = dedupe.counted_keys();
        let rows = Ord::max(additions.len(), keyed.len());
        let fits = backend == DbBackend::Postgres || rows <= MAX_ROWS;
        let is_usual = additions.iter().all(|row| {
            row.quantity <= MAX_REPORT_QUANTITY && !closes_at_once(row.window.start, options.now)
        });
        (fits && is_usual && !additions.is_empty()).then_some(Self {
            id: group.id,
            increments: counted.len(),
            dedupe,
            additions,
            keyed,
            windows,
            version,
            options,
        })
    }

    /// The outcomes once it is committed.
    pub(super) fn outcomes(&self) -> Vec<EntryOutcome> {
        self.dedupe.outcomes()
    }

    /// Counts the group. Unless it is all written, the transaction must be rolled back.
    ///
    /// # Errors
    /// A CHECK fails if a report would exceed fifteen digits; a unique violation shows that the group's commit exists.
    pub(super) async fn write(&self, tx: &Transaction) -> Result<Written, DbErr> {
        if self.is_all_written(tx).await? {
            return Ok(Written::All);
        }
        if current_version(tx).await? == self.version {
            return Ok(Written::KnownKeys);
        }
        Ok(Written::OldBoundaries)
    }

    async fn is_all_written(&self, tx: &Transaction) -> Result<bool, DbErr> {
        if tx.get_database_backend() == DbBackend::Sqlite {
            let written = tx.execute_raw(self.sqlite()?).await?.rows_affected();
            let all = self.additions.len().saturating_add(self.keyed.len());
            return Ok(u64::try_from(all.saturating_add(1)).ok() == Some(written));
        }
        let statement =
            Statement::from_sql_and_values(DbBackend::Postgres, POSTGRES.as_str(), self.arrays());
        let row = tx.query_one_raw(statement).await?;
        let row = row.ok_or_else(|| DbErr::RecordNotFound("what was counted".to_owned()))?;
        let written = |column, all: usize| -> Result<bool, DbErr> {
            let number: i64 = row.try_get("", column)?;
            Ok(usize::try_from(number).ok() == Some(all))
        };
        Ok(written("added", self.additions.len())?
            && written("stored", self.keyed.len())?
            && written("recorded", 1)?)
    }

    fn sqlite(&self) -> Result<Statement, DbErr> {
        let rows = Ord::max(self.additions.len(), self.keyed.len());
        let (size, place) =
            place_of(rows).ok_or_else(|| DbErr::Custom(format!("a statement of {rows} rows")))?;
        let has_keys = !self.keyed.is_empty();
        let [without_keys, with_keys] = &*SQLITE;
        let texts = if has_keys { with_keys } else { without_keys };
        let text = texts
            .get(place)
            .ok_or_else(|| DbErr::Custom(format!("no statement of {size} rows")))?;
        let mut values: Vec<Value> = Vec::new();
        let additions = self.additions.iter().map(open_reports::row);
        values.extend(padded(additions, &open_reports::no_row(), size));
        if has_keys {
            let keys = self.keyed.iter();
            let keys = keys.map(|keyed| keys::row(keyed, &self.windows, self.options.now));
            values.extend(padded(keys, &keys::NO_ROW, size));
        }
        values.extend(self.record());
        values.push(self.version.into());
        Ok(Statement::from_sql_and_values(
            DbBackend::Sqlite,
            text,
            values,
        ))
    }

    /// The row of `commits`.
    fn record(&self) -> [Value; 4] {
        let quantities = self.additions.iter().map(|row| row.quantity);
        [
            self.id.into(),
            i64::try_from(self.increments).unwrap_or(i64::MAX).into(),
            quantities.fold(0, i64::saturating_add).into(),
            self.options.now.into(),
        ]
    }

    fn arrays(&self) -> Vec<Value> {
        let increments = || self.keyed.iter().map(|keyed| keyed.increment);
        let [id, number, quantity, now] = self.record();
        let mut values = Vec::from(open_reports::arrays(&self.additions));
        values.extend([
            uuids(self.keyed.iter().map(|keyed| keyed.key)),
            texts(increments().map(|increment| &*increment.account_id)),
            texts(increments().map(|increment| &*increment.meter)),
            numbers(increments().map(|increment| increment.quantity)),
            numbers(increments().map(|increment| increment.stated_at.unwrap_or(NO_TIME))),
            numbers(increments().map(|increment| self.place(increment))),
            NO_TIME.into(),
            now,
            id,
            number,
            quantity,
            self.version.into(),
        ]);
        values
    }

    /// Which of the additions contains an increment, from 1 on.
    fn place(&self, increment: &crate::domain::increment::Increment) -> i64 {
        let key = (
            &increment.account_id,
            self.windows.around(increment).start,
            &*increment.meter,
        );
        let found = self.additions.binary_search_by(|row| row.key().cmp(&key));
        // Each increment is in one of them. If not, it gets a place without an id, which the database refuses.
        let place = found.map_or(0, |place| place.saturating_add(1));
        i64::try_from(place).unwrap_or(0)
    }
}
