//! The ledger check: the sum of all commits equals the sum of all reports of counted usage.

use std::collections::BTreeMap;

use sea_orm::{ConnectionTrait as _, DbErr, QueryResult, Statement};

use super::{Store, usage_of_accounts::PARTS, usage_sums::PART};
use crate::{
    domain::report::State,
    entity::usage_report::{UsageReportKind, UsageReportState},
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
    /// Reads both sides of the ledger check in one statement, so that no commit can come in between and none waits.
    ///
    /// # Errors
    /// The database fails.
    pub async fn ledger_totals(&self) -> Result<LedgerTotals> {
        let sums = format!(
            "SELECT NULL AS kind, NULL AS state, {PARTS} FROM commits UNION ALL \
             SELECT kind, state, {PARTS} FROM all_reports GROUP BY kind, state"
        );
        let statement = Statement::from_string(self.backend(), sums);
        let mut totals = LedgerTotals {
            committed: 0,
            reports: BTreeMap::new(),
            corrections: 0,
        };
        for row in self.reader.query_all_raw(statement).await? {
            let kind: Option<UsageReportKind> = row.try_get("", "kind")?;
            let sum = sum(&row)?;
            match kind {
                None => totals.committed = sum,
                Some(UsageReportKind::Usage) => {
                    let state: UsageReportState = row.try_get("", "state")?;
                    let name = State::from(state).name().to_owned();
                    totals.reports.insert(name, sum);
                }
                // Increments of a lost commit: they are not in `commits` either.
                Some(UsageReportKind::AlreadySent) => {}
                Some(UsageReportKind::Correction) => {
                    totals.corrections = totals.corrections.saturating_add(sum);
                }
            }
        }
        Ok(totals)
    }
}

/// The sum of a row, of which the engine only added parts: all usage together can have more than 64 bits.
fn sum(row: &QueryResult) -> std::result::Result<i128, DbErr> {
    // Of no commits, both are null.
    let part = |name| -> std::result::Result<i128, DbErr> {
        let sum: Option<i64> = row.try_get("", name)?;
        Ok(sum.unwrap_or(0).into())
    };
    let whole = part("parts")?.saturating_mul(PART.into());
    Ok(whole.saturating_add(part("rest")?))
}
