//! The prices and subscriptions of the demo: volume-tiered prices of both meters, and seats.

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::{Control, NewPrice, NewSubscription};

use super::{
    accounts::{LINKED, METERS},
    error::{DemoError, Result},
    traffic::Hours,
};

/// The prices of the first meter.
const BASIC: &str = "api_calls_basic";
pub(super) const PRO: &str = "api_calls_pro";
/// The price of the second meter.
const TOKENS: &str = "tokens";
/// Seats: a licensed price, paid in advance.
pub(super) const SEATS: &str = "seats";
/// How long before the first usage the periods started, so that they end inside an hour.
const LEAD: TimeDelta = TimeDelta::minutes(13);

/// Creates the Stripe meters and the prices.
pub(super) async fn create(control: &Control) -> Result<()> {
    let mut meters = Vec::new();
    for (_, event_name) in METERS {
        let id = control.create_meter(event_name).await?;
        meters.push(id);
    }
    let [calls, tokens] = meters.as_slice() else {
        return Err(DemoError::unexpected(format!(
            "the demo needs two meters and has {}",
            meters.len()
        )));
    };
    for price in [
        NewPrice::volume(
            BASIC,
            "prod_calls",
            calls,
            &[(Some(5_000), "0.5"), (None, "0.4")],
        ),
        NewPrice::volume(PRO, "prod_calls", calls, &[(None, "0.3")]),
        NewPrice::volume(TOKENS, "prod_tokens", tokens, &[(None, "0.02")]),
        NewPrice::licensed(SEATS, "prod_seats", "1500"),
    ] {
        control.create_price(&price).await?;
    }
    Ok(())
}

/// Creates customers with subscriptions that started shortly before the demo's usage.
pub(super) async fn subscribe(control: &Control, hours: Hours) -> Result<()> {
    let since = hours.start().checked_sub_signed(LEAD);
    for (account, customer) in LINKED {
        control.create_customer(customer).await?;
        let id = format!("sub_{account}");
        create_subscription(control, customer, id, BASIC, since).await?;
    }
    Ok(())
}

/// Creates another subscription of the first customer, from now on; returns its id.
pub(super) async fn subscribe_again(control: &Control) -> Result<String> {
    let (account, customer) = LINKED[0];
    let id = format!("sub_{account}-again");
    create_subscription(control, customer, id.clone(), PRO, None).await?;
    Ok(id)
}

async fn create_subscription(
    control: &Control,
    customer: &str,
    id: String,
    calls: &str,
    anchor: Option<DateTime<Utc>>,
) -> Result<()> {
    let new = NewSubscription {
        id,
        customer: customer.to_owned(),
        prices: [calls, TOKENS, SEATS].map(str::to_owned).to_vec(),
        quantities: vec![None, None, Some(3)],
        anchor: anchor.map(|at| at.timestamp()),
        ..NewSubscription::default()
    };
    control.create_subscription(&new).await?;
    Ok(())
}
