//! API keys. Rows are never deleted.

use sea_orm::entity::prelude::*;

use super::stored_enum::stored_enum;
use crate::domain::access::Role;

stored_enum! {
    /// The column `role`.
    ApiKeyRole of Role {
        Writer,
        Reader,
        Admin,
    }
}

#[derive(Clone, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "api_keys")]
pub(crate) struct Model {
    /// 16 hexadecimal digits.
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) id: String,
    #[sea_orm(column_type = "Text")]
    pub(crate) name: String,
    pub(crate) role: ApiKeyRole,
    /// The limits, as a JSON object.
    #[sea_orm(column_type = "Text")]
    pub(crate) scope: String,
    /// The SHA-256 of the secret, in hexadecimal.
    #[sea_orm(column_type = "Text")]
    pub(crate) secret_hash: String,
    pub(crate) created_at: i64,
    pub(crate) expires_at: Option<i64>,
    pub(crate) revoked_at: Option<i64>,
    pub(crate) last_used_at: Option<i64>,
}

impl std::fmt::Debug for Model {
    /// Leaves out the hash.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("id", &self.id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
