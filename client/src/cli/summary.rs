//! `usagectl summary`

use super::{
    Streams,
    exit::Failure,
    output::{Format, Rows, print_json, rfc3339},
    period_args::PeriodArgs,
};
use crate::{AccountUsage, GetSummary, Granularity, Quantities, StateUsage, Summary, UsageClient};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only this meter
    #[arg(long, short)]
    meter: Option<String>,
    #[command(flatten)]
    period: PeriodArgs,
    /// Only accounts whose ids begin with this
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Split the period into points of this length
    #[arg(long, value_enum, default_value_t = By::Total)]
    by: By,
    /// How many accounts with the most usage to show of each meter
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=100))]
    top: u32,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    Total,
    Slot,
    Hour,
    Day,
    Month,
}

impl From<By> for Granularity {
    fn from(by: By) -> Self {
        match by {
            By::Total => Self::Total,
            By::Slot => Self::Slot,
            By::Hour => Self::Hour,
            By::Day => Self::Day,
            By::Month => Self::Month,
        }
    }
}

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let asked = arguments.period.read()?;
    let mut query = GetSummary::of(asked.start, asked.end)
        .granularity(arguments.by.into())
        .time_zone(arguments.period.time_zone.name())
        .top_accounts(arguments.top);
    if asked.is_rounded {
        query = query.round_outward();
    }
    if let Some(meter) = arguments.meter {
        query = query.meter(meter);
    }
    if let Some(prefix) = arguments.prefix {
        query = query.account_prefix(prefix);
    }
    let summary = client.get_summary(query).await?;
    if arguments.format.json {
        return print_json(&as_json(&summary), streams);
    }
    if arguments.format.csv {
        return by_state(&summary).print_csv(streams);
    }
    writeln!(
        streams.out,
        "all accounts from {} to {}: {} with usage",
        summary.period.start, summary.period.end, summary.accounts
    )?;
    totals(&summary).print_table(streams)?;
    for (title, rows) in [
        ("states", states(&summary)),
        ("accounts with the most usage", top(&summary)),
        ("points", points(&summary)),
    ] {
        if !rows.is_empty() {
            writeln!(streams.out, "\n{title}")?;
            rows.print_table(streams)?;
        }
    }
    Ok(())
}

fn totals(summary: &Summary) -> Rows {
    let mut rows = Rows::new(&[
        "meter",
        "unit",
        "accounts",
        "total",
        "reported",
        "not_yet_reported",
        "not_billable",
    ]);
    for meter in &summary.meters {
        let Quantities {
            total,
            reported,
            not_yet_reported,
            not_billable,
        } = meter.quantities;
        rows.push(vec![
            json!(meter.meter),
            json!(meter.unit),
            json!(meter.accounts),
            json!(total),
            json!(reported),
            json!(not_yet_reported),
            json!(not_billable),
        ]);
    }
    rows
}

fn states(summary: &Summary) -> Rows {
    let mut rows = Rows::new(&["meter", "state", "quantity"]);
    for meter in &summary.meters {
        for one in &meter.states {
            rows.push(vec![
                json!(meter.meter),
                json!(one.state.to_string()),
                json!(one.quantity),
            ]);
        }
    }
    rows
}

fn top(summary: &Summary) -> Rows {
    let mut rows = Rows::new(&["meter", "account_id", "quantity"]);
    for meter in &summary.meters {
        for one in &meter.top_accounts {
            rows.push(vec![
                json!(meter.meter),
                json!(one.account_id),
                json!(one.quantity),
            ]);
        }
    }
    rows
}

fn points(summary: &Summary) -> Rows {
    let mut rows = Rows::new(&["meter", "start", "end", "total"]);
    for meter in &summary.meters {
        for point in &meter.points {
            rows.push(vec![
                json!(meter.meter),
                rfc3339(point.period.start),
                rfc3339(point.period.end),
                json!(point.total),
            ]);
        }
    }
    rows
}

/// One row for each state in each point, or in the whole period if it is not split.
fn by_state(summary: &Summary) -> Rows {
    let mut rows = Rows::new(&["meter", "unit", "start", "end", "state", "quantity"]);
    for meter in &summary.meters {
        let whole = [(summary.period, &meter.states)];
        let points = meter.points.iter();
        let points: Vec<_> = points.map(|point| (point.period, &point.states)).collect();
        let parts = if summary.granularity == Granularity::Total {
            &whole
        } else {
            &points[..]
        };
        for (period, states) in parts {
            for one in *states {
                rows.push(vec![
                    json!(meter.meter),
                    json!(meter.unit),
                    rfc3339(period.start),
                    rfc3339(period.end),
                    json!(one.state.to_string()),
                    json!(one.quantity),
                ]);
            }
        }
    }
    rows
}

fn as_json(summary: &Summary) -> Value {
    let states = |states: &[StateUsage]| {
        let states = states.iter();
        Value::Object(
            states
                .map(|one| (one.state.to_string(), json!(one.quantity)))
                .collect::<Map<_, _>>(),
        )
    };
    let top = |top: &[AccountUsage]| -> Value {
        let top = top.iter();
        top.map(|one| json!({ "account_id": one.account_id, "quantity": one.quantity }))
            .collect()
    };
    let meters = summary.meters.iter().map(|meter| {
        let points = meter.points.iter().map(|point| {
            json!({
                "start": rfc3339(point.period.start),
                "end": rfc3339(point.period.end),
                "total": point.total,
                "states": states(&point.states),
            })
        });
        json!({
            "meter": meter.meter,
            "unit": meter.unit,
            "accounts": meter.accounts,
            "quantities": {
                "total": meter.quantities.total,
                "reported": meter.quantities.reported,
                "not_yet_reported": meter.quantities.not_yet_reported,
                "not_billable": meter.quantities.not_billable,
            },
            "states": states(&meter.states),
            "top_accounts": top(&meter.top_accounts),
            "points": points.collect::<Value>(),
        })
    });
    json!({
        "start": rfc3339(summary.period.start),
        "end": rfc3339(summary.period.end),
        "time_zone": summary.time_zone,
        "as_of": rfc3339(summary.as_of),
        "accounts": summary.accounts,
        "meters": meters.collect::<Value>(),
    })
}
