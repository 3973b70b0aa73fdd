//! A share of many, such as the requests that are logged.

use std::{fmt, str::FromStr};

/// The whole, in millionths.
const WHOLE: u32 = 1_000_000;
/// The digits after the point.
const DIGITS: usize = 6;

/// A share from 0 to 1, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// Whether a random number is of the share.
    pub fn has(self, random: u64) -> bool {
        random.checked_rem(WHOLE.into()).unwrap_or_default() < u64::from(self.0)
    }

    /// As a ratio, for those who know no other.
    #[allow(
        clippy::float_arithmetic,
        reason = "no quantity: it decides which traces are recorded"
    )]
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / f64::from(WHOLE)
    }
}

impl FromStr for Share {
    type Err = String;

    /// Reads a decimal number such as `0.01`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("must be from 0 to 1, with up to {DIGITS} digits after the point");
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let is_number = part.bytes().all(|byte| byte.is_ascii_digit()) && part.len() <= DIGITS;
        let millionths = match whole {
            "0" | "1" if is_number => format!("{whole}{part:0<DIGITS$}").parse(),
            _ => return Err(wrong()),
        };
        let share = millionths.ok().filter(|millionths| *millionths <= WHOLE);
        share.map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.ratio())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_number_from_0_to_1() {
        for (text, millionths) in [
            ("0", 0),
            ("1", 1_000_000),
            ("1.0", 1_000_000),
            ("0.01", 10_000),
            ("0.000001", 1),
            ("0.", 0),
        ] {
            assert_eq!(text.parse(), Ok(Share(millionths)), "{text}");
        }
        for bad in [
            "",
            "2",
            "1.1",
            "-0.1",
            ".5",
            "0.0000001",
            "0,1",
            "1e-2",
            "0.x",
        ] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
        assert_eq!(Share(10_000).to_string(), "0.01");
    }

    #[test]
    fn a_share_has_so_many_of_a_million_numbers() {
        let share: Share = "0.25".parse().unwrap();
        let all = 0..u64::from(WHOLE);
        assert_eq!(all.filter(|number| share.has(*number)).count(), 250_000);
        assert!(!Share::NONE.has(0));
    }
}
