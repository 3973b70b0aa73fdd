//! The sender job: sends closed reports to Stripe, one at a time for each customer and meter, what is due soonest first.
//!
//! Only the holder of the lease sends. Due reports are read from the database in pages, and at most `concurrency`
//! requests are in progress, so memory does not grow with the number of accounts. A report in backoff delays no other.
//! The rate falls while Stripe refuses requests because there are too many.

mod account;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use super::{
    backoff::{MAX_RETRY, backoff_ms, duration},
    job::{Job, Next, Spec, Turn},
    send_event::{Claim, Ended, Pause, Requests},
    send_rate::SendRate,
    sender_mark::SenderMark,
    tasks::Tasks,
    wake::Signals,
};
use crate::{
    domain::{
        Millis, SECOND_MS,
        pause::PauseReason,
        report::{Report, Transition},
        stream::Stream,
    },
    error::Result,
    metrics::{self, PausedBy},
    store::{
        other_meters::OtherMetersCursor,
        send_queue::{Rules, SendResult, Task},
        sending_state::Sending,
    },
};

/// The longest time until a replica without the lease, or one that finds nothing due, checks again.
const MAX_INTERVAL: Duration = Duration::from_secs(1);
/// How long sending pauses after Stripe rejected the key, or sending of one meter after Stripe did not find it: a
/// multiple of the shortest retry delay, by default half a minute. `ForceReport` ends the pause.
const PAUSE_RETRIES: Millis = 30;
/// How often reports of meters that are not configured are given up, if they are too old.
const GIVE_UP_INTERVAL_MS: Millis = 10 * SECOND_MS;
/// The same while Stripe cannot be reached: by default five seconds.
const UNREACHABLE_RETRIES: Millis = 5;
/// How long a request may wait for the rate limit: shorter than its claim is valid.
const RATE_WAIT_SECS: u32 = 5;
/// The reason of reports that wait because of the key.
const KEY_REFUSED: &str = "Stripe rejects the secret key";
/// The minimum number of streams that one query reads.
const MIN_PAGE: usize = 64;
/// How often the database gets the time at which Stripe last accepted an event.
const NOTE_ACCEPTED_EVERY: Duration = Duration::from_secs(5);
/// The queries of one run. A stream is found once for each time by which its reports should be sent, which are about 35
/// at most.
const MAX_PAGES: u32 = 36;

/// Settings of the sender.
#[derive(Clone, Debug)]
pub(crate) struct SenderOptions {
    pub(crate) rules: Rules,
    pub(crate) events_per_sec: u32,
    /// The maximum number of concurrent requests.
    pub(crate) concurrency: usize,
}

/// Sends closed reports.
pub(crate) struct Sender {
    requests: Requests,
    rules: Rules,
    signals: Arc<Signals>,
    rate: Arc<Mutex<SendRate>>,
    /// At most one request per stream, and no more than can start before the lease could end.
    in_progress: Tasks<Stream, Ended>,
    /// Results that are not recorded yet.
    unrecorded: Vec<SendResult>,
    paused_until: Option<Instant>,
    /// Why sending pauses or last paused, until Stripe answers.
    pause_reason: Option<String>,
    paused_meters: HashMap<String, Instant>,
    /// Meters that Stripe does not know, as the log says.
    unknown_meters: HashSet<String>,
    /// When too old reports of other meters were last given up.
    gave_up: Option<Millis>,
    other_meters: OtherMetersCursor,
    /// Why sending is to be paused in the database.
    pauses_because: Option<PauseReason>,
    /// Whether a pause in the database was logged.
    has_logged_pause: bool,
    /// When the reports last got the reason of the pause.
    explained: Option<Instant>,
    mark: SenderMark,
    /// After a failed check of the account or the mark: when to check again, and the number of failures in a row.
    check_again: Option<(Instant, i32)>,
    /// When the database last got the time at which Stripe accepted an event.
    noted_accepted: Option<Instant>,
}

impl Sender {
    pub(crate) fn new(requests: Requests, options: &SenderOptions, signals: Arc<Signals>) -> Self {
        let rate = SendRate::new(options.events_per_sec, Instant::now());
        Self {
            in_progress: Tasks::new(
                options.concurrency.min(in_turn(options.events_per_sec)),
                signals.send.clone(),
            ),
            requests,
            rules: options.rules,
            signals,
            rate: Arc::new(Mutex::new(rate)),
            unrecorded: Vec::new(),
            paused_until: None,
            pause_reason: None,
            paused_meters: HashMap::new(),
            unknown_meters: HashSet::new(),
            gave_up: None,
            other_meters: OtherMetersCursor::default(),
            pauses_because: None,
            has_logged_pause: false,
            explained: None,
            mark: SenderMark::default(),
            check_again: None,
            noted_accepted: None,
        }
    }

