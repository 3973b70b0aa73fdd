//! Increments: the usage of one call. An `Increment` is always valid.

use std::sync::Arc;

use super::{
    DAY_MS, MINUTE_MS, Millis,
    account_id::AccountId,
    meter::Meters,
    violation::{Reason, Violation, quoted},
};
use crate::planted_defects::{Defect, planted};

/// The longest idempotency key, in bytes.
pub const MAX_KEY_BYTES: usize = 255;
/// The largest quantity of one increment.
pub const MAX_QUANTITY: i64 = 1_000_000_000_000;
/// The maximum number of increments in one batch.
pub const MAX_BATCH: usize = 1_000;
/// The maximum age of an increment's timestamp. Keys are kept longer, and Stripe accepts older events.
pub const MAX_AGE_MS: Millis = 34 * DAY_MS;
/// How far in the future an increment's timestamp may be.
pub const MAX_AHEAD_MS: Millis = 5 * MINUTE_MS;

/// The input of an increment, not validated.
#[derive(Clone, Debug, Default)]
pub struct RawIncrement {
    /// The account.
    pub account_id: String,
    /// The meter; empty means the default.
    pub meter: String,
    /// The quantity; absent means 1.
    pub quantity: Option<i64>,
    /// The idempotency key; empty means none.
    pub key: String,
    /// The timestamp, if given.
    pub stated_at: Option<Millis>,
    /// Whether dimensions were given; they are reserved.
    pub has_dimensions: bool,
}

/// A valid increment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Increment {
    /// The account.
    pub account_id: AccountId,
    /// A configured meter.
    pub meter: Arc<str>,
    /// 1 to [`MAX_QUANTITY`].
    pub quantity: i64,
    /// The idempotency key.
    pub key: Option<Arc<str>>,
    /// The given timestamp.
    pub stated_at: Option<Millis>,
    /// The time it counts at: the given timestamp, else the time of arrival.
    pub at: Millis,
}

impl Increment {
    /// Validates the input.
    ///
    /// # Errors
    /// One violation per invalid field.
    pub fn parse(raw: RawIncrement, meters: &Meters, now: Millis) -> Result<Self, Vec<Violation>> {
        let mut violations = Vec::new();
        let parsed = parse_account_and_meter(&raw.account_id, &raw.meter, meters, &mut violations);
        let quantity = raw.quantity.unwrap_or(1);
        if !(1..=MAX_QUANTITY).contains(&quantity) {
            violations.push(Violation::invalid(
                "quantity",
                format!("quantity is {quantity}; it must be 1 to {MAX_QUANTITY}, or absent for 1"),
            ));
        }
        if let Err(violation) = check_key(&raw.key) {
            violations.push(violation);
        }
        if let Some(violation) = raw
            .stated_at
            .and_then(|at| check_time("timestamp", at, now))
        {
            violations.push(violation);
        }
        if raw.has_dimensions {
            violations.push(Violation::new(
                Reason::NotSupported,
                "dimensions",
                "dimensions are reserved and must be empty",
            ));
        }
        match parsed {
            Some((account_id, meter)) if violations.is_empty() => Ok(Self {
                account_id,
                meter,
                quantity,
                key: (!raw.key.is_empty()).then(|| raw.key.into()),
                stated_at: raw.stated_at,
                at: raw
                    .stated_at
                    .filter(|_| !planted(Defect::StatedTimeIgnored))
                    .unwrap_or(now),
            }),
            _ => Err(violations),
        }
    }

    /// The content that the increment's key is used with.
    pub fn content(&self) -> KeyedContent<'_> {
        KeyedContent {
            meter: &self.meter,
            quantity: self.quantity,
            stated_at: self.stated_at,
        }
    }
}

/// The account and the configured meter; absent when either is invalid.
pub(super) fn parse_account_and_meter(
    account_id: &str,
    meter: &str,
    meters: &Meters,
    violations: &mut Vec<Violation>,
) -> Option<(AccountId, Arc<str>)> {
    let account_id = AccountId::parse(account_id)
        .map_err(|violation| violations.push(violation))
        .ok();
    let meter = meters
        .resolve(meter)
        .map_err(|violation| violations.push(violation))
        .ok();
    Some((account_id?, Arc::clone(&meter?.name)))
}

/// Validates an idempotency key: at most 255 bytes without NUL, which PostgreSQL cannot store.
pub fn check_key(key: &str) -> Result<(), Violation> {
    if key.len() > MAX_KEY_BYTES {
        return Err(Violation::invalid(
            "idempotency_key",
            format!(
                "idempotency_key is {} bytes long; it may be at most {MAX_KEY_BYTES}",
                key.len()
            ),
        ));
    }
    if key.contains('\0') {
        return Err(Violation::invalid(
            "idempotency_key",
            format!("idempotency_key {} contains a NUL character", quoted(key)),
        ));
    }
    Ok(())
}

/// The violation of a time that is too old or too far in the future.
pub fn check_time(field: &str, at: Millis, now: Millis) -> Option<Violation> {
    if at < now.saturating_sub(MAX_AGE_MS) {
        return Some(Violation::new(
            Reason::TimestampTooOld,
            field,
            format!(
                "{field} {} is more than 34 days old: the server's clock says {}",
                super::period::rfc3339(at),
                super::period::rfc3339(now)
            ),
        ));
    }
    if at > now.saturating_add(MAX_AHEAD_MS) {
        return Some(Violation::new(
            Reason::TimestampInFuture,
            field,
            format!(
                "{field} {} is more than 5 minutes ahead: the server's clock says {}",
                super::period::rfc3339(at),
                super::period::rfc3339(now)
            ),
        ));
    }
    None
}

