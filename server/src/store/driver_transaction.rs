//! A transaction of the driver, or one through PgBouncer.

use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, ExecResult, QueryResult, Statement,
    prelude::async_trait::async_trait,
};

use super::bounced::BouncedTransaction;

/// It is rolled back unless it is committed.
#[derive(Debug)]
pub(super) enum DriverTransaction {
    Driver(DatabaseTransaction),
    Bounced(BouncedTransaction),
}

impl DriverTransaction {
    /// Commits. After an error the outcome is unknown.
    pub(super) async fn commit(self) -> Result<(), DbErr> {
        match self {
            Self::Driver(transaction) => transaction.commit().await,
            Self::Bounced(transaction) => transaction.commit().await,
        }
    }

    pub(super) async fn rollback(self) -> Result<(), DbErr> {
        match self {
            Self::Driver(transaction) => transaction.rollback().await,
            Self::Bounced(transaction) => transaction.rollback().await,
        }
    }
}

#[async_trait]
impl ConnectionTrait for DriverTransaction {
    fn get_database_backend(&self) -> DbBackend {
        match self {
            Self::Driver(transaction) => transaction.get_database_backend(),
            Self::Bounced(transaction) => transaction.get_database_backend(),
        }
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        match self {
            Self::Driver(transaction) => transaction.execute_raw(statement).await,
            Self::Bounced(transaction) => transaction.execute_raw(statement).await,
        }
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        match self {
            Self::Driver(transaction) => transaction.execute_unprepared(sql).await,
            Self::Bounced(transaction) => transaction.execute_unprepared(sql).await,
        }
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        match self {
            Self::Driver(transaction) => transaction.query_one_raw(statement).await,
            Self::Bounced(transaction) => transaction.query_one_raw(statement).await,
        }
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        match self {
            Self::Driver(transaction) => transaction.query_all_raw(statement).await,
            Self::Bounced(transaction) => transaction.query_all_raw(statement).await,
        }
    }
}
