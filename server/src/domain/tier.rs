//! Tiers of a volume price, parsed from the command line and compared with Stripe's.
//!
//! Amounts are decimal texts in cents, or in the currency's smallest unit. They are validated and passed on, never
//! computed with.

use std::{fmt, str::FromStr};

use super::violation::quoted;

/// Stripe's limit of decimal places in an amount.
const MAX_PLACES: usize = 12;
/// Stripe's limit of digits before the decimal point.
const MAX_WHOLE_DIGITS: usize = 12;
/// The maximum number of tiers of one price.
const MAX_TIERS: usize = 100;

/// An amount of cents, in its shortest form: `0.5`, `12`, `0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Amount(String);

impl Amount {
    /// Zero.
    pub fn zero() -> Self {
        Self("0".to_owned())
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.0 == "0"
    }

    /// The decimal text for Stripe.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Amount {
    type Err = String;

    /// Parses digits with at most one decimal point between them.
    fn from_str(text: &str) -> Result<Self, String> {
        let (whole, places) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = [whole, places]
            .iter()
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
        let whole = whole.trim_start_matches('0');
        let places = places.trim_end_matches('0');
        if !is_number || whole.len() > MAX_WHOLE_DIGITS || places.len() > MAX_PLACES {
            return Err(format!(
                "the amount {} must be cents in digits, at most {MAX_WHOLE_DIGITS} before and {MAX_PLACES} behind the point, such as 0.25",
                quoted(text)
            ));
        }
        let whole = if whole.is_empty() { "0" } else { whole };
        Ok(Self(if places.is_empty() {
            whole.to_owned()
        } else {
            format!("{whole}.{places}")
        }))
    }
}

/// One tier of a volume price: the price of every unit if the total is in this tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// The largest total in the tier; `None` for the last tier.
    pub up_to: Option<i64>,
    /// Cents per unit.
    pub unit: Amount,
    /// A flat amount in cents.
    pub flat: Amount,
}

impl FromStr for Tier {
    type Err = String;

    /// Parses `UP_TO=UNIT`, `UP_TO=UNIT+FLAT` or `UP_TO=+FLAT`; `UP_TO` of the last tier is `inf`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (up_to, amounts) = text.split_once('=').ok_or_else(|| {
            format!(
                "the tier {} must be UP_TO=UNIT, UP_TO=UNIT+FLAT or UP_TO=+FLAT, such as 1000=0.5",
                quoted(text)
            )
        })?;
        let up_to = if up_to == "inf" {
            None
        } else {
            let bound = up_to.parse::<i64>().ok().filter(|bound| *bound > 0);
            Some(bound.ok_or_else(|| {
                format!(
                    "the bound {} of tier {} must be a whole number above 0, or inf",
                    quoted(up_to),
                    quoted(text)
                )
            })?)
        };
        let (unit, flat) = match amounts.split_once('+') {
            None => (amounts.parse()?, Amount::zero()),
            Some(("", flat)) => (Amount::zero(), flat.parse()?),
            Some((unit, flat)) => (unit.parse()?, flat.parse()?),
        };
        Ok(Self { up_to, unit, flat })
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.up_to {
            Some(up_to) => write!(f, "{up_to}=")?,
            None => f.write_str("inf=")?,
        }
        match (self.unit.is_zero(), self.flat.is_zero()) {
            (_, true) => f.write_str(self.unit.as_str()),
            (true, false) => write!(f, "+{}", self.flat.as_str()),
            (false, false) => write!(f, "{}+{}", self.unit.as_str(), self.flat.as_str()),
        }
    }
}

/// A tier of one meter's price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterTier {
    /// The meter's name; `None` if there is only one meter.
    pub meter: Option<String>,
    /// The tier.
    pub tier: Tier,
}

impl FromStr for MeterTier {
    type Err = String;

    /// Parses a tier, with the prefix `METER:` if there are several meters.
    fn from_str(text: &str) -> Result<Self, String> {
        let (meter, tier) = match text.split_once(':') {
            Some((meter, tier)) => (Some(meter.to_owned()), tier),
            None => (None, text),
        };
        Ok(Self {
            meter,
            tier: tier.parse()?,
        })
    }
}

