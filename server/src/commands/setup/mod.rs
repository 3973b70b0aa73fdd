//! `usage-server stripe setup`: the meter, the product and the volume price of each configured meter.
//!
//! First everything is looked at and judged; what is there and not as asked stops the whole, and nothing
//! is changed. Then what is missing is created, and looked at again: two runs at once, and one that
//! crashed halfway, end with the same three objects. Stripe itself keeps each single: one active meter an
//! event name, one product an id, one price a lookup key.

mod diff;
mod flags;

pub(crate) use diff::meter_fault;
pub use flags::SetupConfig;

use std::{fmt, time::Duration};

use comfy_table::{Table, presets::NOTHING};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use self::flags::{DesiredPrice, wanted};
use crate::{
    domain::tier::tiers_text,
    stripe::{
        Failure, Stripe,
        catalog::{CatalogMeter, CatalogPrice, CatalogProduct, Listed, NewPrice},
    },
};

/// How often it is looked again after something was created or an answer stayed out.
const ROUNDS: u32 = 6;
/// The pause after an answer that stayed out; it doubles.
const PAUSE: Duration = Duration::from_millis(250);

/// Why a set-up did not come to an end, in one line.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A setting is wrong; nothing was asked of Stripe.
    #[error("{0}")]
    Config(String),
    /// Stripe refused, or did not answer in time; what was created before stays, and the next run goes on.
    #[error("Stripe could not be set up: {0}; run it again once that is mended")]
    Stripe(String),
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was there, as asked.
    Found,
    /// It was created.
    Created,
    /// It is missing, and this was a dry run, or something else is wrong.
    Missing,
    /// It is there and not as asked.
    Wrong {
        /// What is not as asked.
        why: String,
        /// What to do about it.
        advice: String,
    },
}

/// One object of Stripe's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The configured meter's name.
    pub meter: String,
    /// `meter`, `product` or `price`.
    pub object: &'static str,
    /// Its id at Stripe, where it has one, else how it would be found.
    pub id: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// What a set-up found and did, in the order of the meters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetupReport {
    /// Object by object.
    pub steps: Vec<Step>,
    /// Whether nothing was to be changed.
    pub dry_run: bool,
}

impl SetupReport {
    /// Whether everything is, or could be made, as asked.
    pub fn is_healthy(&self) -> bool {
        !self.has(|outcome| matches!(outcome, Outcome::Wrong { .. }))
    }

    fn has(&self, is: impl Fn(&Outcome) -> bool) -> bool {
        self.steps.iter().any(|step| is(&step.outcome))
    }
}

impl fmt::Display for SetupReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_well = self.is_healthy();
        let mut table = Table::new();
        table.load_style(NOTHING);
        for step in &self.steps {
            let said = match (&step.outcome, is_well) {
                (Outcome::Found, _) => "found, as asked",
                (Outcome::Created, _) => "created",
                (Outcome::Missing, true) => "would be created",
                (Outcome::Missing, false) => "missing, not created",
                (Outcome::Wrong { .. }, _) => "NOT AS ASKED",
            };
            table.add_row([step.meter.as_str(), step.object, said, step.id.as_str()]);
        }
        writeln!(f, "{}", table.trim_fmt())?;
        for step in &self.steps {
            if let Outcome::Wrong { why, advice } = &step.outcome {
                writeln!(
                    f,
                    "{} {} of meter {}: {why}; {advice}",
                    step.object, step.id, step.meter
                )?;
            }
        }
        f.write_str(match (is_well, self.dry_run) {
            (false, _) => "Nothing was changed: mend the above first.",
            (true, true) if self.has(|outcome| *outcome == Outcome::Missing) => {
                "This was a dry run: nothing was changed."
            }
            (true, false) if self.has(|outcome| *outcome == Outcome::Created) => {
                "Stripe is set up."
            }
            (true, _) => "Nothing to change: everything is as asked.",
        })
    }
}

/// What Stripe has for one meter.
#[derive(Clone, Debug)]
struct Seen {
    meter: Option<CatalogMeter>,
    product: Option<CatalogProduct>,
    price: Option<CatalogPrice>,
}

/// Sets Stripe up, or shows what that would do.
///
/// # Errors
/// A wrong setting, or a Stripe that refuses or does not answer.
pub async fn set_up(config: &SetupConfig) -> Result<SetupReport, SetupError> {
    let wanted = wanted(config).map_err(SetupError::Config)?;
    let key = config.stripe.key().map_err(SetupError::Config)?;
    let key = key.ok_or_else(|| {
        SetupError::Config("there is no Stripe key; set STRIPE_SECRET_KEY".to_owned())
    })?;
    let stripe =
        Stripe::new(key, config.stripe.stripe_api_base.as_deref()).map_err(SetupError::Config)?;
    let mut progress = Progress::default();
    let mut last_failure: Option<Failure> = None;
    for round in 0..ROUNDS {
        if matches!(last_failure, Some(Failure::Unanswered(_))) {
            tokio::time::sleep(PAUSE.saturating_mul(2_u32.saturating_pow(round))).await;
        }
        let seen = match look(&stripe, &wanted).await {
            Ok(seen) => seen,
            Err(failure) => {
                give_up_on(&failure)?;
                last_failure = Some(failure);
                continue;
            }
        };
        let report = SetupReport {
            steps: diff::steps(&wanted, &seen, &progress.created),
            dry_run: config.dry_run,
        };
        let is_done = !report.has(|outcome| *outcome == Outcome::Missing);
        if is_done || config.dry_run || !report.is_healthy() {
            return Ok(report);
        }
        last_failure = create_missing(&stripe, &wanted, &seen, &mut progress)
            .await
            .err();
        // A first refusal may be an old one that Stripe replays, or another run's success.
        if let Some(failure) = &last_failure
            && (progress.is_repeated || matches!(failure, Failure::Denied(_)))
        {
            give_up_on(failure)?;
        }
    }
    Err(SetupError::Stripe(last_failure.map_or_else(
        || "what was created is not seen".to_owned(),
        |failure| failure.message().to_owned(),
    )))
}

