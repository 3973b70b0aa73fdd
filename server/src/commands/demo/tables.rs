//! The demo's figures, read from the service and the fake Stripe, as tables.

use comfy_table::Table;
use fake_stripe::Control;
use usage_client::{Get, Granularity, ListReports, Usage, UsageClient};

use super::{
    accounts::{FREE, LINKED, METERS},
    error::Result,
    invoices::invoiced,
    new_table::{align_right, new_table},
    traffic::Hours,
};

/// More reports than the demo creates.
pub(super) const MAX_REPORTS: usize = 10_000;

/// The figures of one account and meter.
struct Row {
    account: &'static str,
    meter: &'static str,
    counted: i64,
    reported: i64,
    stripe: i64,
    invoiced: i64,
}

impl Row {
    /// Whether all figures are equal.
    fn is_equal(&self) -> bool {
        [self.reported, self.stripe, self.invoiced] == [self.counted; 3]
    }
}

/// The figures of all accounts.
pub(super) struct Totals {
    linked: Vec<Row>,
    free: i64,
}

async fn usage(
    client: &UsageClient,
    hours: Hours,
    account: &str,
    granularity: Granularity,
) -> Result<Usage> {
    let get = Get::account(account)
        .period(hours.start(), hours.end())
        .granularity(granularity);
    Ok(client.get(get).await?)
}

fn counted(usage: &Usage, meter: &str) -> i64 {
    usage.meter(meter).map_or(0, |meter| meter.quantities.total)
}

/// Usage by hour, one column for each account and meter.
pub(super) async fn usage_by_hour(client: &UsageClient, hours: Hours) -> Result<Table> {
    let accounts = LINKED.iter().map(|(account, _)| *account).chain([FREE]);
    let mut head = vec!["hour (UTC)".to_owned()];
    let mut columns = Vec::new();
    for account in accounts {
        let usage = usage(client, hours, account, Granularity::Hour).await?;
        for meter in usage.meters {
            head.push(format!("{account}\n{}", meter.meter));
            columns.push(meter.points);
        }
    }
    let mut table = new_table(head);
    for (row, first) in columns.first().into_iter().flatten().enumerate() {
        let mut cells = vec![first.period.start.format("%m-%d %H:%M").to_string()];
        cells.extend(columns.iter().map(|points| {
            points
                .get(row)
                .map(|point| point.quantities.total.to_string())
                .unwrap_or_default()
        }));
        table.add_row(cells);
    }
    align_right(&mut table, 1);
    Ok(table)
}

impl Totals {
    /// Reads Get, ListReports and the fake Stripe.
    pub(super) async fn read(
        client: &UsageClient,
        control: &Control,
        hours: Hours,
    ) -> Result<Self> {
        let stripe_totals = control.totals().await?;
        let invoiced = invoiced(control).await?;
        let mut linked = Vec::new();
        for (account, customer) in LINKED {
            let usage = usage(client, hours, account, Granularity::Total).await?;
            let filter = ListReports::new().account(account);
            let reports = client.list_all_reports(filter, MAX_REPORTS).await?;
            for (meter, event_name) in METERS {
                let reported = reports
                    .reports
                    .iter()
                    .filter(|report| report.reported && report.meter == meter);
                let key = (customer.to_owned(), event_name.to_owned());
                linked.push(Row {
                    account,
                    meter,
                    counted: counted(&usage, meter),
                    reported: reported.fold(0, |sum, report| sum.saturating_add(report.quantity)),
                    stripe: stripe_totals.get(&key).copied().unwrap_or(0),
                    invoiced: invoiced.get(&key).copied().unwrap_or(0),
                });
            }
        }
        let usage = usage(client, hours, FREE, Granularity::Total).await?;
        let free = METERS.iter().fold(0, |sum: i64, (meter, _)| {
            sum.saturating_add(counted(&usage, meter))
        });
        Ok(Self { linked, free })
    }

    fn sum(&self, part: impl Fn(&Row) -> i64) -> i64 {
        self.linked
            .iter()
            .fold(0, |sum: i64, row| sum.saturating_add(part(row)))
    }

    /// Whether the figures of every account and meter are equal.
    pub(super) fn are_equal(&self) -> bool {
        self.linked.iter().all(Row::is_equal)
    }

    /// One row for each account and meter.
    pub(super) fn table(&self) -> Table {
        let head = [
            "account",
            "meter",
            "counted (Get)",
            "reported (ListReports)",
            "Stripe",
            "invoiced",
        ];
        let mut table = new_table(head.map(str::to_owned).to_vec());
        for row in &self.linked {
            let figures = [row.counted, row.reported, row.stripe, row.invoiced]
                .map(|figure| figure.to_string());
            table.add_row(
                [row.account.to_owned(), row.meter.to_owned()]
                    .into_iter()
                    .chain(figures),
            );
        }
        table.add_row([
            FREE,
            "all",
            &self.free.to_string(),
            "never",
            "never",
            "never",
        ]);
        align_right(&mut table, 2);
        table
    }

    /// The sums of the linked accounts, and the free account's usage, for scripts.
    pub(super) fn summary_line(&self) -> String {
        format!(
            "demo: counted={} reported={} stripe={} free={} invoiced={}",
            self.sum(|row| row.counted),
            self.sum(|row| row.reported),
            self.sum(|row| row.stripe),
            self.free,
            self.sum(|row| row.invoiced)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_different_figure_in_one_row_is_detected() {
        let row = |[counted, reported, stripe, invoiced]: [i64; 4]| Row {
            account: "account",
            meter: "meter",
            counted,
            reported,
            stripe,
            invoiced,
        };
        let are_equal = |second| {
            let linked = vec![row([5; 4]), row(second)];
            Totals { linked, free: 9 }.are_equal()
        };
        assert!(are_equal([7; 4]));
        for differing in [[8, 7, 7, 7], [7, 8, 7, 7], [7, 7, 8, 7], [7, 7, 7, 6]] {
            assert!(!are_equal(differing), "{differing:?}");
        }
    }
}
