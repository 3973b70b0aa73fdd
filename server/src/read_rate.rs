//! The rate at which Stripe is read: a call waits for its turn by Tokio's time.
//!
//! The waits of the rate limiter's library are of the machine's time, by a thread of its own. Where Tokio's time is paused,
//! as in the simulator, such a wait would last while weeks pass.

use std::{num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};
use tokio::time::{Instant, sleep};

/// Tokio's time since a rate began.
#[derive(Clone, Copy, Debug)]
struct TokioTime {
    begun: Instant,
}

impl Clock for TokioTime {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// So many reads a second, of which as many may be at once.
#[derive(Debug)]
pub(crate) struct ReadRate {
    time: TokioTime,
    limiter: RateLimiter<NotKeyed, InMemoryState, TokioTime, NoOpMiddleware<Duration>>,
}

impl ReadRate {
    pub(crate) fn per_sec(reads: u32) -> Self {
        let reads = NonZeroU32::new(reads).unwrap_or(NonZeroU32::MIN);
        let time = TokioTime {
            begun: Instant::now(),
        };
        Self {
            time,
            limiter: RateLimiter::direct_with_clock(Quota::per_second(reads), time),
        }
    }

    /// Waits for the next turn.
    pub(crate) async fn turn(&self) {
        while let Err(early) = self.limiter.check() {
            sleep(early.wait_time_from(self.time.now())).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_wait_by_the_time_of_tokio_alone() {
        let rate = ReadRate::per_sec(10);
        let begun = Instant::now();
        for _ in 0..10 {
            rate.turn().await;
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        for _ in 0..20 {
            rate.turn().await;
        }
        let passed = begun.elapsed();
        let expected = Duration::from_millis(1_900)..Duration::from_millis(2_200);
        assert!(expected.contains(&passed), "{passed:?}");
        // What was not used for long is a burst of one second.
        sleep(Duration::from_hours(1)).await;
        let begun = Instant::now();
        for _ in 0..11 {
            rate.turn().await;
        }
        let passed = begun.elapsed();
        assert!(passed > Duration::ZERO && passed < Duration::from_secs(1));
    }
}
