//! Settings of PostgreSQL under which a commit is not durable.

use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, Statement};

use super::Store;

impl Store {
    /// The settings that make commits vulnerable to a power cut, such as `fsync`. SQLite's are set by this service.
    ///
    /// # Errors
    /// The database fails.
    pub(crate) async fn insecure_settings(&self) -> Result<Vec<String>, DbErr> {
        if self.backend() != DbBackend::Postgres {
            return Ok(Vec::new());
        }
        let sql = "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off' ORDER BY name";
        let rows = self
            .reader
            .query_all_raw(Statement::from_string(DbBackend::Postgres, sql))
            .await?;
        let names = rows.iter().map(|row| row.try_get("", "name"));
        let mut insecure: Vec<String> = names.collect::<Result<_, DbErr>>()?;
        insecure.extend(self.insecure_workers().await?);
        Ok(insecure)
    }
}

/// Raises `synchronous_commit` to `on` for a connection, if the role or database has lowered it. A setting that waits for
/// replicas too is kept.
pub(super) const COMMIT_DURABLY: &str = "\
    SELECT CASE WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') \
    THEN set_config('synchronous_commit', 'on', false) END";

/// The same for one transaction alone.
pub(super) const TRANSACT_DURABLY: &str = "\
    SELECT CASE WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') \
    THEN set_config('synchronous_commit', 'on', true) END";

/// The first statement of a counting transaction. It limits the wait for locks to three seconds, less than a caller waits.
/// It also raises `synchronous_commit` to `on` if the role or a shared connection has lowered it. A setting that waits for
/// replicas too is kept.
pub(super) const COUNT_DURABLY: &str = "\
    SELECT set_config('lock_timeout', '3s', true), \
    CASE WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write') \
    THEN set_config('synchronous_commit', 'on', true) END";
