//! The end of a transaction: COMMIT and ROLLBACK, and what is known of its connection afterwards.

use std::sync::{Arc, atomic::Ordering};

use sea_orm::{ConnectionTrait as _, DatabaseTransaction, DbErr, RuntimeErr};

use super::{
    Held, Transaction,
    limits::{STATEMENT_LIMIT, limit_since, limited},
};
use crate::store::{commit_warning::with_warning, driver_transaction::DriverTransaction};

impl Transaction {
    /// Holds something until the end of the transaction.
    pub(in crate::store) fn keep(&mut self, held: impl Held + 'static) {
        self.held.push(Arc::new(held));
    }

    /// Commits. After an error the outcome is unknown.
    pub(in crate::store) async fn commit(self) -> Result<(), DbErr> {
        if self.has_failed.load(Ordering::Relaxed) {
            // PostgreSQL would answer ROLLBACK, which the driver does not tell from COMMIT.
            self.rollback().await?;
            return Err(DbErr::Custom(
                "a statement of the transaction failed, so it was rolled back".to_owned(),
            ));
        }
        let Self {
            inner,
            trust,
            file,
            begun,
            mut unfinished,
            held: _held,
            ..
        } = self;
        let limit = limit_since(begun);
        let (backend, watch) = (inner.get_database_backend(), trust.watch());
        let (committed, warning) = with_warning(limited(backend, limit, inner.commit())).await;
        watch.end(committed.is_err());
        unfinished.end();
        committed?;
        if let Some(warning) = warning {
            // For example: committed here, but no longer waiting for the synchronous standby.
            return Err(DbErr::Conn(RuntimeErr::Internal(format!(
                "the COMMIT ended with a warning: {warning}"
            ))));
        }
        file.map_or(Ok(()), |file| file.check())
    }

    pub(in crate::store) async fn rollback(self) -> Result<(), DbErr> {
        let Self {
            inner,
            trust,
            mut unfinished,
            held: _held,
            ..
        } = self;
        let (backend, watch) = (inner.get_database_backend(), trust.watch());
        let rolled_back = limited(backend, STATEMENT_LIMIT, inner.rollback()).await;
        watch.end(rolled_back.is_err());
        unfinished.end();
        rolled_back
    }

    /// For SeaORM's migrator, which takes no other transaction.
    ///
    /// # Errors
    /// It was not begun for migrating.
    pub(in crate::store) fn plain(&self) -> Result<&DatabaseTransaction, DbErr> {
        match &self.inner {
            DriverTransaction::Driver(transaction) => Ok(transaction),
            DriverTransaction::Bounced(_) => Err(DbErr::Custom(
                "a transaction through PgBouncer cannot migrate".to_owned(),
            )),
        }
    }

    /// Removes the names of statements at the connection to the server.
    pub(in crate::store) async fn forget_names(&self) -> Result<(), DbErr> {
        let forgotten = self.inner.execute_unprepared("DEALLOCATE ALL").await;
        forgotten.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::ConnectionTrait as _;

    use crate::store::Store;

    #[tokio::test]
    async fn a_transaction_with_a_failed_statement_does_not_commit() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("usage.db").display());
        let store = Store::open(&url, 1).await.unwrap();
        store
            .writer
            .execute_unprepared("CREATE TABLE t (i INTEGER PRIMARY KEY)")
            .await
            .unwrap();
        let tx = store.begin().await.unwrap();
        tx.execute_unprepared("INSERT INTO t VALUES (1)")
            .await
            .unwrap();
        tx.execute_unprepared("INSERT INTO t VALUES (1)")
            .await
            .unwrap_err();
        let error = tx.commit().await.unwrap_err();
        assert!(error.to_string().contains("rolled back"), "{error}");
        let insert = "INSERT INTO t VALUES (1)";
        store.writer.execute_unprepared(insert).await.unwrap();
        store.close().await.unwrap();
    }
}
