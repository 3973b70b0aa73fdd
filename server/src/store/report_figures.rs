//! Reads the parts of reports that totals of billing periods need. The domain decides which of them belong to a period.

use sea_orm::{
    ColumnTrait as _, Condition, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _,
    QuerySelect as _, Select,
};
use uuid::Uuid;

use super::all_reports::and_open;

use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        billed_usage::{BilledUsage, UsagePrefilter},
        report_figure::ReportFigure,
    },
    entity::usage_report::{self, Column, UsageReportState},
};

/// The columns of a [`ReportFigure`].
type FigureColumns = (
    AccountId,
    Uuid,
    String,
    UsageReportState,
    Option<String>,
    i64,
    Millis,
    Millis,
    Millis,
    Option<Millis>,
    Option<Millis>,
);

/// The figures of the closed reports that a condition selects.
pub(super) async fn read_figures(
    db: &impl ConnectionTrait,
    condition: Condition,
) -> Result<Vec<ReportFigure>, DbErr> {
    read(db, usage_report::Entity::find(), condition).await
}

/// The figures of the open and closed reports that a condition selects.
pub(super) async fn read_all_figures(
    db: &impl ConnectionTrait,
    condition: Condition,
) -> Result<Vec<ReportFigure>, DbErr> {
    read(db, and_open(usage_report::Entity::find()), condition).await
}

async fn read(
    db: &impl ConnectionTrait,
    from: Select<usage_report::Entity>,
    condition: Condition,
) -> Result<Vec<ReportFigure>, DbErr> {
    let rows: Vec<FigureColumns> = from
        .select_only()
        .columns([
            Column::AccountId,
            Column::Id,
            Column::Meter,
            Column::State,
            Column::Customer,
            Column::Quantity,
            Column::WindowStart,
            Column::FirstAt,
            Column::LastAt,
            Column::BillAt,
            Column::EventTimestamp,
        ])
        .filter(condition)
        .into_tuple()
        .all(db)
        .await?;
    Ok(rows.into_iter().map(figure).collect())
}

/// The condition that an account's reports pass the prefilter.
pub(super) fn passes_prefilter(account_id: &AccountId, prefilter: UsagePrefilter) -> Condition {
    let in_window = Condition::all()
        .add(Column::WindowStart.gte(prefilter.windows.start))
        .add(Column::WindowStart.lt(prefilter.windows.end));
    Condition::all().add(Column::AccountId.eq(account_id)).add(
        Condition::any()
            .add(in_window)
            .add(Column::BillAt.gte(prefilter.bill_at_from)),
    )
}

fn figure(columns: FigureColumns) -> ReportFigure {
    let (
        account_id,
        id,
        meter,
        state,
        customer,
        quantity,
        window_start,
        first_at,
        last_at,
        bill_at,
        event_timestamp,
    ) = columns;
    ReportFigure {
        account_id,
        id,
        meter,
        state: state.into(),
        customer,
        usage: BilledUsage {
            window_start,
            first_at,
            last_at,
            bill_at,
            event_timestamp,
            quantity,
        },
    }
}
