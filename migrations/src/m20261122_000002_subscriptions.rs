//! The life of a subscription: which one an account follows, what becomes of its periods' invoices, and the
//! changes made to it; and on usage reports what corrections and decisions need.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, big_integer_null, boolean, text, text_null, uuid},
};

use crate::names::name;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        widen_usage_reports(manager).await?;
        widen_accounts(manager).await?;
        create_subscriptions(manager).await?;
        create_operations(manager).await
    }

    async fn down(&self, _: &SchemaManager) -> Result<(), DbErr> {
        Err(DbErr::Migration(
            "migrations only go forward: restore a backup instead".to_owned(),
        ))
    }
}

#[derive(DeriveIden)]
enum UsageReports {
    Table,
    Kind,
    Note,
    EnteredBy,
    BillAt,
    ConfirmedAt,
}

#[derive(DeriveIden)]
enum AccountLinks {
    Table,
    Ended,
}

#[derive(DeriveIden)]
enum BillingPeriods {
    Table,
    Subscription,
    Meter,
    Price,
    BillsFrom,
    PeriodEnd,
    Invoice,
    InvoiceState,
    DraftUntil,
}

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
    HeartbeatAt,
    Holder,
    FinishedAt,
    Error,
}

/// One statement a column: SQLite adds no two at once.
async fn add_column(
    manager: &SchemaManager<'_>,
    table: impl IntoIden,
    column: impl IntoColumnDef,
) -> Result<(), DbErr> {
    manager
        .alter_table(
            Table::alter()
                .table(table.into_iden())
                .add_column(column)
                .to_owned(),
        )
        .await
}

async fn widen_usage_reports(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use UsageReports as C;
    // `usage` or `correction`.
    add_column(manager, C::Table, text(C::Kind).default("usage")).await?;
    // Why a correction was entered, and by whom.
    add_column(manager, C::Table, text_null(C::Note)).await?;
    add_column(manager, C::Table, text_null(C::EnteredBy)).await?;
    // When it is billed instead of in its own window's period.
    add_column(manager, C::Table, big_integer_null(C::BillAt)).await?;
    add_column(manager, C::Table, big_integer_null(C::ConfirmedAt)).await
}

async fn widen_accounts(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use AccountLinks as L;
    use BillingPeriods as P;
    // A link whose customer is remembered while nothing is billed to it: its subscription ended.
    add_column(manager, L::Table, boolean(L::Ended).default(false)).await?;
    add_column(manager, P::Table, text_null(P::Subscription)).await?;
    add_column(manager, P::Table, text_null(P::Meter)).await?;
    add_column(manager, P::Table, text_null(P::Price)).await?;
    // The first moment whose usage Stripe bills to this item, where that lies behind the period's start.
    add_column(manager, P::Table, big_integer_null(P::BillsFrom)).await?;
    add_column(manager, P::Table, text_null(P::Invoice)).await?;
    // `unknown`, `draft` or `final`.
    add_column(manager, P::Table, text(P::InvoiceState).default("unknown")).await?;
    add_column(manager, P::Table, big_integer_null(P::DraftUntil)).await?;
    // Periods that ended lately are looked at all the time.
    manager
        .create_index(
            Index::create()
                .name("billing_periods_by_end")
                .table(P::Table)
                .col(P::PeriodEnd)
                .to_owned(),
        )
        .await
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
                // Set when somebody needs the truth before the next poll.
                .col(big_integer_null(S::SyncRequestedAt))
                .primary_key(Index::create().col(S::AccountId).col(S::Subscription))
                .to_owned(),
        )
        .await?;
    let by_customer = Index::create()
        .name("subscriptions_by_customer")
        .table(S::Table)
        .col(S::Customer)
        .to_owned();
    let wanted = Index::create()
        .name("subscriptions_wanted")
        .table(S::Table)
        .col(S::SyncRequestedAt)
        .and_where(Expr::col(S::SyncRequestedAt).is_not_null())
        .to_owned();
    let cancelled = Index::create()
        .name("subscriptions_by_cancel")
        .table(S::Table)
        .col(S::CancelAt)
        .and_where(Expr::col(S::CancelAt).is_not_null())
        .to_owned();
    for index in [by_customer, wanted, cancelled] {
        manager.create_index(index).await?;
    }
    Ok(())
}

async fn create_operations(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use SubscriptionChanges as O;
    manager
        .create_table(
            Table::create()
                .table(O::Table)
                .col(name(manager, O::AccountId))
                .col(uuid(O::Id))
                // `change_plan` or `cancel`.
                .col(text(O::Kind))
                // What was asked for, as JSON.
                .col(text(O::Request))
                .col(text(O::RequestedBy))
                .col(text(O::Subscription))
                // `draining`, `changing`, `done` or `undone`.
                .col(text(O::Step))
                .col(big_integer(O::BoundaryAt))
                .col(big_integer(O::StartedAt))
                .col(big_integer(O::DeadlineAt))
                .col(big_integer(O::HeartbeatAt))
                .col(text(O::Holder))
                .col(big_integer_null(O::FinishedAt))
                .col(text_null(O::Error))
                .primary_key(Index::create().col(O::AccountId).col(O::Id))
                .to_owned(),
        )
        .await?;
    // One at a time for each account.
    manager
        .create_index(
            Index::create()
                .name("operations_unfinished")
                .table(O::Table)
                .unique()
                .col(O::AccountId)
                .and_where(Expr::col(O::FinishedAt).is_null())
                .to_owned(),
        )
        .await
}
