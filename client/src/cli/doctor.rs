//! `usagectl doctor`

use super::{
    Streams,
    exit::Failure,
    output::{Rows, print_json},
};
use crate::{Diagnosis, Severity, UsageClient};
use clap::Args;
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Show the settings of the server too
    #[arg(long)]
    settings: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    client: &UsageClient,
    arguments: Arguments,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    let diagnosis = client.doctor().await?;
    if arguments.json {
        print_json(&as_json(&diagnosis, arguments.settings), streams)?;
    } else {
        print(&diagnosis, arguments.settings, streams)?;
    }
    if diagnosis.is_healthy {
        return Ok(());
    }
    Err(Failure::Partial(format!(
        "the server found something bad: {}",
        names(&diagnosis)
    )))
}

fn names(diagnosis: &Diagnosis) -> String {
    let bad = diagnosis.findings.iter();
    let bad = bad.filter(|one| one.severity == Severity::Bad);
    let mut names: Vec<&str> = bad.map(|one| one.check.as_str()).collect();
    names.dedup();
    names.join(", ")
}

/// The lines of `usage-server doctor`: sentences are longer than a column of a table.
fn print(
    diagnosis: &Diagnosis,
    with_settings: bool,
    streams: &mut Streams<'_>,
) -> Result<(), Failure> {
    if with_settings {
        let mut rows = Rows::new(&["setting", "value"]);
        for setting in &diagnosis.settings {
            rows.push(vec![json!(setting.name), json!(setting.value)]);
        }
        rows.print_table(streams)?;
    }
    for one in &diagnosis.findings {
        write!(
            streams.out,
            "{:<4}  {:<16}  {}",
            one.severity, one.check, one.fact
        )?;
        match &one.advice {
            Some(advice) => writeln!(streams.out, " -> {advice}")?,
            None => writeln!(streams.out)?,
        }
    }
    let count = |severity| diagnosis.count(severity);
    Ok(writeln!(
        streams.out,
        "{} bad, {} warnings, {} ok; usage-server {}",
        count(Severity::Bad),
        count(Severity::Warn),
        count(Severity::Ok),
        diagnosis.version
    )?)
}

fn as_json(diagnosis: &Diagnosis, with_settings: bool) -> Value {
    let findings = diagnosis.findings.iter().map(|one| {
        json!({
            "check": one.check,
            "severity": one.severity.to_string(),
            "fact": one.fact,
            "advice": one.advice,
        })
    });
    let findings: Value = findings.collect();
    if !with_settings {
        return findings;
    }
    let settings = diagnosis.settings.iter();
    let settings = settings.map(|one| (one.name.clone(), json!(one.value)));
    json!({
        "version": diagnosis.version,
        "settings": settings.collect::<serde_json::Map<_, _>>(),
        "findings": findings,
    })
}
