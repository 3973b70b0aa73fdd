//! `usagectl accounts show`: everything of one account on one screen.

use super::rows;
use crate::{
    Account, BillingPeriod, Error, ErrorKind, Get, InvoiceState, ListAccounts, ListReports,
    Reconcile, ReconciledUsage, ReportPage, Subscription, Usage, UsageClient,
    cli::{
        Streams,
        exit::Failure,
        get,
        output::{Rows, rfc3339, rfc3339_or_null},
        reconcile, reports,
    },
};
use chrono::{DateTime, Days, TimeDelta, Utc};
use clap::Args;
use serde_json::{Map, Value, json};

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The account, or the Stripe customer that it is linked to, cus_...
    account: String,
    /// The newest reports to show
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    reports: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Billing periods that are shown, the newest ones.
const MAX_PERIODS: usize = 20;
/// The time whose billing periods are compared: the current one and the last three months'.
const COMPARED: Days = Days::new(100);
const CUSTOMER_PREFIX: &str = "cus_";

pub(super) async fn run(
    client: &UsageClient,
    show: Show,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let account = match client.get_account(&show.account).await {
        Ok(account) => Some(account),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            account_of_customer(client, &show.account).await?
        }
        Err(error) => return Err(error.into()),
    };
    let id = account
        .as_ref()
        .map_or(&show.account, |one| &one.account_id);
    let of_account = ListReports::new().account(id);
    let limit = usize::try_from(show.reports).unwrap_or(usize::MAX);
    let page = client.list_all_reports(of_account, limit).await?;
    if account.is_none() && page.reports.is_empty() && page.archives.is_empty() {
        let nothing = format!("nothing was ever counted for {id:?}, and it is not linked");
        return Err(Failure::Local(nothing));
    }
    let usage = client.get(Get::account(id)).await?;
    // A server without a Stripe key compares nothing, and Stripe may take longer than the deadline.
    let compared = match compared(client, id, usage.as_of).await {
        Ok(compared) => compared,
        Err(error) => {
            writeln!(
                streams.err,
                "reconciliation and invoice lines are not shown: {error}"
            )?;
            Vec::new()
        }
    };
    let sections = sections(account, &usage, &compared, &page);
    if show.json {
        let sections = sections.into_iter();
        let object = sections.map(|(name, rows)| (name.to_owned(), rows.json()));
        return crate::cli::output::print_json(
            &Value::Object(object.collect::<Map<_, _>>()),
            streams,
        );
    }
    for (name, rows) in sections {
        writeln!(streams.out, "\n{}", name.replace('_', " "))?;
        if rows.is_empty() {
            writeln!(streams.out, "none")?;
        } else {
            rows.print_table(streams)?;
        }
    }
    Ok(())
}

/// The account that is linked to a customer; none if the text is no customer's, or no account is linked to it.
async fn account_of_customer(client: &UsageClient, text: &str) -> Result<Option<Account>, Failure> {
    if !text.starts_with(CUSTOMER_PREFIX) {
        return Ok(None);
    }
    let page = client
        .list_accounts(ListAccounts::new().customer(text))
        .await;
    match page {
        Ok(page) => Ok(page.accounts.into_iter().next()),
        // A key that is limited to accounts may not look customers up. An account can be named like this, too.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The comparison of the last billing periods. A key that is limited to the account may ask for it.
async fn compared(
    client: &UsageClient,
    account: &str,
    now: DateTime<Utc>,
) -> Result<Vec<ReconciledUsage>, Error> {
    let since = now.checked_sub_days(COMPARED).unwrap_or(now);
    let until = now.checked_add_signed(TimeDelta::seconds(1)).unwrap_or(now);
    let question = Reconcile::new().account(account).period(since, until);
    let page = client.reconcile(question).await?;
    Ok(page.rows)
}

fn sections(
    account: Option<Account>,
    usage: &Usage,
    compared: &[ReconciledUsage],
    page: &ReportPage,
) -> Vec<(&'static str, Rows)> {
    let subscription = account.as_ref().and_then(|one| one.subscription.clone());
    let mut decisions = Rows::new(&["report", "decided_at", "action", "from", "reason", "by"]);
    for report in &page.reports {
        for one in &report.decisions {
            decisions.push(vec![
                json!(report.id),
                rfc3339(one.decided_at),
                json!(one.action.to_string()),
                json!(one.from_state.to_string()),
                json!(one.reason),
                json!(one.requested_by),
            ]);
        }
    }
    let mut lines = Rows::new(&[
        "item", "price", "start", "end", "finding", "reported", "invoiced", "invoices",
    ]);
    for one in compared.iter().flat_map(|row| &row.invoices) {
        let invoices: Vec<&str> = one.invoices.iter().map(|one| one.id.as_str()).collect();
        lines.push(vec![
            json!(one.item),
            json!(one.price),
            rfc3339(one.period.start),
            rfc3339(one.period.end),
            json!(one.finding.to_string()),
            json!(one.reported),
            json!(one.invoiced),
            json!(invoices.join(" ")),
        ]);
    }
    let mut figures = Rows::new(&reconcile::COLUMNS);
    for row in compared {
        figures.push(reconcile::cells(row));
    }
    let mut reports = Rows::new(&reports::COLUMNS);
    for report in &page.reports {
        reports.push(reports::row(report));
    }
    vec![
        ("account", rows(account)),
        ("subscription", subscription_rows(subscription.as_ref())),
        ("billing_periods", period_rows(subscription.as_ref())),
        ("usage", get::totals(usage)),
        ("reconciliation", figures),
        ("invoice_lines", lines),
        ("reports", reports),
        ("decisions", decisions),
    ]
}

fn subscription_rows(subscription: Option<&Subscription>) -> Rows {
    let mut rows = Rows::new(&[
        "id",
        "status",
        "billing_mode",
        "cancel_at",
        "ended_at",
        "synced_at",
    ]);
    if let Some(one) = subscription {
        rows.push(vec![
            json!(one.id),
            json!(one.status),
            json!(one.billing_mode),
            rfc3339_or_null(one.cancel_at),
            rfc3339_or_null(one.ended_at),
            rfc3339_or_null(one.synced_at),
        ]);
    }
    rows
}

fn period_rows(subscription: Option<&Subscription>) -> Rows {
    let mut rows = Rows::new(&[
        "meter",
        "start",
        "end",
        "price",
        "item",
        "invoice",
        "invoice_state",
    ]);
    let periods = subscription.map_or(&[][..], |one| &one.periods);
    for BillingPeriod {
        item,
        price,
        meter,
        period,
        invoice,
        invoice_state,
    } in periods.iter().take(MAX_PERIODS)
    {
        rows.push(vec![
            json!(meter),
            rfc3339(period.start),
            rfc3339(period.end),
            json!(price),
            json!(item),
            json!(invoice),
            json!(match invoice_state {
                InvoiceState::Draft => "draft",
                InvoiceState::Final => "final",
                InvoiceState::Unknown | InvoiceState::Unrecognised(_) => "unknown",
            }),
        ]);
    }
    rows
}
