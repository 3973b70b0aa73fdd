//! Stripe's two limits on meter events: a rate per second, and one request at a time for each customer and meter.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::state::App;

/// A limit on calls within any second of real time. Real, because a frozen fake clock would otherwise
/// never end the limit.
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

/// What Stripe locks for the time of a call: a customer, and the event name of a meter.
pub(crate) type Subject = (String, String);

/// How many calls are under way for each customer and meter.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    calls: HashMap<Subject, u64>,
}

/// One call under way; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct InFlightCall {
    app: Arc<App>,
    subject: Subject,
}

impl InFlightCall {
    /// Enters a call, and tells whether it is alone. One that is not must be refused, but counts until then, so that
    /// the statistics show it.
    pub(crate) fn enter(app: &Arc<App>, subject: Subject) -> (InFlightCall, bool) {
        let alone = app.update(|state| {
            let calls = state.in_flight.calls.entry(subject.clone()).or_default();
            *calls = calls.saturating_add(1);
            let calls = *calls;
            state.stats.max_in_flight_per_customer_meter =
                state.stats.max_in_flight_per_customer_meter.max(calls);
            calls == 1
        });
        (
            InFlightCall {
                app: Arc::clone(app),
                subject,
            },
            alone,
        )
    }
}

impl Drop for InFlightCall {
    fn drop(&mut self) {
        self.app.update(|state| {
            let calls = &mut state.in_flight.calls;
            if let Some(count) = calls.get_mut(&self.subject) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    calls.remove(&self.subject);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lets_in_so_many() {
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
