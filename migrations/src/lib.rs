//! The database schema of usage-billing, the same on SQLite and on PostgreSQL.
//!
//! Migrations only go forward, and on data that exists: add a file, never edit one that has shipped.
//! All times are whole milliseconds of Unix time in `bigint` columns, because text times neither sort
//! nor compare on SQLite.

use sea_orm_migration::prelude::*;

pub use sea_orm_migration::MigratorTrait;

mod columns;
mod m20261101_000001_schema;

/// Every migration, in order.
#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(m20261101_000001_schema::Migration)]
    }
}
