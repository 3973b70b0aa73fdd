//! The rule for late usage: what happens to usage whose own invoice can no longer charge it.

use super::{Millis, billed_usage::BilledUsage};

/// How usage is billed that is counted after its billing period's invoice became final.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LateUsage {
    /// It becomes `too_late`, and an admin has to resolve it.
    #[default]
    Hold,
    /// It is billed in the current period.
    CurrentPeriod,
}

/// What happens to late usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateUsageDecision {
    /// It is billed as usage of this time.
    BillAt(Millis),
    /// The current period charges only from this time on.
    WaitUntil(Millis),
    /// An admin has to resolve it.
    TooLate,
}

impl LateUsage {
    /// Decides on late usage. `charged_from` is the time from which the current period charges; `None` if there is no
    /// current period.
    ///
    /// A negative quantity never moves to the current period: its total may be smaller, and Stripe would bill 0.
    pub fn decide(
        self,
        usage: BilledUsage,
        charged_from: Option<Millis>,
        now: Millis,
    ) -> LateUsageDecision {
        match charged_from {
            Some(from) if self == Self::CurrentPeriod && usage.quantity >= 0 => {
                if from > now {
                    LateUsageDecision::WaitUntil(from)
                } else {
                    LateUsageDecision::BillAt(now)
                }
            }
            _ => LateUsageDecision::TooLate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(quantity: i64) -> BilledUsage {
        BilledUsage {
            window_start: 0,
            first_at: 1,
            last_at: 2,
            bill_at: None,
            event_timestamp: None,
            quantity,
        }
    }

    #[test]
    fn late_usage_is_billed_now_only_if_the_setting_says_so_and_a_period_charges() {
        let (now, rule) = (100, LateUsage::CurrentPeriod);
        let billed = LateUsageDecision::BillAt(now);
        assert_eq!(rule.decide(usage(1), Some(50), now), billed);
        assert_eq!(rule.decide(usage(1), Some(now), now), billed);
        assert_eq!(
            rule.decide(usage(1), Some(101), now),
            LateUsageDecision::WaitUntil(101)
        );
        for (rule, quantity, charged_from) in [
            (LateUsage::Hold, 1, Some(50)),
            (rule, -1, Some(50)),
            (rule, 1, None),
        ] {
            assert_eq!(
                rule.decide(usage(quantity), charged_from, now),
                LateUsageDecision::TooLate
            );
        }
    }
}
