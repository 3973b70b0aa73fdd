//! The last verification of a customer, a meter and a UTC day.

use sea_orm::entity::prelude::*;

use super::stored_enum::stored_enum;
use crate::domain::verification::Finding;

stored_enum! {
    /// The column `finding`.
    VerificationFinding of Finding {
        Equal,
        Behind,
        Lacking,
        Over,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "verifications")]
pub(crate) struct Model {
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) customer: String,
    #[sea_orm(primary_key, auto_increment = false, column_type = "Text")]
    pub(crate) meter: String,
    /// The day's first moment.
    #[sea_orm(primary_key, auto_increment = false)]
    pub(crate) day: i64,
    /// The total that we sent with timestamps of that day and that Stripe accepted.
    pub(crate) sent_total: i64,
    /// Stripe's total of that day; null if it is not a whole number.
    pub(crate) stripe_total: Option<i64>,
    pub(crate) finding: VerificationFinding,
    /// When any of the three last changed.
    pub(crate) changed_at: i64,
    pub(crate) verified_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub(crate) enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
