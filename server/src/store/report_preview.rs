//! The preview of a run: the reports that it would close or send, in pages.

use sea_orm::{
    ColumnTrait as _, DbErr, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    sea_query::ExprTrait as _,
};

use super::{
    Store,
    close::open_after,
    connection::Transaction,
    report_list::{Page, id_of, in_states, left_of, open_place, without_index_of_ids},
    report_place::{ReportPlace, ReportWithPlace},
    report_states::is_due,
    reports::in_scope,
    unindexed,
};
use crate::{
    domain::{Millis, report::State, run::Scope},
    entity::{
        open_report,
        usage_report::{self, UsageReportState},
    },
    error::Result,
};

impl Store {
    /// The reports that a run over a scope would close or send now: open ones of windows that have begun, and closed
    /// ones that were not sent.
    pub(crate) async fn preview_reports(
        &self,
        scope: &Scope,
        after: Option<&ReportPlace>,
        now: Millis,
        limit: u64,
    ) -> Result<Page> {
        let tx = self.begin_reading().await?;
        let reports = match scope {
            Scope::Accounts(_) => preview_accounts(&tx, scope, after, now, limit).await?,
            Scope::All => preview_all(&tx, after, now, limit).await?,
        };
        tx.rollback().await?;
        Ok(reports)
    }
}

/// Both kinds together, oldest first. They are found by the indexes of accounts: an account's history is not read.
async fn preview_accounts(
    tx: &Transaction,
    scope: &Scope,
    after: Option<&ReportPlace>,
    now: Millis,
    limit: u64,
) -> std::result::Result<Page, DbErr> {
    let (after, id) = (id_of(after), without_index_of_ids);
    let mut open = in_scope(
        scope,
        open_report::Entity::find(),
        open_report::Column::AccountId,
    )
    .filter(unindexed(open_report::Column::WindowStart).lte(now));
    let mut unsent = in_scope(
        scope,
        usage_report::Entity::find(),
        usage_report::Column::AccountId,
    )
    .filter(unindexed(usage_report::Column::WindowStart).lte(now))
    .filter(is_due())
    .filter(usage_report::Column::State.ne(UsageReportState::Unknown));
    if let Some(after) = after {
        open = open.filter(id().gt(after));
        unsent = unsent.filter(id().gt(after));
    }
    let open = open.order_by_asc(id()).limit(limit).all(tx).await?;
    let unsent = unsent.order_by_asc(id()).limit(limit).all(tx).await?;
    let open = open
        .into_iter()
        .map(|row| ReportWithPlace::by_id(row.into()));
    let unsent = unsent
        .into_iter()
        .map(|row| ReportWithPlace::by_id(row.into()));
    let mut page: Page = open.chain(unsent).collect();
    page.sort_unstable_by_key(|one| one.report.id);
    page.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(page)
}

/// The open ones in their order, then the closed ones, the earliest closed first.
async fn preview_all(
    tx: &Transaction,
    after: Option<&ReportPlace>,
    now: Millis,
    limit: u64,
) -> std::result::Result<Page, DbErr> {
    use usage_report::Column;
    let mut page = Vec::new();
    let after_number = match after {
        Some(ReportPlace::Closed(number)) => Some(*number),
        _ => None,
    };
    if after_number.is_none() {
        let open = open_after(open_report::Entity::find(), open_place(after))
            .filter(unindexed(open_report::Column::WindowStart).lte(now));
        let open = open.limit(limit).all(tx).await?;
        page.extend(open.into_iter().map(ReportWithPlace::open));
    }
    let left = left_of(limit, &page);
    if left == 0 {
        return Ok(page);
    }
    let mut query = usage_report::Entity::find()
        .filter(unindexed(Column::WindowStart).lte(now))
        .order_by_asc(Column::Number)
        .limit(left);
    if let Some(after) = after_number {
        query = query.filter(Column::Number.gt(after));
    }
    let mut unsent = in_states(tx, query, &[State::Closed, State::Sending]).await?;
    unsent.sort_unstable_by_key(|row| row.number);
    page.extend(unsent.into_iter().map(ReportWithPlace::closed));
    page.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(page)
}
