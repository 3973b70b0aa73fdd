//! Billing periods of subscription items; their edges are boundaries.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "billing_periods")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) account_id: String,
    /// The subscription item; empty while it is not known.
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) item: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) period_start: i64,
    pub(crate) period_end: i64,
    pub(crate) recorded_at: i64,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) subscription: Option<String>,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) meter: Option<String>,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) price: Option<String>,
    /// The first moment whose usage Stripe bills to this item, where it lies behind the start.
    pub(crate) bills_from: Option<i64>,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) invoice: Option<String>,
    /// A name of `domain::invoice::InvoiceState`.
    #[sea_orm(column_type = "Text")]
    pub(crate) invoice_state: String,
    pub(crate) draft_until: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
