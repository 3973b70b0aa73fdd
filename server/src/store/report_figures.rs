//! Reads the parts of reports that totals of billing periods need. The domain decides which of them belong to a period.

use sea_orm::{
    ColumnTrait as _, Condition, ConnectionTrait, DbErr, EntityTrait, QueryFilter as _,
    QuerySelect as _,
};
use uuid::Uuid;

use crate::{
    domain::{
        Millis,
        account_id::AccountId,
        billed_usage::{BilledUsage, UsagePrefilter},
        report_figure::ReportFigure,
    },
    entity::{
        any_report::{self, Column},
        usage_report::{self, UsageReportState},
    },
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
    use usage_report::Column as C;
    let columns = [
        C::AccountId,
        C::Id,
        C::Meter,
        C::State,
        C::Customer,
        C::Quantity,
        C::WindowStart,
        C::FirstAt,
        C::LastAt,
        C::BillAt,
        C::EventTimestamp,
    ];
    read::<usage_report::Entity>(db, columns, condition).await
}

/// The figures of the open and closed reports that a condition selects.
pub(super) async fn read_any_figures(
    db: &impl ConnectionTrait,
    condition: Condition,
) -> Result<Vec<ReportFigure>, DbErr> {
    use any_report::Column as C;
    let columns = [
        C::AccountId,
        C::Id,
        C::Meter,
        C::State,
        C::Customer,
        C::Quantity,
        C::WindowStart,
        C::FirstAt,
        C::LastAt,
        C::BillAt,
        C::EventTimestamp,
    ];
    read::<any_report::Entity>(db, columns, condition).await
}

async fn read<E: EntityTrait>(
    db: &impl ConnectionTrait,
    columns: [E::Column; 11],
    condition: Condition,
) -> Result<Vec<ReportFigure>, DbErr> {
    let rows: Vec<FigureColumns> = E::find()
        .select_only()
        .columns(columns)
        .filter(condition)
        .into_tuple()
        .all(db)
        .await?;
    Ok(rows.into_iter().map(figure).collect())
}

/// The condition that an account's reports, open or closed, pass the prefilter.
pub(super) fn passes_prefilter(account_id: &AccountId, prefilter: UsagePrefilter) -> Condition {
    Condition::all()
        .add(Column::AccountId.eq(account_id))
        .add(is_in_windows(prefilter))
}

/// The condition that reports pass the prefilter, of whatever account.
pub(super) fn is_in_windows(prefilter: UsagePrefilter) -> Condition {
    let in_window = Condition::all()
        .add(Column::WindowStart.gte(prefilter.windows.start))
        .add(Column::WindowStart.lt(prefilter.windows.end));
    Condition::any()
        .add(in_window)
        .add(Column::BillAt.gte(prefilter.bill_at_from))
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
