//! `usagectl resolve`

use super::{
    Streams,
    exit::Failure,
    output::{Format, Rows},
    reports,
};
use crate::{ResolveAction, ResolveReport, UsageClient};
use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The account
    account: String,
    /// The report's id, from `usagectl reports --stuck`
    report: String,
    /// What becomes of it
    #[arg(long, value_enum)]
    action: Action,
    /// Why, kept for the record
    #[arg(long)]
    reason: String,
    /// Who decides, kept for the record; by default the name of the API key
    #[arg(long, value_name = "NAME")]
    requested_by: Option<String>,
    /// Only show the report as it would be, and its etag
    #[arg(long)]
    dry_run: bool,
    /// Decide only if the report and its decisions are as a dry run showed them
    #[arg(long, value_name = "ETAG")]
    etag: Option<String>,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Action {
    /// Send it again, for its own billing period
    Retry,
    /// Send it again, billed in the current billing period
    BillInCurrentPeriod,
    /// Never bill it
    WriteOff,
}

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let action = match arguments.action {
        Action::Retry => ResolveAction::Retry,
        Action::BillInCurrentPeriod => ResolveAction::BillInCurrentPeriod,
        Action::WriteOff => ResolveAction::WriteOff,
    };
    let mut decision = ResolveReport::new(
        arguments.account,
        arguments.report,
        action,
        arguments.reason,
    );
    if let Some(name) = arguments.requested_by {
        decision = decision.requested_by(name);
    }
    if arguments.dry_run {
        decision = decision.dry_run();
    }
    if let Some(etag) = arguments.etag {
        decision = decision.etag(etag);
    }
    let done = client.resolve_report(decision).await?;
    if done.duplicate {
        writeln!(
            streams.err,
            "the same was decided before; nothing was changed"
        )?;
    }
    if arguments.dry_run {
        writeln!(
            streams.err,
            "this was a dry run; nothing was decided. Decide with --etag {} if the report is still as it was",
            done.etag
        )?;
    }
    let mut rows = Rows::new(&reports::COLUMNS);
    rows.push(reports::row(&done.report));
    rows.print(arguments.format, streams)
}
