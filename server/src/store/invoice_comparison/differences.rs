//! Queries of open differences with invoices: those that are not acknowledged, however old they are.

use std::collections::BTreeMap;

use sea_orm::{
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
    Select, sea_query::Expr,
};

use super::RowCount;
use crate::{
    domain::invoice_comparison::{InvoiceFinding, PeriodComparison},
    entity::invoice_comparison::{self, Column},
    error::Result,
    store::Store,
};

/// Differences of each finding that are read. With more, their number is a lower bound.
pub(super) const MAX_READ: u64 = 10_000;

/// Differences of one finding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Differences {
    /// Their number.
    pub(crate) count: RowCount,
    /// The units of them that Stripe's totals contain.
    pub(crate) units: i64,
    /// The latest of them.
    pub(crate) first: Vec<PeriodComparison>,
}

impl Store {
    /// The differences that are not acknowledged, by finding: their number, and the latest of them. Many of one finding
    /// hide none of another.
    pub(crate) async fn open_differences(
        &self,
        limit: u64,
    ) -> Result<BTreeMap<InvoiceFinding, Differences>> {
        let mut by_finding = BTreeMap::new();
        for finding in InvoiceFinding::ALL {
            if finding == InvoiceFinding::Equal {
                continue;
            }
            let mut units: Vec<i64> = open(finding)
                .select_only()
                .column(Column::Reported)
                .limit(MAX_READ.saturating_add(1))
                .into_tuple()
                .all(&self.reader)
                .await?;
            if units.is_empty() {
                continue;
            }
            let max = usize::try_from(MAX_READ).unwrap_or(usize::MAX);
            let is_more = units.len() > max;
            units.truncate(max);
            let mut own = Differences {
                count: RowCount {
                    number: units.len(),
                    is_more,
                },
                units: units
                    .into_iter()
                    .fold(0, |sum: i64, one| sum.saturating_add(one)),
                first: Vec::new(),
            };
            if limit > 0 {
                for row in open(finding).limit(limit).all(&self.reader).await? {
                    own.first.push(self.with_invoices(row).await?);
                }
            }
            by_finding.insert(finding, own);
        }
        Ok(by_finding)
    }
}

/// The open differences of a finding, the latest first.
fn open(finding: InvoiceFinding) -> Select<invoice_comparison::Entity> {
    let finding = invoice_comparison::InvoiceComparisonFinding::from(finding);
    invoice_comparison::Entity::find()
        // For the partial index.
        .filter(Expr::cust("finding <> 'equal'"))
        .filter(Column::AcknowledgedAt.is_null())
        .filter(Column::Finding.eq(finding))
        .order_by_desc(Column::ChangedAt)
}
