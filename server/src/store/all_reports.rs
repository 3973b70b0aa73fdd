//! Queries over open and closed reports alike.

use sea_orm::{QueryTrait as _, Select};

use crate::entity::usage_report;

/// A query of closed reports that reads open ones too: from the view, whose columns are the same.
///
/// It suits sums, whose conditions both engines apply to the two tables. Pages in the order of the ids are read from each
/// table on its own.
pub(super) fn and_open(mut query: Select<usage_report::Entity>) -> Select<usage_report::Entity> {
    query
        .query()
        .from_clear()
        .from_as("all_reports", usage_report::Entity);
    query
}
