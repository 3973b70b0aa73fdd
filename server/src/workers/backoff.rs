//! How long to wait before work that failed is repeated: doubling, up to a limit.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};

use crate::domain::Millis;

/// The longest wait before a request to Stripe is repeated.
pub(super) const MAX_RETRY: Duration = Duration::from_mins(15);
/// The longest wait of a job, or of one of its tasks, after failures.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(30);

/// The wait after a number of failures in a row: `first` after the first one.
pub(super) fn after_failures(first: Duration, failures: u32) -> Duration {
    let factor = 2_u32.saturating_pow(failures.saturating_sub(1).min(20));
    first.saturating_mul(factor).min(MAX_WAIT)
}

/// How long after an attempt the next one follows: doubling, with jitter, up to a quarter of an hour.
pub(super) fn backoff_ms(attempts: i32, retry_ms: Millis) -> Millis {
    let mut backoff = ExponentialBuilder::default()
        .with_min_delay(duration(retry_ms))
        .with_max_delay(MAX_RETRY)
        .without_max_times()
        .with_jitter()
        .build();
    let nth = usize::try_from(attempts).unwrap_or(0);
    let wait = backoff.nth(nth).unwrap_or(MAX_RETRY);
    Millis::try_from(wait.as_millis()).unwrap_or(Millis::MAX)
}

/// A number of milliseconds as a duration; zero for a negative one.
pub(super) fn duration(ms: Millis) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_a_limit() {
        let first = Duration::from_millis(10);
        assert_eq!(after_failures(first, 1), first);
        assert_eq!(after_failures(first, 4), 8 * first);
        assert_eq!(after_failures(first, u32::MAX), MAX_WAIT);
        assert_eq!(after_failures(Duration::from_mins(1), 1), MAX_WAIT);
    }

    #[test]
    fn the_wait_for_a_request_doubles_with_jitter_and_is_bounded() {
        let backoff = |attempts| backoff_ms(attempts, 1_000);
        assert!((1_000..=2_000).contains(&backoff(0)));
        assert!((4_000..=8_000).contains(&backoff(2)));
        let longest = Millis::try_from(MAX_RETRY.as_millis()).unwrap();
        assert!(backoff(40) <= 2 * longest);
    }
}
