//! `usagectl get`

mod weeks;

use super::{
    Streams, chart,
    exit::Failure,
    output::{Format, Rows, grouped, print_json, rfc3339},
    period_args::next_hour,
    time_arg::{self, TimeArg, now},
};
use crate::{ErrorKind, Get, Granularity, ListReports, MeterUsage, Quantities, Usage, UsageClient};
use chrono::TimeDelta;
use chrono_tz::Tz;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

/// With more points than this, the automatic chart is a sparkline.
const MAX_BARS: usize = 62;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The account
    account: String,
    /// Only this meter
    #[arg(long, short)]
    meter: Option<String>,
    /// The start: 2026-03-01, 2026-03-01T12:00, 2026-03-01T12:00:00Z, -7d, today or yesterday; without it, the current
    /// billing period is shown. A time such as -7d is rounded as by --round
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse, allow_hyphen_values = true)]
    start: Option<TimeArg>,
    /// The end, exclusive; by default the next full hour
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse, requires = "start", allow_hyphen_values = true)]
    end: Option<TimeArg>,
    /// Move --start and --end outward to full slots, where usage can be split; the period that was used is shown
    #[arg(long, requires = "start")]
    round: bool,
    /// The last days or hours until now, such as 7d or 24h, rounded as by --round
    #[arg(long, value_name = "TIME", value_parser = time_arg::duration, conflicts_with = "start")]
    last: Option<TimeDelta>,
    /// Split the period into points of this length
    #[arg(long, value_enum, default_value_t = By::Total)]
    by: By,
    /// The time zone of days and months, such as Europe/Vienna
    #[arg(long, value_name = "ZONE", env = "USAGE_TIME_ZONE", default_value_t = Tz::UTC)]
    time_zone: Tz,
    /// The chart of the points
    #[arg(long, value_enum, default_value_t = Chart::Auto)]
    chart: Chart,
    /// The width of the output in characters
    #[arg(long, env = "COLUMNS", default_value = "80", value_parser = width)]
    width: usize,
    #[command(flatten)]
    format: Format,
}

/// Limits the width to 40 to 1,000 characters, whatever the terminal reports.
fn width(text: &str) -> Result<usize, String> {
    let width: usize = text.parse().map_err(|_| "it is not a number".to_owned())?;
    Ok(width.clamp(40, 1_000))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    Total,
    Slot,
    Hour,
    Day,
    /// From Monday to Sunday
    Week,
    Month,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Chart {
    /// Bars for few points, a sparkline for many
    Auto,
    Bars,
    Sparkline,
    None,
}

impl From<By> for Granularity {
    fn from(by: By) -> Self {
        match by {
            By::Total => Self::Total,
            By::Slot => Self::Slot,
            By::Hour => Self::Hour,
            // Its days are summed here.
            By::Day | By::Week => Self::Day,
            By::Month => Self::Month,
        }
    }
}

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let zone = arguments.time_zone;
    let mut get = Get::account(&arguments.account)
        .granularity(arguments.by.into())
        .time_zone(zone.name());
    if let Some(meter) = &arguments.meter {
        get = get.meter(meter);
    }
    if let Some(start) = arguments.start {
        let edge = |arg: TimeArg| arg.in_zone(zone).map_err(Failure::arguments);
        let end = match arguments.end {
            Some(end) => edge(end)?,
            None => next_hour(now())?,
        };
        get = get.period(edge(start)?, end);
    }
    if let Some(last) = arguments.last {
        let now = now();
        let start = now.checked_sub_signed(last).ok_or_else(too_early)?;
        get = get.period(start, now);
    }
    let edges = [arguments.start, arguments.end].into_iter().flatten();
    let is_relative = edges.into_iter().any(TimeArg::is_relative);
    if arguments.round || arguments.last.is_some() || is_relative {
        get = get.round_outward();
    }
    let mut usage = client.get(get).await?;
    if arguments.by == By::Week {
        weeks::sum(&mut usage, zone);
    }
    print(&usage, &arguments, streams)?;
    tell_if_unknown(client, &usage, streams).await
}

fn print(usage: &Usage, arguments: &Arguments, streams: &mut Streams<'_>) -> Result<(), Failure> {
    if arguments.format.json {
        return print_json(&as_json(usage), streams);
    }
    if arguments.format.csv {
        return points(usage).print_csv(streams);
    }
    writeln!(
        streams.out,
        "{} from {} to {}",
        usage.account_id, usage.period.start, usage.period.end
    )?;
    totals(usage).print_table(streams)?;
    for meter in &usage.meters {
        draw(meter, arguments, streams)?;
    }
    Ok(())
}

fn too_early() -> Failure {
    Failure::arguments("--last begins before all times; choose a shorter one")
}

/// Says so if nothing was ever counted for the account: its name may be misspelt.
async fn tell_if_unknown(
    client: &UsageClient,
    usage: &Usage,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    if usage.meters.iter().any(|meter| meter.quantities.total != 0) {
        return Ok(());
    }
    let of_account = ListReports::new().account(&usage.account_id).page_size(1);
    let reports = match client.list_reports(of_account).await {
        Ok(reports) => reports,
        // A key that is limited to some meters may not list reports.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if reports.reports.is_empty() && reports.archives.is_empty() {
        writeln!(
            streams.err,
            "nothing was ever counted for {:?}",
            usage.account_id
        )?;
    }
    Ok(())
}