    /// Starts requests for due reports; returns false if none could be started.
    async fn start_due(&mut self, sending: &Sending, now: Millis) -> Result<bool> {
        let free = self.free();
        if free == 0 {
            return Ok(false);
        }
        let requests = self.requests.clone();
        let mut meters = requests.meters.names_of_all();
        meters.retain(|name| !self.paused_meters.contains_key(*name));
        requests.store.end_waits(now).await?;
        requests.store.set_send_by(&meters).await?;
        let chosen = self.choose(&meters, free).await?;
        if chosen.is_empty() {
            return Ok(false);
        }
        if !self.check_account(sending, now, true).await? {
            return Ok(false);
        }
        let claim = Claim {
            at: now,
            instant: Instant::now(),
        };
        let tasks = requests
            .store
            .mark_sending(chosen, self.rules, now, |report| {
                now.saturating_add(backoff_ms(report.attempts, requests.retry_ms))
            })
            .await?;
        for task in tasks {
            self.start(task, claim);
        }
        Ok(true)
    }

    async fn give_up_other_meters(&mut self, now: Millis) -> Result<()> {
        let is_early = |at: Millis| now.saturating_sub(at).saturating_abs() < GIVE_UP_INTERVAL_MS;
        if self.gave_up.is_some_and(is_early) {
            return Ok(());
        }
        let meters = self.requests.meters.names_of_all();
        self.requests
            .store
            .give_up_other_meters(&meters, &mut self.other_meters, now)
            .await?;
        self.gave_up = Some(now);
        Ok(())
    }

    /// The number of requests that may start: no more than can be sent in time at the present rate.
    fn free(&self) -> usize {
        let in_turn = in_turn(rate(&self.rate).per_sec());
        let free = self.in_progress.free();
        free.min(in_turn.saturating_sub(self.in_progress.len()))
    }

    /// Chooses the first report of each stream without a request in progress, what is due soonest first.
    async fn choose(&self, meters: &[&str], free: usize) -> Result<Vec<Report>> {
        // A page contains the streams with requests in progress, which often are those that are due soonest.
        let limit = self.in_progress.len().saturating_add(free).max(MIN_PAGE);
        let mut chosen: Vec<Report> = Vec::new();
        let mut streams: HashSet<Stream> = HashSet::new();
        let mut after = None;
        for _ in 0..MAX_PAGES {
            let store = &self.requests.store;
            let page = store.due_first(meters, after.as_ref(), limit).await?;
            let is_last = page.len() < limit;
            for (place, report) in page {
                after = Some(place);
                let Some(stream) = report.stream() else {
                    continue;
                };
                if self.in_progress.has(&stream) || !streams.insert(stream) {
                    continue;
                }
                chosen.push(report);
                if chosen.len() >= free {
                    return Ok(chosen);
                }
            }
            if is_last {
                break;
            }
        }
        Ok(chosen)
    }

    fn start(&mut self, task: Task, claim: Claim) {
        let (Task::Send { report, .. } | Task::CheckDelivery(report) | Task::LookUp { report, .. }) =
            &task;
        let Some(stream) = report.stream() else {
            return;
        };
        let requests = self.requests.clone();
        let turn = rate(&self.rate).take_turn(Instant::now());
        self.in_progress.start(stream.clone(), async move {
            sleep_until(turn).await;
            match task {
                Task::Send {
                    report,
                    may_have_arrived,
                } if requests.is_valid(claim).await => {
                    requests.send(stream, report, may_have_arrived).await
                }
                Task::Send {
                    report,
                    may_have_arrived,
                } => Ended::unsent(report, may_have_arrived),
                Task::CheckDelivery(report) => {
                    Ended::looked_up(requests.check_delivery(&stream, report).await)
                }
                Task::LookUp {
                    report,
                    restored_at,
                } => Ended::looked_up(requests.look_up(&stream, report, restored_at).await),
            }
        });
    }

    fn take_ended(&mut self, ended: Vec<(Stream, Ended)>, now: Millis) {
        for (stream, ended) in ended {
            if ended.is_key_accepted {
                metrics::sending_paused(PausedBy::RefusedKey, false);
            }
            if ended.pause.is_none() {
                self.unknown_meters.remove(&stream.meter);
            }
            let mut result = ended.send_result;
            result.next_attempt_at = now.saturating_add(result.next_attempt_at);
            self.unrecorded.push(result);
            match ended.pause {
                Some(pause) => self.pause(pause),
                None if self.paused_until.is_none() => self.pause_reason = None,
                None => {}
            }
        }
    }

    fn adjust_rate(&self) {
        let throttled = self.requests.stripe.throttled();
        let mut rate = rate(&self.rate);
        if rate.adjust(throttled, Instant::now()) {
            tracing::warn!(
                events_per_sec = rate.per_sec(),
                "Stripe got too many requests: meter events are sent more slowly"
            );
        }
        metrics::events_per_sec(rate.per_sec());
    }