/// Validates that the tiers ascend, and that only the last one has no upper limit.
///
/// # Errors
/// One sentence that names the invalid tier.
pub fn check_tiers(meter: &str, tiers: &[Tier]) -> Result<(), String> {
    let Some((last, rest)) = tiers.split_last() else {
        return Err(format!(
            "meter {} has no tiers; say what it costs, such as --tier {meter}:inf=0.5",
            quoted(meter)
        ));
    };
    if tiers.len() > MAX_TIERS {
        return Err(format!(
            "meter {} has {} tiers; at most {MAX_TIERS} are possible",
            quoted(meter),
            tiers.len()
        ));
    }
    if last.up_to.is_some() || rest.iter().any(|tier| tier.up_to.is_none()) {
        return Err(format!(
            "the last tier of meter {}, and no other, must have the bound inf; the last one given is {last}",
            quoted(meter)
        ));
    }
    match rest.windows(2).find(|pair| match pair {
        [one, next] => one.up_to >= next.up_to,
        _ => false,
    }) {
        Some([one, next]) => Err(format!(
            "the tiers of meter {} must rise; {next} follows {one}",
            quoted(meter)
        )),
        _ => Ok(()),
    }
}

/// Tiers in the form in which they are parsed.
pub fn tiers_text(tiers: &[Tier]) -> String {
    let texts: Vec<String> = tiers.iter().map(Tier::to_string).collect();
    texts.join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tiers(text: &str) -> Vec<Tier> {
        text.split(' ').map(|tier| tier.parse().unwrap()).collect()
    }

    #[test]
    fn an_amount_has_one_form() {
        let shortest = |text: &str| text.parse::<Amount>().map(|amount| amount.0);
        for (text, form) in [
            ("0.50", "0.5"),
            ("007", "7"),
            ("0", "0"),
            ("0.000", "0"),
            ("0.000000000001", "0.000000000001"),
        ] {
            assert_eq!(shortest(text).unwrap(), form);
        }
        for wrong in [
            "",
            ".5",
            "5.",
            "-1",
            "1e3",
            "1,5",
            "0.0000000000001",
            "1234567890123",
            "1.2.3",
        ] {
            assert!(shortest(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_tier_is_per_unit_flat_or_both() {
        for text in ["1000=0.5", "inf=+2000", "inf=0.25+99.5", "5=0"] {
            assert_eq!(text.parse::<Tier>().unwrap().to_string(), text);
        }
        for wrong in ["1000", "0=1", "-1=1", "x=1", "10=", "10=+", "10=1+", "=1"] {
            assert!(wrong.parse::<Tier>().is_err(), "{wrong}");
        }
        let named: MeterTier = "tokens:inf=1".parse().unwrap();
        assert_eq!(named.meter.as_deref(), Some("tokens"));
    }

    #[test]
    fn tiers_ascend_and_only_the_last_is_unlimited() {
        assert_eq!(check_tiers("m", &tiers("10=5 20=3 inf=1")), Ok(()));
        assert_eq!(check_tiers("m", &tiers("inf=1")), Ok(()));
        for wrong in [
            "10=1",
            "inf=1 10=1",
            "inf=1 inf=1",
            "20=1 10=1 inf=1",
            "5=1 5=1 inf=1",
        ] {
            assert!(check_tiers("m", &tiers(wrong)).is_err(), "{wrong}");
        }
        assert!(check_tiers("m", &[]).unwrap_err().contains("--tier m:inf="));
    }

    proptest! {
        #[test]
        fn a_displayed_tier_parses_to_the_same_tier(up_to in proptest::option::of(1..i64::MAX), unit in 0..1_000_000_u32, flat in 0..1_000_u32) {
            let tier = Tier {
                up_to,
                unit: format!("{}.{:06}", unit / 1_000, unit % 1_000).parse().unwrap(),
                flat: flat.to_string().parse().unwrap(),
            };
            prop_assert_eq!(tier.to_string().parse::<Tier>().unwrap(), tier);
        }
    }
}
