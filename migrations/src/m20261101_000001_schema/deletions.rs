//! Deleted accounts: digests of their ids, and the salts of these digests.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, big_integer_null},
};

use crate::columns::name;

#[derive(DeriveIden)]
enum DeletedAccounts {
    Table,
    Digest,
    Version,
    DeletedAt,
    AnonymisedAt,
}

#[derive(DeriveIden)]
enum DeletionSalts {
    Table,
    Salt,
    CreatedAt,
}

pub(super) async fn create(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use DeletedAccounts as D;
    manager
        .create_table(
            Table::create()
                .table(D::Table)
                // The HMAC-SHA256 of the id under a salt, in hexadecimal. Nothing else here says which account it was.
                .col(name(manager, D::Digest).primary_key())
                // The version of `boundary_version` from this deletion on: it orders deletions, whatever clocks say.
                .col(big_integer(D::Version))
                // Its usage is refused since then.
                .col(big_integer(D::DeletedAt))
                // When its rows got another id; null until then.
                .col(big_integer_null(D::AnonymisedAt))
                .to_owned(),
        )
        .await?;
    // Exports read the latest one.
    manager
        .create_index(
            Index::create()
                .name("deleted_accounts_by_version")
                .table(D::Table)
                .col(D::Version)
                .unique()
                .to_owned(),
        )
        .await?;
    // Old rows are found by age when they are deleted.
    manager
        .create_index(
            Index::create()
                .name("deleted_accounts_by_age")
                .table(D::Table)
                .col(D::DeletedAt)
                .to_owned(),
        )
        .await?;
    // Those that have not ended are counted each minute.
    manager
        .create_index(
            Index::create()
                .name("deleted_accounts_by_end")
                .table(D::Table)
                .col(D::AnonymisedAt)
                .col(D::DeletedAt)
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            Table::create()
                .table(DeletionSalts::Table)
                // 32 random bytes, in hexadecimal.
                .col(name(manager, DeletionSalts::Salt).primary_key())
                .col(big_integer(DeletionSalts::CreatedAt))
                .to_owned(),
        )
        .await
}
