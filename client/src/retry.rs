//! Retries of failed calls.

use crate::Error;
use backon::{BackoffBuilder as _, ExponentialBuilder};
use std::time::Duration;
use tokio::time::Instant;

/// How failed calls are retried: with exponential backoff and jitter, until the call's deadline.
///
/// Only failures that a retry can help are retried: an overloaded or unavailable server and a lost connection.
/// Increments, batches and corrections use one idempotency key for all attempts, so they are counted once. A call that
/// is not safe to repeat is only retried if it certainly had no effect.
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
    /// No retries.
    pub fn never() -> Self {
        Self::default().attempts(1)
    }

    /// The maximum number of attempts, including the first. Unlimited by default, at least one.
    #[must_use]
    pub fn attempts(mut self, attempts: usize) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// The first and the longest delay between attempts: 100 milliseconds and 5 seconds by default. Jitter makes each up to
    /// twice as long.
    #[must_use]
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.first = first;
        self.longest = longest.max(first);
        self
    }

    fn delays(self) -> impl Iterator<Item = Duration> {
        ExponentialBuilder::default()
            .with_min_delay(self.first)
            .with_max_delay(self.longest)
            .with_jitter()
            .with_max_times(self.attempts.saturating_sub(1))
            .build()
    }
}

/// Whether a call can be repeated after it may have taken effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeatable {
    /// Repeating it changes nothing.
    Always,
    /// It can only be repeated if it certainly had no effect.
    WithoutEffect,
}

impl Repeatable {
    /// `Always` if the call is protected, for example by a key.
    pub(crate) fn always_if(is_protected: bool) -> Self {
        if is_protected {
            Self::Always
        } else {
            Self::WithoutEffect
        }
    }
}

/// Repeats a call until it succeeds, cannot succeed, or its timeout has passed. `attempt` is given the remaining time.
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
    let remaining = || timeout.saturating_sub(began.elapsed());
    let mut backoff = retry.delays();
    let mut may_have_taken_effect = false;
    loop {
        let error = match attempt(remaining()).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error.or_earlier_effect(may_have_taken_effect),
        };
        may_have_taken_effect = error.may_have_taken_effect();
        let is_safe = repeatable == Repeatable::Always || !may_have_taken_effect;
        let delay = backoff.next().filter(|_| is_safe && error.is_retryable());
        let delay = delay.map(|delay| delay.max(error.retry_after().unwrap_or_default()));
        match delay.filter(|delay| *delay < remaining()) {
            Some(delay) => tokio::time::sleep(delay).await,
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

    /// Makes a call whose attempts have these results; returns its result and the number of attempts.
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
    async fn retryable_failures_are_retried_until_success() {
        let ends = vec![unavailable(), overloaded(), Ok(())];
        let (done, attempts) = outcome(Retry::default(), Repeatable::Always, ends).await;
        assert!(done.is_ok());
        assert_eq!(attempts, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn permanent_failures_are_not_retried() {
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
    async fn unsafe_call_is_not_retried_after_a_possible_effect() {
        let ends = vec![overloaded(), unavailable(), Ok(())];
        let (done, attempts) = outcome(Retry::default(), Repeatable::WithoutEffect, ends).await;
        assert_eq!(done.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(attempts, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn effect_of_an_earlier_attempt_is_remembered() {
        let ends = vec![unavailable(), overloaded()];
        let retry = Retry::default().attempts(2);
        let (done, _) = outcome(retry, Repeatable::Always, ends).await;
        let error = done.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Overloaded);
        assert!(
            error.may_have_taken_effect(),
            "because of the first attempt"
        );
    }

    #[test]
    fn delays_double_up_to_the_maximum() {
        let retry = Retry::default().attempts(20);
        let delays: Vec<_> = retry.delays().collect();
        assert_eq!(delays.len(), 19);
        let longest = Duration::from_secs(10);
        assert!(delays.iter().all(|delay| *delay <= longest), "{delays:?}");
        assert!(delays[10] >= Duration::from_secs(5), "{delays:?}");
        assert!(delays[0] < Duration::from_millis(201), "{delays:?}");
    }
}