/// The content that an idempotency key was used with. A repeated key with the same content counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyedContent<'a> {
    /// The meter.
    pub meter: &'a str,
    /// The quantity.
    pub quantity: i64,
    /// The given timestamp; an absent one matches only an absent one.
    pub stated_at: Option<Millis>,
}

impl KeyedContent<'_> {
    /// The violation if the key of `self` is repeated with `other`; `None` if both are equal.
    pub fn differs_from(&self, other: &KeyedContent<'_>, key: &str) -> Option<Violation> {
        let time =
            |at: Option<Millis>| at.map_or_else(|| "absent".to_owned(), super::period::rfc3339);
        let (field, was, is) = if self.meter != other.meter {
            ("meter", self.meter.to_owned(), other.meter.to_owned())
        } else if self.quantity != other.quantity {
            (
                "quantity",
                self.quantity.to_string(),
                other.quantity.to_string(),
            )
        } else if self.stated_at != other.stated_at {
            ("timestamp", time(self.stated_at), time(other.stated_at))
        } else {
            return None;
        };
        Some(Violation::new(
            Reason::KeyReused,
            field,
            format!(
                "idempotency_key {} was counted with {field} {was} and came again with {is}; \
                 nothing was counted: use a new key for a new increment",
                quoted(key)
            ),
        ))
    }
}

/// The outcome of one increment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was counted.
    Counted,
    /// Its key was counted before.
    Duplicate,
    /// It was rejected.
    Refused(Violation),
}

/// A batch. Each item is valid or rejected on its own.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The batch's idempotency key with a digest of its content.
    pub key: Option<BatchKey>,
    /// The items, in the caller's order.
    pub items: Vec<Result<Increment, Violation>>,
}

/// The idempotency key of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchKey {
    /// The name of the caller, to whom the key belongs: see `Caller`.
    pub caller: Arc<str>,
    /// The caller's key.
    pub key: Arc<str>,
    /// A digest of the batch's content as received.
    pub fingerprint: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Millis = 1_800_000_000_000;

    fn meters() -> Meters {
        Meters::new(vec!["calls".parse().unwrap()], None).unwrap()
    }

    fn raw() -> RawIncrement {
        RawIncrement {
            account_id: "acct-1".to_owned(),
            ..RawIncrement::default()
        }
    }

    #[test]
    fn an_absent_quantity_is_one_and_an_empty_meter_is_the_default() {
        let increment = Increment::parse(raw(), &meters(), NOW).unwrap();
        assert_eq!((increment.quantity, &*increment.meter), (1, "calls"));
        assert_eq!((increment.at, increment.stated_at), (NOW, None));
    }

    #[test]
    fn every_wrong_field_is_named_with_its_value_and_limit() {
        let violations = Increment::parse(
            RawIncrement {
                account_id: "white space".to_owned(),
                meter: "nope".to_owned(),
                quantity: Some(0),
                key: "k".repeat(256),
                stated_at: Some(NOW - MAX_AGE_MS - 1),
                has_dimensions: true,
            },
            &meters(),
            NOW,
        )
        .unwrap_err();
        let fields: Vec<&str> = violations
            .iter()
            .map(|violation| violation.field.as_str())
            .collect();
        assert_eq!(
            fields,
            [
                "account_id",
                "meter",
                "quantity",
                "idempotency_key",
                "timestamp",
                "dimensions"
            ]
        );
        assert!(violations[2].message.contains("quantity is 0"));
        assert!(violations[3].message.contains("256 bytes"));
    }

    #[test]
    fn the_limits_of_time_are_inclusive() {
        for (at, fits) in [
            (NOW - MAX_AGE_MS, true),
            (NOW - MAX_AGE_MS - 1, false),
            (NOW + MAX_AHEAD_MS, true),
            (NOW + MAX_AHEAD_MS + 1, false),
            (i64::MIN, false),
            (i64::MAX, false),
        ] {
            let parsed = Increment::parse(
                RawIncrement {
                    stated_at: Some(at),
                    ..raw()
                },
                &meters(),
                NOW,
            );
            assert_eq!(parsed.is_ok(), fits, "{at}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(
            account_id in any::<String>(), meter in any::<String>(), key in any::<String>(),
            quantity in any::<Option<i64>>(), stated_at in any::<Option<i64>>(), now in any::<i64>(),
        ) {
            let raw = RawIncrement { account_id, meter, quantity, key, stated_at, has_dimensions: false };
            let _ = Increment::parse(raw, &meters(), now);
        }

        #[test]
        fn contents_differ_exactly_when_a_field_does(
            a in (0_i64..3, proptest::option::of(0_i64..3)), b in (0_i64..3, proptest::option::of(0_i64..3)),
        ) {
            let content = |(quantity, stated_at)| KeyedContent { meter: "m", quantity, stated_at };
            prop_assert_eq!(content(a).differs_from(&content(b), "k").is_none(), a == b);
        }
    }
}
