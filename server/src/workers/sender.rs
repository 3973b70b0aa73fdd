//! The sender: gives closed reports to Stripe, one at a time for each customer and meter.
//!
//! Only the holder of the lease sends. What is due comes from the database in pages, and at most
//! `concurrency` requests are under way, so memory does not grow with the number of accounts. A report
//! that waits in backoff is not under way and holds up nobody.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU32,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::{task::JoinSet, time::Instant};

use super::{delivery_check::check_delivery, reporter::Reporter};
use crate::{
    domain::stream::Stream,
    domain::{
        Millis,
        report::{Transition, identifier},
    },
    error::Result,
    metrics,
    store::{
        reports::Report,
        send::{SendResult, Task},
    },
    stripe::{Failure, MeterEvent, REQUEST_TIMEOUT, Stripe},
};

/// The lease's name.
const LEASE: &str = "sender";
/// How long the lease holds without being prolonged; prolonged at a third of it.
const LEASE_SECS: u32 = 60;
/// How long a replica without the lease, or one that finds nothing due, waits before it looks again.
const IDLE: Duration = Duration::from_secs(1);
/// The longest pause before a request is tried again.
const MAX_RETRY: Duration = Duration::from_mins(15);
/// How long nothing is sent after Stripe refused the key, or nothing of a meter that it does not know, in
/// shortest backoff before a retry: half a minute unless configured otherwise. `ForceReport` lifts it.
const PAUSE_RETRIES: Millis = 30;
/// How long a request may wait for its turn under the rate limit: part of what the lease has to cover.
const RATE_WAIT_SECS: u32 = 10;
/// How many due reports one query reads at least.
const MIN_PAGE: usize = 64;

/// A request's end: what is to be recorded, and why sending has to pause, if it has to.
struct Ended {
    send_result: SendResult,
    pause: Option<Pause>,
}

enum Pause {
    Everything,
    Meter(String),
}

struct Sender {
    reporter: Arc<Reporter>,
    stripe: Stripe,
    rate: Arc<DefaultDirectRateLimiter>,
    /// Requests under way at once: no more than get their turn before the lease could end.
    concurrency: usize,
    under_way: JoinSet<Ended>,
    /// The streams of what is under way: one request at a time each.
    busy: HashSet<Stream>,
    /// Where the next page begins.
    cursor: Option<Stream>,
    /// Until when the lease is surely ours.
    held_until: Instant,
    prolong_at: Instant,
    paused_until: Option<Instant>,
    paused_meters: HashMap<String, Instant>,
}

impl Reporter {
    /// Starts the sender, where there is a Stripe account to send to.
    pub(crate) fn start_sending(self: &Arc<Self>) {
        let Some(stripe) = self.stripe.clone() else {
            return;
        };
        let per_second = NonZeroU32::new(self.options.events_per_sec).unwrap_or(NonZeroU32::MIN);
        let in_turn = per_second.get().saturating_mul(RATE_WAIT_SECS);
        let in_turn = usize::try_from(in_turn).unwrap_or(usize::MAX);
        let now = Instant::now();
        let sender = Sender {
            reporter: Arc::clone(self),
            stripe,
            rate: Arc::new(RateLimiter::direct(Quota::per_second(per_second))),
            concurrency: self.options.concurrency.min(in_turn),
            under_way: JoinSet::new(),
            busy: HashSet::new(),
            cursor: None,
            held_until: now,
            prolong_at: now,
            paused_until: None,
            paused_meters: HashMap::new(),
        };
        self.tasks.spawn(sender.run());
    }
}

impl Sender {
    async fn run(mut self) {
        let shutdown = self.reporter.shutdown.clone();
        let reporter = Arc::clone(&self.reporter);
        let idle = millis_long(reporter.options.retry_ms).min(IDLE);
        while !shutdown.is_cancelled() {
            let started = match self.start_due().await {
                Ok(started) => started,
                Err(error) => {
                    tracing::warn!(%error, "what is due could not be read");
                    false
                }
            };
            if started && self.busy.len() < self.concurrency {
                // There may be more; what has ended in between is recorded on the way.
                self.record_ended(None).await;
                continue;
            }
            tokio::select! {
                Some(ended) = self.under_way.join_next() => self.record_ended(Some(ended)).await,
                () = reporter.closed.notified() => {}
                () = tokio::time::sleep(idle) => {}
                () = shutdown.cancelled() => {}
            }
        }
        // A request under way may still be taken: its answer is worth waiting for, and takes no longer
        // than its timeout.
        while let Some(ended) = self.under_way.join_next().await {
            self.record_ended(Some(ended)).await;
        }
        if let Err(error) = reporter.store.release_lease(LEASE, &reporter.replica).await {
            tracing::warn!(%error, "the sender's lease was not given back; it runs out by itself");
        }
    }

