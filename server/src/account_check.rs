//! Whether the key belongs to the Stripe account that usage is reported to.
//!
//! The account is recognised by one of its meters: see [`StripeAccount`].

use crate::{
    domain::{
        meter::Meters,
        stripe_account::{StripeAccount, mode_name},
    },
    stripe::{Failure, Stripe},
};

/// The command that goes on with another account.
pub(crate) const ADOPT: &str = "usage-server adopt-stripe-account";

/// Compares the key's account with the remembered one. Returns why it is another one, if so.
pub(crate) async fn find_difference(
    stripe: &Stripe,
    remembered: &StripeAccount,
) -> Result<Option<String>, Failure> {
    if stripe.find_meter_mode(&remembered.meter).await?.is_some() {
        return Ok(None);
    }
    let current = describe_key(stripe).await;
    Ok(Some(format!(
        "usage was reported to {remembered}, and STRIPE_SECRET_KEY belongs to {current}: nothing is sent; set a key of the former, or run `{ADOPT}`"
    )))
}

/// The key's account, as far as Stripe shows it.
async fn describe_key(stripe: &Stripe) -> String {
    let mode = stripe.is_live_key().map_or("another", mode_name);
    match stripe.find_account_id().await {
        Some(id) => format!("Stripe account {id} in {mode} mode"),
        None => format!("another account or mode ({mode} mode)"),
    }
}

/// The key's account, by the first configured meter that it has; `None` if it has none of them.
pub(crate) async fn identify(
    stripe: &Stripe,
    meters: &Meters,
) -> Result<Option<StripeAccount>, Failure> {
    for meter in meters.all() {
        let id = match stripe.meter_id(&meter.event_name).await {
            Ok(id) => id,
            Err(Failure::NoMeter(_)) => continue,
            Err(failure) => return Err(failure),
        };
        if let Some(is_live) = stripe.find_meter_mode(&id).await? {
            return Ok(Some(StripeAccount {
                account: stripe.find_account_id().await,
                meter: id,
                is_live,
            }));
        }
    }
    Ok(None)
}
