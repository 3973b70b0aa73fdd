//! Counts reports that are near the time after which no invoice can charge them.

use sea_orm::{ConnectionTrait as _, Statement};

use super::Store;
use crate::{
    domain::{DAY_MS, MINUTE_MS, Millis, report::CLOSE_AT_ONCE_MS},
    error::Result,
};

/// How long before an invoice's finalization its unsent reports are counted.
const NEAR_DRAFT_END_MS: Millis = 15 * MINUTE_MS;
/// Invoices of periods that ended longer ago are final.
const RELEVANT_MS: Millis = 40 * DAY_MS;

/// Reports that Stripe has not accepted and that are near their deadlines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NearDeadlines {
    /// Their invoices become final within a quarter of an hour.
    pub(crate) drafts: i64,
    /// They are older than 33 days.
    pub(crate) old: i64,
}

impl Store {
    /// Counts the reports that are near their deadlines.
    pub(crate) async fn near_deadlines(&self, now: Millis) -> Result<NearDeadlines> {
        // The states are literals: both engines use a partial index only for a condition without bound values.
        const DRAFTS: &str = "SELECT COUNT(*) AS number FROM billing_periods p \
            JOIN usage_reports r ON r.account_id = p.account_id AND r.meter = p.meter \
            AND r.state IN ('closed', 'sending', 'unknown') \
            AND COALESCE(r.bill_at, r.first_at) >= p.period_start \
            AND COALESCE(r.bill_at, r.first_at) < p.period_end \
            WHERE p.period_end <= $1 AND p.period_end > $2 AND p.invoice_state <> 'final' \
            AND COALESCE(p.draft_until, p.period_end + 3600000) < $3";
        const OLD: &str = "SELECT COUNT(*) AS number FROM usage_reports \
            WHERE state IN ('closed', 'sending', 'unknown') AND window_start < $1";
        let count = async |sql: &str, values: Vec<sea_orm::Value>| {
            let statement = Statement::from_sql_and_values(self.backend(), sql, values);
            let row = self.reader.query_one_raw(statement).await?;
            row.map_or(Ok(0), |row| row.try_get("", "number"))
        };
        let soon = now.saturating_add(NEAR_DRAFT_END_MS);
        let ended = [now, now.saturating_sub(RELEVANT_MS), soon].map(Into::into);
        let oldest = now.saturating_sub(CLOSE_AT_ONCE_MS);
        Ok(NearDeadlines {
            drafts: count(DRAFTS, ended.to_vec()).await?,
            old: count(OLD, vec![oldest.into()]).await?,
        })
    }
}
