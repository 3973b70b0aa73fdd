//! Amounts in the minor unit of a currency, exact to the 12 decimal places that Stripe's prices may have. They are
//! integers: a double would round where Stripe does not.

use std::fmt;

const PLACES: usize = 12;
const SCALE: i128 = 1_000_000_000_000;

/// An amount in the currency's minor unit, scaled by 10^12.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cents(i128);

impl Cents {
    pub(crate) fn whole(cents: i64) -> Cents {
        Cents(i128::from(cents).saturating_mul(SCALE))
    }

    /// Reads `12`, `0.005` or `-1.5`; `None` for anything else, and for more than 12 decimal places.
    pub(crate) fn parse(text: &str) -> Option<Cents> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !plain(whole) || !plain(fraction) || fraction.len() > PLACES {
            return None;
        }
        let scaled: i128 = format!("{whole}{fraction:0<PLACES$}").parse().ok()?;
        Some(Cents(if negative {
            scaled.checked_neg()?
        } else {
            scaled
        }))
    }

    pub(crate) fn times(self, quantity: i64) -> Cents {
        Cents(self.0.saturating_mul(i128::from(quantity)))
    }

    pub(crate) fn plus(self, other: Cents) -> Cents {
        Cents(self.0.saturating_add(other.0))
    }

    pub(crate) fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// The nearest whole number; halves round away from zero.
    pub(crate) fn rounded(self) -> i64 {
        divide(self.0, SCALE)
    }

    /// The amount, if it is a whole number.
    pub(crate) fn as_whole(self) -> Option<i64> {
        (self.0 % SCALE == 0).then(|| self.rounded())
    }
}

impl fmt::Display for Cents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let magnitude = self.0.unsigned_abs();
        let scale = SCALE.unsigned_abs();
        let (whole, fraction) = (magnitude.div_euclid(scale), magnitude.rem_euclid(scale));
        if fraction == 0 {
            return write!(f, "{sign}{whole}");
        }
        let fraction = format!("{fraction:0PLACES$}");
        write!(f, "{sign}{whole}.{}", fraction.trim_end_matches('0'))
    }
}

/// The part of an amount that falls on `part` of `whole` seconds, to the nearest cent.
pub(crate) fn share(amount: i64, part: i64, whole: i64) -> i64 {
    if whole <= 0 {
        return 0;
    }
    divide(
        i128::from(amount).saturating_mul(i128::from(part.clamp(0, whole))),
        i128::from(whole),
    )
}

fn divide(dividend: i128, divisor: i128) -> i64 {
    let half = divisor.div_euclid(2);
    let away = if dividend < 0 {
        dividend.saturating_sub(half)
    } else {
        dividend.saturating_add(half)
    };
    let quotient = away.checked_div(divisor).unwrap_or_default();
    i64::try_from(quotient).unwrap_or(if quotient < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_read_and_written_exactly() {
        for text in ["0", "12", "0.5", "0.000000000001", "-1.25", "1000000000000"] {
            assert_eq!(Cents::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Cents::parse("1.50").unwrap().to_string(), "1.5");
        for text in ["", ".5", "1e3", "+1", "1.0000000000001", "--1", "1.-2"] {
            assert_eq!(Cents::parse(text), None, "{text}");
        }
    }

    #[test]
    fn sums_are_rounded_once_and_halves_go_up() {
        let tenth = Cents::parse("0.1").unwrap();
        assert_eq!(tenth.times(4).rounded(), 0);
        assert_eq!(tenth.times(5).rounded(), 1);
        assert_eq!(tenth.times(-5).rounded(), -1);
        assert_eq!(
            tenth.times(1_000_000_000_000_000).rounded(),
            100_000_000_000_000
        );
        assert_eq!(Cents::whole(7).plus(tenth).as_whole(), None);
        assert_eq!(Cents::whole(7).as_whole(), Some(7));
    }

    #[test]
    fn a_proration_is_by_seconds() {
        assert_eq!(share(1_000, 15, 30), 500);
        assert_eq!(share(1_000, 1, 3), 333);
        assert_eq!(share(1_000, 2, 3), 667);
        assert_eq!(share(1_000, 40, 30), 1_000);
        assert_eq!(share(1_000, 1, 0), 0);
    }
}
