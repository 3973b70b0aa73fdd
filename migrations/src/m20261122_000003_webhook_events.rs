//! The webhooks that Stripe sent, until what they are about has been read from Stripe.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, big_integer_null, boolean, text, text_null},
};

use crate::names::name;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[derive(DeriveIden)]
enum WebhookEvents {
    Table,
    Id,
    Kind,
    Customer,
    Object,
    Livemode,
    CreatedAt,
    ReceivedAt,
    HandledAt,
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        use WebhookEvents as W;
        manager
            .create_table(
                Table::create()
                    .table(W::Table)
                    // Stripe's own id: what comes twice meets its first row.
                    .col(name(manager, W::Id).primary_key())
                    .col(text(W::Kind))
                    .col(text_null(W::Customer))
                    .col(text_null(W::Object))
                    .col(boolean(W::Livemode))
                    .col(big_integer(W::CreatedAt))
                    .col(big_integer(W::ReceivedAt))
                    .col(big_integer_null(W::HandledAt))
                    .to_owned(),
            )
            .await?;
        // What waits is asked for every few seconds, and is little beside what is kept.
        let pending = Index::create()
            .name("webhook_events_pending")
            .table(W::Table)
            .col(W::ReceivedAt)
            .col(W::Id)
            .and_where(Expr::col(W::HandledAt).is_null())
            .to_owned();
        let by_age = Index::create()
            .name("webhook_events_by_age")
            .table(W::Table)
            .col(W::ReceivedAt)
            .to_owned();
        for index in [pending, by_age] {
            manager.create_index(index).await?;
        }
        Ok(())
    }

    async fn down(&self, _: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration(
            "migrations only go forward: restore a backup instead".to_owned(),
        ))
    }
}
