//! The sender job: gives closed reports to Stripe, one at a time for each customer and meter.
//!
//! Only the holder of the lease sends. Due reports come from the database in pages, and at most `concurrency` requests are
//! under way, so memory does not grow with the number of accounts. A report in backoff is not under way and delays no
//! other.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::Instant;

use super::{
    job::{Job, Next, Spec, Turn},
    send_event::{Ended, MAX_RETRY, Pause, Requests, backoff_ms, duration},
    tasks::Tasks,
    wake::Signals,
};
use crate::{
    domain::{Millis, report::Report, stream::Stream},
    error::Result,
    metrics,
    store::send::{Rules, SendResult, Task},
    stripe::REQUEST_TIMEOUT,
};

/// How often a replica without the lease, or one that finds nothing due, checks again at most.
const MAX_INTERVAL: Duration = Duration::from_secs(1);
/// How long nothing is sent after Stripe refused the key, or nothing of a meter that it does not know, in shortest waits
/// before a retry: half a minute unless configured otherwise. `ForceReport` lifts it.
const PAUSE_RETRIES: Millis = 30;
/// How long a request may wait for its turn under the rate limit: part of what the lease has to cover.
const RATE_WAIT_SECS: u32 = 10;
/// How many due reports one query reads at least.
const MIN_PAGE: usize = 64;

/// How fast the sender sends.
#[derive(Clone, Debug)]
pub(crate) struct SenderOptions {
    pub(crate) rules: Rules,
    pub(crate) events_per_sec: u32,
    /// Requests under way at the same time.
    pub(crate) concurrency: usize,
}

/// Sends closed reports.
pub(crate) struct Sender {
    requests: Requests,
    rules: Rules,
    signals: Arc<Signals>,
    rate: Arc<DefaultDirectRateLimiter>,
    /// One request at a time of each stream, and no more than get their turn before the lease could end.
    under_way: Tasks<Stream, Ended>,
    /// Answers of Stripe that are not recorded yet.
    unrecorded: Vec<SendResult>,
    /// Where the next page begins.
    cursor: Option<Stream>,
    paused_until: Option<Instant>,
    paused_meters: HashMap<String, Instant>,
}

impl Sender {
    pub(crate) fn new(requests: Requests, options: &SenderOptions, signals: Arc<Signals>) -> Self {
        let per_second = NonZeroU32::new(options.events_per_sec).unwrap_or(NonZeroU32::MIN);
        let in_turn = per_second.get().saturating_mul(RATE_WAIT_SECS);
        let in_turn = usize::try_from(in_turn).unwrap_or(usize::MAX);
        Self {
            under_way: Tasks::new(options.concurrency.min(in_turn), signals.send.clone()),
            requests,
            rules: options.rules,
            signals,
            rate: Arc::new(RateLimiter::direct(Quota::per_second(per_second))),
            unrecorded: Vec::new(),
            cursor: None,
            paused_until: None,
            paused_meters: HashMap::new(),
        }
    }

    /// Starts requests for one page of due reports; false when none could be started.
    async fn start_due(&mut self, now: Millis) -> Result<bool> {
        let free = self.under_way.free();
        if free == 0 {
            return Ok(false);
        }
        let requests = self.requests.clone();
        let mut meters = requests.meters.names_of_all();
        meters.retain(|name| !self.paused_meters.contains_key(*name));
        let limit = free.saturating_mul(4).max(MIN_PAGE);
        let limit_rows = u64::try_from(limit).unwrap_or(u64::MAX);
        let page = requests
            .store
            .due_reports(&meters, self.cursor.as_ref(), now, limit_rows)
            .await?;
        let had_cursor = self.cursor.is_some();
        let is_last_page = page.len() < limit;
        let chosen = self.choose(page, free, is_last_page);
        if chosen.is_empty() {
            // After the last stream the next page begins with the first again.
            return Ok(had_cursor);
        }
        let tasks = requests
            .store
            .mark_sending(chosen, self.rules, now, |report| {
                now.saturating_add(backoff_ms(report.attempts, requests.retry_ms))
            })
            .await?;
        for task in tasks {
            self.start(task);
        }
        Ok(true)
    }