    /// Whether the lease is surely ours for at least as long as a request and its wait for a turn take.
    async fn holds_lease(&mut self) -> Result<bool> {
        let now = Instant::now();
        if now >= self.prolong_at {
            let ttl_ms = Millis::from(LEASE_SECS).saturating_mul(1_000);
            let reporter = &self.reporter;
            if reporter
                .store
                .hold_lease(LEASE, &reporter.replica, ttl_ms)
                .await?
            {
                let seconds = |secs: u32| Duration::from_secs(secs.into());
                self.held_until = now.checked_add(seconds(LEASE_SECS)).unwrap_or(now);
                self.prolong_at = now.checked_add(seconds(LEASE_SECS / 3)).unwrap_or(now);
            } else {
                self.held_until = now;
            }
        }
        let longest = REQUEST_TIMEOUT.saturating_add(Duration::from_secs(RATE_WAIT_SECS.into()));
        Ok(self.held_until.saturating_duration_since(now) > longest)
    }

    /// Lets another replica try, whose key may be a better one, once nothing of ours is under way.
    async fn give_up_lease(&mut self, now: Instant) -> Result<()> {
        if self.held_until > now && self.busy.is_empty() {
            let reporter = &self.reporter;
            reporter
                .store
                .release_lease(LEASE, &reporter.replica)
                .await?;
            (self.held_until, self.prolong_at) = (now, now);
        }
        Ok(())
    }

    /// Starts requests for one page of what is due; false when nothing could be started.
    async fn start_due(&mut self) -> Result<bool> {
        let room = self.concurrency.saturating_sub(self.busy.len());
        if self.reporter.retry_requested.swap(false, Ordering::Relaxed) {
            self.paused_until = None;
            self.paused_meters.clear();
        }
        let now = Instant::now();
        if self.paused_until.is_some_and(|until| now < until) {
            self.give_up_lease(now).await?;
            return Ok(false);
        }
        if room == 0 || !self.holds_lease().await? {
            return Ok(false);
        }
        self.paused_meters.retain(|_, until| now < *until);
        let reporter = Arc::clone(&self.reporter);
        let mut meters = reporter.options.meters.names_of_all();
        meters.retain(|name| !self.paused_meters.contains_key(*name));
        let limit = room.saturating_mul(4).max(MIN_PAGE);
        let limit_rows = u64::try_from(limit).unwrap_or(u64::MAX);
        let now = reporter.clock.now();
        let page = reporter
            .store
            .due_reports(&meters, self.cursor.as_ref(), now, limit_rows)
            .await?;
        let had_cursor = self.cursor.is_some();
        let is_last_page = page.len() < limit;
        let chosen = self.choose(page, room, is_last_page);
        if chosen.is_empty() {
            // At the end of the streams the next look begins with the first again.
            return Ok(had_cursor);
        }
        let retry_ms = reporter.options.retry_ms;
        let tasks = reporter
            .store
            .mark_sending(chosen, reporter.options.rules, now, |report| {
                now.saturating_add(backoff_ms(report.attempts, retry_ms))
            })
            .await?;
        for task in tasks {
            self.start(task);
        }
        Ok(true)
    }

    /// The first report of each stream that is free, and where the next page begins.
    fn choose(&mut self, page: Vec<Report>, room: usize, is_last_page: bool) -> Vec<Report> {
        let mut chosen: Vec<Report> = Vec::new();
        let mut streams: HashSet<Stream> = HashSet::new();
        let mut seen_all = true;
        let mut last = None;
        for report in page {
            let Some(stream) = stream_of(&report) else {
                continue;
            };
            if self.busy.contains(&stream) || streams.contains(&stream) {
                last = Some(stream);
                continue;
            }
            if chosen.len() >= room {
                seen_all = false;
                break;
            }
            streams.insert(stream.clone());
            last = Some(stream);
            chosen.push(report);
        }
        self.cursor = if is_last_page && seen_all { None } else { last };
        chosen
    }

    fn start(&mut self, task: Task) {
        let (Task::Send { report, .. } | Task::Look(report)) = &task;
        let Some(stream) = stream_of(report) else {
            return;
        };
        self.busy.insert(stream.clone());
        let (reporter, stripe, rate) = (
            Arc::clone(&self.reporter),
            self.stripe.clone(),
            Arc::clone(&self.rate),
        );
        self.under_way.spawn(async move {
            rate.until_ready().await;
            match task {
                Task::Send {
                    report,
                    may_be_there,
                } => send(&reporter, &stripe, stream, report, may_be_there).await,
                Task::Look(report) => Ended {
                    send_result: check_delivery(&reporter, &stripe, &stream, report).await,
                    pause: None,
                },
            }
        });
    }