    /// Records the results in one transaction. If that fails, they are kept and nothing is sent in this run.
    async fn record(&mut self, now: Millis) -> Result<()> {
        if let Some(why) = self.pauses_because {
            self.requests.store.pause_sending(why, now).await?;
            self.pauses_because = None;
        }
        if self.unrecorded.is_empty() {
            return Ok(());
        }
        let store = &self.requests.store;
        store.record_results(&self.unrecorded, now).await?;
        let mut is_accepted = false;
        for result in self.unrecorded.drain(..) {
            metrics::count_transition(result.transition.as_ref());
            is_accepted |= result.transition == Some(Transition::Accept);
        }
        self.signals.progress.notify_waiters();
        if is_accepted {
            metrics::accepted_at(now);
            let is_noted = |at: Instant| at.elapsed() < NOTE_ACCEPTED_EVERY;
            if !self.noted_accepted.is_some_and(is_noted) {
                self.requests.store.note_accepted(now).await?;
                self.noted_accepted = Some(Instant::now());
            }
        }
        Ok(())
    }

    fn pause(&mut self, pause: Pause) {
        let now = Instant::now();
        let after = |retries| {
            let wait = duration(self.requests.retry_ms.saturating_mul(retries)).min(MAX_RETRY);
            now.checked_add(wait).unwrap_or(now)
        };
        let until = after(PAUSE_RETRIES);
        match pause {
            Pause::KeyRefused => {
                if self.pause_reason.as_deref() != Some(KEY_REFUSED) {
                    tracing::error!(
                        "Stripe rejects the secret key: nothing is sent; check STRIPE_SECRET_KEY"
                    );
                }
                metrics::sending_paused(PausedBy::RefusedKey, true);
                self.paused_until = Some(until);
                self.pause_reason = Some(KEY_REFUSED.to_owned());
            }
            Pause::Unreachable(why) => {
                if self.pause_reason.as_ref() != Some(&why) {
                    tracing::error!(why, "nothing is sent until Stripe can be reached");
                }
                self.paused_until = Some(after(UNREACHABLE_RETRIES));
                self.pause_reason = Some(why);
            }
            Pause::InDatabase(why) => self.pauses_because = Some(why),
            Pause::Meter(meter) => {
                if self.unknown_meters.insert(meter.clone()) {
                    tracing::error!(%meter, "Stripe has no active meter with this event name: its reports wait");
                }
                self.paused_meters.insert(meter, until);
            }
        }
    }

    /// Ends the pauses that are over; returns whether sending is still paused.
    fn is_paused(&mut self) -> bool {
        if self.signals.retry_request.take() {
            self.paused_until = None;
            self.paused_meters.clear();
            self.check_again = None;
        }
        let now = Instant::now();
        self.paused_meters.retain(|_, until| now < *until);
        self.paused_until = self.paused_until.filter(|until| now < *until);
        self.paused_until.is_some()
    }
}

/// The requests that can be sent at a rate before the lease could end.
pub(super) fn in_turn(per_sec: u32) -> usize {
    usize::try_from(per_sec.saturating_mul(RATE_WAIT_SECS)).unwrap_or(usize::MAX)
}

fn rate(rate: &Mutex<SendRate>) -> MutexGuard<'_, SendRate> {
    rate.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Job for Sender {
    fn spec(&self) -> Spec {
        Spec {
            name: "sender",
            interval: duration(self.requests.retry_ms).min(MAX_INTERVAL),
            turn: Turn::OneReplica,
            wake: self.signals.send.clone(),
        }
    }

    async fn run(&mut self, now: Millis) -> Result<Next> {
        let ended = self.in_progress.ended();
        self.take_ended(ended, now);
        self.adjust_rate();
        self.record(now).await?;
        self.give_up_other_meters(now).await?;
        let sending = self.requests.store.sending().await?;
        if let Some(next) = self.hold(&sending).await? {
            return Ok(next);
        }
        if self.is_paused() {
            if let Some(why) = self.pause_reason.clone() {
                self.explain_at_times(&why).await?;
            }
            // Another replica may have a key that Stripe accepts, or reach Stripe.
            return Ok(if self.in_progress.is_empty() {
                Next::HandOver
            } else {
                Next::Wait
            });
        }
        if !self.is_account_compared(&sending) || !self.check_account(&sending, now, false).await? {
            return Ok(Next::Wait);
        }
        let has_started = self.start_due(&sending, now).await?;
        Ok(if has_started && self.free() > 0 {
            Next::RunAgain
        } else {
            Next::Wait
        })
    }

    /// Waits for the requests in progress: Stripe may still accept them, and they take no longer than their timeout.
    async fn finish(&mut self) {
        let ended = self.in_progress.finish().await;
        let recorded = async {
            let now = self.requests.store.shared_now().await?;
            self.take_ended(ended, now);
            self.record(now).await
        };
        if let Err(error) = recorded.await {
            tracing::error!(%error, "the results of the last requests could not be recorded; their reports are checked later");
        }
    }
}
