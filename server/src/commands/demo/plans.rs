//! What the demo's customers subscribe to: volume-tiered prices of both meters, and seats.

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::{Control, NewPrice, NewSubscription};

use super::{LINKED, METERS, traffic::Hours};

/// The prices of the first meter.
const BASIC: &str = "api_calls_basic";
pub(super) const PRO: &str = "api_calls_pro";
/// The price of the second meter.
const TOKENS: &str = "tokens";
/// Seats: a fee, paid ahead and never counted.
pub(super) const SEATS: &str = "seats";
/// How long before the first usage the periods began, so that their ends lie inside an hour.
const BEFORE: TimeDelta = TimeDelta::minutes(13);

/// Creates the Stripe meters and the prices.
pub(super) async fn create(control: &Control) -> anyhow::Result<()> {
    let mut meters = Vec::new();
    for (_, event_name) in METERS {
        let id = control
            .create_meter(event_name)
            .await
            .context("cannot create a meter")?;
        meters.push(id);
    }
    let [calls, tokens] = meters.as_slice() else {
        anyhow::bail!("the demo has {} meters instead of two", meters.len());
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
        control
            .create_price(&price)
            .await
            .context("cannot create a price")?;
    }
    Ok(())
}

/// Customers with subscriptions that have been running since a little before the demo's hours.
pub(super) async fn subscribe(control: &Control, hours: Hours) -> anyhow::Result<()> {
    let since = hours.start().checked_sub_signed(BEFORE);
    for (account, customer) in LINKED {
        control
            .create_customer(customer)
            .await
            .context("cannot create a customer")?;
        let id = format!("sub_{account}");
        create_subscription(control, customer, id, BASIC, since).await?;
    }
    Ok(())
}

/// Another subscription of the first customer, from now on; answers its id.
pub(super) async fn subscribe_again(control: &Control) -> anyhow::Result<String> {
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
) -> anyhow::Result<()> {
    let new = NewSubscription {
        id,
        customer: customer.to_owned(),
        prices: [calls, TOKENS, SEATS].map(str::to_owned).to_vec(),
        quantities: vec![None, None, Some(3)],
        anchor: anchor.map(|at| at.timestamp()),
        ..NewSubscription::default()
    };
    control
        .create_subscription(&new)
        .await
        .context("cannot create a subscription")?;
    Ok(())
}
