//! The verifier job: every hour it compares Stripe's totals with the accepted reports, and records which reports the
//! totals include.
//!
//! Stripe limits requests, so the job saves them: it reads totals by UTC day, many days in one request, and only of
//! days with events that are not confirmed. It never corrects or sends anything.

mod stream;

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    job::{FirstRun, Job, Next, Spec, Turn},
    wake::Signals,
};
use crate::{
    domain::{
        DAY_MS, HOUR_MS, MINUTE_MS, Millis, billing_start::BillingStart, meter::Meters,
        stream::Stream,
    },
    error::{Error, Result},
    store::{Store, verification::UnverifiedDay},
    stripe::{Failure, Stripe},
};

/// The job's name.
const NAME: &str = "verification";
/// How often the runner checks whether the job is due.
const INTERVAL: Duration = Duration::from_secs(1);
/// The number of days that one query of the database returns.
const DAYS_PER_PAGE: u64 = 1_000;
/// The maximum number of requests to Stripe per run. The next run continues where the last one ended.
const READS_PER_RUN: u32 = 5_000;
/// A run in which Stripe answers nothing ends after this many streams. The next one goes on after them.
const MAX_UNANSWERED: u32 = 10;
/// Older events are on final invoices and no longer verified.
const MAX_AGE_MS: Millis = 70 * DAY_MS;

/// Compares Stripe's totals with ours.
pub(crate) struct Verifier {
    store: Store,
    stripe: Stripe,
    meters: Arc<Meters>,
    signals: Arc<Signals>,
    shutdown: CancellationToken,
}

/// One run: its time, whether it was requested, the number of requests it has left, and the last stream that was
/// verified.
struct Run {
    now: Millis,
    is_requested: bool,
    /// From when on this service bills.
    billing_start: BillingStart,
    reads_left: u32,
    /// `None` before the first stream and after the last one.
    cursor: Option<Stream>,
    /// The number of requests that Stripe answered.
    answered: u32,
    /// The number of streams that could not be verified because it did not, and why the last one could not.
    unanswered: u32,
    failure: Option<Failure>,
}

impl Run {
    /// Whether the run compared anything, or had nothing to compare.
    ///
    /// # Errors
    /// Stripe answered nothing that was asked: the run must not count as one.
    fn result(&self) -> Result<()> {
        match &self.failure {
            Some(failure) if self.answered == 0 => {
                let why = failure.message().to_owned();
                Err(Error::StripeUnavailable(why))
            }
            _ => Ok(()),
        }
    }
}

/// Why the verification of a stream stopped.
#[derive(Debug)]
enum Stopped {
    /// Stripe returned no total.
    Stripe(Failure),
    /// The run has used up its requests.
    BudgetExhausted,
    ShuttingDown,
    Store(Error),
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
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
        Self {
            store,
            stripe,
            meters,
            signals,
            shutdown,
        }
    }

    /// Verifies every stream with unconfirmed events, from where the last run ended, until the requests are used up.
    async fn verify_all(&self, run: &mut Run) -> Result<()> {
        let since = run.now.saturating_sub(MAX_AGE_MS);
        loop {
            let mut days = self
                .store
                .unverified_days(run.cursor.as_ref(), since, DAYS_PER_PAGE)
                .await?;
            let is_last = u64::try_from(days.len()).is_ok_and(|len| len < DAYS_PER_PAGE);
            if !is_last {
                keep_whole_streams(&mut days);
            }
            for of_stream in days.chunk_by(|one, other| stream_of(one) == stream_of(other)) {
                let Some(stream) = of_stream.first().map(stream_of) else {
                    continue;
                };
                match self.verify_stream(&stream, of_stream, run).await {
                    Ok(()) => {}
                    Err(Stopped::ShuttingDown) => return Ok(()),
                    Err(Stopped::BudgetExhausted) => {
                        tracing::warn!(
                            requests = READS_PER_RUN,
                            "verification has made as many requests to Stripe as one run may; the next run continues"
                        );
                        return run.result();
                    }
                    Err(Stopped::Store(error)) => return Err(error),
                    Err(Stopped::Stripe(Failure::Denied(why))) => {
                        // The runner tells of it once.
                        return Err(Error::StripeUnavailable(format!(
                            "nothing is verified, check STRIPE_SECRET_KEY: {why}"
                        )));
                    }
                    Err(Stopped::Stripe(failure)) => {
                        tracing::warn!(customer = %stream.customer, meter = %stream.meter, why = failure.message(), "a customer's usage could not be verified");
                        // What Stripe says of one customer says nothing of the others.
                        if !matches!(failure, Failure::NoCustomer(_) | Failure::Refused(_)) {
                            run.unanswered = run.unanswered.saturating_add(1);
                            run.failure = Some(failure);
                        }
                    }
                }
                run.cursor = Some(stream);
                if run.answered == 0 && run.unanswered >= MAX_UNANSWERED {
                    return run.result();
                }
            }
            if is_last {
                run.cursor = None;
                return run.result();
            }
            // A crash loses at most one page.
            self.store.set_cursor(NAME, run.cursor.as_ref()).await?;
        }
    }

    /// Makes a request to Stripe within the rate limit and the budget of the run.
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
            self.stripe.read_turn().await;
            total.await
        };
        let read = self.shutdown.run_until_cancelled(read).await;
        let read = read.ok_or(Stopped::ShuttingDown)?;
        if read.is_ok() {
            run.answered = run.answered.saturating_add(1);
        }
        read.map_err(Stopped::Stripe)
    }
}

impl Job for Verifier {
    fn spec(&self) -> Spec {
        Spec {
            name: NAME,
            interval: INTERVAL,
            turn: Turn::Recorded {
                first: FirstRun::WhenDue,
            },
            wake: self.signals.verify.clone(),
        }
    }

    /// Due every hour, and once a minute while verification is requested.
    fn is_due(&self, last_run_at: Millis, now: Millis) -> bool {
        let wait = if self.signals.verify_request.is_made() {
            MINUTE_MS
        } else {
            HOUR_MS
        };
        now.saturating_sub(last_run_at) >= wait
    }

    async fn run(&mut self, now: Millis) -> Result<Next> {
        let cursor = self.store.find_cursor(NAME).await?;
        let is_requested = self.signals.verify_request.take();
        let mut run = Run {
            now,
            is_requested,
            billing_start: self.store.billing_start().await?,
            reads_left: READS_PER_RUN,
            cursor,
            answered: 0,
            unanswered: 0,
            failure: None,
        };
        let begun_after = run.cursor.clone();
        let mut done = self.verify_all(&mut run).await;
        if run.cursor != begun_after {
            let saved = self.store.set_cursor(NAME, run.cursor.as_ref()).await;
            done = done.and(saved);
        }
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

/// Removes the last stream of a page, unless it is the only one: the next page may contain more of its days.
fn keep_whole_streams(days: &mut Vec<UnverifiedDay>) {
    let last = days.last().map(stream_of);
    // Compared for equality only, because databases sort names differently.
    let others = days.iter().rposition(|day| Some(stream_of(day)) != last);
    if let Some(place) = others {
        days.truncate(place.saturating_add(1));
    }
}
