//! Subscriptions of accounts, changes of them, and the webhook events that cause them to be synced.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, big_integer_null, boolean, text, text_null, uuid},
};

use crate::columns::name;

#[derive(DeriveIden)]
enum Subscriptions {
    Table,
    AccountId,
    Subscription,
    Customer,
    Status,
    BillingMode,
    CancelAt,
    EndedAt,
    SyncedAt,
    SyncRequestedAt,
    IsCompanion,
    EndRequested,
    RelinkedFrom,
    CustomerDeletedAt,
}

#[derive(DeriveIden)]
enum SubscriptionChanges {
    Table,
    AccountId,
    Id,
    Kind,
    Request,
    RequestedBy,
    Subscription,
    Step,
    BoundaryAt,
    StartedAt,
    DeadlineAt,
    RequestedAt,
    HeartbeatAt,
    Holder,
    FinishedAt,
    Error,
}

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

pub(super) async fn create(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    create_subscriptions(manager).await?;
    create_subscription_changes(manager).await?;
    create_webhook_events(manager).await
}

async fn create_subscriptions(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use Subscriptions as S;
    manager
        .create_table(
            Table::create()
                .table(S::Table)
                .col(name(manager, S::AccountId))
                .col(name(manager, S::Subscription))
                .col(name(manager, S::Customer))
                .col(text(S::Status))
                .col(text(S::BillingMode))
                .col(big_integer_null(S::CancelAt))
                .col(big_integer_null(S::EndedAt))
                .col(big_integer(S::SyncedAt))
                // Set when a sync earlier than the next poll is requested.
                .col(big_integer_null(S::SyncRequestedAt))
                // Whether the account's link follows another subscription of the customer.
                .col(boolean(S::IsCompanion).default(false))
                // Whether its end was requested here.
                .col(boolean(S::EndRequested).default(false))
                // Set if an account is linked again after that end.
                .col(big_integer_null(S::RelinkedFrom))
                // Set when a sync found that the customer was deleted at Stripe.
                .col(big_integer_null(S::CustomerDeletedAt))
                .primary_key(Index::create().col(S::AccountId).col(S::Subscription))
                .to_owned(),
        )
        .await?;
    let by_customer = Index::create()
        .name("subscriptions_by_customer")
        .table(S::Table)
        .col(S::Customer)
        .to_owned();
    let by_subscription = Index::create()
        .name("subscriptions_by_subscription")
        .table(S::Table)
        .col(S::Subscription)
        .to_owned();
    let sync_requested = Index::create()
        .name("subscriptions_sync_requested")
        .table(S::Table)
        .col(S::SyncRequestedAt)
        .and_where(Expr::col(S::SyncRequestedAt).is_not_null())
        .to_owned();
    // Those that have not ended, by their last sync.
    let live = Index::create()
        .name("subscriptions_live")
        .table(S::Table)
        .col(S::SyncedAt)
        .col(S::AccountId)
        .col(S::Subscription)
        .and_where(Expr::col(S::EndedAt).is_null())
        .to_owned();
    // Those that will end, by that time.
    let cancelled = Index::create()
        .name("subscriptions_by_cancel")
        .table(S::Table)
        .col(S::CancelAt)
        .and_where(Expr::col(S::CancelAt).is_not_null())
        .and_where(Expr::col(S::EndedAt).is_null())
        .to_owned();
    for index in [
        by_customer,
        by_subscription,
        sync_requested,
        live,
        cancelled,
    ] {
        manager.create_index(index).await?;
    }
    Ok(())
}

async fn create_subscription_changes(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use SubscriptionChanges as C;
    manager
        .create_table(
            Table::create()
                .table(C::Table)
                .col(name(manager, C::AccountId))
                .col(uuid(C::Id))
                // `change_plan` or `cancel`.
                .col(text(C::Kind))
                // What was requested, as JSON.
                .col(text(C::Request))
                .col(text(C::RequestedBy))
                .col(text(C::Subscription))
                // `draining`, `changing`, `done`, `undone`, `refused` or `aborted`.
                .col(text(C::Step))
                .col(big_integer(C::BoundaryAt))
                .col(big_integer(C::StartedAt))
                .col(big_integer(C::DeadlineAt))
                .col(big_integer_null(C::RequestedAt))
                .col(big_integer(C::HeartbeatAt))
                .col(text(C::Holder))
                .col(big_integer_null(C::FinishedAt))
                .col(text_null(C::Error))
                .primary_key(Index::create().col(C::AccountId).col(C::Id))
                .to_owned(),
        )
        .await?;
    // At most one in progress for each account.
    manager
        .create_index(
            Index::create()
                .name("subscription_changes_unfinished")
                .table(C::Table)
                .unique()
                .col(C::AccountId)
                .and_where(Expr::col(C::FinishedAt).is_null())
                .to_owned(),
        )
        .await
}

async fn create_webhook_events(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use WebhookEvents as W;
    manager
        .create_table(
            Table::create()
                .table(W::Table)
                // Stripe's own id, so an event that is delivered twice is stored once.
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
    // Pending events are read every few seconds, and are few among those kept.
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
