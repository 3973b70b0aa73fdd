//! Stripe's two limits on meter events: a rate per second, and one request at a time for each customer and meter.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// A limit on requests within any second of real time. On a frozen fake clock the second would never end.
#[derive(Debug)]
pub(crate) struct RateLimit {
    per_sec: u32,
    admitted_at: VecDeque<Instant>,
}

impl RateLimit {
    pub(crate) fn new(per_sec: u32) -> RateLimit {
        RateLimit {
            per_sec,
            admitted_at: VecDeque::new(),
        }
    }

    pub(crate) fn per_sec(&self) -> u32 {
        self.per_sec
    }

    pub(crate) fn set_per_sec(&mut self, per_sec: u32) {
        self.per_sec = per_sec;
    }

    /// Whether one more request is accepted now.
    pub(crate) fn admit(&mut self, now: Instant) -> bool {
        while self
            .admitted_at
            .front()
            .is_some_and(|at| now.saturating_duration_since(*at) >= Duration::from_secs(1))
        {
            self.admitted_at.pop_front();
        }
        let admitted =
            u32::try_from(self.admitted_at.len()).is_ok_and(|recent| recent < self.per_sec);
        if admitted {
            self.admitted_at.push_back(now);
        }
        admitted
    }
}

/// What Stripe locks while a request runs: a customer, and the event name of a meter.
pub(crate) type Subject = (String, String);

/// The number of running requests for each customer and meter.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    requests: HashMap<Subject, u64>,
}

impl InFlight {
    /// Counts one more request, and returns the new count. A request that is not alone must be rejected, but counts
    /// until then, so that the statistics show it.
    pub(crate) fn enter(&mut self, subject: &Subject) -> u64 {
        let count = self.requests.entry(subject.clone()).or_default();
        *count = count.saturating_add(1);
        *count
    }

    /// Ends a request.
    pub(crate) fn leave(&mut self, subject: &Subject) {
        if let Some(count) = self.requests.get_mut(subject) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.requests.remove(subject);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_admits_a_limited_number_of_requests() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut limit = RateLimit::new(2);
        assert!(limit.admit(at(0)));
        assert!(limit.admit(at(500)));
        assert!(!limit.admit(at(999)));
        assert!(limit.admit(at(1_000)));
        assert!(!limit.admit(at(1_499)));
        assert!(limit.admit(at(1_500)));
        limit.set_per_sec(0);
        assert!(!limit.admit(at(9_000)));
    }
}
