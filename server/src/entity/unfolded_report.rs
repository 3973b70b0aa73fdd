//! A report that is not folded, open or closed: those columns of the view `unfolded_reports` that totals by state need. No
//! report that waits for anything is folded.

use sea_orm::entity::prelude::*;

use crate::domain::account_id::AccountId;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "unfolded_reports")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) account_id: AccountId,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) id: Uuid,
    pub(crate) quantity: i64,
    pub(crate) first_at: i64,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) last_error: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
