//! Calling again: when, after how long, and when never.

use crate::Error;
use backon::{BackoffBuilder as _, ExponentialBuilder};
use std::time::{Duration, Instant};

/// How calls that failed are made again: after pauses that double, each lengthened at random, until the
/// call's deadline.
///
/// Only what can help is repeated: an overloaded or unavailable server and a lost connection. Increments,
/// batches and corrections carry one idempotency key through all attempts, so none counts twice; a call
/// without that protection is repeated only if it surely had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    attempts: usize,
    first: Duration,
    longest: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: usize::MAX,
            first: Duration::from_millis(100),
            longest: Duration::from_secs(5),
        }
    }
}

impl Retry {
    /// Every call is made once.
    pub fn never() -> Self {
        Self::default().attempts(1)
    }

    /// At most so many attempts of a call, the first included; at least one. Unlimited unless set.
    #[must_use]
    pub fn attempts(mut self, attempts: usize) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// The first pause, and what the pauses grow to at most: 100 milliseconds and 5 seconds unless set.
    /// Jitter makes each up to twice as long.
    #[must_use]
    pub fn pauses(mut self, first: Duration, longest: Duration) -> Self {
        self.first = first;
        self.longest = longest.max(first);
        self
    }

    fn backoff(self) -> impl Iterator<Item = Duration> {
        ExponentialBuilder::default()
            .with_min_delay(self.first)
            .with_max_delay(self.longest)
            .with_jitter()
            .with_max_times(self.attempts.saturating_sub(1))
            .build()
    }
}

/// Whether a call can be repeated that may have been carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeatable {
    /// A second time changes nothing.
    Always,
    /// Only where it surely had no effect.
    WithoutEffect,
}

impl Repeatable {
    /// Always, where this protects the call.
    pub(crate) fn always_if(is_protected: bool) -> Self {
        if is_protected {
            Self::Always
        } else {
            Self::WithoutEffect
        }
    }
}

/// Makes a call until it succeeds, cannot, or has no time left. `attempt` is given the time that is left.
pub(crate) async fn call_with_retry<A, F>(
    retry: Retry,
    timeout: Duration,
    repeatable: Repeatable,
    mut attempt: impl FnMut(Duration) -> F,
) -> Result<A, Error>
where
    F: Future<Output = Result<A, Error>>,
{
    let began = Instant::now();
    let left = || timeout.saturating_sub(began.elapsed());
    let mut backoff = retry.backoff();
    let mut may_have_taken_effect = false;
    loop {
        let error = match attempt(left()).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error.or_earlier_effect(may_have_taken_effect),
        };
        may_have_taken_effect = error.may_have_taken_effect();
        let is_safe = repeatable == Repeatable::Always || !may_have_taken_effect;
        let pause = backoff.next().filter(|_| is_safe && error.is_retryable());
        let pause = pause.map(|pause| pause.max(error.retry_after().unwrap_or_default()));
        match pause.filter(|pause| *pause < left()) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use tonic::Status;

    const TIMEOUT: Duration = Duration::from_mins(1);

    /// Makes a call whose attempts end so; answers how it ended and how many there were.
    async fn outcome(
        retry: Retry,
        repeatable: Repeatable,
        ends: Vec<Result<(), Error>>,
    ) -> (Result<(), Error>, usize) {
        let all = ends.len();
        let mut ends = ends.into_iter();
        let done = call_with_retry(retry, TIMEOUT, repeatable, |_| {
            let end = ends.next().expect("no more attempts than ends");
            async move { end }
        });
        let done = done.await;
        (done, all - ends.len())
    }

    fn unavailable() -> Result<(), Error> {
        Err(Status::unavailable("stopping").into())
    }

    fn overloaded() -> Result<(), Error> {
        Err(Status::resource_exhausted("full").into())
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_help_is_repeated_until_it_does() {
        let ends = vec![unavailable(), overloaded(), Ok(())];
        let (done, attempts) = outcome(Retry::default(), Repeatable::Always, ends).await;
        assert!(done.is_ok());
        assert_eq!(attempts, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_help_is_not_repeated() {
        for status in [
            Status::invalid_argument(""),
            Status::internal(""),
            Status::not_found(""),
        ] {
            let ends = vec![Err(status.into()), Ok(())];
            let (done, attempts) = outcome(Retry::default(), Repeatable::Always, ends).await;
            assert!(done.is_err());
            assert_eq!(attempts, 1);
        }
        let (done, attempts) =
            outcome(Retry::never(), Repeatable::Always, vec![unavailable()]).await;
        assert_eq!(done.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(attempts, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_have_happened_is_repeated_only_where_that_is_safe() {
        let ends = vec![overloaded(), unavailable(), Ok(())];
        let (done, attempts) = outcome(Retry::default(), Repeatable::WithoutEffect, ends).await;
        assert_eq!(done.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(attempts, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_attempt_may_have_had_an_effect() {
        let ends = vec![unavailable(), overloaded()];
        let retry = Retry::default().attempts(2);
        let (done, _) = outcome(retry, Repeatable::Always, ends).await;
        let error = done.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Overloaded);
        assert!(error.may_have_taken_effect(), "the first may have");
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let retry = Retry::default().attempts(20);
        let pauses: Vec<_> = retry.backoff().collect();
        assert_eq!(pauses.len(), 19);
        let longest = Duration::from_secs(10);
        assert!(pauses.iter().all(|pause| *pause <= longest), "{pauses:?}");
        assert!(pauses[10] >= Duration::from_secs(5), "{pauses:?}");
        assert!(pauses[0] < Duration::from_millis(201), "{pauses:?}");
    }
}
