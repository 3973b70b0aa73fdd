//! Billing periods of subscription items; their edges are boundaries.

use sea_orm::entity::prelude::*;

use crate::domain::account_id::AccountId;
use crate::domain::invoice_draft::InvoiceState;

/// The column `invoice_state`. The end of a draft is in the column `draft_until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text")]
pub(crate) enum BillingPeriodInvoiceState {
    #[sea_orm(string_value = "unknown")]
    Unknown,
    #[sea_orm(string_value = "draft")]
    Draft,
    #[sea_orm(string_value = "final")]
    Final,
}

impl From<InvoiceState> for BillingPeriodInvoiceState {
    fn from(state: InvoiceState) -> Self {
        match state {
            InvoiceState::Unknown => Self::Unknown,
            InvoiceState::Draft { .. } => Self::Draft,
            InvoiceState::Final => Self::Final,
        }
    }
}

impl BillingPeriodInvoiceState {
    /// The domain's invoice state, which contains the time of finalization.
    pub(crate) fn with_draft_end(self, draft_until: Option<i64>) -> InvoiceState {
        match self {
            Self::Unknown => InvoiceState::Unknown,
            Self::Draft => InvoiceState::Draft { until: draft_until },
            Self::Final => InvoiceState::Final,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "billing_periods")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) account_id: AccountId,
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
    /// The time from which Stripe charges usage to this item, if that is later than the period's start.
    pub(crate) bills_from: Option<i64>,
    /// Whether it is a trial, of which Stripe charges no usage.
    pub(crate) is_trial: bool,
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) invoice: Option<String>,
    pub(crate) invoice_state: BillingPeriodInvoiceState,
    pub(crate) draft_until: Option<i64>,
    /// The moment of the reading at Stripe that the invoice's state is from. An older answer is not applied.
    pub(crate) invoice_read_at: Option<i64>,
    /// When its invoices were last read for the comparison; null if never.
    pub(crate) compared_at: Option<i64>,
    /// When they are read again; null if never compared, or if nothing can change any more.
    pub(crate) compare_again_at: Option<i64>,
    /// Since when they cannot be compared; null if they can, or were never tried.
    pub(crate) compare_failing_since: Option<i64>,
    /// Why not.
    #[sea_orm(column_type = "Text", nullable)]
    pub(crate) compare_error: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
