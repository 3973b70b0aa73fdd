//! Points in time for tests, and the limit of every wait.

use std::{future::Future, sync::OnceLock, time::Duration};

use chrono::{DateTime, Utc};
use usage_server::clock::Clock;

/// The limit of every wait in a test. It is long, because a busy disk can delay a commit for many seconds. It is longer
/// than the duration of a lease that was not released.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(90);

/// Waits for a future; fails after [`TIMEOUT`].
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, future)
        .await
        .unwrap_or_else(|_| panic!("timed out after {TIMEOUT:?} waiting for {what}"))
}

/// Polls soon at first, and then less often, so that the server has the processor in between.
pub(super) struct Polls {
    pause: Duration,
}

impl Polls {
    const FIRST: Duration = Duration::from_millis(1);
    const LONGEST: Duration = Duration::from_millis(25);

    pub(super) fn new() -> Self {
        Self { pause: Self::FIRST }
    }

    /// Waits for the next poll.
    pub(super) async fn next(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 3 / 2).min(Self::LONGEST);
    }
}

/// Polls until there is a value; fails after [`TIMEOUT`].
pub(crate) async fn poll<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> T {
    within(what, async {
        let mut polls = Polls::new();
        loop {
            if let Some(value) = attempt().await {
                return value;
            }
            polls.next().await;
        }
    })
    .await
}

/// Parses an RFC 3339 time.
pub(crate) fn at(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).expect("a time").to_utc()
}

/// The start of an hour, counted back from the hour of the first call in this process. It stays the same throughout a
/// test, even if an hour ends meanwhile.
pub(crate) fn hours_ago(hours: i64) -> DateTime<Utc> {
    const HOUR: i64 = 3_600_000;
    static THIS_HOUR: OnceLock<i64> = OnceLock::new();
    let this_hour = THIS_HOUR.get_or_init(|| {
        let now = Clock::system().now();
        now - now.rem_euclid(HOUR)
    });
    DateTime::from_timestamp_millis(this_hour - hours * HOUR).expect("a time")
}
