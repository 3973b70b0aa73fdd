//! `usagectl shadow`: the comparison of shadow mode, and the switch-over.

use super::{
    Streams,
    comparison::{Comparison, Difference},
    exit::Failure,
    output::{Format, Rows, print_json, rfc3339, rfc3339_or_null},
    time_arg::{self, TimeArg},
};
use crate::{CompareShadow, ShadowDay, ShadowFinding, ShadowPage, UsageClient};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// Pages of customers that are read; more need a smaller question.
const MAX_PAGES: usize = 10_000;

const COLUMNS: [&str; 9] = [
    "stripe_customer",
    "meter",
    "day",
    "counted",
    "stripe_total",
    "finding",
    "preliminary",
    "account_ids",
    "unlinked",
];

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare what was counted with what Stripe got, by customer, meter and day of UTC
    Compare(Compare),
    /// Name the moment from which on this service bills
    Switch(Switch),
}

#[derive(Debug, Args)]
struct Compare {
    /// From the day of this time; by default six days before the last one
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse, allow_hyphen_values = true)]
    start: Option<TimeArg>,
    /// Until the day before this time; by default today is the last one
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse, allow_hyphen_values = true)]
    end: Option<TimeArg>,
    /// Only this Stripe customer
    #[arg(long, value_name = "CUSTOMER")]
    customer: Option<String>,
    /// Only days that are not equal
    #[arg(long)]
    differing: bool,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
struct Switch {
    /// The moment, a full hour of UTC at least ten minutes ahead, such as 2026-12-01T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse)]
    at: TimeArg,
    /// Who requests it, kept for the record
    #[arg(long, value_name = "NAME", default_value = "usagectl")]
    requested_by: String,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    match arguments.command {
        Command::Compare(arguments) => compare(client, arguments, streams).await,
        Command::Switch(arguments) => switch(client, arguments, streams).await,
    }
}

async fn compare(
    client: &UsageClient,
    arguments: Compare,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let mut question = CompareShadow::new();
    let edge = |arg: TimeArg| arg.in_zone(Tz::UTC).map_err(Failure::arguments);
    if let Some(start) = arguments.start {
        question = question.from(edge(start)?);
    }
    if let Some(end) = arguments.end {
        question = question.until(edge(end)?);
    }
    if let Some(customer) = arguments.customer {
        question = question.stripe_customer(customer);
    }
    let mut comparison = Comparison::new(&COLUMNS, arguments.differing);
    let (mut token, mut unlinked_error) = (None::<String>, None);
    for number in 0..MAX_PAGES {
        let mut page = question.clone();
        if let Some(token) = &token {
            page = page.page_token(token);
        }
        let page = client.compare_shadow(page).await?;
        if number == 0 && !arguments.format.json && !arguments.format.csv {
            writeln!(streams.err, "{}", heading(&page))?;
        }
        for day in &page.days {
            let difference = match day.finding {
                ShadowFinding::Equal => Difference::None,
                _ if day.preliminary => Difference::Preliminary,
                _ => Difference::Found,
            };
            comparison.add(difference, cells(day));
        }
        unlinked_error = unlinked_error.or(page.unlinked_error);
        // Stripe did not answer: this page is the one to go on with.
        let is_same = token.is_some() && token == page.next_page_token;
        token = page.next_page_token;
        if token.is_none() || is_same {
            break;
        }
    }
    let told = |differing, compared| {
        format!("{differing} of {compared} days differ, without preliminary ones")
    };
    let ended = comparison.end(arguments.format, streams, (token, "customers"), told);
    let Some(why) = unlinked_error else {
        return ended;
    };
    let not_compared =
        format!("not all customers that no account is linked to were compared: {why}");
    if ended.is_ok() {
        return Err(Failure::Partial(not_compared));
    }
    writeln!(streams.err, "{not_compared}")?;
    ended
}

/// What is compared, and which side bills.
fn heading(page: &ShadowPage) -> String {
    let text = |at: DateTime<Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
    let side = match (page.shadow, page.bill_from) {
        (true, Some(at)) => format!(
            "another integration bills until {}, and then this service",
            text(at)
        ),
        (true, None) => "another integration bills".to_owned(),
        (false, Some(at)) => format!("this service bills since {}", text(at)),
        (false, None) => "this service bills".to_owned(),
    };
    format!("{} to {}: {side}", text(page.from), text(page.until))
}

/// The values of [`COLUMNS`].
fn cells(day: &ShadowDay) -> Vec<Value> {
    let stripe_total = match &day.stripe_total {
        Ok(total) => json!(total),
        Err(reason) => json!(reason),
    };
    vec![
        json!(day.stripe_customer),
        json!(day.meter),
        json!(day.day.format("%Y-%m-%d").to_string()),
        json!(day.counted),
        stripe_total,
        json!(day.finding.to_string()),
        json!(day.preliminary),
        json!(day.account_ids.join(" ")),
        json!(day.unlinked),
    ]
}

async fn switch(
    client: &UsageClient,
    arguments: Switch,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let at = arguments.at.in_zone(Tz::UTC).map_err(Failure::arguments)?;
    let named = client.switch_billing(at, arguments.requested_by).await?;
    if arguments.format.json {
        let former = rfc3339_or_null(named.former_bill_from);
        let named = json!({ "bill_from": rfc3339(named.bill_from), "former_bill_from": former });
        return print_json(&named, streams);
    }
    let mut rows = Rows::new(&["bill_from", "former_bill_from"]);
    rows.push(vec![
        rfc3339(named.bill_from),
        rfc3339_or_null(named.former_bill_from),
    ]);
    rows.print(arguments.format, streams)
}
