//! The amount for a quantity: per unit, by the tier of the whole quantity (volume), or tier by tier (graduated).

use serde_json::{Value, json};

use super::money::Cents;
use crate::errors::StripeError;
use crate::params::Params;

/// One tier, up to and including a quantity; the last tier has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tier {
    pub(crate) up_to: Option<i64>,
    pub(crate) unit: Option<Cents>,
    pub(crate) flat: Option<Cents>,
}

/// The billing scheme of a price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scheme {
    PerUnit(Cents),
    Volume(Vec<Tier>),
    Graduated(Vec<Tier>),
}

impl Scheme {
    /// The amount for a quantity, rounded once, to whole cents. The flat amount of the first tier is due without usage
    /// too.
    pub(crate) fn amount(&self, quantity: i64) -> i64 {
        match self {
            Scheme::PerUnit(unit) => unit.times(quantity).rounded(),
            Scheme::Volume(tiers) => tiers
                .iter()
                .find(|tier| tier.up_to.is_none_or(|up_to| quantity <= up_to))
                .map_or(0, |tier| tier.cost(quantity).rounded()),
            Scheme::Graduated(tiers) => {
                let mut total = Cents::default();
                let mut before = 0;
                for tier in tiers {
                    let reached = tier.up_to.map_or(quantity, |up_to| quantity.min(up_to));
                    total = total.plus(tier.cost(reached.saturating_sub(before)));
                    if reached == quantity {
                        break;
                    }
                    before = reached;
                }
                total.rounded()
            }
        }
    }

    pub(crate) fn is_volume(&self) -> bool {
        matches!(self, Scheme::Volume(_))
    }

    pub(crate) fn tiers(&self) -> Option<&[Tier]> {
        match self {
            Scheme::PerUnit(_) => None,
            Scheme::Volume(tiers) | Scheme::Graduated(tiers) => Some(tiers),
        }
    }

    pub(crate) fn tiers_mode(&self) -> Option<&'static str> {
        match self {
            Scheme::PerUnit(_) => None,
            Scheme::Volume(_) => Some("volume"),
            Scheme::Graduated(_) => Some("graduated"),
        }
    }

    pub(crate) fn unit(&self) -> Option<Cents> {
        match self {
            Scheme::PerUnit(unit) => Some(*unit),
            _ => None,
        }
    }

    /// Takes `billing_scheme`, `tiers_mode`, `tiers`, `unit_amount` and `unit_amount_decimal`.
    pub(crate) fn take(params: &mut Params) -> Result<Scheme, StripeError> {
        let scheme = params.one_of("billing_scheme", &["per_unit", "tiered"])?;
        let mode = params.one_of("tiers_mode", &["volume", "graduated"])?;
        let listed = params.nested_list("tiers")?;
        let unit = amount(params, "unit_amount")?;
        if scheme != Some("tiered") {
            if mode.is_some() || !listed.is_empty() {
                return Err(StripeError::invalid(
                    "You must set `billing_scheme` to `tiered` to use `tiers` and `tiers_mode`.",
                )
                .param("billing_scheme"));
            }
            return unit
                .map(Scheme::PerUnit)
                .ok_or_else(|| StripeError::missing_param("unit_amount"));
        }
        if unit.is_some() {
            return Err(StripeError::invalid(
                "You cannot set `unit_amount` when `billing_scheme` is `tiered`.",
            )
            .param("unit_amount"));
        }
        let tiers = listed
            .into_iter()
            .map(Tier::take)
            .collect::<Result<Vec<Tier>, StripeError>>()?;
        check_order(&tiers)?;
        match mode {
            Some("volume") => Ok(Scheme::Volume(tiers)),
            Some(_) => Ok(Scheme::Graduated(tiers)),
            None => Err(StripeError::missing_param("tiers_mode")),
        }
    }
}

impl Tier {
    fn cost(&self, quantity: i64) -> Cents {
        self.unit
            .unwrap_or_default()
            .times(quantity)
            .plus(self.flat.unwrap_or_default())
    }

    fn take(mut params: Params) -> Result<Tier, StripeError> {
        let up_to = params.required("up_to")?;
        let name = params.name("up_to");
        let up_to = if up_to == "inf" {
            None
        } else {
            let bound = up_to.parse::<i64>().ok().filter(|bound| *bound > 0);
            Some(bound.ok_or_else(|| {
                StripeError::invalid(format!("Invalid positive integer: {up_to}")).param(name)
            })?)
        };
        let tier = Tier {
            up_to,
            unit: amount(&mut params, "unit_amount")?,
            flat: amount(&mut params, "flat_amount")?,
        };
        if tier.unit.is_none() && tier.flat.is_none() {
            return Err(StripeError::invalid(
                "Each tier must have a `unit_amount` or a `flat_amount`.",
            )
            .param(params.name("unit_amount")));
        }
        params.finish()?;
        Ok(tier)
    }

