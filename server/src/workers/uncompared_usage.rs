//! The job that looks for usage in Stripe's totals that lies in no billing period: no comparison with invoices reaches it.
//! It is recorded as a difference, logged and counted once.
//!
//! Each hour it passes all streams, in small steps. The place is in the database. A stream that cannot be looked at is
//! logged, and the others are looked at.

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
    error::{Error, Result},
    metrics,
    store::{
        Store,
        cursors::StepPlace,
        invoice_comparison::uncompared::{FirstEvent, UNCOMPARED_USAGE as NAME},
    },
};

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
        for usage in new.iter().flatten() {
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
        let place: Option<StepPlace<Stream>> = self.store.find_cursor(NAME).await?;
        let mut place = StepPlace {
            begun_at: now,
            after: place.and_then(|place| place.after),
        };
        // What a replica read that was replaced meanwhile is dropped from now on.
        let mut is_latest = self.store.set_step(NAME, &place).await?;
        let mut is_done = false;
        for _ in 0..STREAMS_PER_STEP {
            if !is_latest {
                break;
            }
            let Some(next) = self.store.next_stream(place.after.as_ref()).await? else {
                (place.after, is_done) = (None, true);
                break;
            };
            let FirstEvent {
                customer,
                meter,
                event_timestamp,
            } = next;
            let stream = Stream { customer, meter };
            if let Err(error) = self.check_stream(&stream, event_timestamp, now).await {
                if matches!(error, Error::DatabaseUnavailable(_)) {
                    return Err(error);
                }
                tracing::error!(
                    customer = stream.customer,
                    meter = stream.meter,
                    why = error.cause(),
                    "usage without a billing period could not be looked for; it is looked for again in an hour"
                );
            }
            place.after = Some(stream);
        }
        is_latest = is_latest && self.store.set_step(NAME, &place).await?;
        Ok(if is_latest && is_done {
            Next::Wait
        } else {
            Next::ContinueAfter(STEP_INTERVAL)
        })
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
