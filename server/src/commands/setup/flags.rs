//! The flags of `stripe setup`, and the price that they describe for each meter. Pure.

use clap::Args;

use crate::{
    config::{MetersConfig, StripeConfig},
    domain::{
        meter::Meter,
        tier::{MeterTier, Tier, check_tiers},
        violation::quoted,
    },
};

/// The flags of the command.
#[derive(Args, Clone, Debug)]
pub struct SetupConfig {
    /// The Stripe account.
    #[command(flatten)]
    pub stripe: StripeConfig,

    /// The meters.
    #[command(flatten)]
    pub meters: MetersConfig,

    /// A tier of a meter's price: `[METER:]UP_TO=UNIT`, `UP_TO=UNIT+FLAT` or `UP_TO=+FLAT`, in cents with up to 12
    /// decimal places. `1000=0.5` means half a cent a unit if the month's total is at most 1,000. The last tier of a
    /// meter is `inf=...`. Repeat the flag for each tier.
    #[arg(long = "tier", required = true, value_name = "TIER")]
    pub tiers: Vec<MeterTier>,

    /// The plan of the prices. Run the command again for other plans of the same product.
    #[arg(long, default_value = "standard", value_parser = plan)]
    pub plan: String,

    /// The currency of the prices: three letters.
    #[arg(long, default_value = "usd", value_parser = currency)]
    pub currency: String,

    /// Show what would be created, and create nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// The desired price of one meter.
#[derive(Clone, Debug)]
pub(super) struct DesiredPrice {
    pub(super) meter: Meter,
    pub(super) tiers: Vec<Tier>,
    pub(super) plan: String,
    pub(super) currency: String,
}

impl DesiredPrice {
    /// The id of the product: one product a meter, for all plans.
    pub(super) fn product_id(&self) -> String {
        format!("usage_{}", self.meter.event_name)
    }

    /// The lookup key. Names of meters and plans contain no colon, so keys are unique.
    pub(super) fn lookup_key(&self) -> String {
        format!("usage:{}:{}", self.meter.event_name, self.plan)
    }
}

/// The desired price of each meter.
pub(super) fn desired_prices(config: &SetupConfig) -> Result<Vec<DesiredPrice>, String> {
    let meters = config.meters.read()?;
    let only = match meters.all() {
        [only] => Some(&*only.name),
        _ => None,
    };
    for given in &config.tiers {
        let name = given.meter.as_deref().or(only).ok_or_else(|| {
            format!(
                "the tier {} does not name its meter; write METER:{}",
                given.tier, given.tier
            )
        })?;
        meters.find(name).ok_or_else(|| {
            format!(
                "the tier {} names meter {}, which is not configured",
                given.tier,
                quoted(name)
            )
        })?;
    }
    meters
        .all()
        .iter()
        .map(|meter| {
            let tiers: Vec<Tier> = config
                .tiers
                .iter()
                .filter(|given| given.meter.as_deref().or(only) == Some(&*meter.name))
                .map(|given| given.tier.clone())
                .collect();
            check_tiers(&meter.name, &tiers)?;
            Ok(DesiredPrice {
                meter: meter.clone(),
                tiers,
                plan: config.plan.clone(),
                currency: config.currency.clone(),
            })
        })
        .collect()
}

fn plan(text: &str) -> Result<String, String> {
    const MAX_PLAN_CHARS: usize = 40;
    let fits = (1..=MAX_PLAN_CHARS).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    if fits {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "a plan is 1 to {MAX_PLAN_CHARS} characters of A-Z a-z 0-9 _ - ."
        ))
    }
}

fn currency(text: &str) -> Result<String, String> {
    let currency = text.to_ascii_lowercase();
    if currency.len() == 3 && currency.bytes().all(|byte| byte.is_ascii_lowercase()) {
        Ok(currency)
    } else {
        Err("a currency is three letters, such as usd".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        config: SetupConfig,
    }

    fn read(flags: &[&str]) -> Result<Vec<(String, usize)>, String> {
        let name = std::iter::once("setup");
        let cli = Cli::try_parse_from(name.chain(flags.iter().copied()))
            .map_err(|error| error.to_string())?;
        let desired = desired_prices(&cli.config)?;
        Ok(desired
            .into_iter()
            .map(|price| (price.lookup_key(), price.tiers.len()))
            .collect())
    }

    #[test]
    fn tiers_are_assigned_to_their_meters() {
        let one = ["--meters=calls", "--tier=10=5", "--tier=inf=1"];
        assert_eq!(
            read(&one).unwrap(),
            [("usage:calls:standard".to_owned(), 2)]
        );
        let two = [
            "--meters=calls,tokens=llm",
            "--plan=pro",
            "--tier=tokens:inf=1",
            "--tier=calls:inf=1",
        ];
        let keys = ["usage:calls:pro", "usage:llm:pro"];
        assert_eq!(read(&two).unwrap(), keys.map(|key| (key.to_owned(), 1)));
    }

    #[test]
    fn a_wrong_flag_is_refused_with_its_reason() {
        for (flags, said) in [
            (
                &["--meters=a,b", "--tier=inf=1"][..],
                "does not name its meter",
            ),
            (&["--meters=a,b", "--tier=a:inf=1"], "\"b\" has no tiers"),
            (&["--meters=a", "--tier=b:inf=1"], "not configured"),
            (&["--meters=a", "--tier=5=1"], "bound inf"),
            (&["--meters=a", "--tier=inf=1.2.3"], "1.2.3"),
            (
                &["--meters=a", "--tier=inf=1", "--currency=euro"],
                "three letters",
            ),
            (&["--meters=a", "--tier=inf=1", "--plan=a:b"], "a plan is"),
            (&["--meters=a"], "--tier"),
        ] {
            let error = read(flags).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
