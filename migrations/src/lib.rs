//! The database schema of usage-billing, the same on SQLite and on PostgreSQL.
//!
//! Migrations only go forward, and on data that exists: add a file, never edit one that has shipped.
//! All times are whole milliseconds of Unix time in `bigint` columns, because text times neither sort
//! nor compare on SQLite.

use sea_orm_migration::prelude::*;

pub use sea_orm_migration::MigratorTrait;

mod m20261101_000001_usage;
mod m20261122_000002_subscriptions;
mod m20261122_000003_webhook_events;
mod m20261122_000004_corrections_and_settling;
mod m20261122_000005_gone_customers;
mod names;

/// Every migration, in order.
#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261101_000001_usage::Migration),
            Box::new(m20261122_000002_subscriptions::Migration),
            Box::new(m20261122_000003_webhook_events::Migration),
            Box::new(m20261122_000004_corrections_and_settling::Migration),
            Box::new(m20261122_000005_gone_customers::Migration),
        ]
    }
}
