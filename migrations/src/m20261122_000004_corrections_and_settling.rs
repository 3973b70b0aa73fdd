//! What an admin does to usage and what Stripe's totals say of it: keys of corrections, decisions on reports,
//! and what settling found of each customer, meter and day.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, big_integer_null, integer, text, uuid},
};

use crate::names::name;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        create_correction_keys(manager).await?;
        create_report_decisions(manager).await?;
        create_settlements(manager).await?;
        // What Stripe took and its totals were not seen to contain.
        manager
            .create_index(
                Index::create()
                    .name("usage_reports_unsettled")
                    .table(UsageReports::Table)
                    .col(UsageReports::Customer)
                    .col(UsageReports::Meter)
                    .col(UsageReports::EventTimestamp)
                    .and_where(Expr::cust("state IN ('accepted', 'missing')"))
                    .to_owned(),
            )
            .await
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
    Customer,
    Meter,
    EventTimestamp,
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

#[derive(DeriveIden)]
enum ReportDecisions {
    Table,
    AccountId,
    Id,
    ReportId,
    Action,
    Reason,
    RequestedBy,
    FromState,
    Generation,
    DecidedAt,
}

#[derive(DeriveIden)]
enum Verifications {
    Table,
    Customer,
    Meter,
    Day,
    Ours,
    Stripes,
    State,
    ChangedAt,
    VerifiedAt,
}

async fn create_correction_keys(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use CorrectionKeys as C;
    manager
        .create_table(
            Table::create()
                .table(C::Table)
                .col(name(manager, C::AccountId))
                .col(name(manager, C::Key))
                // The correction that it entered, which says the rest.
                .col(uuid(C::ReportId))
                // The time that was stated: an absent one matches only an absent one.
                .col(big_integer_null(C::StatedAt))
                .col(big_integer(C::CreatedAt))
                .primary_key(Index::create().col(C::AccountId).col(C::Key))
                .to_owned(),
        )
        .await
}

async fn create_report_decisions(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use ReportDecisions as D;
    manager
        .create_table(
            Table::create()
                .table(D::Table)
                .col(name(manager, D::AccountId))
                .col(uuid(D::Id))
                .col(uuid(D::ReportId))
                // `retry`, `bill_in_current_period` or `write_off`.
                .col(text(D::Action))
                .col(text(D::Reason))
                .col(text(D::RequestedBy))
                .col(text(D::FromState))
                // The report's generation from then on.
                .col(integer(D::Generation))
                .col(big_integer(D::DecidedAt))
                .primary_key(Index::create().col(D::AccountId).col(D::Id))
                .to_owned(),
        )
        .await?;
    manager
        .create_index(
            Index::create()
                .name("report_decisions_by_report")
                .table(D::Table)
                .col(D::AccountId)
                .col(D::ReportId)
                .to_owned(),
        )
        .await
}

async fn create_settlements(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use Verifications as S;
    manager
        .create_table(
            Table::create()
                .table(S::Table)
                .col(name(manager, S::Customer))
                .col(name(manager, S::Meter))
                // The first moment of the UTC day of the events' timestamps.
                .col(big_integer(S::Day))
                .col(big_integer(S::Ours))
                .col(big_integer_null(S::Stripes))
                // `equal`, `behind`, `lacking` or `over`.
                .col(text(S::State))
                // When any of the three last changed.
                .col(big_integer(S::ChangedAt))
                .col(big_integer(S::VerifiedAt))
                .primary_key(Index::create().col(S::Customer).col(S::Meter).col(S::Day))
                .to_owned(),
        )
        .await?;
    // Old ones are forgotten.
    manager
        .create_index(
            Index::create()
                .name("settlements_by_day")
                .table(S::Table)
                .col(S::Day)
                .to_owned(),
        )
        .await
}
