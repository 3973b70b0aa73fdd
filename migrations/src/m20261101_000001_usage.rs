//! The first schema: usage reports, whom accounts bill to, keys, commits, runs and leases.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, big_integer_null, boolean, integer, text, text_null, uuid, uuid_null},
};

/// Fifteen digits: the largest quantity that Stripe takes in one meter event.
const MAX_QUANTITY: i64 = 999_999_999_999_999;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        create_usage_reports(manager).await?;
        create_accounts(manager).await?;
        create_keys(manager).await?;
        create_jobs(manager).await
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
    AccountId,
    Id,
    Meter,
    WindowStart,
    WindowEnd,
    PeriodEnd,
    ClosedAt,
    Quantity,
    FirstAt,
    LastAt,
    State,
    Straddled,
    Generation,
    EventTimestamp,
    Customer,
    Attempts,
    NextAttemptAt,
    FirstSentAt,
    LastSentAt,
    ReportedAt,
    LastError,
    RunId,
}

#[derive(DeriveIden)]
enum AccountLinks {
    Table,
    AccountId,
    Version,
    ValidFrom,
    Customer,
    Subscription,
    RecordedAt,
}

#[derive(DeriveIden)]
enum Customers {
    Table,
    Customer,
    AccountId,
}

#[derive(DeriveIden)]
enum BillingPeriods {
    Table,
    AccountId,
    Item,
    PeriodStart,
    PeriodEnd,
    RecordedAt,
}

#[derive(DeriveIden)]
enum BoundaryVersion {
    Table,
    Id,
    Version,
}

#[derive(DeriveIden)]
enum IdempotencyKeys {
    Table,
    AccountId,
    Key,
    Meter,
    Quantity,
    StatedAt,
    CreatedAt,
}

