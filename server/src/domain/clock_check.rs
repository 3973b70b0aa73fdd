//! Decides whether the time of the database's clock can be relied on, from what the database, a monotonic clock, this
//! machine and Stripe show.
//!
//! The database's clock decides: all replicas share it. The service counts by it, and goes on counting at its pace
//! when it jumps. In doubt, nothing is closed, sent, expired or deleted.

use super::{HOUR_MS, MINUTE_MS, Millis, SECOND_MS};

/// A clock that moves by this much against another one was set, or is wrong. Corrections are smaller.
pub const DOUBT_MS: Millis = MINUTE_MS;
/// A machine whose clock is this far from the database's does no background work. From [`DOUBT_MS`] on it says so.
pub const MACHINE_LIMIT_MS: Millis = 5 * MINUTE_MS;
/// A jump that lasts this long is accepted, unless Stripe contradicts it.
pub const JUMP_ACCEPTED_AFTER_MS: Millis = HOUR_MS;

/// Whether a stored time is in the future, which only a clock that was ahead can have written. What it delays is due.
pub fn is_ahead(stored: Millis, now: Millis) -> bool {
    stored > now.saturating_add(DOUBT_MS)
}

/// The least by which a clock is ahead of another one, which has a resolution of `step`. The clock was read before and
/// after the other one. Negative means behind.
pub fn ahead_of(before: Millis, after: Millis, other: Millis, step: Millis) -> Millis {
    let lowest = before.saturating_sub(other).saturating_sub(step);
    let highest = after.saturating_sub(other);
    if lowest > 0 {
        lowest
    } else if highest < 0 {
        highest
    } else {
        0
    }
}

/// Whether a clock went from `before` to `after` at the pace of the monotonic clock, by which `passed` went by.
pub fn is_steady(before: Millis, after: Millis, passed: Millis) -> bool {
    let by = after.saturating_sub(before).saturating_sub(passed);
    by.saturating_abs() < 2 * SECOND_MS
}

/// One reading of all clocks of this side at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The database's clock.
    pub database: Millis,
    /// The clock of this machine.
    pub machine: Millis,
    /// The time since an arbitrary moment, by a monotonic clock.
    pub elapsed: Millis,
}

/// Why the database's time is not relied on. Positive times mean ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The database's clock jumped by this much against the monotonic clock.
    DatabaseJumped(Millis),
    /// The database's clock is ahead of Stripe's by this much.
    DatabaseAgainstStripe(Millis),
    /// The clock of this machine is ahead of the database's by this much.
    MachineAgainstDatabase(Millis),
}

/// What is known of the clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClockCheck {
    /// The last reading that was relied on.
    anchor: Option<Reading>,
    jump: Option<Jump>,
    /// When a jump forward was accepted that nothing but its duration confirmed, by the monotonic clock.
    trusted_jump_at: Option<Millis>,
    /// How far the clock of this machine is ahead of the database's.
    machine_ahead: Millis,
    /// How far the database's clock was ahead of Stripe's when both were read.
    ahead_of_stripe: Option<Millis>,
}

#[derive(Clone, Copy, Debug)]
struct Jump {
    by: Millis,
    /// When it was seen first, by the monotonic clock.
    since: Millis,
    last: Reading,
}

impl ClockCheck {
    /// The time to count by, if a clock was read. It passes at the monotonic clock's pace.
    pub fn now(&self, elapsed: Millis) -> Option<Millis> {
        let anchor = self.anchor?;
        let since = elapsed.saturating_sub(anchor.elapsed);
        Some(anchor.database.saturating_add(since))
    }

    /// Takes a reading. One that jumped is not relied on until it has lasted an hour or Stripe agrees with it.
    pub fn observe(&mut self, reading: Reading) {
        self.machine_ahead = reading.machine.saturating_sub(reading.database);
        let Some(expected) = self.now(reading.elapsed) else {
            self.anchor = Some(reading);
            return;
        };
        let by = reading.database.saturating_sub(expected);
        if by.saturating_abs() < DOUBT_MS {
            self.accept(reading);
            return;
        }
        // A clock that moves on while it is in doubt jumps again.
        let since = self
            .jump
            .filter(|jump| jump.by.abs_diff(by) < DOUBT_MS.unsigned_abs())
            .map_or(reading.elapsed, |jump| jump.since);
        if self.ahead_of_stripe.is_none()
            && reading.elapsed.saturating_sub(since) >= JUMP_ACCEPTED_AFTER_MS
        {
            self.accept(reading);
            if by > 0 {
                self.trusted_jump_at = Some(reading.elapsed);
            }
            return;
        }
        self.jump = Some(Jump {
            by,
            since,
            last: reading,
        });
    }

