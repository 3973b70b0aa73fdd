//! Stripe's totals by day or hour: many ranges in one request.

use std::collections::HashMap;

use stripe_billing::{
    BillingMeterEventSummary,
    billing_meter_event_summary::{
        ListIdBillingMeterEventSummary, ListIdBillingMeterEventSummaryValueGroupingWindow as Window,
    },
};

use super::{Failure, PAGE_SIZE, SUMMARY, Stripe, failure, timed, whole_number};
use crate::domain::{DAY_MS, HOUR_MS, Millis, SECOND_MS, window::Interval};

/// Pages of summaries that are read.
const MAX_PAGES: usize = 100;

/// The width of the groups that Stripe sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grouping {
    /// Days of UTC; the range must start and end at midnight.
    Day,
    /// Hours; the range must start and end at full hours.
    Hour,
}

impl Grouping {
    /// The length of a group.
    pub(crate) fn width_ms(self) -> Millis {
        match self {
            Self::Day => DAY_MS,
            Self::Hour => HOUR_MS,
        }
    }
}

/// Stripe's totals by the start of their group. A group without events is absent. `None` is a total that is not a whole
/// number below 2^53.
pub(crate) type Totals = HashMap<Millis, Option<i64>>;

impl Stripe {
    /// Stripe's totals of a customer and meter in a range, by days or hours.
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
        for _ in 0..MAX_PAGES {
            let mut query = ListIdBillingMeterEventSummary::new(
                meter.clone(),
                customer,
                range.end.div_euclid(SECOND_MS),
                range.start.div_euclid(SECOND_MS),
            )
            .value_grouping_window(window.clone())
            .limit(PAGE_SIZE);
            if let Some(after) = after.take() {
                query = query.starting_after(after);
            }
            let client = self.client()?;
            let page = timed(
                "event_summaries",
                client.list::<_, BillingMeterEventSummary>(&query, SUMMARY),
            )
            .await
            .map_err(|error| failure(&error))?;
            for unreadable in &page.unreadable {
                // The total of its group is not known, and others are.
                let start = unreadable
                    .whole("start_time")
                    .ok_or_else(|| Failure::unreadable(&unreadable.to_string()))?;
                totals.insert(start.saturating_mul(SECOND_MS), None);
            }
            for summary in &page.items {
                let start = summary.start_time.saturating_mul(SECOND_MS);
                totals.insert(start, whole_number(summary.aggregated_value).ok());
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(totals),
            }
        }
        Err(Failure::NoAnswer(format!(
            "Stripe has more than {MAX_PAGES} pages of summaries of one customer and meter"
        )))
    }
}
