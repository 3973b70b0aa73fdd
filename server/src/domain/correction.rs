//! Corrections: quantities that an admin adds to counted usage or subtracts from it. A `Correction` is always valid.

use std::sync::Arc;

use super::{
    Millis,
    account::{BillingTarget, Link},
    account_id::AccountId,
    increment::{MAX_QUANTITY, check_key, check_time, parse_account_and_meter},
    meter::Meters,
    period::month_around,
    report::State,
    report_figure::{ReportFigure, total},
    violation::{Reason, Violation, quoted},
    window::Interval,
};

/// The longest reason, in characters.
pub const MAX_REASON_CHARS: usize = 500;
/// The longest requester name, in characters.
pub const MAX_REQUESTED_BY_CHARS: usize = 128;

/// The input of a correction, not validated.
#[derive(Clone, Debug, Default)]
pub struct RawCorrection {
    /// The account.
    pub account_id: String,
    /// The meter; empty means the default.
    pub meter: String,
    /// The quantity to add, or to subtract if negative.
    pub quantity: i64,
    /// Why.
    pub reason: String,
    /// The time, if given.
    pub stated_at: Option<Millis>,
    /// The requester.
    pub requested_by: String,
    /// The key; empty means none.
    pub key: String,
}

/// A valid correction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// The account.
    pub account_id: AccountId,
    /// A configured meter.
    pub meter: Arc<str>,
    /// Not 0; its absolute value is at most [`MAX_QUANTITY`].
    pub quantity: i64,
    /// Why.
    pub reason: String,
    /// The requester.
    pub requested_by: String,
    /// The idempotency key.
    pub key: Option<String>,
    /// The given time.
    pub stated_at: Option<Millis>,
    /// The time that it applies to.
    pub at: Millis,
}

impl Correction {
    /// Validates the input.
    ///
    /// # Errors
    /// One violation per invalid field.
    pub fn parse(raw: RawCorrection, meters: &Meters, now: Millis) -> Result<Self, Vec<Violation>> {
        let mut violations = Vec::new();
        let parsed = parse_account_and_meter(&raw.account_id, &raw.meter, meters, &mut violations);
        if raw.quantity == 0 || !(-MAX_QUANTITY..=MAX_QUANTITY).contains(&raw.quantity) {
            violations.push(Violation::invalid(
                "quantity",
                format!(
                    "quantity is {}; it must be -{MAX_QUANTITY} to {MAX_QUANTITY}, and not 0",
                    raw.quantity
                ),
            ));
        }
        violations.extend(check_reason(&raw.reason).err());
        violations.extend(check_requested_by(&raw.requested_by).err());
        violations.extend(check_key(&raw.key).err());
        violations.extend(
            raw.stated_at
                .and_then(|at| check_time("timestamp", at, now)),
        );
        match parsed {
            Some((account_id, meter)) if violations.is_empty() => Ok(Self {
                account_id,
                meter,
                quantity: raw.quantity,
                reason: raw.reason,
                requested_by: raw.requested_by,
                key: (!raw.key.is_empty()).then_some(raw.key),
                stated_at: raw.stated_at,
                at: raw.stated_at.unwrap_or(now),
            }),
            _ => Err(violations),
        }
    }
}

/// The content that a correction's key was used with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorrectionContent<'a> {
    /// The meter.
    pub meter: &'a str,
    /// The quantity.
    pub quantity: i64,
    /// The reason.
    pub reason: &'a str,
    /// The given time; an absent one matches only an absent one.
    pub stated_at: Option<Millis>,
}

impl CorrectionContent<'_> {
    /// The violation if the key of `self` is repeated with `other`; `None` if both are equal.
    pub fn differs_from(&self, other: &CorrectionContent<'_>, key: &str) -> Option<Violation> {
        let field = if self.meter != other.meter {
            "meter"
        } else if self.quantity != other.quantity {
            "quantity"
        } else if self.reason != other.reason {
            "reason"
        } else if self.stated_at != other.stated_at {
            "timestamp"
        } else {
            return None;
        };
        Some(Violation::new(
            Reason::KeyReused,
            field,
            format!(
                "idempotency_key {} entered a correction with another {field}; nothing was entered: \
                 use a new key for a new correction",
                quoted(key)
            ),
        ))
    }
}

