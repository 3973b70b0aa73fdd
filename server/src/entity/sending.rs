//! Whether reports are sent, to which Stripe account, and what is known of the last restore: one row.

use sea_orm::entity::prelude::*;

use super::stored_enum::stored_enum;
use crate::domain::pause::PauseReason;

stored_enum! {
    /// The column `paused_why`.
    SendingPausedWhy of PauseReason {
        Restoring,
        ForeignMark,
        UnsentReportKnown,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "sending")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: i32,
    /// Null while reports are sent.
    pub(crate) paused_at: Option<i64>,
    /// Null while reports are sent.
    pub(crate) paused_why: Option<SendingPausedWhy>,
    /// The last moment that the restored backup contains.
    pub(crate) backup_at: Option<i64>,
    pub(crate) restored_at: Option<i64>,
    /// A copy of the database has the same id.
    pub(crate) database_id: Uuid,
    /// A meter of the account that usage is reported to. Null before the first report.
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) stripe_meter: Option<String>,
    /// Null where the key may not read it.
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) stripe_account: Option<String>,
    pub(crate) stripe_is_live: Option<bool>,
    /// What was sent before went to another account.
    pub(crate) adopted_at: Option<i64>,
    /// The number of the last mark that was written at Stripe.
    pub(crate) mark: i64,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) mark_nonce: Option<String>,
    /// When the last mark was written, and the one before it.
    pub(crate) mark_at: Option<i64>,
    pub(crate) mark_before_at: Option<i64>,
    /// Of the mark that is being written.
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) next_nonce: Option<String>,
    /// When Stripe last accepted a meter event, within some seconds. Null before the first one.
    pub(crate) last_accepted_at: Option<i64>,
    /// Usage before this time is billed by another integration. Null if this service always billed; the largest number
    /// while no moment is named.
    pub(crate) bill_from: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
