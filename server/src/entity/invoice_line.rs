//! Invoice lines that charge usage, as last read from Stripe.

use sea_orm::entity::prelude::*;

use super::stored_enum::stored_enum;
use crate::domain::{account_id::AccountId, invoice_line::InvoiceStatus};

stored_enum! {
    /// The column `invoice_status`.
    InvoiceLineStatus of InvoiceStatus {
        Draft,
        Open,
        Paid,
        Uncollectible,
        Void,
        Unknown,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "invoice_lines")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) account_id: AccountId,
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) invoice: String,
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) line: String,
    pub(crate) invoice_status: InvoiceLineStatus,
    pub(crate) invoice_created: i64,
    /// The subscription item of the billing period whose usage it charges.
    #[sea_orm(column_type = "Text")]
    pub(crate) item: String,
    /// The start of that billing period.
    pub(crate) period_start: i64,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) price: Option<String>,
    /// The time that it charges, as Stripe says.
    pub(crate) line_start: i64,
    pub(crate) line_end: i64,
    /// Null if it is absent or no whole number.
    pub(crate) quantity: Option<i64>,
    /// In the smallest unit of the currency.
    pub(crate) amount: i64,
    #[sea_orm(column_type = "Text")]
    pub(crate) currency: String,
    pub(crate) read_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
