//! Queries of archives: the files that folded reports were written to.

use std::collections::HashMap;

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, DbErr, EntityTrait as _, FromQueryResult, QueryFilter as _, QueryOrder as _,
    QuerySelect as _,
    sea_query::{Expr, ExprTrait as _, Func},
};
use uuid::Uuid;

use super::{Store, connection::Transaction, rows};
use crate::{
    domain::{
        HOUR_MS, Millis,
        account_id::AccountId,
        period::rfc3339,
        report::State,
        report_archive::{AccountArchive, ArchiveFile, ArchiveTotals, ReportArchive},
        violation::Violation,
        window::Interval,
    },
    entity::{
        folded_report,
        report_archive::{self, Column},
        usage_report::UsageReportState,
    },
    error::Result,
};

/// How many archives one list has at most.
pub(crate) const ARCHIVES_PER_LIST: u64 = 1_000;
/// How many archives are named that may have a report.
const NAMED_ARCHIVES: usize = 3;

/// The rows that are stored of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromQueryResult)]
pub(crate) struct StoredRows {
    /// The number of the archive.
    pub(crate) archive: i64,
    /// The number of rows.
    pub(crate) folded_reports: i64,
    /// The number of reports that they are the sums of.
    pub(crate) reports: i64,
    /// The sum of their quantities.
    pub(crate) quantity: i64,
}

#[derive(Debug, FromQueryResult)]
struct AccountSum {
    archive: i64,
    reports: i64,
    quantity: i64,
    first_window: Millis,
    last_window_end: Millis,
}

impl Store {
    /// Archives after the one with a number, in the order of their numbers.
    pub(crate) async fn archives_after(&self, number: i64) -> Result<Vec<ReportArchive>> {
        let found = report_archive::Entity::find()
            .filter(Column::Number.gt(number))
            .order_by_asc(Column::Number)
            .limit(ARCHIVES_PER_LIST)
            .all(&self.reader)
            .await?;
        Ok(rows::all(found))
    }

    /// What is stored of each archive, in the order of their numbers.
    pub(crate) async fn stored_rows_by_archive(&self) -> Result<Vec<StoredRows>> {
        use folded_report::Column as F;
        Ok(folded_report::Entity::find()
            .select_only()
            .column(F::Archive)
            .column_as(F::Id.count(), "folded_reports")
            .column_as(sum(F::Reports), "reports")
            .column_as(sum(F::Quantity), "quantity")
            .group_by(F::Archive)
            .order_by_asc(F::Archive)
            .into_model::<StoredRows>()
            .all(&self.reader)
            .await?)
    }

    /// The newest archives with reports of an account in some states, none meaning any, and what is in them of it.
    pub(crate) async fn archives_of(
        &self,
        account_id: &AccountId,
        states: &[State],
    ) -> Result<Vec<AccountArchive>> {
        use folded_report::Column as F;
        let mut query = folded_report::Entity::find()
            .select_only()
            .column(F::Archive)
            .column_as(sum(F::Reports), "reports")
            .column_as(sum(F::Quantity), "quantity")
            .column_as(F::WindowStart.min(), "first_window")
            .column_as(F::WindowEnd.max(), "last_window_end")
            .filter(F::AccountId.eq(account_id));
        if !states.is_empty() {
            let states = states.iter().copied().map(UsageReportState::from);
            query = query.filter(F::State.is_in(states));
        }
        let sums = query
            .group_by(F::Archive)
            .order_by_desc(F::Archive)
            .limit(ARCHIVES_PER_LIST)
            .into_model::<AccountSum>()
            .all(&self.reader)
            .await?;
        let numbers = sums.iter().map(|sum| sum.archive);
        let archives: Vec<ReportArchive> = rows::all(
            report_archive::Entity::find()
                .filter(Column::Number.is_in(numbers))
                .all(&self.reader)
                .await?,
        );
        let mut by_number: HashMap<i64, ReportArchive> = archives
            .into_iter()
            .map(|archive| (archive.number, archive))
            .collect();
        // Archives are never deleted, so each is found.
        let of_account = sums.into_iter().filter_map(|sum| {
            Some(AccountArchive {
                archive: by_number.remove(&sum.archive)?,
                reports: sum.reports,
                quantity: sum.quantity,
                windows: Interval {
                    start: sum.first_window,
                    end: sum.last_window_end,
                },
            })
        });
        Ok(of_account.collect())
    }

