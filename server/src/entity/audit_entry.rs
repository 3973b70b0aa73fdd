//! What admins did, tried to do or were refused. Rows are never changed.

use sea_orm::entity::prelude::*;

use super::stored_enum::stored_enum;
use crate::domain::audit::{ActorKind, Outcome};

stored_enum! {
    /// The column `actor`.
    AuditEntryActor of ActorKind {
        Anyone,
        Key,
        Certificate,
        Command,
    }
}

stored_enum! {
    /// The column `outcome`.
    AuditEntryOutcome of Outcome {
        Begun,
        Done,
        Failed,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "audit_entries")]
pub(crate) struct Model {
    /// A `UUIDv7`.
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: Uuid,
    pub(crate) at: i64,
    pub(crate) actor: AuditEntryActor,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) key_id: Option<String>,
    #[sea_orm(column_type = "Text")]
    pub(crate) key_name: String,
    #[sea_orm(column_type = "Text")]
    pub(crate) address: String,
    pub(crate) action_id: Uuid,
    /// In the caller's words.
    #[sea_orm(column_type = "Text")]
    pub(crate) request_id: String,
    #[sea_orm(column_type = "Text")]
    pub(crate) action: String,
    /// As the caller wrote it: it need not be valid.
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) account_id: Option<String>,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) request: Option<String>,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) before: Option<String>,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) after: Option<String>,
    pub(crate) outcome: AuditEntryOutcome,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) message: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
