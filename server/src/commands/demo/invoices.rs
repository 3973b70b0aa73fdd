//! The lines of final invoices, as the stand-in for Stripe holds them, beside the usage that `Get` shows for what
//! they charge.

use std::collections::{BTreeMap, HashSet};

use anyhow::Context as _;
use chrono::DateTime;
use comfy_table::Table;
use fake_stripe::{Control, InvoiceLineSnapshot, InvoiceSnapshot};
use usage_client::{Get, UsageClient};

use super::{
    LINKED, METERS,
    tables::{align, new_table},
};

/// The invoices that the reader has not seen yet.
#[derive(Default)]
pub(super) struct Invoices {
    shown: HashSet<String>,
}

impl Invoices {
    /// A row a line of each invoice that became final since the last time, and one of what it asks for.
    pub(super) async fn fresh(
        &mut self,
        client: &UsageClient,
        control: &Control,
    ) -> anyhow::Result<Table> {
        let head = ["account", "line", "for (UTC)", "counted", "invoiced", "USD"];
        let mut table = new_table(head.map(str::to_owned).to_vec());
        for invoice in finals(control).await? {
            let owner = LINKED
                .iter()
                .find(|(_, customer)| *customer == invoice.customer);
            let Some((account, _)) = owner else { continue };
            if !self.shown.insert(invoice.id.clone()) {
                continue;
            }
            for line in &invoice.lines {
                let (counted, invoiced) = match counted(client, account, line).await? {
                    Some(counted) => (counted.to_string(), line.quantity.to_string()),
                    None => (String::new(), String::new()),
                };
                let span = format!(
                    "{} / {}",
                    moment(line.period_start),
                    moment(line.period_end)
                );
                let cells = [
                    (*account).to_owned(),
                    name(line),
                    span,
                    counted,
                    invoiced,
                    dollars(line.amount),
                ];
                table.add_row(cells);
            }
            table.add_row([account, "due", "", "", "", &dollars(invoice.amount_due)]);
        }
        align(&mut table, 3);
        Ok(table)
    }
}

/// The usage on final invoices, by customer and event name.
pub(super) async fn invoiced(control: &Control) -> anyhow::Result<BTreeMap<(String, String), i64>> {
    let mut sums = BTreeMap::new();
    for invoice in finals(control).await? {
        for line in invoice.lines {
            if let Some(event_name) = line.event_name {
                let sum: &mut i64 = sums
                    .entry((invoice.customer.clone(), event_name))
                    .or_default();
                *sum = sum.saturating_add(line.quantity);
            }
        }
    }
    Ok(sums)
}

async fn finals(control: &Control) -> anyhow::Result<Vec<InvoiceSnapshot>> {
    let mut invoices = control
        .invoices()
        .await
        .context("cannot read the invoices of the stand-in")?;
    invoices.retain(|invoice| invoice.finalized_at.is_some());
    Ok(invoices)
}

/// What the service counted in the billing period that a line charges; none where the line is a fee.
async fn counted(
    client: &UsageClient,
    account: &str,
    line: &InvoiceLineSnapshot,
) -> anyhow::Result<Option<i64>> {
    let Some(event_name) = line.event_name.as_deref() else {
        return Ok(None);
    };
    let (meter, _) = METERS
        .iter()
        .find(|(_, event)| *event == event_name)
        .with_context(|| format!("an invoice charges for {event_name}, which is not counted"))?;
    let known = client
        .get_account(account)
        .await
        .context("cannot read an account")?;
    // Stripe's own item begins a moment after the boundary that was asked for.
    let period = known
        .subscription
        .into_iter()
        .flat_map(|subscription| subscription.periods)
        .filter(|period| period.item == line.item)
        .map(|period| period.period)
        .find(|period| {
            (period.start.timestamp()..period.end.timestamp()).contains(&line.period_start)
        })
        .with_context(|| format!("no billing period of {account} is known for an invoice line"))?;
    let get = Get::account(account)
        .meter(*meter)
        .period(period.start, period.end);
    let usage = client
        .get(get)
        .await
        .with_context(|| format!("cannot read the usage of {account}"))?;
    Ok(usage.meter(meter).map(|meter| meter.quantities.total))
}

/// The price, whose id is a name here.
fn name(line: &InvoiceLineSnapshot) -> String {
    match (line.event_name.is_some(), line.amount < 0) {
        (true, _) => line.price.clone(),
        (false, false) => format!("{} x {}", line.quantity, line.price),
        (false, true) => format!("{} (credit)", line.price),
    }
}

fn moment(secs: i64) -> String {
    DateTime::from_timestamp_secs(secs)
        .unwrap_or_default()
        .format("%m-%d %H:%M:%S")
        .to_string()
}

/// An amount of cents, as it is written.
fn dollars(cents: i64) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    let cents = cents.unsigned_abs();
    format!(
        "{sign}{}.{:02}",
        cents.div_euclid(100),
        cents.rem_euclid(100)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_two_decimals_and_their_sign() {
        let written = [0, 5, 1_999, -5, -150_000].map(dollars);
        assert_eq!(written, ["0.00", "0.05", "19.99", "-0.05", "-1500.00"]);
    }
}