/// The quantities of each meter.
pub(super) fn totals(usage: &Usage) -> Rows {
    let mut rows = Rows::new(&[
        "meter",
        "unit",
        "total",
        "reported",
        "not_yet_reported",
        "not_billable",
    ]);
    for meter in &usage.meters {
        let Quantities {
            total,
            reported,
            not_yet_reported,
            not_billable,
        } = meter.quantities;
        rows.push(vec![
            json!(meter.meter),
            json!(meter.unit),
            json!(total),
            json!(reported),
            json!(not_yet_reported),
            json!(not_billable),
        ]);
    }
    rows
}

/// One row per point, or per meter if the period is not split.
fn points(usage: &Usage) -> Rows {
    let mut rows = Rows::new(&[
        "account_id",
        "meter",
        "unit",
        "start",
        "end",
        "total",
        "reported",
        "not_yet_reported",
        "not_billable",
    ]);
    for meter in &usage.meters {
        let whole = [(usage.period, meter.quantities)];
        let points: Vec<_> = meter
            .points
            .iter()
            .map(|point| (point.period, point.quantities))
            .collect();
        let points = if usage.granularity == Granularity::Total {
            &whole
        } else {
            &points[..]
        };
        for (period, quantities) in points {
            rows.push(vec![
                json!(usage.account_id),
                json!(meter.meter),
                json!(meter.unit),
                rfc3339(period.start),
                rfc3339(period.end),
                json!(quantities.total),
                json!(quantities.reported),
                json!(quantities.not_yet_reported),
                json!(quantities.not_billable),
            ]);
        }
    }
    rows
}

fn as_json(usage: &Usage) -> Value {
    let quantities = |quantities: &Quantities| {
        json!({
            "total": quantities.total,
            "reported": quantities.reported,
            "not_yet_reported": quantities.not_yet_reported,
            "not_billable": quantities.not_billable,
        })
    };
    let meters = usage.meters.iter().map(|meter| {
        let points = meter.points.iter().map(|point| {
            json!({
                "start": rfc3339(point.period.start),
                "end": rfc3339(point.period.end),
                "quantities": quantities(&point.quantities),
            })
        });
        json!({
            "meter": meter.meter,
            "unit": meter.unit,
            "quantities": quantities(&meter.quantities),
            "points": points.collect::<Value>(),
        })
    });
    json!({
        "account_id": usage.account_id,
        "start": rfc3339(usage.period.start),
        "end": rfc3339(usage.period.end),
        "time_zone": usage.time_zone,
        "as_of": rfc3339(usage.as_of),
        "meters": meters.collect::<Value>(),
    })
}

fn draw(
    meter: &MeterUsage,
    arguments: &Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let values: Vec<i64> = meter
        .points
        .iter()
        .map(|point| point.quantities.total)
        .collect();
    if values.is_empty() {
        return Ok(());
    }
    let is_long = values.len() > MAX_BARS;
    let width = arguments.width;
    match arguments.chart {
        Chart::None => Ok(()),
        Chart::Auto if is_long => draw_line(meter, &values, width, streams),
        Chart::Sparkline => draw_line(meter, &values, width, streams),
        Chart::Auto | Chart::Bars => draw_bars(meter, arguments, width, streams),
    }
}

fn draw_line(
    meter: &MeterUsage,
    values: &[i64],
    width: usize,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let highest = values.iter().copied().max().unwrap_or(0);
    let line = chart::sparkline(values, width);
    writeln!(
        streams.out,
        "\n{}: {} points, highest {}",
        meter.meter,
        values.len(),
        grouped(highest)
    )?;
    Ok(writeln!(streams.out, "{line}")?)
}

fn draw_bars(
    meter: &MeterUsage,
    arguments: &Arguments,
    width: usize,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let format = match arguments.by {
        By::Month => "%Y-%m",
        By::Day | By::Week => "%Y-%m-%d",
        By::Total | By::Slot | By::Hour => "%Y-%m-%d %H:%M",
    };
    let totals = meter.points.iter().map(|point| point.quantities.total);
    let highest = totals.clone().max().unwrap_or(0);
    let digits = totals
        .map(|total| grouped(total).len())
        .max()
        .unwrap_or_default();
    writeln!(streams.out, "\n{}", meter.meter)?;
    for point in &meter.points {
        let start = point.period.start.with_timezone(&arguments.time_zone);
        let label = start.format(format).to_string();
        let total = grouped(point.quantities.total);
        let room = width.saturating_sub(label.len().saturating_add(digits).saturating_add(2));
        let bar = chart::bar(point.quantities.total, highest, room);
        writeln!(
            streams.out,
            "{}",
            format!("{label} {total:>digits$} {bar}").trim_end()
        )?;
    }
    Ok(())
}
