//! Background jobs: report runs, leases, cursors and verifications, and whether reports are sent.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, big_integer_null, boolean_null, integer, text, text_null, uuid},
};
use uuid::Uuid;

use crate::columns::name;

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

#[derive(DeriveIden)]
enum JobCursors {
    Table,
    Name,
    Place,
}

#[derive(DeriveIden)]
enum Verifications {
    Table,
    Customer,
    Meter,
    Day,
    SentTotal,
    StripeTotal,
    Finding,
    ChangedAt,
    VerifiedAt,
}

#[derive(DeriveIden)]
enum Sending {
    Table,
    Id,
    PausedAt,
    PausedWhy,
    BackupAt,
    RestoredAt,
    DatabaseId,
    StripeMeter,
    StripeAccount,
    StripeIsLive,
    AdoptedAt,
    Mark,
    MarkNonce,
    MarkAt,
    MarkBeforeAt,
    NextNonce,
    LastAcceptedAt,
    BillFrom,
}

pub(super) async fn create(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    create_runs_and_leases(manager).await?;
    create_verifications(manager).await?;
    create_sending(manager).await
}

/// One row: whether reports are sent, to which Stripe account, and what is known of the last restore.
async fn create_sending(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use Sending as S;
    manager
        .create_table(
            Table::create()
                .table(S::Table)
                .col(integer(S::Id).primary_key())
                // Null while reports are sent.
                .col(big_integer_null(S::PausedAt))
                .col(text_null(S::PausedWhy))
                // The last moment that the restored backup contains.
                .col(big_integer_null(S::BackupAt))
                .col(big_integer_null(S::RestoredAt))
                // A copy of the database has the same id.
                .col(uuid(S::DatabaseId))
                // A meter of the account that usage is reported to; null before the first report.
                .col(text_null(S::StripeMeter))
                // Null where the key may not read it.
                .col(text_null(S::StripeAccount))
                .col(boolean_null(S::StripeIsLive))
                // What was sent before went to another account.
                .col(big_integer_null(S::AdoptedAt))
                // The last mark that was written at Stripe, when it and the one before were, and the one being written.
                .col(big_integer(S::Mark).default(0))
                .col(text_null(S::MarkNonce))
                .col(big_integer_null(S::MarkAt))
                .col(big_integer_null(S::MarkBeforeAt))
                .col(text_null(S::NextNonce))
                // When Stripe last accepted a meter event.
                .col(big_integer_null(S::LastAcceptedAt))
                // Usage before it is billed by another integration; null if this service always billed, the largest number
                // while no moment is named.
                .col(big_integer_null(S::BillFrom))
                .to_owned(),
        )
        .await?;
    let row = Query::insert()
        .into_table(S::Table)
        .columns([S::Id, S::DatabaseId])
        .values_panic([1.into(), Uuid::new_v4().into()])
        .to_owned();
    manager.execute(row).await
}

async fn create_runs_and_leases(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
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
    // The last run of the schedule.
    manager
        .create_index(
            Index::create()
                .name("report_runs_by_trigger")
                .table(R::Table)
                .col(R::Trigger)
                .col(R::StartedAt)
                .to_owned(),
        )
        .await?;
    // The list of runs, the latest first.
    manager
        .create_index(
            Index::create()
                .name("report_runs_by_start")
                .table(R::Table)
                .col(R::StartedAt)
                .col(R::Id)
                .to_owned(),
        )
        .await?;
    // Few runs are unfinished at any time, and every tick reads them.
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
        .await?;
    manager
        .create_table(
            Table::create()
                .table(JobCursors::Table)
                .col(text(JobCursors::Name).primary_key())
                // Where the next run continues, as JSON.
                .col(text(JobCursors::Place))
                .to_owned(),
        )
        .await
}

async fn create_verifications(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use Verifications as V;
    manager
        .create_table(
            Table::create()
                .table(V::Table)
                .col(name(manager, V::Customer))
                .col(name(manager, V::Meter))
                // The first moment of the UTC day of the events' timestamps.
                .col(big_integer(V::Day))
                .col(big_integer(V::SentTotal))
                .col(big_integer_null(V::StripeTotal))
                // `equal`, `behind`, `lacking` or `over`.
                .col(text(V::Finding))
                // When any of the three last changed.
                .col(big_integer(V::ChangedAt))
                .col(big_integer(V::VerifiedAt))
                .primary_key(Index::create().col(V::Customer).col(V::Meter).col(V::Day))
                .to_owned(),
        )
        .await?;
    // Old rows are found by day when they are deleted.
    manager
        .create_index(
            Index::create()
                .name("verifications_by_day")
                .table(V::Table)
                .col(V::Day)
                .to_owned(),
        )
        .await?;
    // Few days differ, and every replica sums them each minute.
    let different =
        "CREATE INDEX verifications_different ON verifications (finding) WHERE finding <> 'equal'";
    let created = manager.get_connection().execute_unprepared(different);
    created.await.map(|_| ())
}
