//! What every replica reads each minute for its metrics. It only reads.

use std::fmt::Write as _;

use sea_orm::{
    ColumnTrait as _, ConnectionTrait as _, DbBackend, DbErr, EntityTrait as _, FromQueryResult,
    QueryFilter as _, QueryOrder as _, QuerySelect as _, Statement,
};

use super::Store;
use crate::{
    domain::{Millis, report::State, verification::Finding},
    entity::{
        lease, report_run, usage_report::UsageReportState, verification::VerificationFinding,
    },
    error::Result,
};

/// The most reports that are read of each state.
pub(crate) const MAX_REPORTS: u32 = 1_000_000;

/// The reports of one state, of at most a million.
#[derive(Clone, Debug, FromQueryResult)]
pub(crate) struct WatchedState {
    state: UsageReportState,
    /// How many they are.
    pub(crate) reports: i64,
    /// The sum of their quantities. A sum of whole numbers could exceed 64 bits.
    pub(crate) units: f64,
    /// The time of the oldest increment.
    pub(crate) first_at: Option<Millis>,
    /// When the longest waiting one was closed; absent of open ones.
    pub(crate) closed_at: Option<Millis>,
}

impl WatchedState {
    /// The state.
    pub(crate) fn state(&self) -> State {
        self.state.into()
    }

    /// As it is read, for tests.
    #[cfg(test)]
    pub(crate) fn new(
        state: State,
        reports: i64,
        first_at: Millis,
        closed_at: Option<Millis>,
    ) -> Self {
        Self {
            reports,
            first_at: Some(first_at),
            closed_at,
            ..Self::none(state)
        }
    }

    /// Without reports, for tests.
    #[cfg(test)]
    pub(crate) fn none(state: State) -> Self {
        Self {
            state: state.into(),
            reports: 0,
            units: 0.0,
            first_at: None,
            closed_at: None,
        }
    }
}

#[derive(Debug, FromQueryResult)]
struct Difference {
    finding: VerificationFinding,
    units: f64,
}

impl Store {
    /// The reports in each of some states; none of those that are folded.
    pub(crate) async fn watched_states(&self, states: &[State]) -> Result<Vec<WatchedState>> {
        let mut sql = String::new();
        for state in states {
            let separator = if sql.is_empty() { "" } else { " UNION ALL " };
            let (name, rows) = (state.name(), rows_in_state(*state));
            // Writing to a text cannot fail.
            let _ = write!(
                sql,
                "{separator}SELECT '{name}' AS state, COUNT(*) AS reports, \
                 COALESCE(SUM(CAST(quantity AS double precision)), 0.0) AS units, \
                 MIN(first_at) AS first_at, MIN(closed_at) AS closed_at FROM ({rows}) AS of_{name}"
            );
        }
        let query = Statement::from_string(self.backend(), sql);
        let found = WatchedState::find_by_statement(query)
            .all(&self.reader)
            .await?;
        Ok(found)
    }

    /// When the last run began that closed every open report; absent if none ever did. What is open was counted after it.
    pub(crate) async fn last_full_run(&self) -> Result<Option<Millis>> {
        use report_run::Column;
        let started = report_run::Entity::find()
            .select_only()
            .column(Column::StartedAt)
            .filter(Column::Scope.is_null())
            .filter(Column::ClosingFinishedAt.is_not_null())
            .order_by_desc(Column::StartedAt)
            .limit(1)
            .into_tuple()
            .one(&self.reader)
            .await?;
        Ok(started)
    }

    /// When each job last ran that records it.
    pub(crate) async fn last_job_runs(&self) -> Result<Vec<(String, Millis)>> {
        let ran = lease::Entity::find()
            .filter(lease::Column::LastRunAt.is_not_null())
            .all(&self.reader)
            .await?;
        let ran = ran.into_iter();
        Ok(ran
            .filter_map(|job| Some((job.name, job.last_run_at?)))
            .collect())
    }

    /// By how many units Stripe's totals of days differ from what was sent, by finding, as far as that changed since a time.
    /// A total that is no whole number counts as none.
    pub(crate) async fn verification_differences(
        &self,
        since: Millis,
    ) -> Result<Vec<(Finding, f64)>> {
        // Both conditions: SQLite uses the partial index only for its own, PostgreSQL for a short list.
        const SQL: &str = "SELECT finding, SUM(ABS(CAST(sent_total AS double precision) - COALESCE(stripe_total, 0))) \
            AS units FROM verifications WHERE finding <> 'equal' \
            AND finding IN ('behind', 'lacking', 'over') AND changed_at >= $1 GROUP BY finding";
        let query = Statement::from_sql_and_values(self.backend(), SQL, [since.into()]);
        let found = Difference::find_by_statement(query)
            .all(&self.reader)
            .await?;
        let found = found.into_iter();
        Ok(found.map(|row| (row.finding.into(), row.units)).collect())
    }

    /// The size of the database in bytes; of SQLite with its log.
    pub(crate) async fn database_bytes(&self) -> Result<u64> {
        let sql = match self.backend() {
            DbBackend::Postgres => "SELECT pg_database_size(current_database()) AS bytes",
            _ => {
                "SELECT pages.page_count * sizes.page_size AS bytes \
                 FROM pragma_page_count AS pages, pragma_page_size AS sizes"
            }
        };
        let query = Statement::from_string(self.backend(), sql);
        let row = self.reader.query_one_raw(query).await?;
        let row =
            row.ok_or_else(|| DbErr::RecordNotFound("the size of the database".to_owned()))?;
        let bytes: i64 = row.try_get("", "bytes")?;
        let bytes = u64::try_from(bytes).unwrap_or(0);
        Ok(bytes.saturating_add(self.log_bytes().unwrap_or(0)))
    }
}

/// The columns of the reports in a state that are read, of at most a million reports. The state is a literal, as in the
/// expression of its index.
fn rows_in_state(state: State) -> String {
    if state == State::Open {
        return format!(
            "SELECT quantity, first_at, CAST(NULL AS bigint) AS closed_at FROM open_reports LIMIT {MAX_REPORTS}"
        );
    }
    format!(
        "SELECT quantity, first_at, closed_at FROM usage_reports WHERE (state || '') = '{}' \
         ORDER BY number LIMIT {MAX_REPORTS}",
        state.name()
    )
}
