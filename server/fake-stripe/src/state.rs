//! The state of a fake Stripe behind one lock, and the signal that wakes waiters after a change.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::auth::Authorizer;
use crate::billing::Billing;
use crate::clock::{self, Clock};
use crate::control_types::Stats;
use crate::customers::Customer;
use crate::faults::FaultQueue;
use crate::idempotency::IdempotencyKeys;
use crate::limits::{InFlight, RateLimit};
use crate::list::Collection;
use crate::meter_events::EventStore;
use crate::meters::Meter;
use crate::request_log::RequestLog;
use crate::settings::Settings;

/// Stripe's objects first, then what belongs to the fake Stripe itself.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) clock: Clock,
    pub(crate) customers: Collection<Customer>,
    pub(crate) meters: Collection<Meter>,
    pub(crate) events: EventStore,
    pub(crate) billing: Billing,

    pub(crate) summary_delay_ms: i64,
    pub(crate) latency: Duration,
    pub(crate) summarize_empty_ranges: bool,
    pub(crate) bare_error_codes: bool,
    pub(crate) max_events: usize,
    pub(crate) rate_limit: RateLimit,
    /// Running requests for each customer and meter: Stripe allows one at a time.
    pub(crate) in_flight: InFlight,
    pub(crate) idempotency: IdempotencyKeys,
    pub(crate) faults: FaultQueue,
    pub(crate) log: RequestLog,
    pub(crate) stats: Stats,
}

impl State {
    fn new(settings: &Settings) -> State {
        State {
            clock: Clock::default(),
            customers: Collection::default(),
            meters: Collection::default(),
            events: EventStore::default(),
            billing: Billing::default(),
            summary_delay_ms: clock::millis(settings.summary_delay),
            latency: settings.latency,
            summarize_empty_ranges: settings.summarize_empty_ranges,
            bare_error_codes: settings.bare_error_codes,
            max_events: settings.max_events,
            rate_limit: RateLimit::new(settings.events_per_sec),
            in_flight: InFlight::default(),
            idempotency: IdempotencyKeys::default(),
            faults: FaultQueue::default(),
            log: RequestLog::default(),
            stats: Stats::default(),
        }
    }

    /// The active meter of an event name; there is at most one.
    pub(crate) fn active_meter(&self, event_name: &str) -> Option<&Meter> {
        self.meters
            .newest_first()
            .find(|meter| meter.is_active() && meter.event_name == event_name)
    }

    pub(crate) fn add_meter(&mut self, meter: Meter) {
        self.meters.insert(&meter.id.clone(), meter);
    }
}

/// A running fake Stripe, as its request handlers share it.
#[derive(Debug)]
pub(crate) struct App {
    state: Mutex<State>,
    /// Signalled after every change, for [`App::wait_until`].
    changed: watch::Sender<()>,
    pub(crate) authorizer: Authorizer,
    /// Ends waits and blocked requests when the fake Stripe stops.
    pub(crate) shutdown: CancellationToken,
}

impl App {
    pub(crate) fn new(settings: &Settings, shutdown: CancellationToken) -> Arc<App> {
        Arc::new(App {
            state: Mutex::new(State::new(settings)),
            changed: watch::channel(()).0,
            authorizer: Authorizer::new(&settings.secret_key),
            shutdown,
        })
    }

    /// Changes the state. The closure cannot await, so the lock is held only briefly.
    pub(crate) fn update<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let result = work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_replace(());
        result
    }

    /// Reads the state without waking waiters.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until the condition is true; false if the fake Stripe stopped first.
    pub(crate) async fn wait_until(&self, holds: impl Fn(&State) -> bool) -> bool {
        let mut changes = self.changed.subscribe();
        loop {
            changes.borrow_and_update();
            if self.read(&holds) {
                return true;
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return false,
                result = changes.changed() => if result.is_err() { return false },
            }
        }
    }

    /// Sleeps in real time; false if the fake Stripe stopped first.
    pub(crate) async fn pause(&self, time: Duration) -> bool {
        if time.is_zero() {
            return true;
        }
        tokio::select! {
            () = self.shutdown.cancelled() => false,
            () = tokio::time::sleep(time) => true,
        }
    }
}
