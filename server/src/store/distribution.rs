//! Citus: PostgreSQL spread over several machines. Which tables are spread, and how that is found and made.
//!
//! Rows of an account are on one shard, whichever table they are in. All other tables stay whole, at the coordinator. It is
//! the only machine that servers connect to, because the advisory locks that protect boundaries are held there.

use std::sync::Arc;

use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement};

use super::{MIGRATION_LOCK, Store, connection::Transaction, lock};
use crate::domain::shards::ShardMap;

/// The tables that are spread by `account_id`, all in the same way.
pub(crate) const BY_ACCOUNT: [&str; 12] = [
    "open_reports",
    "usage_reports",
    "folded_reports",
    "idempotency_keys",
    "correction_keys",
    "account_links",
    "billing_periods",
    "subscriptions",
    "subscription_changes",
    "report_decisions",
    "invoice_lines",
    "invoice_comparisons",
];

/// Tables that stay whole and that Citus knows. It commits a transaction that writes one of them and a shard in two phases,
/// so that both are kept or none. Of tables that it does not know, it commits the shard first, whatever becomes of the rest.
/// The others are written alone, or with what counting or closing inserts, which is always committed in two phases.
pub(crate) const KNOWN: [&str; 12] = [
    "customers",
    "boundary_changes",
    "verifications",
    "sending",
    "report_runs",
    "job_cursors",
    "report_archives",
    "webhook_events",
    "api_keys",
    "audit_entries",
    "deleted_accounts",
    "deletion_salts",
];

/// The group of the coordinator in Citus' tables.
const COORDINATOR: i32 = 0;

/// What is known of Citus in a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Citus {
    /// Its version.
    pub version: String,
    /// Whether this connection is to the coordinator.
    pub is_coordinator: bool,
    /// The machines that shards can be on.
    pub nodes: i64,
    /// The number of shards of each distributed table; none before `distribute`.
    pub shards: usize,
    /// The tables that are not as `distribute` makes them.
    pub undistributed: Vec<String>,
}

/// What `distribute` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distributed {
    /// The database after it.
    pub citus: Citus,
    /// The tables that it spread now.
    pub spread: Vec<String>,
    /// The tables that it made known to Citus now.
    pub known: Vec<String>,
}

/// Why a database cannot be distributed.
#[derive(Debug, thiserror::Error)]
pub enum DistributeError {
    /// It has no Citus.
    #[error(
        "the database has no Citus: install it on every machine, run `CREATE EXTENSION citus` in the database of each, and add the workers with citus_add_node"
    )]
    NoCitus,
    /// It is not the coordinator.
    #[error("this machine is a worker of Citus: connect to the coordinator")]
    Worker,
    /// It has no workers.
    #[error("Citus has no machine that shards can be on: add workers with citus_add_node")]
    NoNodes,
    /// The number of shards cannot be changed any more.
    #[error("the tables already have {0} shards, which stay")]
    OtherShards(usize),
    /// The database fails.
    #[error("the database cannot be used: {0}")]
    Database(#[from] DbErr),
}

impl Store {
    /// The shards that this store knows.
    pub(crate) fn shards(&self) -> &ShardMap {
        self.writer.shards()
    }

    /// Whether rows of accounts are spread over shards.
    pub(crate) fn is_distributed(&self) -> bool {
        self.shards().is_distributed()
    }

    /// What is known of Citus; absent if the database has none.
    ///
    /// # Errors
    /// The database fails.
    pub async fn citus(&self) -> Result<Option<Citus>, DbErr> {
        if self.backend() != DbBackend::Postgres {
            return Ok(None);
        }
        find_citus(&self.reader).await
    }

    /// The same database with its shards as they are now. No `distribute` runs meanwhile, and a later one finds that this
    /// store counts.
    pub(crate) async fn with_current_shards(self) -> Result<Self, DbErr> {
        if self.backend() != DbBackend::Postgres {
            return Ok(self);
        }
        let tx = self.begin().await?;
        lock(
            &tx,
            "SELECT pg_advisory_xact_lock_shared($1)",
            MIGRATION_LOCK,
        )
        .await?;
        let shards = read_shards(&tx).await?;
        tx.rollback().await?;
        Ok(self.with_shards(shards))
    }

    /// The same database with shards that were read.
    pub(super) fn with_shards(self, shards: ShardMap) -> Self {
        let shards = Arc::new(shards);
        Self {
            counter: self.counter.with_shards(&shards),
            writer: self.writer.with_shards(&shards),
            reader: self.reader.with_shards(&shards),
            ..self
        }
    }

