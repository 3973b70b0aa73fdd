//! The demo's figures, read back over the wire and laid side by side.

use anyhow::Context as _;
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use fake_stripe::Control;
use usage_client::{Get, Granularity, ListReports, Usage, UsageClient};

use super::{FREE, LINKED, METERS, invoices::invoiced, traffic::Hours};

/// More reports than the demo ever makes.
pub(super) const REPORTS_READ: usize = 10_000;

/// One account and meter: what each party says.
struct Row {
    account: &'static str,
    meter: &'static str,
    counted: i64,
    reported: i64,
    stripe: i64,
    invoiced: i64,
}

impl Row {
    /// Whether all parties say the same.
    fn agrees(&self) -> bool {
        [self.reported, self.stripe, self.invoiced] == [self.counted; 3]
    }
}

/// What each party says of every account.
pub(super) struct Totals {
    linked: Vec<Row>,
    free: i64,
}

async fn usage(
    client: &UsageClient,
    hours: Hours,
    account: &str,
    granularity: Granularity,
) -> anyhow::Result<Usage> {
    let get = Get::account(account)
        .period(hours.start(), hours.end())
        .granularity(granularity);
    client
        .get(get)
        .await
        .with_context(|| format!("cannot read the usage of {account}"))
}

fn counted(usage: &Usage, meter: &str) -> i64 {
    usage.meter(meter).map_or(0, |meter| meter.quantities.total)
}

/// Usage by hour, a column an account and meter.
pub(super) async fn usage_by_hour(client: &UsageClient, hours: Hours) -> anyhow::Result<Table> {
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
    align(&mut table, 1);
    Ok(table)
}

pub(super) fn new_table(head: Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(head);
    table
}

/// Aligns every column but the first few to the right.
pub(super) fn align(table: &mut Table, texts: usize) {
    for column in table.column_iter_mut().skip(texts) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

impl Totals {
    /// Asks Get, ListReports and the stand-in for Stripe.
    pub(super) async fn read(
        client: &UsageClient,
        control: &Control,
        hours: Hours,
    ) -> anyhow::Result<Self> {
        let held = control
            .totals()
            .await
            .context("cannot read what the stand-in holds")?;
        let charged = invoiced(control).await?;
        let mut linked = Vec::new();
        for (account, customer) in LINKED {
            let usage = usage(client, hours, account, Granularity::Total).await?;
            let filter = ListReports::new().account(account);
            let reports = client
                .list_all_reports(filter, REPORTS_READ)
                .await
                .context("cannot list reports")?;
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
                    stripe: held.get(&key).copied().unwrap_or(0),
                    invoiced: charged.get(&key).copied().unwrap_or(0),
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

    /// Whether all parties say the same of every account and meter.
    pub(super) fn agree(&self) -> bool {
        self.linked.iter().all(Row::agrees)
    }

    /// A row an account and meter.
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
        align(&mut table, 2);
        table
    }

    /// The figures of the linked accounts, and the free account's usage.
    pub(super) fn last_line(&self) -> String {
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
    fn one_figure_that_differs_in_one_row_is_seen() {
        let row = |[counted, reported, stripe, invoiced]: [i64; 4]| Row {
            account: "account",
            meter: "meter",
            counted,
            reported,
            stripe,
            invoiced,
        };
        let agree = |second| {
            let linked = vec![row([5; 4]), row(second)];
            Totals { linked, free: 9 }.agree()
        };
        assert!(agree([7; 4]));
        for differing in [[8, 7, 7, 7], [7, 8, 7, 7], [7, 7, 8, 7], [7, 7, 7, 6]] {
            assert!(!agree(differing), "{differing:?}");
        }
    }
}
