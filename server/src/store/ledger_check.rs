//! The ledger check: what was acknowledged is what the usage table holds, in one state or another.

use std::collections::BTreeMap;

use sea_orm::{
    EntityTrait as _, QuerySelect as _,
    sea_query::{Expr, ExprTrait as _, Func},
};

use super::Store;
use crate::{
    domain::report::Kind,
    entity::{commit, usage_report},
    error::Result,
};

/// Both sides of the law, read in one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerTotals {
    /// Everything that was ever acknowledged.
    pub committed: i128,
    /// What the usage table holds of what was counted, by the name of the state.
    pub reports: BTreeMap<String, i128>,
    /// What admins added and took away: no part of the law.
    pub corrections: i128,
}

impl LedgerTotals {
    /// Whether the law holds.
    pub fn is_balanced(&self) -> bool {
        self.committed == self.counted()
    }

    /// Everything that the usage table holds, without corrections.
    pub fn counted(&self) -> i128 {
        self.reports
            .values()
            .fold(0_i128, |sum, part| sum.saturating_add(*part))
    }
}

impl Store {
    /// Reads both sides of the ledger check in one transaction that no commit can split.
    ///
    /// # Errors
    /// Whatever the database says.
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
        let sums: Vec<(String, String, i64)> = usage_report::Entity::find()
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
        let mut law = LedgerTotals {
            committed: committed.flatten().unwrap_or(0).into(),
            reports: BTreeMap::new(),
            corrections: 0,
        };
        for (kind, state, sum) in sums {
            match Kind::from_name(&kind) {
                Kind::Usage => {
                    law.reports.insert(state, sum.into());
                }
                Kind::Correction => law.corrections = law.corrections.saturating_add(sum.into()),
            }
        }
        Ok(law)
    }
}
