//! Queries of reconciliation: accounts that are or were billed, their billing periods, and their reports.

use sea_orm::{
    ColumnTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
};

use super::{
    Store,
    links::read_links_of,
    report_figures::{passes_prefilter, read_any_figures},
};
use crate::{
    domain::{
        account::Link, account_id::AccountId, billed_usage::UsagePrefilter,
        report_figure::ReportFigure, stream::Stream, window::Interval,
    },
    entity::{account_link, billing_period},
    error::Result,
};

/// The maximum number of billing periods that are read per account.
const PERIODS_READ: u64 = 1_000;
/// A billing period, and its meter if it is known.
pub(crate) type KnownPeriod = (Interval, Option<String>);

impl Store {
    /// Accounts that are or were billed, ordered by id, after the given one.
    pub(crate) async fn billed_accounts(&self, after: &str, limit: u64) -> Result<Vec<AccountId>> {
        Ok(account_link::Entity::find()
            .select_only()
            .column(account_link::Column::AccountId)
            .distinct()
            .filter(account_link::Column::Customer.is_not_null())
            .filter(account_link::Column::AccountId.gt(after))
            .order_by_asc(account_link::Column::AccountId)
            .limit(limit)
            .into_tuple()
            .all(&self.reader)
            .await?)
    }

    /// An account's links, oldest first, and its billing periods that overlap an interval.
    pub(crate) async fn links_and_periods(
        &self,
        account_id: &AccountId,
        time: Interval,
    ) -> Result<(Vec<Link>, Vec<KnownPeriod>)> {
        let links = read_links_of(&self.reader, account_id).await?;
        let periods = billing_period::Entity::find()
            .filter(billing_period::Column::AccountId.eq(account_id))
            .filter(billing_period::Column::PeriodStart.lt(time.end))
            .filter(billing_period::Column::PeriodEnd.gt(time.start))
            .order_by_asc(billing_period::Column::PeriodStart)
            .limit(PERIODS_READ)
            .all(&self.reader)
            .await?
            .into_iter()
            .map(|row| {
                let period = Interval {
                    start: row.period_start,
                    end: row.period_end,
                };
                (period, row.meter)
            })
            .collect();
        Ok((links, periods))
    }

    /// An account's reports that may be billed in an interval.
    pub(crate) async fn figures(
        &self,
        account_id: &AccountId,
        time: Interval,
    ) -> Result<Vec<ReportFigure>> {
        let condition = passes_prefilter(account_id, UsagePrefilter::of(time));
        Ok(read_any_figures(&self.reader, condition).await?)
    }

    /// The reports of a stream whose meter events are in an interval, and that the present Stripe account accepted, or
    /// another integration bills.
    pub(crate) async fn accepted_figures(
        &self,
        stream: &Stream,
        range: Interval,
    ) -> Result<Vec<ReportFigure>> {
        let mut figures = self.figures_of_stream(stream, range).await?;
        figures.retain(|figure| figure.state.is_reported() || figure.is_billed_elsewhere());
        Ok(figures)
    }
}