    pub(crate) fn json(&self) -> Value {
        let whole = |cents: Option<Cents>| cents.and_then(Cents::as_whole);
        let decimal = |cents: Option<Cents>| cents.map(|cents| cents.to_string());
        json!({
            "flat_amount": whole(self.flat),
            "flat_amount_decimal": decimal(self.flat),
            "unit_amount": whole(self.unit),
            "unit_amount_decimal": decimal(self.unit),
            "up_to": self.up_to,
        })
    }
}

fn check_order(tiers: &[Tier]) -> Result<(), StripeError> {
    let refuse = |message: &str| Err(StripeError::invalid(message).param("tiers"));
    let Some((last, rest)) = tiers.split_last() else {
        return Err(StripeError::missing_param("tiers"));
    };
    if last.up_to.is_some() || rest.iter().any(|tier| tier.up_to.is_none()) {
        return refuse("The last tier, and no other, must have `up_to` set to `inf`.");
    }
    if !rest.is_sorted_by(|one, next| one.up_to < next.up_to) {
        return refuse("The `up_to` of each tier must be above that of the tier before it.");
    }
    Ok(())
}

/// Takes an amount either whole or, under the name with `_decimal`, with up to 12 decimal places.
fn amount(params: &mut Params, name: &str) -> Result<Option<Cents>, StripeError> {
    let decimal_name = format!("{name}_decimal");
    let whole = params.integer(name)?.map(Cents::whole);
    let decimal = match params.text(&decimal_name)? {
        None => None,
        Some(text) => Some(Cents::parse(&text).ok_or_else(|| {
            StripeError::invalid(format!("Invalid decimal: {text}"))
                .param(params.name(&decimal_name))
        })?),
    };
    if whole.is_some() && decimal.is_some() {
        return Err(StripeError::invalid(format!(
            "You may only specify one of these parameters: {name}, {decimal_name}."
        ))
        .param(params.name(name)));
    }
    let amount = whole.or(decimal);
    if amount.is_some_and(Cents::is_negative) {
        return Err(StripeError::invalid("Invalid non-negative integer").param(params.name(name)));
    }
    Ok(amount)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::pairs;

    fn scheme(query: &str) -> Result<Scheme, StripeError> {
        Scheme::take(&mut Params::nest(&pairs(query.as_bytes())).unwrap())
    }

    const TIERS: &str = "billing_scheme=tiered&tiers[0][up_to]=10&tiers[0][unit_amount]=5&tiers[0][flat_amount]=100\
                         &tiers[1][up_to]=20&tiers[1][unit_amount_decimal]=3.5&tiers[2][up_to]=inf\
                         &tiers[2][unit_amount]=1";

    #[test]
    fn volume_prices_every_unit_at_the_tier_reached() {
        let volume = scheme(&format!("{TIERS}&tiers_mode=volume")).unwrap();
        let amounts = [0, 10, 11, 20, 21].map(|quantity| volume.amount(quantity));
        assert_eq!(amounts, [100, 150, 39, 70, 21]);
    }

    #[test]
    fn graduated_fills_tier_after_tier() {
        let graduated = scheme(&format!("{TIERS}&tiers_mode=graduated")).unwrap();
        let amounts = [0, 10, 11, 20, 21].map(|quantity| graduated.amount(quantity));
        assert_eq!(amounts, [100, 150, 154, 185, 186]);
    }

    #[test]
    fn tiers_rise_to_infinity() {
        for wrong in [
            "billing_scheme=tiered&tiers_mode=volume",
            "billing_scheme=tiered&tiers_mode=volume&tiers[0][up_to]=1&tiers[0][unit_amount]=1",
            "billing_scheme=tiered&tiers[0][up_to]=inf&tiers[0][unit_amount]=1",
            "billing_scheme=tiered&tiers_mode=volume&tiers[0][up_to]=inf",
            "tiers_mode=volume&unit_amount=1",
            "unit_amount=1&unit_amount_decimal=1",
            "unit_amount=-1",
            "unit_amount_decimal=1.2.3",
            "",
        ] {
            assert!(scheme(wrong).is_err(), "{wrong}");
        }
        assert_eq!(scheme("unit_amount_decimal=0.25").unwrap().amount(6), 2);
    }
}
