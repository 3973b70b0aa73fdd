//! API keys, sessions of the console, and what admins did.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, big_integer_null, text, text_null, uuid},
};

use crate::columns::name;

#[derive(DeriveIden)]
enum ApiKeys {
    Table,
    Id,
    Name,
    Role,
    Scope,
    SecretHash,
    CreatedAt,
    ExpiresAt,
    RevokedAt,
    LastUsedAt,
}

#[derive(DeriveIden)]
enum AuditEntries {
    Table,
    Id,
    At,
    Actor,
    KeyId,
    KeyName,
    Address,
    ActionId,
    RequestId,
    Action,
    AccountId,
    Request,
    Before,
    After,
    Outcome,
    Message,
}

#[derive(DeriveIden)]
enum ConsoleSessions {
    Table,
    Hash,
    KeyId,
    CreatedAt,
    ExpiresAt,
}

pub(super) async fn create(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use ApiKeys as K;
    manager
        .create_table(
            Table::create()
                .table(K::Table)
                // 16 hexadecimal digits. Rows are never deleted: with one, every call needs a key.
                .col(name(manager, K::Id).primary_key())
                .col(text(K::Name))
                // `writer`, `reader` or `admin`.
                .col(text(K::Role))
                // The limits, as a JSON object.
                .col(text(K::Scope))
                // The SHA-256 of the secret, in hexadecimal.
                .col(text(K::SecretHash))
                .col(big_integer(K::CreatedAt))
                .col(big_integer_null(K::ExpiresAt))
                .col(big_integer_null(K::RevokedAt))
                // To the hour.
                .col(big_integer_null(K::LastUsedAt))
                .to_owned(),
        )
        .await?;
    create_console_sessions(manager).await?;
    create_audit_entries(manager).await
}

async fn create_console_sessions(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use ConsoleSessions as S;
    manager
        .create_table(
            Table::create()
                .table(S::Table)
                // The SHA-256 of the cookie, in hexadecimal.
                .col(name(manager, S::Hash).primary_key())
                .col(text(S::KeyId))
                .col(big_integer(S::CreatedAt))
                .col(big_integer(S::ExpiresAt))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(
            Index::create()
                .name("console_sessions_by_end")
                .table(S::Table)
                .col(S::ExpiresAt)
                .to_owned(),
        )
        .await
}

async fn create_audit_entries(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use AuditEntries as A;
    manager
        .create_table(
            Table::create()
                .table(A::Table)
                .col(uuid(A::Id).primary_key())
                .col(big_integer(A::At))
                // `anyone`, `key`, `certificate` or `command`.
                .col(text(A::Actor))
                // Null unless it is known by a key.
                .col(text_null(A::KeyId))
                .col(text(A::KeyName))
                .col(text(A::Address))
                // The same in the entries of one call.
                .col(uuid(A::ActionId))
                .col(text(A::RequestId))
                .col(text(A::Action))
                .col(text_null(A::AccountId))
                // JSON, as the next two.
                .col(text_null(A::Request))
                .col(text_null(A::Before))
                .col(text_null(A::After))
                // `begun`, `done` or `failed`.
                .col(text(A::Outcome))
                .col(text_null(A::Message))
                .to_owned(),
        )
        .await?;
    // Lists are newest first: of all, of a key, of an account.
    for (index, column) in [
        ("audit_entries_by_time", None),
        ("audit_entries_by_key", Some(A::KeyId)),
        ("audit_entries_by_account", Some(A::AccountId)),
    ] {
        let mut create = Index::create();
        create.name(index).table(A::Table);
        if let Some(column) = column {
            create.col(column);
        }
        create.col(A::At).col(A::Id);
        manager.create_index(create).await?;
    }
    Ok(())
}
