//! Reads the parts of reports that totals of billing periods need. The domain decides which of them belong to a period.

use sea_orm::{
    ColumnTrait as _, Condition, ConnectionTrait, DbErr, EntityTrait, FromQueryResult,
    QueryFilter as _, QuerySelect as _, Select, sea_query::Expr,
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
        folded_report,
        usage_report::{self, UsageReportState},
    },
};

/// The columns of a [`ReportFigure`].
#[derive(Debug, FromQueryResult)]
struct FigureRow {
    account_id: AccountId,
    id: Uuid,
    meter: String,
    state: UsageReportState,
    customer: Option<String>,
    quantity: i64,
    window_start: Millis,
    first_at: Millis,
    last_at: Millis,
    bill_at: Option<Millis>,
    event_timestamp: Option<Millis>,
    reports: i64,
    archive: Option<i64>,
}

/// The columns that a closed report has of these.
macro_rules! figure_columns {
    ($column:ident) => {
        [
            $column::AccountId,
            $column::Id,
            $column::Meter,
            $column::State,
            $column::Customer,
            $column::Quantity,
            $column::WindowStart,
            $column::FirstAt,
            $column::LastAt,
            $column::BillAt,
            $column::EventTimestamp,
        ]
    };
}

/// The figures of the closed reports that a condition selects, without those that were folded.
pub(super) async fn read_figures(
    db: &impl ConnectionTrait,
    condition: Condition,
) -> Result<Vec<ReportFigure>, DbErr> {
    use usage_report::Column as C;
    let query = usage_report::Entity::find()
        .select_only()
        .columns(figure_columns!(C))
        .expr_as(Expr::cust("CAST(1 AS bigint)"), "reports")
        .expr_as(Expr::cust("CAST(NULL AS bigint)"), "archive");
    read(db, query, condition).await
}

/// The figures of the folded reports that a condition selects.
pub(super) async fn read_folded_figures(
    db: &impl ConnectionTrait,
    condition: Condition,
) -> Result<Vec<ReportFigure>, DbErr> {
    use folded_report::Column as C;
    let query = folded_report::Entity::find()
        .select_only()
        .columns(figure_columns!(C))
        .columns([C::Reports, C::Archive]);
    read(db, query, condition).await
}

/// The figures of the open, closed and folded reports that a condition selects.
pub(super) async fn read_any_figures(
    db: &impl ConnectionTrait,
    condition: Condition,
) -> Result<Vec<ReportFigure>, DbErr> {
    use any_report::Column as C;
    let query = any_report::Entity::find()
        .select_only()
        .columns(figure_columns!(C))
        .columns([C::Reports, C::Archive]);
    read(db, query, condition).await
}

async fn read<E: EntityTrait>(
    db: &impl ConnectionTrait,
    query: Select<E>,
    condition: Condition,
) -> Result<Vec<ReportFigure>, DbErr> {
    let rows = query
        .filter(condition)
        .into_model::<FigureRow>()
        .all(db)
        .await?;
    Ok(rows.into_iter().map(ReportFigure::from).collect())
}

/// The condition that an account's reports, of whatever state, pass the prefilter.
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

impl From<FigureRow> for ReportFigure {
    fn from(row: FigureRow) -> Self {
        Self {
            account_id: row.account_id,
            id: row.id,
            meter: row.meter,
            state: row.state.into(),
            customer: row.customer,
            usage: BilledUsage {
                window_start: row.window_start,
                first_at: row.first_at,
                last_at: row.last_at,
                bill_at: row.bill_at,
                event_timestamp: row.event_timestamp,
                quantity: row.quantity,
            },
            reports: row.reports,
            is_folded: row.archive.is_some(),
        }
    }
}
