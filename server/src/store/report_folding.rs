//! Folding of old reports: reads those that are finished, and replaces them by their sums once they are in an archive.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use sea_orm::{ConnectionTrait, DbBackend, DbErr, EntityTrait as _, Statement, Value};
use uuid::Uuid;

use super::{
    Store,
    boundaries::read_boundaries,
    columns::columns,
    connection::Transaction,
    deleted_accounts::{find_deleted, read_salts},
    distribution::read_shards,
    folded_reports::insert_folded,
    postgres_arrays::{texts, uuids},
    report_archives::insert_archive,
    report_states::state_in,
    sending_state::read_sending,
    value_rows::ValueRows,
};
use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        decision::Decision,
        report::{Kind, Report},
        report_archive::{ArchiveFile, ArchiveTotals},
        report_fold::{FINISHED, FinishedReport, Fold, FoldContext, fold},
        shards::ShardMap,
        window::Boundaries,
    },
    entity::usage_report,
    error::{Error, Result},
};

/// The most reports of one archive, and of one transaction, so that counting never waits long.
pub(crate) const REPORTS_PER_ARCHIVE: usize = 2_000;
/// How many reports or accounts are in one list.
const PER_LIST: usize = 1_000;

/// The last report of a page, in the order of folding: the next page begins after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoldCursor(Millis, AccountId, Uuid);

/// Reports that are in a file, and what they are folded into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewFold<'a> {
    pub(crate) reports: &'a [FinishedReport],
    pub(crate) fold: &'a Fold,
    pub(crate) file: &'a ArchiveFile,
}

/// What became of them.
#[derive(Debug)]
pub(crate) enum FoldResult {
    Folded,
    /// Some changed meanwhile: nothing was folded.
    Changed,
    /// Nothing was folded.
    Failed(Error),
}

/// Some finished reports.
#[derive(Debug)]
pub(crate) struct FinishedPage {
    pub(crate) reports: Vec<FinishedReport>,
    /// Where the next page begins; `None` after the last page.
    pub(crate) next: Option<FoldCursor>,
}

impl Store {
    /// The next finished reports whose windows began before a time, the oldest windows first. All of an account and window
    /// are on one page, unless they alone are more than a page.
    pub(crate) async fn finished_reports(
        &self,
        after: Option<&FoldCursor>,
        before: Millis,
    ) -> Result<FinishedPage> {
        // The condition of the index, word for word.
        let sql = format!(
            "SELECT {} FROM usage_reports WHERE kind = '{}' AND {} AND window_start < $1 \
             AND (window_start, account_id, id) > ($2, $3, $4) ORDER BY window_start, account_id, id LIMIT $5",
            columns::<usage_report::Entity>("usage_reports"),
            Kind::Usage.name(),
            state_in(&FINISHED)
        );
        let start = (Millis::MIN, "", Uuid::nil());
        let (window, account, id) = after.map_or(start, |FoldCursor(window, account, id)| {
            (*window, account.as_str(), *id)
        });
        let limit = i64::try_from(REPORTS_PER_ARCHIVE).unwrap_or(i64::MAX);
        let values: [Value; 5] = [
            before.into(),
            window.into(),
            account.into(),
            id.into(),
            limit.into(),
        ];
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        let mut rows = usage_report::Entity::find()
            .from_raw_sql(statement)
            .all(&self.reader)
            .await?;
        let is_full = rows.len() >= REPORTS_PER_ARCHIVE;
        if is_full {
            drop_last_window(&mut rows);
        }
        let next = rows
            .last()
            .filter(|_| is_full)
            .map(|last| FoldCursor(last.window_start, last.account_id.clone(), last.id));
        // The file would keep the id of an account that is being deleted.
        let being_deleted = being_deleted(&self.reader, rows.iter().map(|row| &row.account_id));
        let being_deleted = being_deleted.await?;
        rows.retain(|row| !being_deleted.contains(&row.account_id));
        let reports = self.with_decisions(rows).await?;
        Ok(FinishedPage { reports, next })
    }

    async fn with_decisions(&self, rows: Vec<usage_report::Model>) -> Result<Vec<FinishedReport>> {
        let mut finished: Vec<FinishedReport> = rows.into_iter().map(finished).collect();
        for some in finished.chunks_mut(PER_LIST) {
            let reports: Vec<Report> = some.iter().map(|one| one.report.clone()).collect();
            let mut decisions: HashMap<Uuid, Vec<Decision>> = self.decisions_on(&reports).await?;
            for one in some {
                one.decisions = decisions.remove(&one.report.id).unwrap_or_default();
            }
        }
        Ok(finished)
    }

    /// What decides which of some reports are folded together.
    pub(crate) async fn fold_context(&self, reports: &[FinishedReport]) -> Result<FoldContext> {
        Ok(read_context(&self.reader, reports).await?)
    }

