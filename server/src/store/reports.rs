//! Reading usage reports: sums for `Get`, rows for `ListReports`.

use std::collections::HashMap;

use sea_orm::{
    ColumnTrait as _, EntityTrait as _, FromQueryResult, QueryFilter as _, QueryOrder as _,
    QuerySelect as _,
    sea_query::{ExprTrait as _, Func},
};
use uuid::Uuid;

use super::{Store, boundaries::read_links, close::Scope};
use crate::{
    domain::{
        Millis,
        account::Link,
        report::{Kind, State},
        window::Interval,
    },
    entity::usage_report,
    error::Result,
};

/// A usage report as it stands in the database.
pub(crate) type Report = usage_report::Model;

/// The usage of one meter, window and state.
#[derive(Debug, FromQueryResult)]
pub(crate) struct UsageSum {
    /// The meter.
    pub(crate) meter: String,
    /// The window's start.
    pub(crate) window_start: Millis,
    /// A name of [`State`].
    pub(crate) state: String,
    /// The sum of the quantities.
    pub(crate) quantity: i64,
}

/// Which reports to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReportFilter {
    /// Only this account's.
    pub(crate) account_id: Option<String>,
    /// Only in these states; empty means any.
    pub(crate) states: Vec<State>,
    /// Only what this run closed.
    pub(crate) run_id: Option<Uuid>,
    /// Only what holds this.
    pub(crate) kind: Option<Kind>,
}

impl Store {
    /// The usage of an account in a period whose edges cut no window, by meter, window and state.
    pub(crate) async fn sum_usage(
        &self,
        account_id: &str,
        meter: Option<&str>,
        period: Interval,
    ) -> Result<Vec<UsageSum>> {
        use usage_report::Column;
        let mut query = usage_report::Entity::find()
            .select_only()
            .column(Column::Meter)
            .column(Column::WindowStart)
            .column(Column::State)
            .column_as(
                Func::sum(sea_orm::sea_query::Expr::col(Column::Quantity)).cast_as("bigint"),
                "quantity",
            )
            .filter(Column::AccountId.eq(account_id))
            .filter(Column::WindowStart.gte(period.start))
            .filter(Column::WindowStart.lt(period.end))
            .group_by(Column::Meter)
            .group_by(Column::WindowStart)
            .group_by(Column::State);
        if let Some(meter) = meter {
            query = query.filter(Column::Meter.eq(meter));
        }
        Ok(query.into_model::<UsageSum>().all(&self.reader).await?)
    }

    /// Reports, newest first, that are older than the one given.
    pub(crate) async fn list_reports(
        &self,
        filter: &ReportFilter,
        before: Option<Uuid>,
        limit: u64,
    ) -> Result<Vec<Report>> {
        use usage_report::Column;
        let mut query = usage_report::Entity::find();
        if let Some(account) = &filter.account_id {
            query = query.filter(Column::AccountId.eq(account));
        }
        if !filter.states.is_empty() {
            query =
                query.filter(Column::State.is_in(filter.states.iter().map(|state| state.name())));
        }
        if let Some(run) = filter.run_id {
            query = query.filter(Column::RunId.eq(run));
        }
        if let Some(kind) = filter.kind {
            query = query.filter(Column::Kind.eq(kind.name()));
        }
        if let Some(before) = before {
            query = query.filter(Column::Id.lt(before));
        }
        Ok(query
            .order_by_desc(Column::Id)
            .limit(limit)
            .all(&self.reader)
            .await?)
    }

    /// What a run over a scope would have work with now: what counts in windows that have begun, and what
    /// is closed and not sent; in pages by account and id.
    pub(crate) async fn preview_reports(
        &self,
        scope: &Scope,
        after: Option<Uuid>,
        now: Millis,
        limit: u64,
    ) -> Result<Vec<Report>> {
        use usage_report::Column;
        let mut query = scope
            .narrow(usage_report::Entity::find())
            .filter(Column::State.is_in([
                State::Open.name(),
                State::Closed.name(),
                State::Sending.name(),
            ]))
            .filter(Column::WindowStart.lte(now));
        if let Some(after) = after {
            query = query.filter(Column::Id.gt(after));
        }
        Ok(query
            .order_by_asc(Column::Id)
            .limit(limit)
            .all(&self.reader)
            .await?)
    }

    /// The links of the accounts of some reports, each account's oldest first.
    pub(crate) async fn links_of(&self, reports: &[Report]) -> Result<HashMap<String, Vec<Link>>> {
        let accounts = reports.iter().map(|report| report.account_id.as_str());
        Ok(read_links(&self.reader, accounts).await?)
    }
}
