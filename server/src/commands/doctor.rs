//! `usage-server doctor`: its flags and what it prints. The checks are in `crate::doctor`; with `--server`, a running server
//! makes them.

use std::{io::Write, time::Duration};

use clap::Args;
use serde_json::{Value, json};
use tonic::Request;
use usage_proto::v1::{
    DoctorFinding, DoctorRequest, DoctorResponse, DoctorSeverity,
    operations_service_client::OperationsServiceClient,
};

use super::remote::{Connection, RemoteConfig, RemoteError};
use crate::clock::Clock;
pub use crate::doctor::{Diagnosis, DoctorConfig, DoctorError, Finding, Severity, diagnose};

/// A server takes up to 60 seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(75);

/// The flags of the command.
#[derive(Args, Debug)]
pub struct DoctorCommand {
    #[command(flatten)]
    remote: RemoteConfig,
    #[command(flatten)]
    config: DoctorConfig,
    /// With `--server`: print the settings of the server too.
    #[arg(long, requires = "server")]
    settings: bool,
    /// Print a JSON array of objects; with `--settings` an object with `settings` and `findings`.
    #[arg(long)]
    json: bool,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum DoctorCommandError {
    /// A setting is wrong.
    #[error(transparent)]
    Setting(#[from] DoctorError),
    /// The server does not answer.
    #[error(transparent)]
    Server(#[from] RemoteError),
    /// The output cannot be written.
    #[error("cannot print")]
    Print(#[from] std::io::Error),
}

/// Prints what is found, and warnings on `notes`; returns whether nothing is bad.
///
/// # Errors
/// See [`DoctorCommandError`].
pub async fn run(
    command: &DoctorCommand,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<bool, DoctorCommandError> {
    if let Some(connection) = command.remote.connect(notes).await? {
        let answer = ask(&command.remote, connection).await?;
        print_answer(&answer, command, out)?;
        return Ok(answer.healthy);
    }
    let diagnosis = diagnose(&command.config, &Clock::system()).await?;
    if command.json {
        writeln!(out, "{}", diagnosis.to_json())?;
    } else {
        writeln!(out, "{diagnosis}")?;
    }
    Ok(diagnosis.is_healthy())
}

async fn ask(remote: &RemoteConfig, connection: Connection) -> Result<DoctorResponse, RemoteError> {
    let mut request = Request::new(DoctorRequest {});
    request.set_timeout(ANSWER_WITHIN);
    let mut client = OperationsServiceClient::new(connection);
    let answer = client
        .doctor(request)
        .await
        .map_err(|status| remote.error(&status))?;
    Ok(answer.into_inner())
}

fn severity(finding: &DoctorFinding) -> &'static str {
    match finding.severity() {
        DoctorSeverity::Ok => Severity::Ok.name(),
        DoctorSeverity::Warn => Severity::Warn.name(),
        DoctorSeverity::Bad => Severity::Bad.name(),
        DoctorSeverity::Unspecified => "unknown",
    }
}

fn print_answer(
    answer: &DoctorResponse,
    command: &DoctorCommand,
    out: &mut impl Write,
) -> std::io::Result<()> {
    if command.json {
        return writeln!(out, "{}", answer_json(answer, command.settings));
    }
    if command.settings {
        for setting in &answer.settings {
            let value = setting.value.as_deref().unwrap_or("(not set)");
            writeln!(out, "{:<28}  {value}", setting.name)?;
        }
    }
    for finding in &answer.findings {
        let (severity, check) = (severity(finding), &finding.check);
        write!(out, "{severity:<4}  {check:<16}  {}", finding.fact)?;
        if finding.advice.is_empty() {
            writeln!(out)?;
        } else {
            writeln!(out, " -> {}", finding.advice)?;
        }
    }
    let count = |severity| {
        let findings = answer.findings.iter();
        findings.filter(|one| one.severity() == severity).count()
    };
    writeln!(
        out,
        "{} bad, {} warnings, {} ok",
        count(DoctorSeverity::Bad),
        count(DoctorSeverity::Warn),
        count(DoctorSeverity::Ok)
    )
}

fn answer_json(answer: &DoctorResponse, with_settings: bool) -> Value {
    let findings = answer.findings.iter().map(|finding| {
        json!({
            "check": finding.check,
            "severity": severity(finding),
            "fact": finding.fact,
            "advice": Some(&finding.advice).filter(|advice| !advice.is_empty()),
        })
    });
    let findings: Value = findings.collect();
    if !with_settings {
        return findings;
    }
    let settings = answer.settings.iter();
    let settings = settings.map(|one| (one.name.clone(), json!(one.value)));
    let settings: serde_json::Map<_, _> = settings.collect();
    json!({ "version": answer.version, "settings": settings, "findings": findings })
}
