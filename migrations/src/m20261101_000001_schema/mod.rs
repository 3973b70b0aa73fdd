//! The first schema, by groups of tables.

mod access;
mod accounts;
mod counting;
mod deletions;
mod folded_reports;
mod invoices;
mod jobs;
mod open_reports;
mod subscriptions;
mod usage_reports;

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        usage_reports::create(manager).await?;
        open_reports::create(manager).await?;
        folded_reports::create(manager).await?;
        accounts::create(manager).await?;
        subscriptions::create(manager).await?;
        invoices::create(manager).await?;
        counting::create(manager).await?;
        jobs::create(manager).await?;
        access::create(manager).await?;
        deletions::create(manager).await
    }

    async fn down(&self, _: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration(
            "migrations only go forward: restore a backup instead".to_owned(),
        ))
    }
}
