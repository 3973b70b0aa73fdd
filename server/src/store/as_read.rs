//! Updates of a report that apply only if it is still as it was read.

use sea_orm::{ColumnTrait as _, EntityTrait as _, QueryFilter as _, UpdateMany};

use crate::{
    domain::report::Report,
    entity::usage_report::{self, Column, UsageReportState},
};

/// An update of a report in its state and generation, whatever the number of attempts.
pub(super) fn update_in_state(report: &Report) -> UpdateMany<usage_report::Entity> {
    usage_report::Entity::update_many()
        .filter(Column::AccountId.eq(&report.account_id))
        .filter(Column::Id.eq(report.id))
        .filter(Column::State.eq(UsageReportState::from(report.state)))
        .filter(Column::Generation.eq(report.generation))
}

/// An update of a report that was not sent again either.
pub(super) fn update_as_read(report: &Report) -> UpdateMany<usage_report::Entity> {
    update_in_state(report).filter(Column::Attempts.eq(report.attempts))
}
