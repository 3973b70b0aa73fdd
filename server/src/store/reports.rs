//! Queries of usage reports: sums for `Get`, and what stands beside some reports.

use std::collections::HashMap;

use sea_orm::{
    ColumnTrait as _, EntityTrait, QueryFilter as _, QuerySelect as _, Select,
    sea_query::{Expr, ExprTrait as _, Func},
};

use super::{Store, links::read_links};
use crate::{
    domain::{
        Millis,
        account::Link,
        account_id::AccountId,
        report::{Report, State},
        run::Scope,
        window::Interval,
    },
    entity::{any_report, usage_report::UsageReportState},
    error::Result,
};

/// The usage of one meter, window and state.
#[derive(Debug)]
pub(crate) struct UsageSum {
    /// The meter.
    pub(crate) meter: String,
    /// The window's start.
    pub(crate) window_start: Millis,
    /// The state.
    pub(crate) state: State,
    /// The sum of the quantities.
    pub(crate) quantity: i64,
}

impl Store {
    /// The usage of an account in a period, by meter, window and state. The period's edges must not lie inside a
    /// window.
    pub(crate) async fn sum_usage(
        &self,
        account_id: &AccountId,
        meter: Option<&str>,
        period: Interval,
    ) -> Result<Vec<UsageSum>> {
        use any_report::Column;
        let mut query = any_report::Entity::find()
            .select_only()
            .column(Column::Meter)
            .column(Column::WindowStart)
            .column(Column::State)
            .column_as(
                Func::sum(Expr::col(Column::Quantity)).cast_as("bigint"),
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
        let sums: Vec<(String, Millis, UsageReportState, i64)> =
            query.into_tuple().all(&self.reader).await?;
        Ok(sums
            .into_iter()
            .map(|(meter, window_start, state, quantity)| UsageSum {
                meter,
                window_start,
                state: state.into(),
                quantity,
            })
            .collect())
    }

    /// The links of the accounts of some reports, oldest first for each account.
    pub(crate) async fn links_of(
        &self,
        reports: &[Report],
    ) -> Result<HashMap<AccountId, Vec<Link>>> {
        let accounts = reports.iter().map(|report| &report.account_id);
        Ok(read_links(&self.reader, accounts).await?)
    }
}

/// Narrows a query to the accounts of a scope.
pub(super) fn in_scope<E: EntityTrait>(
    scope: &Scope,
    query: Select<E>,
    account: E::Column,
) -> Select<E> {
    match scope {
        Scope::All => query,
        Scope::Accounts(accounts) => query.filter(account.is_in(accounts)),
    }
}