#[derive(DeriveIden)]
enum BatchKeys {
    Table,
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
enum ReportRuns {
    Table,
    Id,
    Trigger,
    RequestedBy,
    Scope,
    StartedAt,
    HeartbeatAt,
    ClosingFinishedAt,
    ClosedReports,
    ClosedQuantity,
}

#[derive(DeriveIden)]
enum Leases {
    Table,
    Name,
    Holder,
    HeldUntil,
    LastRunAt,
}

/// A text by which rows are found and sorted: byte by byte on every engine, whatever the locale of the
/// database. Who counts locks rows in the order of their bytes, and who closes in the order of the
/// database: where the two differ they would deadlock.
fn name(manager: &SchemaManager<'_>, column: impl IntoIden) -> ColumnDef {
    let mut column = text(column);
    if manager.get_database_backend() == sea_orm::DbBackend::Postgres {
        column.extra(r#"COLLATE "C""#);
    }
    column
}

async fn create_usage_reports(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use UsageReports as C;
    manager
        .create_table(
            Table::create()
                .table(C::Table)
                .col(name(manager, C::AccountId))
                .col(uuid(C::Id))
                .col(name(manager, C::Meter))
                .col(big_integer(C::WindowStart))
                .col(big_integer(C::WindowEnd))
                .col(big_integer_null(C::PeriodEnd))
                .col(big_integer_null(C::ClosedAt))
                .col(big_integer(C::Quantity))
                .col(big_integer(C::FirstAt))
                .col(big_integer(C::LastAt))
                .col(text(C::State))
                .col(boolean(C::Straddled).default(false))
                .col(integer(C::Generation).default(0))
                .col(big_integer_null(C::EventTimestamp))
                .col(text_null(C::Customer))
                .col(integer(C::Attempts).default(0))
                .col(big_integer_null(C::NextAttemptAt))
                .col(big_integer_null(C::FirstSentAt))
                .col(big_integer_null(C::LastSentAt))
                .col(big_integer_null(C::ReportedAt))
                .col(text_null(C::LastError))
                .col(uuid_null(C::RunId))
                .primary_key(Index::create().col(C::AccountId).col(C::Id))
                .check((
                    "usage_reports_quantity",
                    Expr::col(C::Quantity).between(-MAX_QUANTITY, MAX_QUANTITY),
                ))
                .check((
                    "usage_reports_window",
                    Expr::col(C::WindowStart).lt(Expr::col(C::WindowEnd)),
                ))
                .to_owned(),
        )
        .await?;
    for index in usage_report_indexes() {
        manager.create_index(index).await?;
    }
    Ok(())
}

fn usage_report_indexes() -> [IndexCreateStatement; 7] {
    use UsageReports as C;
    // At most one open report a window, any number of closed ones.
    let open = Index::create()
        .name("usage_reports_open")
        .table(C::Table)
        .unique()
        .col(C::AccountId)
        .col(C::Meter)
        .col(C::WindowStart)
        .and_where(Expr::col(C::PeriodEnd).is_null())
        .to_owned();
    // Usage of an account in a period.
    let by_window = Index::create()
        .name("usage_reports_by_window")
        .table(C::Table)
        .col(C::AccountId)
        .col(C::WindowStart)
        .to_owned();
    // What waits to be sent, one customer and meter after the other.
    let due = Index::create()
        .name("usage_reports_due")
        .table(C::Table)
        .col(C::Customer)
        .col(C::Meter)
        .col(C::Id)
        .and_where(Expr::col(C::State).is_in(["closed", "sending", "unknown"]))
        .to_owned();
    // Which minutes of a customer's window hold an event already.
    let by_event = Index::create()
        .name("usage_reports_by_event")
        .table(C::Table)
        .col(C::Customer)
        .col(C::Meter)
        .col(C::EventTimestamp)
        .and_where(Expr::col(C::EventTimestamp).is_not_null())
        .to_owned();
    let by_run = Index::create()
        .name("usage_reports_by_run")
        .table(C::Table)
        .col(C::RunId)
        .col(C::State)
        .and_where(Expr::col(C::RunId).is_not_null())
        .to_owned();
    let newest = Index::create()
        .name("usage_reports_newest")
        .table(C::Table)
        .col(C::Id)
        .to_owned();
    let by_state = Index::create()
        .name("usage_reports_by_state")
        .table(C::Table)
        .col(C::State)
        .col(C::Id)
        .to_owned();
    [open, by_window, due, by_event, by_run, newest, by_state]
}

async fn create_accounts(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use AccountLinks as L;
    manager
        .create_table(
            Table::create()
                .table(L::Table)
                .col(name(manager, L::AccountId))
                .col(big_integer(L::Version))
                .col(big_integer(L::ValidFrom))
                // No customer means free.
                .col(text_null(L::Customer))
                .col(text_null(L::Subscription))
                .col(big_integer(L::RecordedAt))
                .primary_key(Index::create().col(L::AccountId).col(L::Version))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            Table::create()
                .table(Customers::Table)
                .col(name(manager, Customers::Customer).primary_key())
                .col(name(manager, Customers::AccountId))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(
            Index::create()
                .name("customers_by_account")
                .table(Customers::Table)
                .col(Customers::AccountId)
                .to_owned(),
        )
        .await?;
    manager
        .create_index(
            Index::create()
                .name("account_links_by_customer")
                .table(L::Table)
                .col(L::Customer)
                .to_owned(),
        )
        .await?;
    create_billing_periods(manager).await
}

async fn create_billing_periods(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use BillingPeriods as P;
    manager
        .create_table(
            Table::create()
                .table(P::Table)
                .col(name(manager, P::AccountId))
                .col(name(manager, P::Item))
                .col(big_integer(P::PeriodStart))
                .col(big_integer(P::PeriodEnd))
                .col(big_integer(P::RecordedAt))
                .primary_key(
                    Index::create()
                        .col(P::AccountId)
                        .col(P::Item)
                        .col(P::PeriodStart),
                )
                .check((
                    "billing_periods_order",
                    Expr::col(P::PeriodStart).lt(Expr::col(P::PeriodEnd)),
                ))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            Table::create()
                .table(BoundaryVersion::Table)
                .col(integer(BoundaryVersion::Id).primary_key())
                .col(big_integer(BoundaryVersion::Version))
                .to_owned(),
        )
        .await?;
    manager
        .execute(
            Query::insert()
                .into_table(BoundaryVersion::Table)
                .columns([BoundaryVersion::Id, BoundaryVersion::Version])
                .values_panic([1.into(), 1_i64.into()])
                .to_owned(),
        )
        .await
}

async fn create_keys(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use BatchKeys as B;
    use IdempotencyKeys as K;
    manager
        .create_table(
            Table::create()
                .table(K::Table)
                .col(name(manager, K::AccountId))
                .col(name(manager, K::Key))
                .col(text(K::Meter))
                .col(big_integer(K::Quantity))
                .col(big_integer_null(K::StatedAt))
                .col(big_integer(K::CreatedAt))
                .primary_key(Index::create().col(K::AccountId).col(K::Key))
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            Table::create()
                .table(B::Table)
                .col(name(manager, B::Key).primary_key())
                .col(text(B::Fingerprint))
                .col(text(B::Results))
                .col(big_integer(B::CreatedAt))
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
    // Old rows are found by age when they are forgotten or rolled up.
    let by_age = [
        Index::create()
            .name("idempotency_keys_by_age")
            .table(K::Table)
            .col(K::CreatedAt)
            .to_owned(),
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

async fn create_jobs(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use ReportRuns as R;
    manager
        .create_table(
            Table::create()
                .table(R::Table)
                .col(uuid(R::Id).primary_key())
                .col(text(R::Trigger))
                .col(text(R::RequestedBy))
                // The accounts as a JSON array; null means all.
                .col(text_null(R::Scope))
                .col(big_integer(R::StartedAt))
                .col(big_integer(R::HeartbeatAt))
                .col(big_integer_null(R::ClosingFinishedAt))
                .col(big_integer(R::ClosedReports).default(0))
                .col(big_integer(R::ClosedQuantity).default(0))
                .to_owned(),
        )
        .await?;
    // Few runs are ever unfinished, and every tick asks for them.
    manager
        .create_index(
            Index::create()
                .name("report_runs_unfinished")
                .table(R::Table)
                .col(R::HeartbeatAt)
                .and_where(Expr::col(R::ClosingFinishedAt).is_null())
                .to_owned(),
        )
        .await?;
    manager
        .create_table(
            Table::create()
                .table(Leases::Table)
                .col(text(Leases::Name).primary_key())
                .col(text(Leases::Holder))
                .col(big_integer(Leases::HeldUntil))
                .col(big_integer_null(Leases::LastRunAt))
                .to_owned(),
        )
        .await
}
