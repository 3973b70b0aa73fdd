//! `usagectl accounts export` and `delete`

use crate::{
    DeleteAccount, DeletedAccount, UsageClient,
    cli::{
        Streams,
        exit::Failure,
        new_file::NewFile,
        output::{Format, Rows, rfc3339_or_null},
    },
};
use clap::{ArgGroup, Args};
use serde_json::{Value, json};
use std::{
    io::Write,
    path::{Path, PathBuf},
};

#[derive(Debug, Args)]
pub(super) struct Export {
    /// The account
    account: String,
    /// Write a new file, which only you can read, instead of the standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("how").required(true))]
pub(super) struct Delete {
    /// The account
    account: String,
    /// First export it to this new file
    #[arg(long, group = "how", value_name = "FILE")]
    export: Option<PathBuf>,
    /// Delete it without an export
    #[arg(long, group = "how")]
    without_export: bool,
    /// Show what would be done and what refuses it, and change nothing
    #[arg(long, group = "how")]
    dry_run: bool,
    /// Who requests it, kept for the record; by default the name of the API key
    #[arg(long, value_name = "NAME")]
    requested_by: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn export(
    client: &UsageClient,
    export: Export,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    if let Some(file) = export.output {
        return export_to(client, &export.account, &file, streams).await;
    }
    write_lines(client, &export.account, &mut streams.out).await?;
    Ok(())
}

/// Exports to a new file, and says how many lines it has when they are on the disk.
async fn export_to(
    client: &UsageClient,
    account: &str,
    path: &Path,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let mut file = NewFile::create(path)?;
    let lines = write_lines(client, account, &mut file).await?;
    file.finish()?;
    let name = path.display();
    Ok(writeln!(streams.err, "exported {lines} lines to {name}")?)
}

async fn write_lines(
    client: &UsageClient,
    account: &str,
    out: &mut impl Write,
) -> Result<u64, Failure> {
    let mut export = client.export_account(account).await?;
    let mut lines = 0_u64;
    while let Some(line) = export.next().await? {
        writeln!(out, "{line}")?;
        lines = lines.saturating_add(1);
    }
    Ok(lines)
}

pub(super) async fn delete(
    client: &UsageClient,
    delete: Delete,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let mut call = DeleteAccount::new(&delete.account);
    if let Some(name) = &delete.requested_by {
        call = call.requested_by(name);
    }
    let preview = client.delete_account(call.clone().dry_run()).await?;
    if delete.dry_run {
        tell_obstacles(&preview, streams)?;
        return rows(&preview).print(delete.format, streams);
    }
    if !preview.obstacles.is_empty() {
        tell_obstacles(&preview, streams)?;
        let message = "nothing was deleted: see above what refuses it";
        return Err(Failure::Local(message.to_owned()));
    }
    if let Some(file) = delete.export.as_deref().filter(|_| !preview.duplicate) {
        export_to(client, &delete.account, file, streams).await?;
    }
    if !delete.yes && !preview.duplicate {
        writeln!(
            streams.err,
            "The account's id is removed for ever, and its rows get a random one."
        )?;
        let unchanged = "nothing was deleted: give --yes to go on without asking";
        super::confirm(unchanged, streams)?;
    }
    let done = client.delete_account(call).await?;
    tell_done(&done, streams)?;
    rows(&done).print(delete.format, streams)
}

fn tell_obstacles(preview: &DeletedAccount, streams: &mut Streams<'_>) -> Result<(), Failure> {
    for obstacle in &preview.obstacles {
        writeln!(streams.err, "refused: {}", obstacle.message)?;
    }
    Ok(())
}

fn tell_done(done: &DeletedAccount, streams: &mut Streams<'_>) -> Result<(), Failure> {
    if done.duplicate {
        writeln!(
            streams.err,
            "the account was deleted before; nothing was changed"
        )?;
    }
    if !done.stripe_customers.is_empty() {
        writeln!(
            streams.err,
            "not touched at Stripe: {}; what Stripe stores of them is deleted there",
            done.stripe_customers.join(", ")
        )?;
    }
    Ok(())
}

fn rows(done: &DeletedAccount) -> Rows {
    let mut rows = Rows::new(&[
        "token",
        "duplicate",
        "deleted_at",
        "refused_until",
        "rows",
        "stripe_customers",
        "obstacles",
    ]);
    let counts = done.rows.iter();
    let counts: Vec<String> = counts
        .map(|(table, number)| format!("{table}: {number}"))
        .collect();
    rows.push(vec![
        done.token
            .as_ref()
            .map_or(Value::Null, |token| json!(token)),
        json!(done.duplicate),
        rfc3339_or_null(done.deleted_at),
        rfc3339_or_null(done.refused_until),
        json!(counts.join("\n")),
        json!(done.stripe_customers.join(" ")),
        json!(done.obstacles.len()),
    ]);
    rows
}
