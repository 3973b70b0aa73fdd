//! `usage-server stripe setup`: creates the meter, the product and the volume price of each configured meter.
//!
//! First it reads and compares everything; one existing object that differs stops the command before any change. Then it
//! creates what is missing and reads again. Two runs at once, or a run after a crash, end with the same three objects,
//! because Stripe allows one active meter an event name, one product an id and one price a lookup key.

mod diff;
mod flags;
mod report;

pub(crate) use diff::meter_difference;
pub use flags::SetupConfig;
pub use report::{Outcome, SetupReport, Step};

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use self::{
    flags::{DesiredPrice, desired_prices},
    report::ExistingObjects,
};
use crate::{
    domain::tier::tiers_text,
    stripe::{
        Failure, Stripe,
        catalog::{BoundedList, CatalogMeter, NewPrice},
    },
};

/// How often Stripe's objects are read, after a creation or a request without an answer.
const MAX_ROUNDS: u32 = 6;
/// The first pause after a request without an answer; it doubles.
const MIN_BACKOFF: Duration = Duration::from_millis(250);

/// Why a set-up failed, in one line.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A setting is wrong; no request was sent.
    #[error("{0}")]
    Config(String),
    /// Stripe refused or did not answer. Created objects remain; the next run continues.
    #[error("cannot set up Stripe: {0}; fix this, then run it again")]
    Stripe(String),
}

/// Sets Stripe up, or shows what would be created.
///
/// # Errors
/// A setting is wrong, or Stripe refuses or does not answer.
pub async fn set_up(config: &SetupConfig) -> Result<SetupReport, SetupError> {
    let desired = desired_prices(config).map_err(SetupError::Config)?;
    let key = config.stripe.key().map_err(SetupError::Config)?;
    let key =
        key.ok_or_else(|| SetupError::Config("no Stripe key; set STRIPE_SECRET_KEY".to_owned()))?;
    let stripe = Stripe::new(&key, &config.stripe).map_err(SetupError::Config)?;
    let mut progress = Progress::default();
    let mut last_failure: Option<Failure> = None;
    for round in 0..MAX_ROUNDS {
        if last_failure.as_ref().is_some_and(Failure::is_undecided) {
            tokio::time::sleep(MIN_BACKOFF.saturating_mul(2_u32.saturating_pow(round))).await;
        }
        let existing = match read_existing(&stripe, &desired).await {
            Ok(existing) => existing,
            Err(failure) => {
                fail_if_final(&failure)?;
                last_failure = Some(failure);
                continue;
            }
        };
        let report = SetupReport {
            steps: diff::steps(&desired, &existing, &progress.created),
            dry_run: config.dry_run,
        };
        let is_done = !report.has(|outcome| *outcome == Outcome::Missing);
        if is_done || config.dry_run || !report.is_healthy() {
            return Ok(report);
        }
        last_failure = create_missing(&stripe, &desired, &existing, &mut progress)
            .await
            .err();
        // The first refusal may be an old answer that Stripe replays, or another run created the object: read again.
        if let Some(failure) = &last_failure
            && (progress.is_repeated || matches!(failure, Failure::Denied(_)))
        {
            fail_if_final(failure)?;
        }
    }
    Err(SetupError::Stripe(last_failure.map_or_else(
        || "Stripe does not list what was created".to_owned(),
        |failure| failure.message().to_owned(),
    )))
}

/// What a run has attempted and created.
#[derive(Debug, Default)]
struct Progress {
    attempted: Vec<(String, &'static str)>,
    /// Whether the last attempt was a repetition.
    is_repeated: bool,
    created: Vec<(String, &'static str)>,
}

impl Progress {
    /// The idempotency key of an attempt to create an object. The first key is derived from the object, so that two
    /// runs at once send the same request. Stripe replays a key's first answer for a day, even a 500, so later attempts
    /// use new keys.
    fn request_key(&mut self, meter: &str, object: &'static str, parts: &[&str]) -> String {
        let what = (meter.to_owned(), object);
        self.is_repeated = self.attempted.contains(&what);
        if self.is_repeated {
            return format!("usage-setup-{}", Uuid::now_v7());
        }
        self.attempted.push(what);
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

/// Fails on everything but a request without an answer.
fn fail_if_final(failure: &Failure) -> Result<(), SetupError> {
    if failure.is_undecided() {
        Ok(())
    } else {
        Err(SetupError::Stripe(failure.message().to_owned()))
    }
}

async fn read_existing(
    stripe: &Stripe,
    desired: &[DesiredPrice],
) -> Result<Vec<ExistingObjects>, Failure> {
    let meters = stripe.list_meters().await?;
    let mut existing = Vec::new();
    for price in desired {
        existing.push(ExistingObjects {
            meter: find_meter(&meters, &price.meter.event_name)?,
            product: stripe.find_product(&price.product_id()).await?,
            price: stripe.find_price_by_key(&price.lookup_key()).await?,
        });
    }
    Ok(existing)
}

/// The active meter of an event name, else an archived one.
fn find_meter(
    meters: &BoundedList<CatalogMeter>,
    event_name: &str,
) -> Result<Option<CatalogMeter>, Failure> {
    let mut named = meters
        .items
        .iter()
        .filter(|meter| meter.event_name == event_name);
    let active = named.clone().find(|meter| meter.is_active);
    let found = active.or_else(|| named.next());
    if found.is_none() && !meters.is_complete {
        return Err(Failure::Refused(format!(
            "the account has more than {} meters, and {event_name:?} is not among the newest {}",
            meters.items.len(),
            meters.items.len()
        )));
    }
    Ok(found.cloned())
}

/// Creates what can be created now. A price needs the id of its meter, so it may follow in the next round.
async fn create_missing(
    stripe: &Stripe,
    desired: &[DesiredPrice],
    existing: &[ExistingObjects],
    progress: &mut Progress,
) -> Result<(), Failure> {
    for (desired, existing) in desired.iter().zip(existing) {
        let (event, name) = (&*desired.meter.event_name, &*desired.meter.name);
        if existing.meter.is_none() {
            let key = progress.request_key(name, "meter", &[event]);
            stripe.create_meter(event, &key).await?;
            progress.created.push((name.to_owned(), "meter"));
        }
        if existing.product.is_none() {
            let (id, unit) = (desired.product_id(), &*desired.meter.unit);
            let key = progress.request_key(name, "product", &[&id, name, unit]);
            stripe.create_product(&id, name, unit, &key).await?;
            progress.created.push((name.to_owned(), "product"));
        }
        if let (Some(meter), Some(product), None) =
            (&existing.meter, &existing.product, &existing.price)
        {
            let nickname = format!("{name}, {}", desired.plan);
            let new = NewPrice {
                lookup_key: &desired.lookup_key(),
                product: &product.id,
                meter: &meter.id,
                currency: &desired.currency,
                nickname: &nickname,
                tiers: &desired.tiers,
            };
            let tiers = tiers_text(&desired.tiers);
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
