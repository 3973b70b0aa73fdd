//! Open usage reports.
//!
//! Each increment writes one row here. A narrow table in the order of its primary key, of nothing but what still counts,
//! keeps that row on few pages, and with one index that a count does not change. Closing moves the row to
//! `usage_reports`.

use sea_orm_migration::{
    prelude::*,
    schema::{big_integer, uuid},
    sea_orm::DbBackend,
};

use super::usage_reports::MAX_QUANTITY;
use crate::columns::name;

#[derive(DeriveIden)]
enum OpenReports {
    Table,
    AccountId,
    WindowStart,
    Meter,
    Id,
    WindowEnd,
    Quantity,
    FirstAt,
    LastAt,
}

pub(super) async fn create(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    use OpenReports as C;
    let mut table = Table::create();
    table
        .table(C::Table)
        .col(name(manager, C::AccountId))
        .col(big_integer(C::WindowStart))
        .col(name(manager, C::Meter))
        .col(uuid(C::Id))
        .col(big_integer(C::WindowEnd))
        .col(big_integer(C::Quantity))
        .col(big_integer(C::FirstAt))
        .col(big_integer(C::LastAt))
        // At most one for each window. The window comes before the meter, because ended windows of an account are
        // looked for.
        .primary_key(
            Index::create()
                .col(C::AccountId)
                .col(C::WindowStart)
                .col(C::Meter),
        )
        .check((
            "open_reports_quantity",
            Expr::col(C::Quantity).between(0, MAX_QUANTITY),
        ))
        .check((
            "open_reports_window",
            Expr::col(C::WindowStart).lt(Expr::col(C::WindowEnd)),
        ));
    match manager.get_database_backend() {
        DbBackend::Sqlite => table.extra("WITHOUT ROWID"),
        // Room for the next versions of the rows of a page: an update beside its row changes no index.
        _ => table.extra("WITH (fillfactor = 50)"),
    };
    manager.create_table(table).await
}