    /// Replaces reports by their sums and records the archive that has them, in one transaction. Changes nothing if one of
    /// them is not as it was read, or they would be folded otherwise now.
    ///
    /// # Errors
    /// The answer to the COMMIT was lost: they may be folded.
    pub(crate) async fn fold_reports(&self, new: &NewFold<'_>, now: Millis) -> Result<FoldResult> {
        let tx = match self.begin_within_boundaries().await {
            Ok(tx) => tx,
            Err(error) => return Ok(FoldResult::Failed(error.into())),
        };
        match replace(&tx, new, now).await {
            Ok(true) => {
                tx.commit().await?;
                Ok(FoldResult::Folded)
            }
            Ok(false) => Ok(match tx.rollback().await {
                Ok(()) => FoldResult::Changed,
                Err(error) => FoldResult::Failed(error.into()),
            }),
            Err(error) => Ok(FoldResult::Failed(error)),
        }
    }
}

async fn replace(tx: &Transaction, new: &NewFold<'_>, now: Millis) -> Result<bool> {
    let Some(totals) = ArchiveTotals::of(new.reports) else {
        return Ok(false);
    };
    let mut as_read: Vec<&FinishedReport> = new.reports.iter().collect();
    as_read.sort_unstable_by_key(|one| one.report.id);
    let stored = lock_reports(tx, &as_read).await?;
    let is_as_read = |(row, read): (usage_report::Model, &&FinishedReport)| {
        let decisions = read.decisions.clone();
        let stored = FinishedReport {
            decisions,
            ..finished(row)
        };
        stored == **read
    };
    let accounts = new.reports.iter().map(|one| &one.report.account_id);
    if !being_deleted(tx, accounts).await?.is_empty() {
        return Ok(false);
    }
    let are_as_read =
        stored.len() == as_read.len() && stored.into_iter().zip(&as_read).all(is_as_read);
    if !are_as_read || fold(new.reports, &read_context(tx, new.reports).await?) != *new.fold {
        return Ok(false);
    }
    let rows = &new.fold.rows;
    let archive = insert_archive(tx, new.file, &totals, rows.len(), now).await?;
    insert_folded(tx, rows, archive).await?;
    let deleted = delete_reports(tx, &as_read).await?;
    Ok(usize::try_from(deleted) == Ok(as_read.len()))
}

/// Those of some accounts whose usage is refused because they are being deleted.
async fn being_deleted(
    db: &impl ConnectionTrait,
    accounts: impl Iterator<Item = &AccountId>,
) -> std::result::Result<HashSet<AccountId>, DbErr> {
    let salts = read_salts(db).await?;
    let accounts: HashSet<&AccountId> = accounts.collect();
    let deleted = find_deleted(db, &salts, accounts.into_iter()).await?;
    Ok(deleted.into_iter().cloned().collect())
}

/// Leaves the last account and window to the next page, which may have more of it.
fn drop_last_window(rows: &mut Vec<usage_report::Model>) {
    let Some(last) = rows.last() else { return };
    let (window, account) = (last.window_start, last.account_id.clone());
    let is_before =
        |row: &usage_report::Model| row.window_start != window || row.account_id != account;
    let kept = rows.iter().rposition(is_before);
    if let Some(kept) = kept {
        rows.truncate(kept.saturating_add(1));
    }
}

fn finished(row: usage_report::Model) -> FinishedReport {
    FinishedReport {
        next_attempt_at: row.next_attempt_at,
        send_by: row.send_by,
        report: row.into(),
        decisions: Vec::new(),
    }
}

async fn read_context(
    db: &impl ConnectionTrait,
    reports: &[FinishedReport],
) -> std::result::Result<FoldContext, DbErr> {
    let mut accounts: Vec<AccountId> = reports
        .iter()
        .map(|one| one.report.account_id.clone())
        .collect();
    accounts.sort_unstable();
    accounts.dedup();
    let windows = reports.iter().map(|one| one.report.window_start);
    let oldest = windows.min().unwrap_or_default();
    let mut boundaries: HashMap<AccountId, Arc<Boundaries>> = HashMap::new();
    for some in accounts.chunks(PER_LIST) {
        boundaries.extend(read_boundaries(db, some, oldest).await?);
    }
    Ok(FoldContext {
        boundaries,
        adopted_at: read_sending(db).await?.adopted_at,
    })
}

