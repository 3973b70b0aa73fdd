//! The schema of the database: migrating it, and whether it is that of this program.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement};
use usage_migrations::{Migrator, MigratorTrait as _};

use super::{MIGRATION_LOCK, Store, lock};

/// Why a schema is not that of this program.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// It lacks this many migrations.
    #[error("the database has an older schema; run `usage-server migrate`, then run this again")]
    Older(usize),
    /// It has a migration that this program does not know, by its name.
    #[error(
        "the database has a newer schema than this usage-server, {program}: it was migrated by `{0}`; run the version of usage-server that has this migration, or a later one",
        program = env!("CARGO_PKG_VERSION")
    )]
    Newer(String),
    /// The database fails.
    #[error("the database cannot be used: {0}")]
    Database(#[from] DbErr),
}

impl From<SchemaError> for DbErr {
    fn from(error: SchemaError) -> Self {
        match error {
            SchemaError::Database(error) => error,
            other => Self::Custom(other.to_string()),
        }
    }
}

impl Store {
    /// Applies pending migrations. Replicas that start at the same time take turns.
    ///
    /// # Errors
    /// The schema is newer, or the database fails.
    pub async fn migrate(&self) -> Result<(), DbErr> {
        if let Some(name) = self.unknown_migration().await? {
            return Err(SchemaError::Newer(name).into());
        }
        let tx = self.writer.begin_migrating().await?;
        if self.backend() == DbBackend::Postgres {
            // A migration, or waiting for that of another replica, has no time limit.
            let tx = tx.plain()?;
            tx.execute_unprepared("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
                .await?;
            lock(tx, "SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK).await?;
        }
        Migrator::up(tx.plain()?, None).await?;
        if self.writer.is_bounced() {
            tx.forget_names().await?;
        }
        tx.commit().await
    }

    /// Whether the schema is that of this program. It only reads.
    ///
    /// # Errors
    /// It is older or newer, or the database fails.
    pub async fn check_schema(&self) -> Result<(), SchemaError> {
        if let Some(name) = self.unknown_migration().await? {
            return Err(SchemaError::Newer(name));
        }
        let pending = if self.writer.is_bounced() {
            let tx = self.writer.begin_migrating().await?;
            let pending = Migrator::get_pending_migrations_read_only(tx.plain()?).await?;
            tx.forget_names().await?;
            tx.rollback().await?;
            pending
        } else {
            Migrator::get_pending_migrations_read_only(&self.writer.plain()).await?
        };
        match pending.len() {
            0 => Ok(()),
            pending => Err(SchemaError::Older(pending)),
        }
    }

    /// The first migration of the database that this program does not know.
    async fn unknown_migration(&self) -> Result<Option<String>, DbErr> {
        let tx = if self.writer.is_bounced() {
            Some(self.begin().await?)
        } else {
            None
        };
        match &tx {
            Some(tx) => find_unknown_migration(tx).await,
            None => find_unknown_migration(&self.writer.plain()).await,
        }
    }
}

async fn find_unknown_migration(database: &impl ConnectionTrait) -> Result<Option<String>, DbErr> {
    const TABLE: &str = "seaql_migrations";
    let backend = database.get_database_backend();
    let exists = match backend {
        DbBackend::Postgres => {
            "SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND tablename = $1"
        }
        _ => "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = $1",
    };
    let exists = Statement::from_sql_and_values(backend, exists, [TABLE.into()]);
    if database.query_one_raw(exists).await?.is_none() {
        return Ok(None);
    }
    let applied = format!("SELECT version FROM {TABLE} ORDER BY version");
    let applied = Statement::from_string(backend, applied);
    let known = Migrator::migrations();
    for row in database.query_all_raw(applied).await? {
        let name: String = row.try_get("", "version")?;
        if !known.iter().any(|migration| migration.name() == name) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}