    /// Takes a comparison with Stripe's clock. `None` if Stripe did not show one lately.
    pub fn compare_with_stripe(&mut self, database_ahead: Option<Millis>) {
        self.ahead_of_stripe = database_ahead;
        let agrees = database_ahead.is_some_and(|ahead| ahead.saturating_abs() < DOUBT_MS);
        if let (true, Some(jump)) = (agrees, self.jump) {
            self.accept(jump.last);
        }
    }

    /// Why the time is not relied on, if so.
    pub fn doubt(&self) -> Option<Doubt> {
        if let Some(ahead) = self.ahead_of_stripe
            && ahead.saturating_abs() >= DOUBT_MS
        {
            return Some(Doubt::DatabaseAgainstStripe(ahead));
        }
        if let Some(jump) = self.jump {
            return Some(Doubt::DatabaseJumped(jump.by));
        }
        (self.machine_ahead.saturating_abs() >= MACHINE_LIMIT_MS)
            .then_some(Doubt::MachineAgainstDatabase(self.machine_ahead))
    }

    /// When a jump forward was accepted that Stripe did not confirm, by the monotonic clock. If that was wrong, what
    /// seems old is not.
    pub fn trusted_jump_at(&self) -> Option<Millis> {
        self.trusted_jump_at
    }

    /// How far the clock of this machine is ahead of the database's.
    pub fn machine_ahead(&self) -> Millis {
        self.machine_ahead
    }

    /// How far the database's clock is ahead of Stripe's, if that is known.
    pub fn ahead_of_stripe(&self) -> Option<Millis> {
        self.ahead_of_stripe
    }

    fn accept(&mut self, reading: Reading) {
        self.anchor = Some(reading);
        self.jump = None;
    }
}

/// `1.500 s ahead of`, `3600.000 s behind`.
pub fn direction(ahead: Millis) -> String {
    let distance = ahead.unsigned_abs();
    let word = if ahead < 0 { "behind" } else { "ahead of" };
    let (secs, millis) = (distance.div_euclid(1_000), distance.rem_euclid(1_000));
    format!("{secs}.{millis:03} s {word}")
}

