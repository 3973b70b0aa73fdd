//! The state of a fake Stripe behind one lock, and the signal that wakes waiters after a change. Handlers take [`App`];
//! endpoints take parts of [`State`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::auth::Authorizer;
use crate::billing::advance_clock;
use crate::billing::state::Billing;
use crate::clock::{self, Clock};
use crate::control_types::Stats;
use crate::customers::Customer;
use crate::faults::FaultQueue;
use crate::idempotency::IdempotencyKeys;
use crate::limits::{InFlight, RateLimit};
use crate::list::Collection;
use crate::meter_events::EventStore;
use crate::metering::Metering;
use crate::meters::Meter;
use crate::request_log::RequestLog;
use crate::settings::Settings;

/// Everything stored: Stripe's objects first, then the fake Stripe's own settings, queues and counters.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) account_id: String,
    pub(crate) live_mode: bool,
    pub(crate) clock: Clock,
    pub(crate) customers: Collection<Customer>,
    pub(crate) meters: Collection<Meter>,
    pub(crate) events: EventStore,
    pub(crate) billing: Billing,

    pub(crate) summary_delay_ms: i64,
    pub(crate) latency: Duration,
    pub(crate) summarize_empty_ranges: bool,
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
            account_id: settings.account_id.clone(),
            live_mode: settings.live_mode,
            clock: Clock::default(),
            customers: Collection::default(),
            meters: Collection::default(),
            events: EventStore::new(settings.max_events, settings.bare_error_codes),
            billing: Billing::default(),
            summary_delay_ms: clock::millis(settings.summary_delay),
            latency: settings.latency,
            summarize_empty_ranges: settings.summarize_empty_ranges,
            rate_limit: RateLimit::new(settings.events_per_sec),
            in_flight: InFlight::default(),
            idempotency: IdempotencyKeys::default(),
            faults: FaultQueue::default(),
            log: RequestLog::default(),
            stats: Stats::default(),
        }
    }

    /// The input of measurements of usage.
    pub(crate) fn metering(&self) -> Metering<'_> {
        Metering {
            meters: &self.meters,
            events: &self.events,
            aggregated_until_ms: self.aggregated_until_ms(),
        }
    }

    /// Borrows the parts of billing.
    pub(crate) fn billing_parts(&mut self) -> BillingParts<'_> {
        BillingParts {
            now: self.clock.now_secs(),
            metering: Metering {
                aggregated_until_ms: self.aggregated_until_ms(),
                meters: &self.meters,
                events: &self.events,
            },
            customers: &mut self.customers,
            billing: &mut self.billing,
        }
    }

    /// Does the billing work that is due by the clock.
    pub(crate) fn run_due_work(&mut self) {
        let parts = self.billing_parts();
        advance_clock::run_due_work(parts.billing, parts.metering, parts.now);
    }

    fn aggregated_until_ms(&self) -> i64 {
        self.clock.now_ms().saturating_sub(self.summary_delay_ms)
    }
}

/// The parts of the state that billing reads and changes.
#[derive(Debug)]
pub(crate) struct BillingParts<'a> {
    pub(crate) billing: &'a mut Billing,
    pub(crate) customers: &'a mut Collection<Customer>,
    pub(crate) metering: Metering<'a>,
    /// The time in seconds.
    pub(crate) now: i64,
}

/// A running fake Stripe, as its request handlers share it.
pub(crate) type SharedApp = Arc<App>;

/// The state behind its lock, with what handlers need besides.
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

    /// Changes the state after all due work is done.
    pub(crate) fn update_to_now<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        self.update(|state| {
            state.run_due_work();
            work(state)
        })
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