    /// Records what has ended, all of it in one transaction, and frees its streams.
    async fn record_ended(
        &mut self,
        first: Option<std::result::Result<Ended, tokio::task::JoinError>>,
    ) {
        let mut send_results = Vec::new();
        let mut next = first.or_else(|| self.under_way.try_join_next());
        while let Some(ended) = next {
            match ended {
                Ok(ended) => {
                    self.note_pause(ended.pause);
                    send_results.push(ended.send_result);
                }
                // A request that panicked keeps its stream busy; what it was about is due again elsewhere.
                Err(error) => tracing::error!(%error, "a request to Stripe was lost"),
            }
            next = self.under_way.try_join_next();
        }
        if send_results.is_empty() {
            return;
        }
        // What cannot be recorded now stays `sending`: it is sent again, and Stripe says it has it.
        match self
            .reporter
            .store
            .settle(&send_results, self.reporter.clock.now())
            .await
        {
            Ok(()) => send_results
                .iter()
                .for_each(|send_result| metrics::report(send_result.event.as_ref())),
            Err(error) => {
                tracing::error!(%error, reports = send_results.len(), "Stripe's answers could not be recorded");
            }
        }
        for stream in send_results
            .iter()
            .filter_map(|send_result| stream_of(&send_result.report))
        {
            self.busy.remove(&stream);
        }
        self.reporter.progress.notify_waiters();
    }

    fn note_pause(&mut self, why: Option<Pause>) {
        let retry_ms = self.reporter.options.retry_ms;
        let pause = millis_long(retry_ms.saturating_mul(PAUSE_RETRIES)).min(MAX_RETRY);
        let until = Instant::now().checked_add(pause);
        match (why, until) {
            (Some(Pause::Everything), until) => {
                tracing::error!("Stripe refuses the key: nothing is sent until it is mended");
                self.paused_until = until;
            }
            (Some(Pause::Meter(meter)), Some(until)) => {
                tracing::error!(%meter, "Stripe has no such active meter: its reports wait");
                self.paused_meters.insert(meter, until);
            }
            _ => {}
        }
    }
}

fn millis_long(ms: Millis) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

fn stream_of(report: &Report) -> Option<Stream> {
    Some(Stream {
        customer: report.customer.clone()?,
        meter: report.meter.clone(),
    })
}

/// How long after an attempt the next one follows: doubling, with jitter, up to a quarter of an hour.
fn backoff_ms(attempts: i32, retry_ms: Millis) -> Millis {
    let mut backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(
            u64::try_from(retry_ms).unwrap_or(1_000),
        ))
        .with_max_delay(MAX_RETRY)
        .without_max_times()
        .with_jitter()
        .build();
    let nth = usize::try_from(attempts).unwrap_or(0);
    let pause = backoff.nth(nth).unwrap_or(MAX_RETRY);
    Millis::try_from(pause.as_millis()).unwrap_or(Millis::MAX)
}

/// Sends an event. `may_be_there` says whether an earlier attempt may have arrived: a violation of this one
/// then says nothing of that one, and only looking does.
async fn send(
    reporter: &Reporter,
    stripe: &Stripe,
    stream: Stream,
    report: Report,
    may_be_there: bool,
) -> Ended {
    let Stream { customer, meter } = stream;
    let name = identifier(report.id, report.generation);
    let event_name = reporter
        .options
        .meters
        .find(&meter)
        .map_or_else(|| meter.clone(), |meter| meter.event_name.to_string());
    let event = MeterEvent {
        event_name,
        customer,
        quantity: report.quantity,
        timestamp: report.event_timestamp.unwrap_or(report.window_start),
        identifier: name.clone(),
    };
    let answer = stripe
        .send(&event, &format!("{name}-{}", report.attempts))
        .await;
    let now = reporter.clock.now();
    let retry_at = now.saturating_add(backoff_ms(
        report.attempts.saturating_sub(1),
        reporter.options.retry_ms,
    ));
    let (happened, pause) = match &answer {
        Ok(()) => (Some(Transition::Accept), None),
        Err(Failure::Unanswered(_)) => (None, None),
        Err(Failure::Denied(_)) => (None, Some(Pause::Everything)),
        Err(Failure::NoMeter(_)) => (None, Some(Pause::Meter(meter))),
        Err(Failure::NoCustomer(_) | Failure::Refused(_)) if may_be_there => (None, None),
        Err(Failure::NoCustomer(_)) => (Some(Transition::MarkCustomerDeleted), None),
        Err(Failure::Refused(_)) => (Some(Transition::Reject), None),
    };
    let is_refused_whole = matches!(&answer, Err(Failure::Denied(_) | Failure::NoMeter(_)));
    let error = answer
        .as_ref()
        .err()
        .map(|failure| failure.message().to_owned());
    match &error {
        None => tracing::debug!(report = %report.id, "accepted"),
        Some(error) => {
            tracing::warn!(report = %report.id, attempt = report.attempts, %error, "not accepted");
        }
    }
    Ended {
        send_result: SendResult {
            report,
            event: happened,
            is_surely_absent: is_refused_whole && !may_be_there,
            error,
            next_attempt_at: retry_at,
        },
        pause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_bounded() {
        let pause = |attempts| backoff_ms(attempts, 1_000);
        assert!((1_000..=2_000).contains(&pause(0)));
        assert!((4_000..=8_000).contains(&pause(2)));
        let longest = Millis::try_from(MAX_RETRY.as_millis()).unwrap();
        assert!(pause(40) <= 2 * longest);
    }
}
