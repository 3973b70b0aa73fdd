//! When a run may be observed: one at a time, and after each observation a rest, so that watching takes a small share of the
//! database's time, whatever the number of watched runs and watchers.

use std::time::Duration;

use tokio::{
    sync::{Mutex, MutexGuard},
    time::{Instant, sleep_until},
};

/// After an observation, no run is observed for this many times its duration.
const REST: u32 = 20;
/// The same before the first observation for a new watcher.
const SHORT_REST: u32 = 5;
/// The longest of these times, and the longest before the first observation for a new watcher.
const MAX_REST: Duration = Duration::from_secs(5);
const MAX_SHORT_REST: Duration = Duration::from_secs(1);
/// The shortest time between two observations.
const MIN_REST: Duration = Duration::from_millis(20);

/// The turns of all runs that are watched here.
#[derive(Debug, Default)]
pub(super) struct ObservationTurns(Mutex<Rest>);

/// Until when no run is observed.
#[derive(Clone, Copy, Debug, Default)]
struct Rest {
    /// None before the first observation.
    until: Option<Instant>,
    /// The same for a run with a new watcher.
    short_until: Option<Instant>,
}

/// No other run is observed until it is dropped.
#[derive(Debug)]
pub(super) struct ObservationTurn<'a> {
    rest: MutexGuard<'a, Rest>,
    /// Whether a new watcher did not wait for the whole rest.
    is_early: bool,
}

impl ObservationTurns {
    /// Waits for a turn. `is_wanted` is whether a new watcher waits for it, and `wanted` ends when one comes.
    pub(super) async fn take(
        &self,
        is_wanted: impl Fn() -> bool,
        wanted: impl Future<Output = ()>,
    ) -> ObservationTurn<'_> {
        let mut wanted = std::pin::pin!(wanted);
        loop {
            let rest = self.0.lock().await;
            let is_for_new = is_wanted();
            let until = if is_for_new {
                rest.short_until
            } else {
                rest.until
            };
            let Some(until) = until.filter(|until| *until > Instant::now()) else {
                return ObservationTurn {
                    is_early: rest.until.is_some_and(|until| until > Instant::now()),
                    rest,
                };
            };
            // Others may have a new watcher meanwhile.
            drop(rest);
            if is_for_new {
                sleep_until(until).await;
            } else {
                tokio::select! {
                    () = sleep_until(until) => {}
                    () = &mut wanted => {}
                }
            }
        }
    }
}

impl ObservationTurn<'_> {
    /// Begins the rest after an observation that took some time, and returns how long it is.
    pub(super) fn rest(&mut self, took: Duration) -> Duration {
        let now = Instant::now();
        let rest = took.saturating_mul(REST).clamp(MIN_REST, MAX_REST);
        let short = took.saturating_mul(SHORT_REST);
        let short = short.clamp(MIN_REST, MAX_SHORT_REST);
        // Else new watchers of one run, as often as they come, would keep all others from ever being observed.
        let kept = self.rest.until.filter(|_| self.is_early);
        *self.rest = Rest {
            until: kept.or_else(|| now.checked_add(rest)),
            short_until: now.checked_add(short),
        };
        rest
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    /// How long it takes to get a turn after an observation.
    async fn waited(took: Duration, is_wanted: bool) -> Duration {
        let turns = ObservationTurns::default();
        turns.take(|| false, pending()).await.rest(took);
        let begun = Instant::now();
        drop(turns.take(|| is_wanted, pending()).await);
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_watcher_waits_a_quarter_of_the_rest() {
        let (ms, secs) = (Duration::from_millis, Duration::from_secs);
        for (took, rest, short) in [
            (ms(100), ms(2_000), ms(500)),
            (secs(10), secs(5), secs(1)),
            (Duration::ZERO, ms(20), ms(20)),
        ] {
            // The clock has whole milliseconds.
            let is_about =
                |waited: Duration, expected| (expected..=expected + ms(1)).contains(&waited);
            assert!(is_about(waited(took, false).await, rest), "{took:?}");
            assert!(is_about(waited(took, true).await, short), "{took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_that_comes_during_the_rest_shortens_it() {
        let turns = ObservationTurns::default();
        let took = Duration::from_millis(100);
        turns.take(|| false, pending()).await.rest(took);
        let (begun, is_wanted) = (Instant::now(), std::cell::Cell::new(false));
        let comes = async { is_wanted.set(true) };
        drop(turns.take(|| is_wanted.get(), comes).await);
        let waited = begun.elapsed();
        assert!(waited < Duration::from_secs(1), "{waited:?}");
        assert!(waited >= Duration::from_millis(500), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn watchers_that_keep_coming_do_not_delay_others() {
        let turns = ObservationTurns::default();
        let took = Duration::from_millis(230);
        turns.take(|| false, pending()).await.rest(took);
        let begun = Instant::now();
        let others = async {
            drop(turns.take(|| false, pending()).await);
            begun.elapsed()
        };
        let coming = async {
            for _ in 0..100 {
                turns.take(|| true, pending()).await.rest(took);
            }
        };
        let waited = tokio::select! {
            waited = others => waited,
            () = coming => unreachable!("it does not end"),
        };
        assert!(waited <= MAX_REST + MAX_SHORT_REST, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_run_is_observed_at_a_time_whoever_comes() {
        let turns = ObservationTurns::default();
        let turn = turns.take(|| true, ready(())).await;
        let other = turns.take(|| true, pending());
        let other = tokio::time::timeout(Duration::from_mins(1), other).await;
        assert!(other.is_err());
        drop(turn);
    }
}
