//! One transaction a call: a good implementation of a usage counter in the team's database.
//!
//! It has the schema and durability of the service, and a key counts once. Each call adds to the report's row, inserts
//! the key and commits.

use sea_orm::{
    ActiveValue::Set,
    ConnectOptions, Database, DatabaseConnection, DbErr, EntityTrait as _, TransactionTrait as _,
    TryInsertResult,
    sea_query::{Expr, ExprTrait as _, OnConflict},
};
use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use tonic::Status;
use usage_proto::v1;
use usage_server::{
    clock::Clock,
    domain::{account_id::AccountId, stored_key::stored_key, window::Slots},
};
use uuid::Uuid;

/// The meter of calls that name none.
const METER: &str = "api_calls";

/// The columns of `idempotency_keys`.
mod key {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "idempotency_keys")]
    pub(super) struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub(super) key: Uuid,
        #[sea_orm(primary_key, auto_increment = false)]
        pub(super) account_id: String,
        pub(super) meter: String,
        pub(super) quantity: i64,
        pub(super) created_at: i64,
        pub(super) report_id: Uuid,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(super) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// The columns of `open_reports`.
mod report {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "open_reports")]
    pub(super) struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub(super) account_id: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub(super) window_start: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub(super) meter: String,
        pub(super) id: Uuid,
        pub(super) window_end: i64,
        pub(super) quantity: i64,
        pub(super) first_at: i64,
        pub(super) last_at: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(super) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Counts each call in a separate transaction.
#[derive(Debug)]
pub(crate) struct Naive {
    db: DatabaseConnection,
    slots: Slots,
}

impl Naive {
    /// Connects. SQLite gets one connection, because more writers would only wait for each other.
    pub(crate) async fn open(url: &str, connections: u32) -> Result<Self, DbErr> {
        let mut options = ConnectOptions::new(url);
        let connections = if url.starts_with("sqlite:") {
            1
        } else {
            connections
        };
        options
            .max_connections(connections)
            .sqlx_logging(false)
            .map_sqlx_sqlite_opts(|sqlite| {
                sqlite
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
            });
        let slots = Slots::from_mins(60).expect("an hour");
        Ok(Self {
            db: Database::connect(options).await?,
            slots,
        })
    }

    /// Counts one increment; returns whether its key is a duplicate.
    pub(crate) async fn count(&self, request: v1::IncrementRequest) -> Result<bool, Status> {
        self.try_count(request)
            .await
            .map_err(|error| Status::internal(error.to_string()))
    }

    async fn try_count(&self, request: v1::IncrementRequest) -> Result<bool, DbErr> {
        let now = Clock::system().now();
        let quantity = request.quantity.unwrap_or(1);
        let account = AccountId::parse(&request.account_id)
            .map_err(|violation| DbErr::Custom(violation.message))?;
        let tx = self.db.begin().await?;
        let window = self.slots.around(now);
        let report = report::ActiveModel {
            account_id: Set(request.account_id.clone()),
            id: Set(Uuid::now_v7()),
            meter: Set(METER.to_owned()),
            window_start: Set(window.start),
            window_end: Set(window.end),
            quantity: Set(quantity),
            first_at: Set(now),
            last_at: Set(now),
        };
        let sum = Expr::col((report::Entity, report::Column::Quantity))
            .add(Expr::col(("excluded", report::Column::Quantity)));
        let open = [
            report::Column::AccountId,
            report::Column::WindowStart,
            report::Column::Meter,
        ];
        let add = OnConflict::columns(open)
            .value(report::Column::Quantity, sum)
            .value(
                report::Column::LastAt,
                Expr::col(("excluded", report::Column::LastAt)),
            )
            .to_owned();
        let report = report::Entity::insert(report)
            .on_conflict(add)
            .exec_with_returning(&tx)
            .await?;
        let key = key::ActiveModel {
            key: Set(stored_key(&account, &request.idempotency_key)),
            account_id: Set(request.account_id),
            meter: Set(METER.to_owned()),
            quantity: Set(quantity),
            created_at: Set(now),
            report_id: Set(report.id),
        };
        let inserted = key::Entity::insert(key)
            .on_conflict_do_nothing()
            .exec_without_returning(&tx)
            .await?;
        if !matches!(inserted, TryInsertResult::Inserted(1)) {
            tx.rollback().await?;
            return Ok(true);
        }
        tx.commit().await?;
        Ok(false)
    }
}