    /// Spreads the tables about accounts over the workers, and makes others known to Citus. What is already so stays. No
    /// server may count meanwhile: the caller has found none.
    ///
    /// # Errors
    /// See [`DistributeError`].
    pub async fn distribute(&self, shards: Option<u32>) -> Result<Distributed, DistributeError> {
        let found = self.citus().await?.ok_or(DistributeError::NoCitus)?;
        if !found.is_coordinator {
            return Err(DistributeError::Worker);
        }
        if found.nodes == 0 {
            return Err(DistributeError::NoNodes);
        }
        let differs = |wanted: u32| usize::try_from(wanted) != Ok(found.shards);
        if found.shards > 0 && shards.is_some_and(differs) {
            return Err(DistributeError::OtherShards(found.shards));
        }
        let tx = self.begin().await?;
        // As a migration, it has no time limit. One after the other, each table's shards are made over one connection.
        tx.execute_unprepared(
            "SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0; \
             SET LOCAL citus.multi_shard_modify_mode TO 'sequential'",
        )
        .await?;
        lock(&tx, "SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK).await?;
        let count = shards.unwrap_or_else(|| default_shards(found.nodes));
        let mut done = (Vec::new(), Vec::new());
        for table in missing(&tx, &BY_ACCOUNT, 'h').await? {
            spread(&tx, &table, count).await?;
            done.0.push(table);
        }
        for table in missing(&tx, &KNOWN, 'n').await? {
            let sql = format!("SELECT citus_add_local_table_to_metadata('{table}')::text");
            tx.execute_unprepared(&sql).await?;
            done.1.push(table);
        }
        tx.commit().await?;
        let citus = self.citus().await?.ok_or(DistributeError::NoCitus)?;
        Ok(Distributed {
            citus,
            spread: done.0,
            known: done.1,
        })
    }
}

/// Two shards a machine: one more machine can then take over half of them from each two.
fn default_shards(nodes: i64) -> u32 {
    u32::try_from(nodes).unwrap_or(1).saturating_mul(2)
}

/// Spreads a table with its rows. The empty table whose place they were in keeps them, unseen, until they are removed.
async fn spread(tx: &Transaction, table: &str, shards: u32) -> Result<(), DbErr> {
    let how = match BY_ACCOUNT.first() {
        Some(first) if *first != table => format!("colocate_with => '{first}'"),
        _ => format!("colocate_with => 'none', shard_count => {shards}"),
    };
    let sql = format!(
        "SELECT create_distributed_table('{table}', 'account_id', {how})::text; \
         SELECT truncate_local_data_after_distributing_table('{table}')::text"
    );
    tx.execute_unprepared(&sql).await.map(|_| ())
}

/// Which tables Citus does not have in a way that it calls by this letter.
async fn missing(
    db: &impl ConnectionTrait,
    tables: &[&str],
    method: char,
) -> Result<Vec<String>, DbErr> {
    let sql = format!(
        "SELECT CAST(relation.oid::regclass AS text) AS name FROM pg_dist_partition AS known \
         JOIN pg_class AS relation ON relation.oid = known.logicalrelid WHERE known.partmethod = '{method}'"
    );
    let rows = db.query_all_raw(postgres(&sql)).await?;
    let known = rows.iter().map(|row| row.try_get("", "name"));
    let known: Vec<String> = known.collect::<Result<_, _>>()?;
    let is_missing = |table: &&&str| !known.iter().any(|name| name == **table);
    Ok(tables
        .iter()
        .filter(is_missing)
        .map(|table| (*table).to_owned())
        .collect())
}

async fn has_citus(db: &impl ConnectionTrait) -> Result<bool, DbErr> {
    let sql = "SELECT 1 AS one FROM pg_extension WHERE extname = 'citus'";
    Ok(db.query_one_raw(postgres(sql)).await?.is_some())
}

async fn find_citus(db: &impl ConnectionTrait) -> Result<Option<Citus>, DbErr> {
    if !has_citus(db).await? {
        return Ok(None);
    }
    let sql = "SELECT extversion AS version, (SELECT groupid FROM pg_dist_local_group) AS place, \
         (SELECT COUNT(*) FROM pg_dist_node WHERE shouldhaveshards AND isactive) AS nodes \
         FROM pg_extension WHERE extname = 'citus'";
    let Some(row) = db.query_one_raw(postgres(sql)).await? else {
        return Ok(None);
    };
    let place: Option<i32> = row.try_get("", "place")?;
    let shards = read_shards(db).await?;
    let mut undistributed = missing(db, &BY_ACCOUNT, 'h').await?;
    undistributed.extend(missing(db, &KNOWN, 'n').await?);
    Ok(Some(Citus {
        version: row.try_get("", "version")?,
        is_coordinator: place.unwrap_or(COORDINATOR) == COORDINATOR,
        nodes: row.try_get("", "nodes")?,
        shards: if shards.is_distributed() {
            shards.count()
        } else {
            0
        },
        undistributed,
    }))
}

/// The shards of the tables about accounts.
pub(super) async fn read_shards(db: &impl ConnectionTrait) -> Result<ShardMap, DbErr> {
    if db.get_database_backend() != DbBackend::Postgres || !has_citus(db).await? {
        return Ok(ShardMap::default());
    }
    let sql = "SELECT CAST(shardmaxvalue AS integer) AS last FROM pg_dist_shard \
         WHERE logicalrelid = to_regclass('open_reports')";
    let rows = db.query_all_raw(postgres(sql)).await?;
    let lasts = rows.iter().map(|row| row.try_get("", "last"));
    Ok(ShardMap::new(lasts.collect::<Result<_, _>>()?))
}

fn postgres(sql: &str) -> Statement {
    Statement::from_string(DbBackend::Postgres, sql)
}
