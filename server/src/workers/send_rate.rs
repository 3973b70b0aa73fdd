//! The rate of requests of the sender: evenly in time, up to a highest rate. It halves when Stripe gets too many requests,
//! and rises slowly.
//!
//! A library's rate limiter begins anew with a full burst whenever its rate changes; this one does not.

use std::time::Duration;

use tokio::time::Instant;

/// The lowest rate, a second.
const LOWEST: u32 = 1;
/// How much it rises in a second without a refusal, in percent of the highest rate.
const RISE_PERCENT: u64 = 2;
/// After it fell, for how long it does not fall again: these refusals are of requests from before.
const FALLS_EVERY: Duration = Duration::from_secs(1);
/// What was not used of this time may be sent at once. In no second is it more than a tenth above the rate.
const BURST: Duration = Duration::from_millis(100);
/// Rates are counted in thousandths of a request a second.
const MILLI: u64 = 1_000;

/// A rate, and the turns that it gives.
#[derive(Debug)]
pub(super) struct SendRate {
    highest: u64,
    current: u64,
    /// The refusals until now.
    refused: u64,
    /// When it last fell.
    fell_at: Option<Instant>,
    /// Until when it has risen.
    risen_until: Instant,
    /// When the next turn is.
    next_turn: Instant,
}

impl SendRate {
    pub(super) fn new(per_sec: u32, now: Instant) -> Self {
        let highest = u64::from(per_sec.max(LOWEST)).saturating_mul(MILLI);
        Self {
            highest,
            current: highest,
            refused: 0,
            fell_at: None,
            risen_until: now,
            next_turn: now,
        }
    }

    /// The present rate, in whole requests a second.
    pub(super) fn per_sec(&self) -> u32 {
        u32::try_from(self.current.div_euclid(MILLI)).unwrap_or(u32::MAX)
    }

    /// Takes the next turn, and returns when it is.
    pub(super) fn take_turn(&mut self, now: Instant) -> Instant {
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let turn = self.next_turn.max(earliest);
        // Rounded up: never more turns in a second than the rate.
        let nanos = MILLI.saturating_mul(1_000_000_000).div_ceil(self.current);
        self.next_turn = after(turn, Duration::from_nanos(nanos));
        turn.max(now)
    }

    /// Adjusts the rate to the number of requests that Stripe has refused so far because there were too many. Returns
    /// whether the rate fell.
    pub(super) fn adjust(&mut self, refused: u64, now: Instant) -> bool {
        let is_refused = refused > self.refused;
        self.refused = refused;
        if !is_refused {
            self.rise(now);
            return false;
        }
        let fell_lately = |at: Instant| now.saturating_duration_since(at) < FALLS_EVERY;
        self.risen_until = now;
        if self.fell_at.is_some_and(fell_lately) {
            return false;
        }
        self.fell_at = Some(now);
        let lowest = u64::from(LOWEST).saturating_mul(MILLI);
        self.current = self.current.div_euclid(2).max(lowest);
        true
    }

    fn rise(&mut self, now: Instant) {
        let secs = now.saturating_duration_since(self.risen_until).as_secs();
        let step = self.highest.saturating_mul(RISE_PERCENT).div_euclid(100);
        let rise = step.saturating_mul(secs);
        self.current = self.current.saturating_add(rise).min(self.highest);
        self.risen_until = after(self.risen_until, Duration::from_secs(secs));
    }
}

fn after(at: Instant, wait: Duration) -> Instant {
    at.checked_add(wait).unwrap_or(at)
}

#[cfg(test)]
mod month_end;
#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// How many turns are in the second after a time.
    fn turns(rate: &mut SendRate, from: Instant) -> u32 {
        let (mut now, mut turns) = (from, 0);
        while now < from + SECOND {
            now = rate.take_turn(now);
            turns += u32::from(now < from + SECOND);
        }
        turns
    }

    #[test]
    fn a_second_has_as_many_turns_as_the_rate_and_a_tenth_after_a_rest() {
        let start = Instant::now();
        for (per_sec, after_rest) in [(1, 1), (20, 22), (900, 990)] {
            let mut rate = SendRate::new(per_sec, start);
            assert_eq!(turns(&mut rate, start), per_sec);
            let rested = turns(&mut rate, start + 60 * SECOND);
            assert!((per_sec..=after_rest + 1).contains(&rested), "{rested}");
        }
    }

    #[test]
    fn turns_are_even_in_time() {
        let start = Instant::now();
        let mut rate = SendRate::new(4, start);
        let turns: Vec<u128> = (0..4)
            .map(|_| (rate.take_turn(start) - start).as_millis())
            .collect();
        assert_eq!(turns, [0, 250, 500, 750]);
    }

    #[test]
    fn it_halves_when_requests_are_refused_and_rises_slowly_to_the_highest() {
        let start = Instant::now();
        let mut rate = SendRate::new(900, start);
        assert!(rate.adjust(1, start));
        assert_eq!(rate.per_sec(), 450);
        // The other refusals of the same second are of requests from before.
        assert!(!rate.adjust(40, start + SECOND / 2));
        assert_eq!(rate.per_sec(), 450);
        assert!(rate.adjust(41, start + SECOND));
        assert_eq!(rate.per_sec(), 225);

        for secs in 2..=5_u32 {
            assert!(!rate.adjust(41, start + secs * SECOND));
            assert_eq!(rate.per_sec(), 225 + (secs - 1) * 18);
        }
        // Parts of a second add up, however often it is adjusted.
        for tenths in 50..60_u32 {
            rate.adjust(41, start + tenths * SECOND / 10);
        }
        assert_eq!(rate.per_sec(), 225 + 4 * 18);
        rate.adjust(41, start + 600 * SECOND);
        assert_eq!(rate.per_sec(), 900);
    }

    #[test]
    fn it_is_never_below_one_a_second() {
        let start = Instant::now();
        let mut rate = SendRate::new(20, start);
        for secs in 0..10_u32 {
            rate.adjust(u64::from(secs) + 1, start + secs * SECOND);
        }
        assert_eq!(rate.per_sec(), 1);
        rate.adjust(10, start + 14 * SECOND);
        assert_eq!(rate.per_sec(), 3);
    }
}
