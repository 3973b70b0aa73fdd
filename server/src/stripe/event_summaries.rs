//! Totals by day and by hour: many ranges for one request.

use std::collections::HashMap;

use stripe_billing::billing_meter_event_summary::{
    ListIdBillingMeterEventSummary, ListIdBillingMeterEventSummaryValueGroupingWindow as Window,
};

use super::{Failure, Stripe, failure, timed, whole};
use crate::domain::{DAY_MS, HOUR_MS, Millis, SECOND_MS, window::Interval};

/// What one page holds at most, and how many pages are read.
const SUMMARIES_PER_PAGE: i64 = 100;
const PAGES_READ: usize = 100;

/// How finely totals are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grouping {
    /// By days of UTC; the range begins and ends at midnights.
    Day,
    /// By hours; the range begins and ends at full hours.
    Hour,
}

impl Grouping {
    /// How long a group is.
    pub(crate) fn width_ms(self) -> Millis {
        match self {
            Self::Day => DAY_MS,
            Self::Hour => HOUR_MS,
        }
    }
}

/// What Stripe holds by the start of each group; a group without events is absent, and `None` is a total that
/// is not a whole number that a double surely holds.
pub(crate) type Totals = HashMap<Millis, Option<i64>>;

impl Stripe {
    /// What Stripe holds of a customer and meter in a range, by days or hours.
    pub(crate) async fn totals(
        &self,
        event_name: &str,
        customer: &str,
        range: Interval,
        grouping: Grouping,
    ) -> Result<Totals, Failure> {
        let meter = self.meter_id(event_name).await?;
        let window = match grouping {
            Grouping::Day => Window::Day,
            Grouping::Hour => Window::Hour,
        };
        let mut totals = Totals::new();
        let mut after: Option<String> = None;
        for _ in 0..PAGES_READ {
            let mut query = ListIdBillingMeterEventSummary::new(
                meter.clone(),
                customer,
                range.end.div_euclid(SECOND_MS),
                range.start.div_euclid(SECOND_MS),
            )
            .value_grouping_window(window.clone())
            .limit(SUMMARIES_PER_PAGE);
            if let Some(after) = after.take() {
                query = query.starting_after(after);
            }
            let page = timed("event_summaries", query.send(&self.client))
                .await
                .map_err(|error| failure(&error))?;
            for summary in &page.data {
                let start = summary.start_time.saturating_mul(SECOND_MS);
                totals.insert(start, whole(summary.aggregated_value).ok());
            }
            match page.data.last() {
                Some(last) if page.has_more => after = Some(last.id.to_string()),
                _ => return Ok(totals),
            }
        }
        Err(Failure::Unanswered(format!(
            "Stripe has more than {PAGES_READ} pages of totals of one customer and meter"
        )))
    }
}
