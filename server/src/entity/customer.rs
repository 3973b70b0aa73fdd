//! Which account a Stripe customer belongs to: one at a time.

use sea_orm::entity::prelude::*;

use crate::domain::account_id::AccountId;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "customers")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) customer: String,
    #[sea_orm(column_type = "Text")]
    pub(crate) account_id: AccountId,
    /// Why it is read from Stripe by itself at each poll: `unverified`, `test_clock` or `problem`.
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) watch: Option<String>,
    /// In one sentence, for `problem`.
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) problem: Option<String>,
    /// Whether the link's start is not decided: it was stored without a time and without Stripe's answer.
    pub(crate) is_start_open: bool,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
