//! The last comparison of a billing period's usage with its invoices.

use sea_orm::entity::prelude::*;

use super::stored_enum::stored_enum;
use crate::domain::{account_id::AccountId, invoice_comparison::InvoiceFinding};

stored_enum! {
    /// The column `finding`.
    InvoiceComparisonFinding of InvoiceFinding {
        Equal,
        Differs,
        Unreadable,
        Unverified,
        Uncollectible,
        Void,
        Overdue,
        KeptDraft,
        PriceSplit,
        ChargedTwice,
        NoPeriod,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "invoice_comparisons")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) account_id: AccountId,
    /// The subscription item; of usage in no billing period, the customer.
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) item: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) period_start: i64,
    pub(crate) period_end: i64,
    #[sea_orm(column_type = "Text")]
    pub(crate) subscription: String,
    #[sea_orm(column_type = "Text")]
    pub(crate) customer: String,
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) meter: String,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) price: Option<String>,
    pub(crate) finding: InvoiceComparisonFinding,
    /// The units that Stripe's totals contain.
    pub(crate) reported: i64,
    /// The units on valid invoices; null if a quantity cannot be read.
    pub(crate) invoiced: Option<i64>,
    /// When the finding or a figure last changed.
    pub(crate) changed_at: i64,
    /// When, by whom and why it was acknowledged; null once the finding or a figure changed.
    pub(crate) acknowledged_at: Option<i64>,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) acknowledged_by: Option<String>,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) acknowledged_reason: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
