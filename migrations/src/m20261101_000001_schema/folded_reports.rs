//! Folded usage reports, the archives that the reports were written to, and the views of all reports.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, big_integer_null, text, text_null, uuid},
    sea_orm::DbBackend,
};

use crate::columns::name;

#[derive(DeriveIden)]
enum FoldedReports {
    Table,
    AccountId,
    WindowStart,
    Id,
    Meter,
    WindowEnd,
    State,
    Customer,
    EventTimestamp,
    BillAt,
    SentAt,
    Quantity,
    Reports,
    FirstAt,
    LastAt,
    Archive,
    Decisions,
}

#[derive(DeriveIden)]
enum ReportArchives {
    Table,
    Number,
    File,
    Sha256,
    Bytes,
    Reports,
    FoldedReports,
    Quantity,
    FirstWindow,
    LastWindowEnd,
    FirstId,
    LastId,
    CreatedAt,
}

pub(super) async fn create(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    create_folded_reports(manager).await?;
    create_report_archives(manager).await?;
    let views = manager.get_connection();
    let unfolded = format!("{CLOSED} UNION ALL {OPEN}");
    for (view, of) in [
        ("unfolded_reports", unfolded.clone()),
        ("all_reports", format!("{unfolded} UNION ALL {FOLDED}")),
    ] {
        let sql = format!("CREATE VIEW {view} AS {of}");
        views.execute_unprepared(&sql).await?;
    }
    Ok(())
}

async fn create_folded_reports(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use FoldedReports as C;
    let mut table = Table::create();
    table
        .table(C::Table)
        .col(name(manager, C::AccountId))
        .col(big_integer(C::WindowStart))
        // That of the oldest report in it.
        .col(uuid(C::Id))
        .col(name(manager, C::Meter))
        .col(big_integer(C::WindowEnd))
        .col(text(C::State))
        .col(name(manager, C::Customer).null())
        .col(big_integer_null(C::EventTimestamp))
        .col(big_integer_null(C::BillAt))
        // When the last of them was accepted by Stripe, or first sent to it.
        .col(big_integer_null(C::SentAt))
        .col(big_integer(C::Quantity))
        // How many reports it is the sum of.
        .col(big_integer(C::Reports))
        .col(big_integer(C::FirstAt))
        .col(big_integer(C::LastAt))
        // The number of the archive that has them one by one.
        .col(big_integer(C::Archive))
        // When and what admins decided on them; null for nearly all.
        .col(text_null(C::Decisions))
        .primary_key(
            Index::create()
                .col(C::AccountId)
                .col(C::WindowStart)
                .col(C::Id),
        )
        .check(("folded_reports_reports", Expr::col(C::Reports).gte(1)))
        .check((
            "folded_reports_window",
            Expr::col(C::WindowStart).lt(Expr::col(C::WindowEnd)),
        ));
    if manager.get_database_backend() == DbBackend::Sqlite {
        // An account's rows are side by side, and only once.
        table.extra("WITHOUT ROWID");
    }
    manager.create_table(table).await?;
    let by_event = Index::create()
        .name("folded_reports_by_event")
        .table(C::Table)
        .col(C::Customer)
        .col(C::Meter)
        .col(C::EventTimestamp)
        .and_where(Expr::col(C::EventTimestamp).is_not_null())
        .to_owned();
    manager.create_index(by_event).await
}

async fn create_report_archives(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use ReportArchives as A;
    manager
        .create_table(
            Table::create()
                .table(A::Table)
                .col(big_integer(A::Number).primary_key())
                .col(name(manager, A::File))
                .col(text(A::Sha256))
                .col(big_integer(A::Bytes))
                .col(big_integer(A::Reports))
                .col(big_integer(A::FoldedReports))
                .col(big_integer(A::Quantity))
                .col(big_integer(A::FirstWindow))
                .col(big_integer(A::LastWindowEnd))
                .col(uuid(A::FirstId))
                .col(uuid(A::LastId))
                .col(big_integer(A::CreatedAt))
                .to_owned(),
        )
        .await?;
    let by_file = Index::create()
        .name("report_archives_by_file")
        .table(A::Table)
        .unique()
        .col(A::File)
        .to_owned();
    manager.create_index(by_file).await?;
    // Which archives may have a report.
    let by_id = Index::create()
        .name("report_archives_by_id")
        .table(A::Table)
        .col(A::LastId)
        .to_owned();
    manager.create_index(by_id).await
}

/// Closed reports, as the views show them.
const CLOSED: &str = "SELECT account_id, id, meter, window_start, window_end, period_end, closed_at, quantity, \
    first_at, last_at, state, straddled, generation, event_timestamp, customer, attempts, next_attempt_at, send_by, \
    first_sent_at, last_sent_at, reported_at, last_error, run_id, kind, note, entered_by, bill_at, confirmed_at, \
    looked_up_at, CAST(1 AS bigint) AS reports, CAST(NULL AS bigint) AS archive \
    FROM usage_reports";

/// Open reports, in the same columns.
const OPEN: &str = "SELECT account_id, id, meter, window_start, window_end, NULL, NULL, quantity, \
    first_at, last_at, 'open', FALSE, 0, NULL, NULL, 0, NULL, NULL, \
    NULL, NULL, NULL, NULL, NULL, 'usage', NULL, NULL, NULL, NULL, \
    NULL, CAST(1 AS bigint), NULL \
    FROM open_reports";

/// Folded reports, in the same columns.
const FOLDED: &str = "SELECT account_id, id, meter, window_start, window_end, window_end, NULL, quantity, \
    first_at, last_at, state, FALSE, 0, event_timestamp, customer, 0, NULL, NULL, \
    NULL, NULL, sent_at, NULL, NULL, 'usage', NULL, NULL, bill_at, NULL, \
    NULL, reports, archive \
    FROM folded_reports";