/// Validates a reason: 1 to 500 characters without NUL, not only spaces.
pub fn check_reason(reason: &str) -> Result<(), Violation> {
    let chars = reason.chars().count();
    let is_blank = reason.trim().is_empty();
    if (1..=MAX_REASON_CHARS).contains(&chars) && !is_blank && !reason.contains('\0') {
        return Ok(());
    }
    let blank = if is_blank && chars > 0 {
        ", all of them spaces"
    } else {
        ""
    };
    Err(Violation::invalid(
        "reason",
        format!(
            "reason has {chars} characters{blank}; it must have 1 to {MAX_REASON_CHARS}, \
             not only spaces, none of them NUL"
        ),
    ))
}

/// Validates a reason that need not be given.
pub fn check_optional_reason(reason: &str) -> Result<(), Violation> {
    if reason.is_empty() {
        Ok(())
    } else {
        check_reason(reason)
    }
}

/// Validates a requester name: at most 128 characters without NUL. It may be empty, but not only spaces.
pub fn check_requested_by(requested_by: &str) -> Result<(), Violation> {
    let chars = requested_by.chars().count();
    let is_blank = chars > 0 && requested_by.trim().is_empty();
    if chars <= MAX_REQUESTED_BY_CHARS && !is_blank && !requested_by.contains('\0') {
        return Ok(());
    }
    let blank = if is_blank { ", all of them spaces" } else { "" };
    Err(Violation::invalid(
        "requested_by",
        format!(
            "requested_by has {chars} characters{blank}; it must have at most {MAX_REQUESTED_BY_CHARS}, \
             not only spaces, none of them NUL"
        ),
    ))
}

/// The total that reports of an account and meter will be billed as in a period. Negative reports also count while they
/// need a decision, because an admin may decide to send them.
pub fn total_to_bill(figures: &[ReportFigure], target: &BillingTarget, period: Interval) -> i64 {
    total(figures.iter().filter(|figure| {
        let may_be_billed = match figure.state {
            State::WrittenOff => false,
            State::NotBillable => !matches!(target, BillingTarget::Billed(_)),
            state => !State::NEEDS_DECISION.contains(&state) || figure.usage.quantity < 0,
        };
        let is_of_customer = match target {
            BillingTarget::Billed(customer) => {
                figure.customer.as_ref().is_none_or(|own| own == customer)
            }
            BillingTarget::NoCustomer
            | BillingTarget::NotBillable
            | BillingTarget::Elsewhere(_) => true,
        };
        may_be_billed && is_of_customer && period.contains(figure.usage.billed_at_stripe())
    }))
}

/// The interval whose total must not become negative if no billing period is known. For a billed account it is the time
/// between two changes of its links, else the calendar month in UTC.
pub fn time_without_periods(links: &[Link], is_billed: bool, at: Millis) -> Interval {
    let always = Interval {
        start: Millis::MIN,
        end: Millis::MAX,
    };
    if !is_billed {
        return month_around(at, chrono_tz::Tz::UTC).unwrap_or(always);
    }
    let changes = links.iter().map(|link| link.valid_from);
    Interval {
        start: changes
            .clone()
            .filter(|change| *change <= at)
            .max()
            .unwrap_or(Millis::MIN),
        end: changes
            .filter(|change| *change > at)
            .min()
            .unwrap_or(Millis::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_800_000_000_000;

    #[test]
    fn every_wrong_field_of_a_correction_is_named() {
        let meters = Meters::new(vec!["calls".parse().unwrap()], None).unwrap();
        let raw = RawCorrection {
            account_id: "no good".to_owned(),
            meter: "nope".to_owned(),
            quantity: 0,
            reason: String::new(),
            stated_at: Some(NOW + 3_600_000),
            requested_by: "x".repeat(129),
            key: "k".repeat(256),
        };
        let violations = Correction::parse(raw, &meters, NOW).unwrap_err();
        let fields: Vec<&str> = violations.iter().map(|one| one.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "account_id",
                "meter",
                "quantity",
                "reason",
                "requested_by",
                "idempotency_key",
                "timestamp"
            ]
        );
    }

    #[test]
    fn the_limits_of_a_correction_are_inclusive() {
        let meters = Meters::new(vec!["calls".parse().unwrap()], None).unwrap();
        for (quantity, chars, fits) in [
            (MAX_QUANTITY, 500, true),
            (-MAX_QUANTITY, 1, true),
            (MAX_QUANTITY + 1, 1, false),
            (-MAX_QUANTITY - 1, 1, false),
            (i64::MIN, 1, false),
            (1, 501, false),
        ] {
            let raw = RawCorrection {
                account_id: "a".to_owned(),
                quantity,
                reason: "ü".repeat(chars),
                ..RawCorrection::default()
            };
            assert_eq!(
                Correction::parse(raw, &meters, NOW).is_ok(),
                fits,
                "{quantity} {chars}"
            );
        }
    }
}
