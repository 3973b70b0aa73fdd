//! Closed usage reports, and the decisions of admins on them. Those that are open are in `open_reports`.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, big_integer_null, boolean, integer, text, text_null, uuid, uuid_null},
    sea_orm::DbBackend,
};

use crate::columns::name;

/// Fifteen digits: the largest quantity that Stripe accepts in one meter event.
pub(super) const MAX_QUANTITY: i64 = 999_999_999_999_999;

#[derive(DeriveIden)]
enum UsageReports {
    Table,
    Number,
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
    SendBy,
    FirstSentAt,
    LastSentAt,
    ReportedAt,
    LastError,
    RunId,
    Kind,
    Note,
    EnteredBy,
    BillAt,
    ConfirmedAt,
    LookedUpAt,
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

pub(super) async fn create(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    create_usage_reports(manager).await?;
    create_report_decisions(manager).await
}

async fn create_usage_reports(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use UsageReports as C;
    let is_sqlite = manager.get_database_backend() == DbBackend::Sqlite;
    let mut by_id = Index::create();
    by_id.col(C::AccountId).col(C::Id);
    if is_sqlite {
        // The number is the place of the row itself.
        by_id.unique();
    } else {
        by_id.primary();
    }
    manager
        .create_table(
            Table::create()
                .table(C::Table)
                // In the order in which reports close. Indexes that end with it grow at their end; with the id, which is
                // as old as the open report, each report of a run would change another page of each of them.
                .col(number(is_sqlite, C::Number))
                .col(name(manager, C::AccountId))
                .col(uuid(C::Id))
                .col(name(manager, C::Meter))
                .col(big_integer(C::WindowStart))
                .col(big_integer(C::WindowEnd))
                .col(big_integer(C::PeriodEnd))
                .col(big_integer(C::ClosedAt))
                .col(big_integer(C::Quantity))
                .col(big_integer(C::FirstAt))
                .col(big_integer(C::LastAt))
                .col(text(C::State))
                .col(boolean(C::Straddled).default(false))
                .col(integer(C::Generation).default(0))
                .col(big_integer_null(C::EventTimestamp))
                .col(name(manager, C::Customer).null())
                .col(integer(C::Attempts).default(0))
                // Null if the sender may send or check it at once.
                .col(big_integer_null(C::NextAttemptAt))
                // By when it should be sent; null until the sender has read that.
                .col(big_integer_null(C::SendBy))
                .col(big_integer_null(C::FirstSentAt))
                .col(big_integer_null(C::LastSentAt))
                .col(big_integer_null(C::ReportedAt))
                .col(text_null(C::LastError))
                .col(uuid_null(C::RunId))
                // `usage`, `correction` or `already_sent`.
                .col(text(C::Kind).default("usage"))
                // Why a correction was entered, and who entered it.
                .col(text_null(C::Note))
                .col(text_null(C::EnteredBy))
                // When it is billed instead of in its own window's period.
                .col(big_integer_null(C::BillAt))
                .col(big_integer_null(C::ConfirmedAt))
                // When it was looked up at Stripe after a restore.
                .col(big_integer_null(C::LookedUpAt))
                .index(&mut by_id)
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
    for index in [BY_STATE, UNVERIFIED, OTHER_KINDS, FINISHED] {
        manager.get_connection().execute_unprepared(index).await?;
    }
    Ok(())
}

/// Reports in a state. An index of the state alone would be taken for every query with a condition on it, without
/// statistics even if that state has a million reports. This one is only used by queries with the same expression.
const BY_STATE: &str =
    "CREATE INDEX usage_reports_by_state ON usage_reports ((state || ''), number)";
/// Accepted reports that are not confirmed, by stream and UTC day.
const UNVERIFIED: &str = "CREATE INDEX usage_reports_unverified ON usage_reports \
    (customer, meter, (event_timestamp / 86400000)) WHERE state IN ('accepted', 'missing')";
/// Corrections, and what Stripe was found to have already. They are few.
const OTHER_KINDS: &str =
    "CREATE INDEX usage_reports_other_kinds ON usage_reports (kind, number) WHERE kind <> 'usage'";

/// Reports that are folded when they are old, the oldest windows first.
const FINISHED: &str = "CREATE INDEX usage_reports_finished ON usage_reports (window_start, account_id, id) \
    WHERE kind = 'usage' AND state IN ('invoiced', 'not_billable', 'written_off')";

fn usage_report_indexes() -> Vec<IndexCreateStatement> {
    use UsageReports as C;
    // Usage of an account in a period: all that its sums need, or each report would be read from a page of its own.
    let by_window = Index::create()
        .name("usage_reports_by_window")
        .table(C::Table)
        .col(C::AccountId)
        .col(C::WindowStart)
        .col(C::Meter)
        .col(C::State)
        .col(C::Quantity)
        .to_owned();
    // Which minutes have an event of a customer and meter already.
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
        .col(C::Number)
        .and_where(Expr::col(C::RunId).is_not_null())
        .to_owned();
    let mut all = vec![by_window];
    all.extend(indexes_of_due_reports());
    all.extend([by_event, by_run]);
    all
}

/// The states in which the sender sends a report or checks its delivery, in the order of the queries.
const DUE: [&str; 4] = ["closed", "sending", "unknown", "uncharged"];

fn indexes_of_due_reports() -> [IndexCreateStatement; 6] {
    use UsageReports as C;
    // Reports that the sender has to send or check at once, what is due soonest first. Those that wait are in another
    // index, by the end of the wait, and those that have no place in the queue yet in a third one, to which closing only
    // appends.
    let unplaced = Index::create()
        .name("usage_reports_unplaced")
        .table(C::Table)
        .col(C::Meter)
        .col(C::Number)
        .and_where(Expr::col(C::State).is_in(DUE))
        .and_where(Expr::col(C::NextAttemptAt).is_null())
        .and_where(Expr::col(C::SendBy).is_null())
        .to_owned();
    let due = Index::create()
        .name("usage_reports_due")
        .table(C::Table)
        .col(C::Meter)
        .col(C::SendBy)
        .col(C::Customer)
        .col(C::Id)
        .and_where(Expr::col(C::State).is_in(DUE))
        .and_where(Expr::col(C::NextAttemptAt).is_null())
        .and_where(Expr::col(C::SendBy).is_not_null())
        .to_owned();
    let waiting = Index::create()
        .name("usage_reports_waiting")
        .table(C::Table)
        .col(C::NextAttemptAt)
        .and_where(Expr::col(C::State).is_in(DUE))
        .and_where(Expr::col(C::NextAttemptAt).is_not_null())
        .to_owned();
    // Both kinds, by account.
    let due_by_account = Index::create()
        .name("usage_reports_due_by_account")
        .table(C::Table)
        .col(C::AccountId)
        .col(C::Meter)
        .col(C::WindowStart)
        .and_where(Expr::col(C::State).is_in(DUE))
        .to_owned();
    // Both kinds, by the age of their usage.
    let due_by_age = Index::create()
        .name("usage_reports_due_by_age")
        .table(C::Table)
        .col(C::WindowStart)
        .and_where(Expr::col(C::State).is_in(DUE))
        .to_owned();
    // After a restore, those of a customer and meter that are looked up at Stripe.
    let unknown = Index::create()
        .name("usage_reports_unknown")
        .table(C::Table)
        .col(C::Customer)
        .col(C::Meter)
        .col(C::Id)
        .and_where(Expr::col(C::State).eq("unknown"))
        .to_owned();
    [unplaced, due, waiting, due_by_account, due_by_age, unknown]
}

/// A number that the engine gives to each new row: larger than those before it.
fn number(is_sqlite: bool, column: UsageReports) -> ColumnDef {
    let mut number = ColumnDef::new(column);
    if is_sqlite {
        number.integer().primary_key();
    } else {
        number
            .big_integer()
            .not_null()
            .extra("GENERATED BY DEFAULT AS IDENTITY");
    }
    number
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
        .await?;
    // Old ones are archived.
    manager
        .create_index(
            Index::create()
                .name("report_decisions_by_time")
                .table(D::Table)
                .col(D::DecidedAt)
                .to_owned(),
        )
        .await
}
