//! Webhook events received from Stripe.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "webhook_events")]
pub(crate) struct Model {
    /// `evt_...`
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) id: String,
    /// As Stripe names it, such as `invoice.created`.
    #[sea_orm(column_type = "Text")]
    pub(crate) kind: String,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) customer: Option<String>,
    /// The subscription, invoice or meter that it is about.
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) object: Option<String>,
    pub(crate) livemode: bool,
    /// By Stripe's clock.
    pub(crate) created_at: i64,
    pub(crate) received_at: i64,
    pub(crate) handled_at: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
