//! The job that looks for usage in Stripe's totals that lies in no billing period: no comparison with invoices reaches it.
//! It is recorded as a difference, logged and counted once.
//!
//! Each hour it passes all streams, in small steps. The place is in the database.

use std::time::Duration;

use super::{
    job::{FirstRun, Job, Next, Spec, Turn},
    wake::Wake,
};
use crate::{
    domain::{
        HOUR_MS, Millis,
        invoice_comparison::InvoiceFinding,
        period::rfc3339,
        stream::Stream,
        uncompared_usage::{UncomparedUsage, gaps, looked_at, uncompared},
    },
    error::Result,
    metrics,
    store::{Store, invoice_comparison::uncompared::FirstEvent},
};

const NAME: &str = "uncompared usage";
/// How often the runner checks whether the job is due.
const INTERVAL: Duration = Duration::from_secs(2);
/// Streams in one step.
const STREAMS_PER_STEP: usize = 100;
/// The wait between steps leaves the database to the counting of usage.
const STEP_INTERVAL: Duration = Duration::from_millis(50);

/// Looks for usage without a billing period.
pub(crate) struct UncomparedUsageCheck {
    store: Store,
}

impl UncomparedUsageCheck {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }

    async fn check_stream(&self, stream: &Stream, first_event: Millis, now: Millis) -> Result<()> {
        let Some(time) = looked_at(first_event, now) else {
            return Ok(());
        };
        let periods = self.store.periods_of_stream(stream, time.start).await?;
        let mut found = Vec::new();
        for gap in gaps(&periods, time) {
            let figures = self.store.reports_to_compare(stream, gap).await?;
            found.extend(uncompared(&figures, gap));
        }
        let new = self
            .store
            .record_uncompared(stream, time.start, &found, now)
            .await?;
        for usage in &new {
            tell(stream, usage);
        }
        Ok(())
    }
}

impl Job for UncomparedUsageCheck {
    fn spec(&self) -> Spec {
        Spec {
            name: NAME,
            interval: INTERVAL,
            turn: Turn::Recorded {
                first: FirstRun::AtOnce,
            },
            wake: Wake::default(),
        }
    }

    fn is_due(&self, last_run_at: Millis, now: Millis) -> bool {
        now.saturating_sub(last_run_at) >= HOUR_MS
    }

    async fn run(&mut self, now: Millis) -> Result<Next> {
        let mut after: Option<Stream> = self.store.find_cursor(NAME).await?;
        for _ in 0..STREAMS_PER_STEP {
            let Some(next) = self.store.next_stream(after.as_ref()).await? else {
                self.store.set_cursor::<Stream>(NAME, None).await?;
                return Ok(Next::Wait);
            };
            let FirstEvent {
                customer,
                meter,
                event_timestamp,
            } = next;
            let stream = Stream { customer, meter };
            self.check_stream(&stream, event_timestamp, now).await?;
            after = Some(stream);
        }
        self.store.set_cursor(NAME, after.as_ref()).await?;
        Ok(Next::ContinueAfter(STEP_INTERVAL))
    }
}

/// Logs and counts usage that is new.
fn tell(stream: &Stream, usage: &UncomparedUsage) {
    let finding = InvoiceFinding::NoPeriod;
    metrics::invoice_difference(finding);
    tracing::error!(
        account = %usage.account_id,
        customer = stream.customer,
        meter = stream.meter,
        start = %rfc3339(usage.time.start),
        end = %rfc3339(usage.time.end),
        finding = finding.name(),
        reported = usage.quantity,
        "Stripe has usage that lies in no billing period, so it is compared with no invoice"
    );
}