impl std::fmt::Display for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::DatabaseJumped(by) => {
                let (secs, word) = (
                    by.unsigned_abs().div_euclid(1_000),
                    if by < 0 { "back" } else { "ahead" },
                );
                write!(f, "the database's clock jumped {word} by {secs} s")
            }
            Self::DatabaseAgainstStripe(ahead) => {
                write!(f, "the database's clock is {} Stripe's", direction(ahead))
            }
            Self::MachineAgainstDatabase(ahead) => {
                let direction = direction(ahead);
                write!(f, "the clock of this machine is {direction} the database's")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Millis = 1_800_000_000_000;

    fn at(elapsed: Millis, database_off: Millis) -> Reading {
        Reading {
            database: START + elapsed + database_off,
            machine: START + elapsed,
            elapsed,
        }
    }

    fn after(readings: &[Reading]) -> ClockCheck {
        let mut check = ClockCheck::default();
        for reading in readings {
            check.observe(*reading);
        }
        check
    }

    #[test]
    fn a_jump_that_is_taken_back_changes_nothing() {
        let ahead = 400 * 24 * HOUR_MS;
        let mut check = after(&[at(0, 0), at(1_000, ahead), at(9_000, ahead)]);
        assert_eq!(check.doubt(), Some(Doubt::DatabaseJumped(ahead)));
        assert_eq!(check.now(9_500), Some(START + 9_500));
        check.observe(at(10_000, 0));
        assert_eq!(check.doubt(), None);
    }

    #[test]
    fn a_jump_that_lasts_or_that_stripe_confirms_is_accepted() {
        let jump = [at(0, 0), at(1_000, HOUR_MS)].map(|mut reading| {
            reading.machine = reading.database;
            reading
        });
        let mut lasting = after(&jump);
        let mut later = at(1_000 + JUMP_ACCEPTED_AFTER_MS, HOUR_MS);
        later.machine = later.database;
        lasting.observe(later);
        assert_eq!(
            (lasting.doubt(), lasting.now(later.elapsed)),
            (None, Some(later.database))
        );
        let mut confirmed = after(&jump);
        confirmed.compare_with_stripe(Some(-900));
        assert_eq!(confirmed.doubt(), None);
        assert_eq!(confirmed.now(1_000), Some(START + 1_000 + HOUR_MS));
    }

    #[test]
    fn a_jump_forward_that_only_lasted_is_remembered() {
        let jumped = |by: Millis| {
            let mut check = after(&[at(0, 0), at(1_000, by)]);
            check.observe(at(1_000 + JUMP_ACCEPTED_AFTER_MS, by));
            check.trusted_jump_at()
        };
        assert_eq!(jumped(HOUR_MS), Some(1_000 + JUMP_ACCEPTED_AFTER_MS));
        assert_eq!(jumped(-HOUR_MS), None, "what seems young is not forgotten");
        let mut confirmed = after(&[at(0, 0), at(1_000, HOUR_MS)]);
        confirmed.compare_with_stripe(Some(0));
        assert_eq!(confirmed.trusted_jump_at(), None);
    }

    #[test]
    fn a_clock_that_jumps_between_two_readings_is_not_steady() {
        assert!(is_steady(START, START + 5_000, 4_900));
        assert!(!is_steady(START, START + 400 * 24 * HOUR_MS, 4_900));
        assert!(!is_steady(START, START - HOUR_MS, 4_900));
    }

    #[test]
    fn stripe_outweighs_a_clock_that_stays_wrong() {
        let mut check = after(&[at(0, 0), at(1_000, HOUR_MS)]);
        check.compare_with_stripe(Some(HOUR_MS));
        check.observe(at(1_000 + 2 * JUMP_ACCEPTED_AFTER_MS, HOUR_MS));
        assert_eq!(check.doubt(), Some(Doubt::DatabaseAgainstStripe(HOUR_MS)));
        check.compare_with_stripe(None);
        assert_eq!(check.doubt(), Some(Doubt::DatabaseJumped(HOUR_MS)));
    }

    #[test]
    fn a_machine_five_minutes_off_is_in_doubt_and_counts_by_the_database() {
        for (off, is_in_doubt) in [(-MACHINE_LIMIT_MS, true), (MACHINE_LIMIT_MS - 1, false)] {
            let check = after(&[Reading {
                machine: START + off,
                ..at(0, 0)
            }]);
            assert_eq!(check.doubt().is_some(), is_in_doubt);
            assert_eq!(check.now(7), Some(START + 7));
        }
    }

    #[test]
    fn a_clock_read_in_whole_seconds_does_not_look_ahead() {
        // The other clock showed 5.999 s, answered 5 s, and the answer arrived at 6.1 s.
        assert_eq!(ahead_of(5_950, 6_100, 5_000, 1_000), 0);
        assert_eq!(ahead_of(10_000, 10_100, 5_000, 1_000), 4_000);
        assert_eq!(ahead_of(1_000, 1_100, 5_000, 1_000), -3_900);
    }

    #[test]
    fn a_doubt_names_its_clocks() {
        let texts = [
            Doubt::DatabaseJumped(-3_600_000),
            Doubt::DatabaseAgainstStripe(61_000),
            Doubt::MachineAgainstDatabase(-300_500),
        ];
        assert_eq!(
            texts.map(|doubt| doubt.to_string()),
            [
                "the database's clock jumped back by 3600 s",
                "the database's clock is 61.000 s ahead of Stripe's",
                "the clock of this machine is 300.500 s behind the database's",
            ]
        );
    }

    proptest! {
        #[test]
        fn the_distance_of_clocks_is_never_overstated(
            real in -100_000..100_000_i64, before in 0..1_000_000_i64, read_after in 0..500_i64, trip in 500..2_000_i64,
        ) {
            let other = before + read_after - real;
            let answered = other.div_euclid(1_000) * 1_000;
            let found = ahead_of(before, before + trip, answered, 1_000);
            prop_assert!(found.abs() <= real.abs());
            prop_assert!(found == 0 || found.signum() == real.signum());
        }

        #[test]
        fn without_doubt_the_time_is_the_databases(
            steps in proptest::collection::vec((1_i64..10_000, -100_000_i64..100_000), 1..40),
        ) {
            let mut check = ClockCheck::default();
            let mut elapsed = 0;
            for (passed, off) in steps {
                elapsed += passed;
                let reading = at(elapsed, off);
                check.observe(reading);
                if check.doubt().is_none() {
                    prop_assert_eq!(check.now(elapsed), Some(reading.database));
                }
            }
        }
    }
}
