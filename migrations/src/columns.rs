//! Columns that hold names by which rows are found and sorted.

use sea_orm_migration::{prelude::*, schema::text};

/// A text that compares byte by byte on every engine, whatever the locale of the database. Counting locks rows
/// in the order of their bytes and closing in the order of the database: if the two differed, they could
/// deadlock.
pub(crate) fn name(manager: &SchemaManager<'_>, column: impl IntoIden) -> ColumnDef {
    let mut column = text(column);
    if manager.get_database_backend() == sea_orm::DbBackend::Postgres {
        column.extra(r#"COLLATE "C""#);
    }
    column
}
