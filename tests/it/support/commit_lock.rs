//! Blocks all commits, to test the service while the database is slow.

use sea_orm::{
    ConnectionTrait as _, DatabaseTransaction, SqliteTransactionMode, TransactionOptions,
    TransactionTrait as _,
};

use crate::support::world::{Engine, World};

/// Commits wait until [`CommitLock::release`].
pub(crate) struct CommitLock(DatabaseTransaction);

impl CommitLock {
    /// Locks a resource that every commit needs: `SQLite`'s writer, or a table of `PostgreSQL`. Reads are not blocked.
    pub(crate) async fn commits_of(world: &World) -> Self {
        let database = world.connect_to_database().await;
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let transaction = database
            .begin_with_options(options)
            .await
            .expect("a transaction");
        if world.engine == Engine::Postgres {
            transaction
                .execute_unprepared("LOCK TABLE commits IN EXCLUSIVE MODE")
                .await
                .expect("a lock");
        }
        Self(transaction)
    }

    /// Lets commits continue.
    pub(crate) async fn release(self) {
        self.0.rollback().await.expect("an end of the transaction");
    }
}
