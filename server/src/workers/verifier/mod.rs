//! Settling: once an hour compares Stripe's totals with what it took from us, and says of each report whether
//! it is there.
//!
//! Frugal, because Stripe limits reads: by UTC day of the events, only customers and days with something that
//! is not confirmed, and many days in one request. Nothing is ever corrected or sent again from here.

mod stream;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::{Mutex, Notify};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock::Clock,
    domain::stream::Stream,
    domain::{DAY_MS, HOUR_MS, MINUTE_MS, Millis, meter::Meters},
    error::Result,
    store::{Store, verification::UnverifiedDay},
    stripe::{Failure, Stripe},
};

/// The job's name in `leases`.
const JOB: &str = "verification";
/// How often it is looked whether the job is due.
const LOOK: Duration = Duration::from_secs(1);
/// How many days one query names.
const DAYS_PER_PAGE: u64 = 1_000;
/// Totals read from Stripe a second, and in one run; the next run goes on where this one ended.
const READS_PER_SEC: u32 = 10;
const READS_PER_RUN: u32 = 5_000;
/// What was taken so lately is not asked for yet, unless somebody wakes the job.
const TOO_FRESH_MS: Millis = 10 * MINUTE_MS;
/// Days whose difference has not changed for so long are looked at once a day.
const OLD_NEWS_MS: Millis = 2 * DAY_MS;
/// Events older than this are on final invoices and not asked for any more.
const LOOKED_AT_MS: Millis = 70 * DAY_MS;

/// Compares Stripe's totals with ours.
#[derive(Debug)]
pub(crate) struct Verifier {
    store: Store,
    clock: Clock,
    stripe: Stripe,
    meters: Arc<Meters>,
    /// Told when Stripe says that it dropped events: settle now, whatever the hour.
    woken: Arc<Notify>,
    rate: DefaultDirectRateLimiter,
    /// Where a run that had read enough ended.
    cursor: Mutex<Option<Stream>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// The reads that one run has left.
#[derive(Debug)]
struct Budget(u32);

/// Why a stream could not be settled.
#[derive(Debug)]
enum Stopped {
    /// Stripe did not give a total.
    Stripe(Failure),
    /// The run has read enough.
    BudgetExhausted,
    /// The database.
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
        clock: Clock,
        stripe: Stripe,
        meters: Arc<Meters>,
        woken: Arc<Notify>,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let per_second = NonZeroU32::new(READS_PER_SEC).unwrap_or(NonZeroU32::MIN);
        Arc::new(Self {
            store,
            clock,
            stripe,
            meters,
            woken,
            rate: RateLimiter::direct(Quota::per_second(per_second)),
            cursor: Mutex::new(None),
            tasks: TaskTracker::new(),
            shutdown,
        })
    }

    /// Settles every hour, and when woken, until the shutdown.
    pub(crate) fn start(self: &Arc<Self>) {
        let verifier = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut is_woken = false;
            while !verifier.shutdown.is_cancelled() {
                tokio::select! {
                    () = verifier.woken.notified() => is_woken = true,
                    () = tokio::time::sleep(LOOK) => {}
                    () = verifier.shutdown.cancelled() => break,
                }
                // It reads, and what it records it records whole: it may end anywhere.
                let run = verifier.verify_when_due(is_woken);
                match verifier.shutdown.run_until_cancelled(run).await {
                    Some(Ok(false)) | None => {}
                    Some(Ok(true)) => is_woken = false,
                    Some(Err(error)) => {
                        is_woken = false;
                        tracing::warn!(%error, "verification stopped; it is taken up again in an hour");
                    }
                }
            }
        });
    }

    /// Waits for the reads that are under way.
    pub(crate) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Settles where that is due, and says whether it did. Being woken often makes it due once a minute.
    async fn verify_when_due(&self, is_woken: bool) -> Result<bool> {
        let now = self.clock.now();
        let last = self.store.last_run_at(JOB, now).await?;
        let pause = if is_woken { MINUTE_MS } else { HOUR_MS };
        // Two runs at once would do the same twice, and no harm.
        let is_ours =
            now.saturating_sub(last) >= pause && self.store.claim_job(JOB, last, now).await?;
        if is_ours {
            self.verify_all(is_woken).await?;
        }
        Ok(is_ours)
    }

    /// One run: every stream with something to settle, from where the last run ended, until enough was read.
    async fn verify_all(&self, is_woken: bool) -> Result<()> {
        let mut cursor = self.cursor.lock().await;
        let mut budget = Budget(READS_PER_RUN);
        let since = self.clock.now().saturating_sub(LOOKED_AT_MS);
        loop {
            let mut days = self
                .store
                .unverified_days(cursor.as_ref(), since, DAYS_PER_PAGE)
                .await?;
            let is_last = u64::try_from(days.len()).is_ok_and(|len| len < DAYS_PER_PAGE);
            if !is_last {
                keep_whole_streams(&mut days);
            }
            for own in days.chunk_by(|one, other| stream_of(one) == stream_of(other)) {
                if self.shutdown.is_cancelled() {
                    return Ok(());
                }
                let Some(stream) = own.first().map(stream_of) else {
                    continue;
                };
                match self
                    .verify_stream(&stream, own, is_woken, &mut budget)
                    .await
                {
                    Ok(()) => {}
                    Err(Stopped::BudgetExhausted) => {
                        tracing::warn!(
                            reads = READS_PER_RUN,
                            "enough was read; the next run goes on"
                        );
                        return Ok(());
                    }
                    Err(Stopped::Store(error)) => return Err(error),
                    Err(Stopped::Stripe(Failure::Denied(why))) => {
                        tracing::error!(%why, "Stripe refuses the key: nothing is settled until it is mended");
                        return Ok(());
                    }
                    Err(Stopped::Stripe(failure)) => {
                        tracing::warn!(customer = %stream.customer, meter = %stream.meter, why = failure.message(), "not settled");
                    }
                }
                *cursor = Some(stream);
            }
            if is_last {
                *cursor = None;
                return Ok(());
            }
        }
    }

    /// Waits for a turn to read.
    async fn turn(&self, budget: &mut Budget) -> std::result::Result<(), Stopped> {
        budget.0 = budget.0.checked_sub(1).ok_or(Stopped::BudgetExhausted)?;
        self.rate.until_ready().await;
        Ok(())
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
    // By equality: how the database orders names is its own matter.
    let others = days.iter().rposition(|day| Some(stream_of(day)) != last);
    if let Some(place) = others {
        days.truncate(place.saturating_add(1));
    }
}