    /// The archives that may have a report, the likeliest first: an id grows with the time at which its report opened.
    pub(crate) async fn archives_around(&self, id: Uuid) -> Result<Vec<ReportArchive>> {
        let found = report_archive::Entity::find()
            .filter(Column::LastId.gte(id))
            .filter(Column::FirstId.lte(id))
            .order_by_asc(Column::LastId)
            .limit(ARCHIVES_PER_LIST)
            .all(&self.reader)
            .await?;
        let mut archives: Vec<ReportArchive> = rows::all(found);
        let opened_at = id.get_timestamp().map(|at| at.to_unix());
        let opened_at = opened_at.and_then(|(secs, _)| Millis::try_from(secs).ok());
        let opened_at = opened_at.map(|secs| secs.saturating_mul(1_000));
        let is_likely = |archive: &ReportArchive| {
            opened_at.is_some_and(|at| archive.totals.windows.contains(at))
        };
        archives.sort_by_key(|archive| !is_likely(archive));
        archives.truncate(NAMED_ARCHIVES);
        Ok(archives)
    }
}

fn sum(column: folded_report::Column) -> Expr {
    Func::sum(Expr::col(column)).cast_as("bigint")
}

/// Records an archive in the transaction that folds its reports. Returns its number.
pub(super) async fn insert_archive(
    tx: &Transaction,
    file: &ArchiveFile,
    totals: &ArchiveTotals,
    folded_reports: usize,
    now: Millis,
) -> std::result::Result<i64, DbErr> {
    let last: Option<i64> = report_archive::Entity::find()
        .select_only()
        .column(Column::Number)
        .order_by_desc(Column::Number)
        .limit(1)
        .into_tuple()
        .one(tx)
        .await?;
    let number = last.unwrap_or(0).saturating_add(1);
    let row = report_archive::ActiveModel {
        number: Set(number),
        file: Set(file.name.clone()),
        sha256: Set(file.sha256.clone()),
        bytes: Set(file.bytes),
        reports: Set(totals.reports),
        folded_reports: Set(i64::try_from(folded_reports).unwrap_or(i64::MAX)),
        quantity: Set(totals.quantity),
        first_window: Set(totals.windows.start),
        last_window_end: Set(totals.windows.end),
        first_id: Set(totals.ids.0),
        last_id: Set(totals.ids.1),
        created_at: Set(now),
    };
    report_archive::Entity::insert(row)
        .exec_without_returning(tx)
        .await?;
    Ok(number)
}

/// Rejects a time from which an account's usage is to be billed, if usage since then that is not billed was folded: that
/// cannot be billed any more.
pub(super) async fn check_not_folded(
    tx: &Transaction,
    account_id: &AccountId,
    bill_from: Option<Millis>,
) -> Result<()> {
    use folded_report::Column as F;
    let Some(from) = bill_from else {
        return Ok(());
    };
    let last: Option<Millis> = folded_report::Entity::find()
        .select_only()
        .column_as(F::LastAt.max(), "last_at")
        .filter(F::AccountId.eq(account_id))
        // No window is longer than an hour.
        .filter(F::WindowStart.gt(from.saturating_sub(HOUR_MS)))
        .filter(F::LastAt.gte(from))
        .filter(F::State.eq(UsageReportState::NotBillable))
        .into_tuple()
        .one(tx)
        .await?
        .flatten();
    let Some(last) = last else { return Ok(()) };
    let violation = Violation::invalid(
        "stripe.bill_from",
        format!(
            "bill_from {} reaches into usage until {} that is not billed and was folded into an archive; give a later time",
            rfc3339(from),
            rfc3339(last)
        ),
    );
    Err(violation.into())
}

impl From<report_archive::Model> for ReportArchive {
    fn from(row: report_archive::Model) -> Self {
        Self {
            number: row.number,
            file: ArchiveFile {
                name: row.file,
                sha256: row.sha256,
                bytes: row.bytes,
            },
            totals: ArchiveTotals {
                reports: row.reports,
                quantity: row.quantity,
                windows: Interval {
                    start: row.first_window,
                    end: row.last_window_end,
                },
                ids: (row.first_id, row.last_id),
            },
            folded_reports: row.folded_reports,
            created_at: row.created_at,
        }
    }
}
