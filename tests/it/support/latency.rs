//! How long calls take beside a load, compared with what they took before it.

use std::time::Duration;

/// What calls may take at most beside a load: this many times what they took before, and some for a busy machine.
const MAX_FACTOR: u32 = 10;
const SPARE: Duration = Duration::from_millis(500);
/// Fewer calls have no percentile.
pub(crate) const MIN_CALLS: usize = 100;

/// The times of some calls.
#[derive(Debug, Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn add(&mut self, took: Duration) {
        self.0.push(took);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// What 99 of 100 calls did not exceed.
    pub(crate) fn p99(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let place = (sorted.len() * 99).div_ceil(100).saturating_sub(1);
        sorted.get(place).copied().unwrap_or_default()
    }

    /// Asserts that these calls, beside a load, took about as long as those before it.
    #[track_caller]
    pub(crate) fn assert_kept(&self, before: &Self) {
        assert!(before.len() >= MIN_CALLS, "{} calls before", before.len());
        assert!(self.len() >= MIN_CALLS, "{} calls beside", self.len());
        let (was, is) = (before.p99(), self.p99());
        eprintln!(
            "p99 was {was:?} and is {is:?} beside the load, in {} calls",
            self.len()
        );
        assert!(
            is <= was * MAX_FACTOR + SPARE,
            "p99 was {was:?} and is {is:?}"
        );
    }
}

#[test]
fn the_percentile_is_that_of_the_slowest_but_one_in_a_hundred() {
    let mut latencies = Latencies::default();
    for millis in (1..=200).rev() {
        latencies.add(Duration::from_millis(millis));
    }
    assert_eq!(latencies.p99(), Duration::from_millis(198));
    assert_eq!(Latencies::default().p99(), Duration::ZERO);
}
