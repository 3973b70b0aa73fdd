//! Sessions of the console: who signed in with which key. Rows are deleted when they end.

use sea_orm::entity::prelude::*;

#[derive(Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "console_sessions")]
pub(crate) struct Model {
    /// The SHA-256 of the cookie, in hexadecimal.
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) hash: String,
    #[sea_orm(column_type = "Text")]
    pub(crate) key_id: String,
    pub(crate) created_at: i64,
    pub(crate) expires_at: i64,
}

impl std::fmt::Debug for Model {
    /// Leaves out the hash.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
