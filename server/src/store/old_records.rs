//! Queries of old audit entries, runs and decisions: to export them, and to delete what is in an archive.

use sea_orm::{
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    sea_query::{Expr, ExprTrait as _, Query},
};
use uuid::Uuid;

use super::Store;
use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        audit::Entry,
        decision::{Decision, RecordedDecision},
        run::{Run, Trigger},
    },
    entity::{audit_entry, report_decision, report_run, usage_report},
    error::Result,
};

/// How many rows one step archives: a file of some megabytes, and one short transaction.
const ROWS_PER_STEP: u64 = 2_000;

impl Store {
    /// The oldest audit entries from before a time, one step of them.
    pub(crate) async fn old_audit_entries(&self, before: Millis) -> Result<Vec<Entry>> {
        use audit_entry::Column;
        let rows = audit_entry::Entity::find()
            .filter(Column::At.lt(before))
            .order_by_asc(Column::At)
            .order_by_asc(Column::Id)
            .limit(ROWS_PER_STEP)
            .all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(Entry::from).collect())
    }

    /// The oldest runs that ended and began before a time, one step of them. The last one of the schedule stays.
    pub(crate) async fn old_runs(&self, before: Millis) -> Result<Vec<Run>> {
        use report_run::Column;
        let last = report_run::Entity::find()
            .filter(Column::Trigger.eq(report_run::ReportRunTrigger::from(Trigger::Schedule)))
            .order_by_desc(Column::StartedAt)
            .one(&self.reader)
            .await?;
        // Their ids are in the order of their beginnings.
        let rows = report_run::Entity::find()
            .filter(Column::Id.lt(first_id_of(before)))
            .filter(Column::StartedAt.lt(before))
            .filter(Column::ClosingFinishedAt.is_not_null())
            .order_by_asc(Column::Id)
            .limit(ROWS_PER_STEP)
            .all(&self.reader)
            .await?;
        let last = last.map(|run| run.id);
        let rows = rows.into_iter().filter(|run| Some(run.id) != last);
        let runs: std::result::Result<_, _> = rows.map(Run::try_from).collect();
        Ok(runs?)
    }

    /// The oldest decisions from before a time whose reports are in archives, one step of them.
    pub(crate) async fn old_decisions(&self, before: Millis) -> Result<Vec<RecordedDecision>> {
        use report_decision::{Column, Entity};
        let report = |column: usage_report::Column| Expr::col((usage_report::Entity, column));
        let of_decision = |column: Column| Expr::col((Entity, column));
        let is_kept = Query::select()
            .expr(Expr::val(1))
            .from(usage_report::Entity)
            .and_where(report(usage_report::Column::AccountId).eq(of_decision(Column::AccountId)))
            .and_where(report(usage_report::Column::Id).eq(of_decision(Column::ReportId)))
            .to_owned();
        let rows = Entity::find()
            .filter(Column::DecidedAt.lt(before))
            .filter(Expr::exists(is_kept).not())
            .order_by_asc(Column::DecidedAt)
            .limit(ROWS_PER_STEP)
            .all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(recorded).collect())
    }

    /// Deletes audit entries that are in an archive.
    pub(crate) async fn delete_audit_entries(&self, ids: Vec<Uuid>) -> Result<()> {
        audit_entry::Entity::delete_many()
            .filter(audit_entry::Column::Id.is_in(ids))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Deletes runs that are in an archive.
    pub(crate) async fn delete_runs(&self, ids: Vec<Uuid>) -> Result<()> {
        report_run::Entity::delete_many()
            .filter(report_run::Column::Id.is_in(ids))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Deletes decisions that are in an archive.
    pub(crate) async fn delete_decisions(&self, decisions: &[RecordedDecision]) -> Result<()> {
        use report_decision::Column;
        let accounts = decisions.iter().map(|one| one.account_id.as_str());
        report_decision::Entity::delete_many()
            .filter(Column::AccountId.is_in(accounts))
            .filter(Column::Id.is_in(decisions.iter().map(|one| one.id)))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// Runs in the order of their beginnings, after an id.
    pub(crate) async fn runs_after(&self, after: Option<Uuid>, limit: u64) -> Result<Vec<Run>> {
        use report_run::Column;
        let rows = report_run::Entity::find()
            .filter(Column::Id.gt(after.unwrap_or_default()))
            .order_by_asc(Column::Id)
            .limit(limit)
            .all(&self.reader)
            .await?;
        let runs: std::result::Result<_, _> = rows.into_iter().map(Run::try_from).collect();
        Ok(runs?)
    }

    /// Decisions by account, those of each in the order in which they were made, after one.
    pub(crate) async fn list_decisions(
        &self,
        after: Option<(&AccountId, Uuid)>,
        limit: u64,
    ) -> Result<Vec<RecordedDecision>> {
        use report_decision::Column;
        let mut query = report_decision::Entity::find();
        if let Some((account, id)) = after {
            let key = Expr::tuple([Expr::col(Column::AccountId), Expr::col(Column::Id)]);
            let place = Expr::tuple([Expr::value(account.as_str()), Expr::value(id)]);
            query = query.filter(key.gt(place));
        }
        let rows = query
            .order_by_asc(Column::AccountId)
            .order_by_asc(Column::Id)
            .limit(limit)
            .all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(recorded).collect())
    }
}

fn recorded(row: report_decision::Model) -> RecordedDecision {
    RecordedDecision {
        account_id: row.account_id.clone(),
        id: row.id,
        decision: Decision::from(row),
    }
}

/// The smallest `UUIDv7` of a time.
fn first_id_of(at: Millis) -> Uuid {
    let millis = u128::try_from(at).unwrap_or(0);
    Uuid::from_u128(millis.wrapping_shl(80))
}
