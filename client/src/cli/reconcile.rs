//! `usagectl reconcile`

use super::{
    Streams,
    comparison::{Comparison, Difference},
    exit::Failure,
    output::{Format, rfc3339},
    time_arg::{self, TimeArg},
};
use crate::{InvoiceComparison, Reconcile, ReconciledUsage, UsageClient};
use chrono_tz::Tz;
use clap::Args;
use serde_json::{Value, json};

/// Pages of accounts that are read; more need a smaller question.
const MAX_PAGES: usize = 10_000;

pub(super) const COLUMNS: [&str; 10] = [
    "account_id",
    "customer",
    "meter",
    "start",
    "end",
    "counted",
    "reported",
    "stripe_total",
    "invoiced",
    "difference_ids",
];

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only this account
    account: Option<String>,
    /// Billing periods that end after this time; by default the current ones
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse, requires = "end", allow_hyphen_values = true)]
    start: Option<TimeArg>,
    /// Billing periods that begin before this time
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse, requires = "start", allow_hyphen_values = true)]
    end: Option<TimeArg>,
    /// Only rows whose figures differ
    #[arg(long)]
    differing: bool,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let mut question = Reconcile::new();
    if let Some(account) = arguments.account {
        question = question.account(account);
    }
    if let (Some(start), Some(end)) = (arguments.start, arguments.end) {
        let edge = |arg: TimeArg| arg.in_zone(Tz::UTC).map_err(Failure::arguments);
        question = question.period(edge(start)?, edge(end)?);
    }
    let mut comparison = Comparison::new(&COLUMNS, arguments.differing);
    let mut token = None;
    for _ in 0..MAX_PAGES {
        let mut page = question.clone();
        if let Some(token) = token {
            page = page.page_token(token);
        }
        let page = client.reconcile(page).await?;
        for row in page.rows {
            let difference = if differs(&row) {
                Difference::Found
            } else {
                Difference::None
            };
            comparison.add(difference, cells(&row));
        }
        token = page.next_page_token;
        if token.is_none() {
            break;
        }
    }
    let told = |differing, compared| {
        format!(
            "{differing} of {compared} rows differ, perhaps because usage is still on its way; `usagectl reports --stuck` lists \
             reports that need a decision"
        )
    };
    comparison.end(arguments.format, streams, (token, "accounts"), told)
}

/// Whether a row has a figure that differs from the others, or one that is missing.
fn differs(row: &ReconciledUsage) -> bool {
    row.counted != row.reported
        || row.stripe_total != Ok(row.reported)
        || !row.waiting.is_empty()
        || row.invoices.iter().any(is_open)
}

/// Whether a comparison with invoices shows a difference that is not acknowledged.
fn is_open(one: &InvoiceComparison) -> bool {
    one.difference_id.is_some() && one.acknowledged.is_none()
}

/// The values of [`COLUMNS`].
pub(super) fn cells(row: &ReconciledUsage) -> Vec<Value> {
    let stripe_total = match &row.stripe_total {
        Ok(total) => json!(total),
        Err(reason) => json!(reason),
    };
    let open = row.invoices.iter().filter(|one| is_open(one));
    let open: Vec<&str> = open
        .filter_map(|one| one.difference_id.as_deref())
        .collect();
    let ids = (!open.is_empty()).then(|| open.join(" "));
    vec![
        json!(row.account_id),
        json!(row.stripe_customer),
        json!(row.meter),
        rfc3339(row.period.start),
        rfc3339(row.period.end),
        json!(row.counted),
        json!(row.reported),
        stripe_total,
        json!(invoiced(row)),
        json!(ids),
    ]
}

/// What invoices charge; none before they are final, or if one cannot be read.
fn invoiced(row: &ReconciledUsage) -> Option<i64> {
    let figures = row.invoices.iter().map(|one| one.invoiced);
    let figures: Option<Vec<i64>> = figures.collect();
    let figures = figures.filter(|figures| !figures.is_empty())?;
    Some(figures.into_iter().fold(0, i64::saturating_add))
}
