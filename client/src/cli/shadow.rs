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

/// Reasons why pages lack customers that are named.
const MAX_REASONS: usize = 20;

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
    let (mut token, mut incomplete) = (None::<String>, Incomplete::default());
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
        if let Some(why) = page.unlinked_error {
            incomplete.add(why);
        }
        token = page.next_page_token;
        if token.is_none() {
            break;
        }
    }
    let told = |differing, compared| {
        format!("{differing} of {compared} days differ, without preliminary ones")
    };
    let ended = comparison.end(arguments.format, streams, (token, "customers"), told);
    let Some(not_compared) = incomplete.told() else {
        return ended;
    };
    if ended.is_ok() {
        return Err(Failure::Partial(not_compared));
    }
    writeln!(streams.err, "{not_compared}")?;
    ended
}

/// Pages that lack customers, and why.
#[derive(Debug, Default)]
struct Incomplete {
    pages: usize,
    /// Each once, up to a limit.
    reasons: Vec<String>,
    /// Whether there are more reasons.
    has_more: bool,
}

impl Incomplete {
    /// Adds a page that says why.
    fn add(&mut self, why: String) {
        self.pages = self.pages.saturating_add(1);
        if self.reasons.contains(&why) {
            return;
        }
        if self.reasons.len() < MAX_REASONS {
            self.reasons.push(why);
        } else {
            self.has_more = true;
        }
    }

    /// What is said of them; none if there are none.
    fn told(&self) -> Option<String> {
        let pages = match self.pages {
            0 => return None,
            1 => String::new(),
            pages => format!(" (on {pages} pages)"),
        };
        let reasons = self.reasons.join("; ");
        let more = if self.has_more { "; and others" } else { "" };
        Some(format!(
            "not all customers that no account is linked to were compared{pages}: {reasons}{more}"
        ))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_of_incomplete_pages_is_told_once() {
        let mut incomplete = Incomplete::default();
        assert_eq!(incomplete.told(), None);
        incomplete.add("sub_1 cannot be read".to_owned());
        let first =
            "not all customers that no account is linked to were compared: sub_1 cannot be read";
        assert_eq!(incomplete.told().as_deref(), Some(first));
        for why in ["Stripe answered 500", "sub_1 cannot be read"] {
            incomplete.add(why.to_owned());
        }
        let told = incomplete.told().unwrap();
        assert!(
            told.ends_with("compared (on 3 pages): sub_1 cannot be read; Stripe answered 500"),
            "{told}"
        );
        for number in 0..MAX_REASONS {
            incomplete.add(number.to_string());
        }
        let told = incomplete.told().unwrap();
        assert!(told.ends_with("; 17; and others"), "{told}");
    }
}
