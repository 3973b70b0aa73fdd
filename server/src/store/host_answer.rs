//! What a server of PostgreSQL says of itself to a new connection: whether it takes writes, and its timeline.

use sqlx::{Row as _, postgres::PgConnection};

/// Some services that speak PostgreSQL's protocol have no log of this kind.
const WITH_TIMELINE: &str = "SELECT current_setting('transaction_read_only') AS read_only, \
    CASE WHEN pg_is_in_recovery() THEN '0' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END AS timeline";
const WITHOUT_TIMELINE: &str =
    "SELECT current_setting('transaction_read_only') AS read_only, '0' AS timeline";

/// What a server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) is_read_only: bool,
    /// Each failover begins the next one. Zero where it is not known.
    pub(super) timeline: u32,
}

/// Asks for both.
pub(super) async fn ask(connection: &mut PgConnection) -> Result<Answer, sqlx::Error> {
    match query(connection, WITH_TIMELINE).await {
        Err(sqlx::Error::Database(error)) => {
            tracing::debug!(%error, "the timeline of a server is not known");
            query(connection, WITHOUT_TIMELINE).await
        }
        answer => answer,
    }
}

/// Asks only whether it takes writes.
pub(super) async fn ask_whether_read_only(
    connection: &mut PgConnection,
) -> Result<Answer, sqlx::Error> {
    query(connection, WITHOUT_TIMELINE).await
}

/// In one message, which no prepared statement precedes.
async fn query(connection: &mut PgConnection, sql: &'static str) -> Result<Answer, sqlx::Error> {
    let row = sqlx::raw_sql(sql).fetch_one(connection).await?;
    let (read_only, timeline): (String, String) =
        (row.try_get("read_only")?, row.try_get("timeline")?);
    let timeline = u32::from_str_radix(&timeline, 16);
    Ok(Answer {
        is_read_only: read_only == "on",
        timeline: timeline.map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
    })
}
