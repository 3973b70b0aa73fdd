//! `usagectl report`

use super::{
    Streams,
    exit::Failure,
    output::{Rows, grouped, print_json},
};
use crate::{
    ErrorKind, ForceReport, ListReports, ReportCount, ReportEvent, ReportProgress, ReportState,
    ReportSummary, UsageClient,
};
use clap::{ArgGroup, Args};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

/// Accounts that are asked about one by one.
const MAX_ASKED_ACCOUNTS: usize = 20;
/// Reports that are counted of each; more are as many.
const MAX_STUCK: u32 = 1_000;

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
    /// Why, kept in the audit
    #[arg(long, conflicts_with = "watch")]
    reason: Option<String>,
    /// The id that the run gets, a UUID: the same one starts one run
    #[arg(long, value_name = "UUID", conflicts_with = "watch")]
    key: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let accounts = arguments.accounts;
    let mut scope = match arguments.watch {
        Some(run) => ForceReport::watch(run),
        None if arguments.all => ForceReport::all(),
        None => ForceReport::accounts(accounts.clone()),
    };
    if arguments.dry_run {
        scope = scope.dry_run();
    }
    if let Some(reason) = arguments.reason {
        scope = scope.reason(reason);
    }
    if let Some(key) = arguments.key {
        scope = scope.key(key);
    }
    let mut run = client.force_report(scope).await?;
    if let Some(id) = run.run_id() {
        writeln!(
            streams.err,
            "run {id} continues if this command is stopped; watch it again with `usagectl report --watch {id}`"
        )?;
    }
    if let (Some(why), Some(id)) = (run.not_retried(), run.run_id()) {
        writeln!(
            streams.err,
            "reports that wait for a retry still wait, and this run does not send them: {why}; the same command with `--key {id}` tries again"
        )?;
    }
    let bar = streams.bar(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len} reports {msg}") {
        bar.set_style(style);
    }
    let (mut summary, mut waits_for_others) = (None, false);
    while let Some(event) = run.next().await? {
        match event {
            ReportEvent::Progress(progress) => {
                waits_for_others |= progress.in_earlier_runs > 0;
                show(&bar, progress);
            }
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
    if arguments.dry_run {
        return Ok(());
    }
    tell_of_earlier_runs(client, &accounts, &summary, waits_for_others, streams).await
}

/// Says which reports of earlier runs wait for a decision: this run does not send them, and waiting does not help. If it
/// waited for reports of earlier runs, that is a failure.
async fn tell_of_earlier_runs(
    client: &UsageClient,
    accounts: &[String],
    summary: &ReportSummary,
    has_waited: bool,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let stuck = ReportState::ALL.iter().copied();
    let stuck: Vec<_> = stuck.filter(|state| state.needs_decision()).collect();
    let (mut found, mut filter) = (0_usize, String::new());
    // One question for all, if there are many accounts.
    let one_by_one = accounts.len() <= MAX_ASKED_ACCOUNTS && !accounts.is_empty();
    let asked = if one_by_one {
        accounts
    } else {
        &[String::new()][..]
    };
    for account in asked {
        let question = ListReports::new().account(account).states(stuck.clone());
        let page = match client.list_reports(question.page_size(MAX_STUCK)).await {
            Ok(page) => page,
            // A key that is limited to accounts may not ask about all.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let others = page.reports.iter();
        let others = others.filter(|one| one.run_id.is_none() || one.run_id != summary.run_id);
        let own = others
            .filter(|one| accounts.is_empty() || accounts.contains(&one.account_id))
            .count();
        if own > 0 && one_by_one {
            filter = format!(" --account {account}");
        }
        found = found.saturating_add(own);
    }
    if found == 0 {
        return Ok(());
    }
    let text = format!(
        "{found} reports of earlier runs wait for a decision and are not sent; see `usagectl reports{filter} --stuck`, and decide with `usagectl resolve`"
    );
    if has_waited {
        return Err(Failure::Partial(text));
    }
    Ok(writeln!(streams.err, "{text}")?)
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
    rows.print_table(streams)
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
