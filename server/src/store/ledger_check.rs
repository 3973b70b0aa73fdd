//! The ledger check: the sum of all commits equals the sum of all reports without corrections.

use std::collections::BTreeMap;

use sea_orm::{
    EntityTrait as _, QuerySelect as _,
    sea_query::{Expr, ExprTrait as _, Func},
};

use super::Store;
use crate::{
    domain::report::State,
    entity::{
        commit,
        usage_report::{self, UsageReportKind, UsageReportState},
    },
    error::Result,
};

/// Both sides of the ledger check, from one consistent read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerTotals {
    /// The total of all commits, which is the acknowledged total.
    pub committed: i128,
    /// The totals of reports without corrections, by the name of their state.
    pub reports: BTreeMap<String, i128>,
    /// The total of all corrections, which the check leaves out.
    pub corrections: i128,
}

impl LedgerTotals {
    /// Whether both sides are equal.
    pub fn is_balanced(&self) -> bool {
        self.committed == self.counted()
    }

    /// The total of all reports without corrections.
    pub fn counted(&self) -> i128 {
        self.reports
            .values()
            .fold(0_i128, |sum, part| sum.saturating_add(*part))
    }
}

impl Store {
    /// Reads both sides of the ledger check in one transaction, so that no commit can come in between.
    ///
    /// # Errors
    /// The database fails.
    pub async fn ledger_totals(&self) -> Result<LedgerTotals> {
        let tx = self.begin_moving_boundaries().await?;
        let committed: Option<Option<i64>> = commit::Entity::find()
            .select_only()
            .column_as(
                Func::sum(Expr::col(commit::Column::Quantity)).cast_as("bigint"),
                "quantity",
            )
            .into_tuple()
            .one(&tx)
            .await?;
        let sums: Vec<(UsageReportKind, UsageReportState, i64)> = usage_report::Entity::find()
            .select_only()
            .column(usage_report::Column::Kind)
            .column(usage_report::Column::State)
            .column_as(
                Func::sum(Expr::col(usage_report::Column::Quantity)).cast_as("bigint"),
                "quantity",
            )
            .group_by(usage_report::Column::Kind)
            .group_by(usage_report::Column::State)
            .into_tuple()
            .all(&tx)
            .await?;
        tx.rollback().await?;
        let mut totals = LedgerTotals {
            committed: committed.flatten().unwrap_or(0).into(),
            reports: BTreeMap::new(),
            corrections: 0,
        };
        for (kind, state, sum) in sums {
            match kind {
                UsageReportKind::Usage => {
                    let name = State::from(state).name().to_owned();
                    totals.reports.insert(name, sum.into());
                }
                UsageReportKind::Correction => {
                    totals.corrections = totals.corrections.saturating_add(sum.into());
                }
            }
        }
        Ok(totals)
    }
}