/// What a run has tried and made.
#[derive(Debug, Default)]
struct Progress {
    tried: Vec<(String, &'static str)>,
    /// Whether the last attempt was not the first of its object.
    is_repeated: bool,
    created: Vec<(String, &'static str)>,
}

impl Progress {
    /// The idempotency key of an attempt to create something. The first one says what is created, so that
    /// two runs at once make one request of it. Stripe replays a key's first answer for a day, a 500
    /// included: later attempts have keys of their own.
    fn request_key(&mut self, meter: &str, object: &'static str, parts: &[&str]) -> String {
        let what = (meter.to_owned(), object);
        self.is_repeated = self.tried.contains(&what);
        if self.is_repeated {
            return format!("usage-setup-{}", Uuid::now_v7());
        }
        self.tried.push(what);
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        let hash = hash.finalize();
        let hash = hash
            .first_chunk()
            .map_or(0, |part| u128::from_be_bytes(*part));
        format!("usage-setup-{object}-{hash:032x}")
    }
}

/// Everything but an answer that stayed out is final.
fn give_up_on(failure: &Failure) -> Result<(), SetupError> {
    match failure {
        Failure::Unanswered(_) => Ok(()),
        other => Err(SetupError::Stripe(other.message().to_owned())),
    }
}

async fn look(stripe: &Stripe, wanted: &[DesiredPrice]) -> Result<Vec<Seen>, Failure> {
    let meters = stripe.list_meters().await?;
    let mut seen = Vec::new();
    for wanted in wanted {
        seen.push(Seen {
            meter: meter_of(&meters, &wanted.meter.event_name)?,
            product: stripe.find_product(&wanted.product_id()).await?,
            price: stripe.find_price_by_key(&wanted.lookup_key()).await?,
        });
    }
    Ok(seen)
}

/// The active meter of an event name, else an archived one.
fn meter_of(
    meters: &Listed<CatalogMeter>,
    event_name: &str,
) -> Result<Option<CatalogMeter>, Failure> {
    let mut named = meters
        .items
        .iter()
        .filter(|meter| meter.event_name == event_name);
    let active = named.clone().find(|meter| meter.is_active);
    let found = active.or_else(|| named.next());
    if found.is_none() && !meters.is_whole {
        return Err(Failure::Refused(format!(
            "the account has more than {} meters, and {event_name:?} is not among the newest",
            meters.items.len()
        )));
    }
    Ok(found.cloned())
}

/// Creates what can be created now: a price needs the meter's id and comes with the next look.
async fn create_missing(
    stripe: &Stripe,
    wanted: &[DesiredPrice],
    seen: &[Seen],
    progress: &mut Progress,
) -> Result<(), Failure> {
    for (wanted, seen) in wanted.iter().zip(seen) {
        let (event, name) = (&*wanted.meter.event_name, &*wanted.meter.name);
        if seen.meter.is_none() {
            let key = progress.request_key(name, "meter", &[event]);
            stripe.create_meter(event, &key).await?;
            progress.created.push((name.to_owned(), "meter"));
        }
        if seen.product.is_none() {
            let (id, unit) = (wanted.product_id(), &*wanted.meter.unit);
            let key = progress.request_key(name, "product", &[&id, name, unit]);
            stripe.create_product(&id, name, unit, &key).await?;
            progress.created.push((name.to_owned(), "product"));
        }
        if let (Some(meter), Some(product), None) = (&seen.meter, &seen.product, &seen.price) {
            let nickname = format!("{name}, {}", wanted.plan);
            let new = NewPrice {
                lookup_key: &wanted.lookup_key(),
                product: &product.id,
                meter: &meter.id,
                currency: &wanted.currency,
                nickname: &nickname,
                tiers: &wanted.tiers,
            };
            let tiers = tiers_text(&wanted.tiers);
            let parts = [
                new.lookup_key,
                new.product,
                new.meter,
                new.currency,
                new.nickname,
                &tiers,
            ];
            let key = progress.request_key(name, "price", &parts);
            stripe.create_price(&new, &key).await?;
            progress.created.push((name.to_owned(), "price"));
        }
    }
    Ok(())
}
