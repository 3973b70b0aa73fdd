//! A file that folded reports were written to.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "report_archives")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) number: i64,
    /// Its name in the folder of archives.
    #[sea_orm(column_type = "Text")]
    pub(crate) file: String,
    /// The SHA-256 of its contents, in hexadecimal.
    #[sea_orm(column_type = "Text")]
    pub(crate) sha256: String,
    /// Its size.
    pub(crate) bytes: i64,
    /// The number of reports in it.
    pub(crate) reports: i64,
    /// The number of rows that they were folded into.
    pub(crate) folded_reports: i64,
    /// The sum of their quantities.
    pub(crate) quantity: i64,
    /// The start of the first of their windows.
    pub(crate) first_window: i64,
    /// The end of the last of their windows.
    pub(crate) last_window_end: i64,
    /// The least of their ids.
    pub(crate) first_id: Uuid,
    /// The greatest of their ids.
    pub(crate) last_id: Uuid,
    pub(crate) created_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
