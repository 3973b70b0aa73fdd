//! The verifier job: once an hour compares Stripe's totals with what it accepted from us, and records of each report
//! whether it is in them.
//!
//! It saves reads, because Stripe limits them: by UTC day of the events, only customers and days with something that is
//! not confirmed, and many days in one request. It never corrects or sends anything.

mod stream;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio_util::sync::CancellationToken;

use super::{
    job::{FirstRun, Job, Next, Spec, Turn},
    wake::Signals,
};
use crate::{
    domain::{DAY_MS, HOUR_MS, MINUTE_MS, Millis, meter::Meters, stream::Stream},
    error::Result,
    store::{Store, verification::UnverifiedDay},
    stripe::{Failure, Stripe},
};

/// How often the runner checks whether the job is due.
const INTERVAL: Duration = Duration::from_secs(1);
/// How many days one query names.
const DAYS_PER_PAGE: u64 = 1_000;
/// Totals read from Stripe a second, and in one run; the next run goes on where this one ended.
const READS_PER_SEC: u32 = 10;
const READS_PER_RUN: u32 = 5_000;
/// Reports that Stripe accepted more lately are not verified yet, unless verification was requested.
const MIN_AGE_MS: Millis = 10 * MINUTE_MS;
/// Days whose difference has not changed for so long are verified once a day.
const UNCHANGED_MS: Millis = 2 * DAY_MS;
/// Events older than this are on final invoices and not verified any more.
const MAX_AGE_MS: Millis = 70 * DAY_MS;

/// Compares Stripe's totals with ours.
pub(crate) struct Verifier {
    store: Store,
    stripe: Stripe,
    meters: Arc<Meters>,
    signals: Arc<Signals>,
    shutdown: CancellationToken,
    rate: DefaultDirectRateLimiter,
    /// Where a run that had read enough ended.
    cursor: Option<Stream>,
}

/// One run: its time, whether it was requested, and the reads that it has left.
struct Run {
    now: Millis,
    is_requested: bool,
    reads_left: u32,
}

/// Why a stream could not be verified.
#[derive(Debug)]
enum Stopped {
    /// Stripe did not return a total.
    Stripe(Failure),
    /// The run has read enough.
    BudgetExhausted,
    ShuttingDown,
    Store(crate::error::Error),
}

impl From<crate::error::Error> for Stopped {
    fn from(error: crate::error::Error) -> Self {
        Self::Store(error)
    }
}

impl Verifier {
    pub(crate) fn new(
        store: Store,
        stripe: Stripe,
        meters: Arc<Meters>,
        signals: Arc<Signals>,
        shutdown: CancellationToken,
    ) -> Self {
        let per_second = NonZeroU32::new(READS_PER_SEC).unwrap_or(NonZeroU32::MIN);
        Self {
            store,
            stripe,
            meters,
            signals,
            shutdown,
            rate: RateLimiter::direct(Quota::per_second(per_second)),
            cursor: None,
        }
    }

    /// Every stream with something to verify, from where the last run ended, until enough was read.
    async fn verify_all(&mut self, run: &mut Run) -> Result<()> {
        let since = run.now.saturating_sub(MAX_AGE_MS);
        loop {
            let mut days = self
                .store
                .unverified_days(self.cursor.as_ref(), since, DAYS_PER_PAGE)
                .await?;
            let is_last = u64::try_from(days.len()).is_ok_and(|len| len < DAYS_PER_PAGE);
            if !is_last {
                keep_whole_streams(&mut days);
            }
            for own in days.chunk_by(|one, other| stream_of(one) == stream_of(other)) {
                let Some(stream) = own.first().map(stream_of) else {
                    continue;
                };
                match self.verify_stream(&stream, own, run).await {
                    Ok(()) => {}
                    Err(Stopped::ShuttingDown) => return Ok(()),
                    Err(Stopped::BudgetExhausted) => {
                        tracing::warn!(
                            reads = READS_PER_RUN,
                            "verification has read as many totals as one run may; the next run goes on"
                        );
                        return Ok(());
                    }
                    Err(Stopped::Store(error)) => return Err(error),
                    Err(Stopped::Stripe(Failure::Denied(why))) => {
                        tracing::error!(%why, "Stripe refuses the secret key: nothing is verified; check STRIPE_SECRET_KEY");
                        return Ok(());
                    }
                    Err(Stopped::Stripe(failure)) => {
                        tracing::warn!(customer = %stream.customer, meter = %stream.meter, why = failure.message(), "a customer's usage could not be verified");
                    }
                }
                self.cursor = Some(stream);
            }
            if is_last {
                self.cursor = None;
                return Ok(());
            }
        }
    }

    /// Waits for a turn to read, and reads.
    async fn read<T>(
        &self,
        run: &mut Run,
        total: impl Future<Output = std::result::Result<T, Failure>>,
    ) -> std::result::Result<T, Stopped> {
        run.reads_left = run
            .reads_left
            .checked_sub(1)
            .ok_or(Stopped::BudgetExhausted)?;
        let read = async {
            self.rate.until_ready().await;
            total.await
        };
        let read = self.shutdown.run_until_cancelled(read).await;
        read.ok_or(Stopped::ShuttingDown)?.map_err(Stopped::Stripe)
    }
}

impl Job for Verifier {
    fn spec(&self) -> Spec {
        Spec {
            name: "verification",
            interval: INTERVAL,
            turn: Turn::Recorded {
                first: FirstRun::WhenDue,
            },
            wake: self.signals.verify.clone(),
        }
    }

    /// Requests make it due once a minute.
    fn is_due(&self, last_run_at: Millis, now: Millis) -> bool {
        let wait = if self.signals.verify_request.is_made() {
            MINUTE_MS
        } else {
            HOUR_MS
        };
        now.saturating_sub(last_run_at) >= wait
    }

    async fn run(&mut self, now: Millis) -> Result<Next> {
        let is_requested = self.signals.verify_request.take();
        let mut run = Run {
            now,
            is_requested,
            reads_left: READS_PER_RUN,
        };
        let done = self.verify_all(&mut run).await;
        if done.is_err() && is_requested {
            self.signals.verify_request.make();
        }
        done.map(|()| Next::Wait)
    }
}

fn stream_of(day: &UnverifiedDay) -> Stream {
    Stream {
        customer: day.customer.clone(),
        meter: day.meter.clone(),
    }
}

/// Leaves the last stream of a page to the next page, unless it is the only one: its other days may be there.
fn keep_whole_streams(days: &mut Vec<UnverifiedDay>) {
    let last = days.last().map(stream_of);
    // By equality, because databases order names differently.
    let others = days.iter().rposition(|day| Some(stream_of(day)) != last);
    if let Some(place) = others {
        days.truncate(place.saturating_add(1));
    }
}