/// One is looked up after the other, by its primary key: for a thousand, PostgreSQL would rather read the whole table. All
/// are of the accounts in `within`, on one shard.
fn lock_postgres(within: &str) -> String {
    let columns = columns::<usage_report::Entity>("r");
    format!(
        "SELECT {columns} FROM UNNEST($1::text[], $2::uuid[]) AS t(a, i) CROSS JOIN LATERAL (\
         SELECT * FROM usage_reports WHERE account_id = t.a AND id = t.i{within} OFFSET 0 FOR UPDATE) AS r"
    )
}

static LOCK_SQLITE: ValueRows<2> = ValueRows::new(|| {
    ValueRows::<2>::around_rows(
        &format!(
            "SELECT {} FROM usage_reports AS r WHERE (r.account_id, r.id) IN (SELECT column1, column2 FROM ",
            columns::<usage_report::Entity>("r")
        ),
        ")",
    )
});

/// They are locked, so their places do not change.
const DELETE_POSTGRES: &str = "DELETE FROM usage_reports WHERE ctid = ANY (ARRAY(\
    SELECT r.place FROM UNNEST($1::text[], $2::uuid[]) AS t(a, i) CROSS JOIN LATERAL (\
    SELECT ctid AS place FROM usage_reports WHERE account_id = t.a AND id = t.i OFFSET 0) AS r))";

/// A place in one shard is that of another report in the next one.
const DELETE_DISTRIBUTED: &str = "DELETE FROM usage_reports WHERE account_id = ANY($1) \
    AND (account_id, id) IN (SELECT * FROM UNNEST($1::text[], $2::uuid[]))";

static DELETE_SQLITE: ValueRows<2> = ValueRows::new(|| {
    ValueRows::<2>::around_rows(
        "DELETE FROM usage_reports WHERE (account_id, id) IN (SELECT column1, column2 FROM ",
        ")",
    )
});

/// The values of a row that is not meant.
const NO_KEY: [Value; 2] = [Value::String(None), Value::Uuid(None)];

/// The accounts and the ids of reports, as rows.
fn key_rows<'a>(reports: &'a [&FinishedReport]) -> impl Iterator<Item = [Value; 2]> + 'a {
    let reports = reports.iter().map(|one| &one.report);
    reports.map(|report| [(&report.account_id).into(), report.id.into()])
}

/// The accounts and the ids of reports, as arrays.
fn keys(reports: &[&FinishedReport]) -> [Value; 2] {
    let accounts = reports.iter().map(|one| one.report.account_id.as_str());
    [
        texts(accounts),
        uuids(reports.iter().map(|one| one.report.id)),
    ]
}

/// The statements of PostgreSQL that lock reports: one for each shard, in the order of the shards.
async fn locks_of_shards(
    tx: &Transaction,
    reports: &[&FinishedReport],
) -> std::result::Result<Vec<Statement>, DbErr> {
    // Only with the accounts named does Citus know that all are on one shard.
    let (shards, within) = if tx.shards().is_distributed() {
        (read_shards(tx).await?, " AND account_id = ANY($1)")
    } else {
        (ShardMap::default(), "")
    };
    let split = shards.split(reports.iter().copied(), |one| &one.report.account_id);
    let of_shard = |some: Vec<&FinishedReport>| {
        let sql = lock_postgres(within);
        Statement::from_sql_and_values(DbBackend::Postgres, sql, keys(&some))
    };
    Ok(split.into_iter().map(of_shard).collect())
}

/// Locks reports in the order of their ids, in which they are given, shard after shard.
async fn lock_reports(
    tx: &Transaction,
    reports: &[&FinishedReport],
) -> std::result::Result<Vec<usage_report::Model>, DbErr> {
    let statements = if tx.get_database_backend() == DbBackend::Sqlite {
        LOCK_SQLITE.statements(key_rows(reports), &NO_KEY)?
    } else {
        locks_of_shards(tx, reports).await?
    };
    let mut locked = Vec::new();
    for statement in statements {
        let rows = usage_report::Entity::find().from_raw_sql(statement);
        locked.extend(rows.all(tx).await?);
    }
    locked.sort_unstable_by_key(|row| row.id);
    Ok(locked)
}

async fn delete_reports(
    tx: &Transaction,
    reports: &[&FinishedReport],
) -> std::result::Result<u64, DbErr> {
    let statements = if tx.get_database_backend() == DbBackend::Sqlite {
        DELETE_SQLITE.statements(key_rows(reports), &NO_KEY)?
    } else {
        let sql = if tx.shards().is_distributed() {
            DELETE_DISTRIBUTED
        } else {
            DELETE_POSTGRES
        };
        let values = keys(reports);
        vec![Statement::from_sql_and_values(
            DbBackend::Postgres,
            sql,
            values,
        )]
    };
    let mut deleted = 0_u64;
    for statement in statements {
        let rows = tx.execute_raw(statement).await?.rows_affected();
        deleted = deleted.saturating_add(rows);
    }
    Ok(deleted)
}
