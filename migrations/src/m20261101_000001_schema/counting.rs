//! Idempotency keys of increments, batches and corrections, and the group commits.

use sea_orm::DbBackend;
use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, big_integer_null, text, uuid},
};

use crate::columns::name;

#[derive(DeriveIden)]
enum IdempotencyKeys {
    Table,
    Key,
    AccountId,
    Meter,
    Quantity,
    StatedAt,
    CreatedAt,
    ReportId,
}

#[derive(DeriveIden)]
enum BatchKeys {
    Table,
    Caller,
    Key,
    Fingerprint,
    Results,
    CreatedAt,
}

#[derive(DeriveIden)]
enum Commits {
    Table,
    Id,
    Increments,
    Quantity,
    CommittedAt,
}

#[derive(DeriveIden)]
enum CorrectionKeys {
    Table,
    AccountId,
    Key,
    ReportId,
    StatedAt,
    CreatedAt,
}

pub(super) async fn create(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    create_keys(manager).await?;
    create_correction_keys(manager).await
}

async fn create_keys(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use BatchKeys as B;
    use IdempotencyKeys as K;
    // A new key is usually a UUIDv7: with it first, new rows are side by side, and each page is written once.
    let mut keys = Table::create()
        .table(K::Table)
        .col(uuid(K::Key))
        .col(name(manager, K::AccountId))
        .col(text(K::Meter))
        .col(big_integer(K::Quantity))
        .col(big_integer_null(K::StatedAt))
        .col(big_integer(K::CreatedAt))
        // The report that it was added to.
        .col(uuid(K::ReportId))
        .primary_key(Index::create().col(K::Key).col(K::AccountId))
        .to_owned();
    if manager.get_database_backend() == DbBackend::Sqlite {
        // The rows are in the index of the primary key: half the pages.
        keys.extra("WITHOUT ROWID");
    }
    manager.create_table(keys).await?;
    manager
        .create_table(
            Table::create()
                .table(B::Table)
                // The name of the API key, or the subject of the client certificate; empty if neither was needed.
                .col(name(manager, B::Caller))
                .col(name(manager, B::Key))
                .col(text(B::Fingerprint))
                .col(text(B::Results))
                .col(big_integer(B::CreatedAt))
                .primary_key(Index::create().col(B::Caller).col(B::Key))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            Table::create()
                .table(Commits::Table)
                .col(uuid(Commits::Id).primary_key())
                .col(big_integer(Commits::Increments))
                .col(big_integer(Commits::Quantity))
                .col(big_integer(Commits::CommittedAt))
                .to_owned(),
        )
        .await?;
    // Old rows are found by age when they are deleted or rolled up. Old keys are found by reading all of them: an index
    // would need as much space as the keys.
    let by_age = [
        Index::create()
            .name("batch_keys_by_age")
            .table(B::Table)
            .col(B::CreatedAt)
            .to_owned(),
        Index::create()
            .name("commits_by_age")
            .table(Commits::Table)
            .col(Commits::CommittedAt)
            .to_owned(),
    ];
    for index in by_age {
        manager.create_index(index).await?;
    }
    Ok(())
}

async fn create_correction_keys(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use CorrectionKeys as C;
    manager
        .create_table(
            Table::create()
                .table(C::Table)
                .col(name(manager, C::AccountId))
                .col(name(manager, C::Key))
                // The correction that it entered.
                .col(uuid(C::ReportId))
                // The stated time: an absent one matches only an absent one.
                .col(big_integer_null(C::StatedAt))
                .col(big_integer(C::CreatedAt))
                .primary_key(Index::create().col(C::AccountId).col(C::Key))
                .to_owned(),
        )
        .await
}
