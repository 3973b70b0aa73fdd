//! From when on this service bills. Before that moment another integration does, and this service only shows what it
//! would send. Pure.

use super::{HOUR_MS, MINUTE_MS, Millis, period::rfc3339, violation::Violation};

/// How far ahead the moment has to be: nothing that is counted at the time of the request may be after it.
pub const MIN_AHEAD_MS: Millis = 10 * MINUTE_MS;

const NEVER_SHADOW: &str =
    "this database was never used with REPORTING=shadow: it bills everything that it counts";

/// From when on this service bills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BillingStart {
    /// It always did.
    #[default]
    Always,
    /// It does not: another integration bills everything.
    NotNamed,
    /// From this moment on. Usage before it is the other integration's.
    At(Millis),
}

impl BillingStart {
    /// As the database has it.
    pub fn from_stored(stored: Option<Millis>) -> Self {
        match stored {
            None => Self::Always,
            Some(Millis::MAX) => Self::NotNamed,
            Some(at) => Self::At(at),
        }
    }

    /// The time before which usage is billed by another integration.
    pub fn moment(self) -> Millis {
        match self {
            Self::Always => Millis::MIN,
            Self::NotNamed => Millis::MAX,
            Self::At(at) => at,
        }
    }

    /// For a message: from when on this service bills.
    pub fn described(self) -> String {
        match self {
            Self::Always => "this service bills everything".to_owned(),
            Self::NotNamed => "no moment is named from which this service bills".to_owned(),
            Self::At(at) => format!("this service bills from {} on", rfc3339(at)),
        }
    }

    /// Whether another integration bills usage of a time.
    pub fn is_elsewhere(self, at: Millis) -> bool {
        at < self.moment()
    }

    /// Checks a moment that is named at a time.
    ///
    /// It is a full hour of UTC: windows end there, so no report is on both sides of it, and Stripe's totals of hours show
    /// what each side sent. Nothing of after it was counted or closed yet.
    ///
    /// # Errors
    /// It is no full hour, or too early; or this service bills already, or is about to.
    pub fn check_named(self, at: Millis, now: Millis) -> Result<(), Violation> {
        let field = "bill_from";
        let earliest = now.saturating_add(MIN_AHEAD_MS);
        if at.rem_euclid(HOUR_MS) != 0 {
            return Err(Violation::invalid(
                field,
                format!(
                    "bill_from {} is not a full hour of UTC; reports end at full hours, so that none is on both sides",
                    rfc3339(at)
                ),
            ));
        }
        if at < earliest {
            return Err(Violation::invalid(
                field,
                format!(
                    "bill_from {} must be {} minutes after the server's clock, {}, or later: what was counted so far is the other integration's",
                    rfc3339(at),
                    MIN_AHEAD_MS.div_euclid(MINUTE_MS),
                    rfc3339(now)
                ),
            ));
        }
        match self {
            Self::NotNamed => Ok(()),
            Self::At(before) if earliest <= before => Ok(()),
            // Usage of after it may be counted and closed already.
            Self::At(before) if now < before => Err(Violation::invalid(
                field,
                format!(
                    "this service bills from {} on, less than {} minutes after the server's clock, {}; that cannot be changed any more",
                    rfc3339(before),
                    MIN_AHEAD_MS.div_euclid(MINUTE_MS),
                    rfc3339(now)
                ),
            )),
            Self::At(before) => Err(Violation::invalid(
                field,
                format!(
                    "this service has billed since {}; that cannot be changed any more",
                    rfc3339(before)
                ),
            )),
            Self::Always => Err(Violation::invalid(field, NEVER_SHADOW)),
        }
    }

    /// Checks a moment that is stated when a backup is restored which does not know it. `last_change` is the last one in the
    /// database.
    ///
    /// It may be in the past: what the database has of after it was counted without it, and never sent. Only from a
    /// moment that the database knows on, something may have been sent.
    ///
    /// # Errors
    /// It is no full hour; or this service may have billed before it, or always did.
    pub fn check_restored(self, at: Millis, last_change: Option<Millis>) -> Result<(), String> {
        if at.rem_euclid(HOUR_MS) != 0 {
            let at = rfc3339(at);
            return Err(format!(
                "--bill-from {at} is not a full hour of UTC, and so not a moment that was named"
            ));
        }
        match self {
            Self::Always => Err(format!("--bill-from: {NEVER_SHADOW}")),
            Self::At(before) if before < at && last_change.is_some_and(|last| last >= before) => {
                Err(format!(
                    "--bill-from {} is later than the moment that this database knows, {}, and it was used since then, so usage between the two may have been sent; restore the backup again, and run this before any server",
                    rfc3339(at),
                    rfc3339(before)
                ))
            }
            Self::At(_) | Self::NotNamed => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: Millis = 1_800_014_400_000;

    #[test]
    fn a_moment_is_a_full_hour_ahead_and_can_be_moved_until_shortly_before_it() {
        let shadow = BillingStart::NotNamed;
        assert!(shadow.check_named(NOON + HOUR_MS, NOON).is_ok());
        assert!(shadow.check_named(NOON + HOUR_MS + 1, NOON).is_err());
        assert!(shadow.check_named(NOON, NOON).is_err());
        let late = NOON + HOUR_MS - MIN_AHEAD_MS;
        assert!(shadow.check_named(NOON + HOUR_MS, late).is_ok());
        assert!(shadow.check_named(NOON + HOUR_MS, late + 1).is_err());
        let named = BillingStart::At(NOON + HOUR_MS);
        assert!(named.check_named(NOON + 2 * HOUR_MS, NOON).is_ok());
        assert!(named.check_named(NOON + 2 * HOUR_MS, late).is_ok());
        let refused = named.check_named(NOON + 2 * HOUR_MS, late + 1);
        let message = refused.unwrap_err().message;
        assert!(message.contains("less than 10 minutes"), "{message}");
        assert!(
            named
                .check_named(NOON + 3 * HOUR_MS, NOON + HOUR_MS)
                .is_err()
        );
        let always = BillingStart::Always;
        assert!(always.check_named(NOON + HOUR_MS, NOON).is_err());
    }

    #[test]
    fn a_restored_moment_may_be_past_and_does_not_take_back_what_was_billed() {
        let hour = NOON - HOUR_MS;
        let shadow = BillingStart::NotNamed;
        assert_eq!(shadow.check_restored(hour, Some(NOON)), Ok(()));
        let refused = shadow.check_restored(hour + 1, None).unwrap_err();
        assert!(refused.contains("full hour"), "{refused}");
        let named = BillingStart::At(hour);
        assert_eq!(named.check_restored(hour, Some(NOON)), Ok(()));
        assert_eq!(named.check_restored(hour - HOUR_MS, Some(NOON)), Ok(()));
        assert_eq!(named.check_restored(NOON, Some(hour - 1)), Ok(()));
        let refused = named.check_restored(NOON, Some(hour)).unwrap_err();
        assert!(refused.contains("used since then"), "{refused}");
        assert!(BillingStart::Always.check_restored(hour, None).is_err());
    }

    proptest! {
        #[test]
        fn each_time_belongs_to_one_side(at in 0_i64..4_000_000_000_000, moment in 0_i64..4_000_000_000_000) {
            let start = BillingStart::from_stored(Some(moment));
            prop_assert_eq!(start.is_elsewhere(at), at < moment);
            prop_assert!(BillingStart::NotNamed.is_elsewhere(at));
            prop_assert!(!BillingStart::Always.is_elsewhere(at));
        }
    }
}
