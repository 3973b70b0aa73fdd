//! `usagectl report`

use super::{
    Streams,
    exit::Failure,
    output::{Rows, grouped, print_json},
};
use crate::{ForceReport, ReportCount, ReportEvent, ReportProgress, ReportSummary, UsageClient};
use clap::{ArgGroup, Args};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("scope").required(true))]
pub(super) struct Arguments {
    /// The accounts to report
    #[arg(group = "scope")]
    accounts: Vec<String>,
    /// Report all accounts
    #[arg(long, group = "scope")]
    all: bool,
    /// Watch the run with this id instead of starting one
    #[arg(long, value_name = "RUN", group = "scope", conflicts_with = "dry_run")]
    watch: Option<String>,
    /// Only show what would be sent
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let mut scope = match arguments.watch {
        Some(run) => ForceReport::watch(run),
        None if arguments.all => ForceReport::all(),
        None => ForceReport::accounts(arguments.accounts),
    };
    if arguments.dry_run {
        scope = scope.dry_run();
    }
    let mut run = client.force_report(scope).await?;
    if let Some(id) = run.run_id() {
        writeln!(
            streams.err,
            "run {id} continues if this command is stopped; watch it again with `usagectl report --watch {id}`"
        )?;
    }
    let bar = streams.bar(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len} reports {msg}") {
        bar.set_style(style);
    }
    let mut summary = None;
    while let Some(event) = run.next().await? {
        match event {
            ReportEvent::Progress(progress) => show(&bar, progress),
            ReportEvent::Summary(found) => summary = Some(found),
            _ => {}
        }
    }
    bar.finish_and_clear();
    let Some(summary) = summary else {
        return Err(Failure::Local("the run ended without a summary".to_owned()));
    };
    if arguments.json {
        print_json(&as_json(&summary), streams)?;
    } else {
        print(&summary, arguments.dry_run, streams)?;
    }
    if summary.rejected.reports > 0 {
        return Err(Failure::Partial(format!(
            "{} reports were rejected; see `usagectl reports{}--state rejected,customer_deleted,too_late,written_off`, and decide with `usagectl resolve`",
            grouped(summary.rejected.reports),
            summary
                .run_id
                .as_ref()
                .map_or(" ".to_owned(), |run| format!(" --run {run} "))
        )));
    }
    Ok(())
}

fn show(bar: &ProgressBar, progress: ReportProgress) {
    let all = progress.closed.saturating_add(progress.in_earlier_runs);
    bar.set_length(u64::try_from(all).unwrap_or(0));
    bar.set_position(u64::try_from(progress.done).unwrap_or(0));
    bar.set_message(if progress.closing_finished {
        ""
    } else {
        "(still closing)"
    });
}

fn counts(summary: &ReportSummary) -> [(&'static str, ReportCount); 6] {
    [
        ("closed", summary.closed),
        ("accepted", summary.accepted),
        ("rejected", summary.rejected),
        ("retried_later", summary.retried_later),
        ("not_billable", summary.not_billable),
        ("no_customer", summary.no_customer),
    ]
}

fn print(summary: &ReportSummary, is_dry: bool, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let mut rows = Rows::new(&["", "reports", "quantity"]);
    for (name, count) in counts(summary) {
        let name = match (is_dry, name) {
            (true, "closed") => "would be closed".to_owned(),
            (true, "accepted") => "would be sent".to_owned(),
            _ => name.replace('_', " "),
        };
        rows.push(vec![
            json!(name),
            json!(count.reports),
            json!(count.quantity),
        ]);
    }
    Ok(writeln!(streams.out, "{}", rows.table())?)
}

fn as_json(summary: &ReportSummary) -> Value {
    let counts = counts(summary).map(|(name, count)| {
        let count = json!({"reports": count.reports, "quantity": count.quantity});
        (name.to_owned(), count)
    });
    let mut object: Map<_, _> = counts.into_iter().collect();
    object.insert("run_id".to_owned(), json!(summary.run_id));
    Value::Object(object)
}
