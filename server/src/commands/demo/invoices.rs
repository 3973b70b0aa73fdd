//! The lines of the fake Stripe's final invoices, compared with the usage that `Get` returns for the same period.

use std::collections::{BTreeMap, HashSet};

use chrono::DateTime;
use comfy_table::Table;
use fake_stripe::{Control, InvoiceLineSnapshot, InvoiceSnapshot};
use usage_client::{Get, UsageClient};

use super::{
    accounts::{LINKED, METERS},
    error::{DemoError, Result},
    new_table::{align_right, new_table},
};

/// Remembers which invoices were printed.
#[derive(Default)]
pub(super) struct Invoices {
    printed: HashSet<String>,
}

impl Invoices {
    /// The invoices that became final since the last call: one row for each line, and one for the amount due.
    pub(super) async fn new_invoices(
        &mut self,
        client: &UsageClient,
        control: &Control,
    ) -> Result<Table> {
        let head = ["account", "line", "for (UTC)", "counted", "invoiced", "USD"];
        let mut table = new_table(head.map(str::to_owned).to_vec());
        for invoice in final_invoices(control).await? {
            let owner = LINKED
                .iter()
                .find(|(_, customer)| *customer == invoice.customer);
            let Some((account, _)) = owner else { continue };
            if !self.printed.insert(invoice.id.clone()) {
                continue;
            }
            for line in &invoice.lines {
                let (counted, invoiced) = match counted(client, account, line).await? {
                    Some(counted) => (counted.to_string(), line.quantity.to_string()),
                    None => (String::new(), String::new()),
                };
                let span = format!("{} / {}", time(line.period_start), time(line.period_end));
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
        align_right(&mut table, 3);
        Ok(table)
    }
}

/// The usage on final invoices, by customer and event name.
pub(super) async fn invoiced(control: &Control) -> Result<BTreeMap<(String, String), i64>> {
    let mut sums = BTreeMap::new();
    for invoice in final_invoices(control).await? {
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

async fn final_invoices(control: &Control) -> Result<Vec<InvoiceSnapshot>> {
    let mut invoices = control.invoices().await?;
    invoices.retain(|invoice| invoice.finalized_at.is_some());
    Ok(invoices)
}

/// What the service counted in the billing period of a line; `None` for a fee.
async fn counted(
    client: &UsageClient,
    account: &str,
    line: &InvoiceLineSnapshot,
) -> Result<Option<i64>> {
    let Some(event_name) = line.event_name.as_deref() else {
        return Ok(None);
    };
    let (meter, _) = METERS
        .iter()
        .find(|(_, event)| *event == event_name)
        .ok_or_else(|| {
            DemoError::unexpected(format!("an invoice charges for unknown usage {event_name}"))
        })?;
    let known = client.get_account(account).await?;
    // Stripe's period starts in whole seconds, up to a second from the boundary.
    let period = known
        .subscription
        .into_iter()
        .flat_map(|subscription| subscription.periods)
        .filter(|period| period.item == line.item)
        .map(|period| period.period)
        .find(|period| {
            (period.start.timestamp()..period.end.timestamp()).contains(&line.period_start)
        })
        .ok_or_else(|| {
            DemoError::unexpected(format!(
                "an invoice line matches no billing period of {account}"
            ))
        })?;
    let get = Get::account(account)
        .meter(*meter)
        .period(period.start, period.end);
    let usage = client.get(get).await?;
    Ok(usage.meter(meter).map(|meter| meter.quantities.total))
}

/// The name of a line: the demo's price ids are names.
fn name(line: &InvoiceLineSnapshot) -> String {
    match (line.event_name.is_some(), line.amount < 0) {
        (true, _) => line.price.clone(),
        (false, false) => format!("{} x {}", line.quantity, line.price),
        (false, true) => format!("{} (credit)", line.price),
    }
}

fn time(secs: i64) -> String {
    DateTime::from_timestamp_secs(secs)
        .unwrap_or_default()
        .format("%m-%d %H:%M:%S")
        .to_string()
}

/// An amount in cents as dollars.
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
    fn amounts_have_two_decimals_and_a_sign() {
        let written = [0, 5, 1_999, -5, -150_000].map(dollars);
        assert_eq!(written, ["0.00", "0.05", "19.99", "-0.05", "-1500.00"]);
    }
}