    /// The first report of each stream that is free, and where the next page begins.
    fn choose(&mut self, page: Vec<Report>, free: usize, is_last_page: bool) -> Vec<Report> {
        let mut chosen: Vec<Report> = Vec::new();
        let mut streams: HashSet<Stream> = HashSet::new();
        let mut seen_all = true;
        let mut last = None;
        for report in page {
            let Some(stream) = stream_of(&report) else {
                continue;
            };
            if self.under_way.has(&stream) || streams.contains(&stream) {
                last = Some(stream);
                continue;
            }
            if chosen.len() >= free {
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
        let (requests, rate) = (self.requests.clone(), Arc::clone(&self.rate));
        self.under_way.start(stream.clone(), async move {
            rate.until_ready().await;
            match task {
                Task::Send {
                    report,
                    may_be_there,
                } => requests.send(stream, report, may_be_there).await,
                Task::Look(report) => Ended {
                    send_result: requests.check_delivery(&stream, report).await,
                    pause: None,
                },
            }
        });
    }

    fn take_ended(&mut self, ended: Vec<(Stream, Ended)>, now: Millis) {
        for (_, ended) in ended {
            let mut result = ended.send_result;
            result.next_attempt_at = now.saturating_add(result.next_attempt_at);
            self.unrecorded.push(result);
            if let Some(pause) = ended.pause {
                self.pause(pause);
            }
        }
    }

    /// Records Stripe's answers, all of them in one transaction. Where that fails they are kept and nothing is sent: until
    /// they are recorded, the reports are due again only much later.
    async fn record(&mut self, now: Millis) -> Result<()> {
        if self.unrecorded.is_empty() {
            return Ok(());
        }
        let store = &self.requests.store;
        store.record_results(&self.unrecorded, now).await?;
        for result in self.unrecorded.drain(..) {
            metrics::count_transition(result.event.as_ref());
        }
        self.signals.progress.notify_waiters();
        Ok(())
    }

    fn pause(&mut self, pause: Pause) {
        let wait = duration(self.requests.retry_ms.saturating_mul(PAUSE_RETRIES)).min(MAX_RETRY);
        let now = Instant::now();
        let until = now.checked_add(wait).unwrap_or(now);
        match pause {
            Pause::KeyRefused => {
                tracing::error!(
                    "Stripe refuses the secret key: nothing is sent; check STRIPE_SECRET_KEY"
                );
                self.paused_until = Some(until);
            }
            Pause::Meter(meter) => {
                tracing::error!(%meter, "Stripe has no active meter with this event name: its reports wait");
                self.paused_meters.insert(meter, until);
            }
        }
    }

    /// Lifts the pauses that are over; says whether everything is still paused.
    fn is_paused(&mut self) -> bool {
        if self.signals.retry_request.take() {
            self.paused_until = None;
            self.paused_meters.clear();
        }
        let now = Instant::now();
        self.paused_meters.retain(|_, until| now < *until);
        self.paused_until.is_some_and(|until| now < until)
    }
}

impl Job for Sender {
    fn spec(&self) -> Spec {
        Spec {
            name: "sender",
            interval: duration(self.requests.retry_ms).min(MAX_INTERVAL),
            turn: Turn::OneReplica {
                // A request and its wait for a turn end while the lease is still ours.
                margin: REQUEST_TIMEOUT.saturating_add(Duration::from_secs(RATE_WAIT_SECS.into())),
            },
            wake: self.signals.send.clone(),
        }
    }

    async fn run(&mut self, now: Millis) -> Result<Next> {
        let ended = self.under_way.ended();
        self.take_ended(ended, now);
        self.record(now).await?;
        if self.is_paused() {
            // Another replica may have a key that Stripe takes.
            return Ok(if self.under_way.is_empty() {
                Next::HandOver
            } else {
                Next::Wait
            });
        }
        let has_started = self.start_due(now).await?;
        Ok(if has_started && self.under_way.free() > 0 {
            Next::RunAgain
        } else {
            Next::Wait
        })
    }

    /// A request under way may still be accepted: its answer is worth waiting for, and takes no longer than its timeout.
    async fn finish(&mut self) {
        let ended = self.under_way.finish().await;
        let recorded = async {
            let now = self.requests.store.now().await?;
            self.take_ended(ended, now);
            self.record(now).await
        };
        if let Err(error) = recorded.await {
            tracing::error!(%error, "Stripe's last answers could not be recorded; their reports are checked later");
        }
    }
}

fn stream_of(report: &Report) -> Option<Stream> {
    Some(Stream {
        customer: report.customer.clone()?,
        meter: report.meter.clone(),
    })
}
