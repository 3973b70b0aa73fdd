//! What the commands share that change a database which no server uses: they open it, check that it can be changed, and
//! ask for a confirmation.

use std::io::{BufRead, Write};

use serde_json::Value;
use uuid::Uuid;

use super::servers::find_running;
use crate::{
    clock::Clock,
    config::DatabaseConfig,
    domain::audit::Outcome,
    error::Error,
    store::{FileLock, SchemaError, Store},
};

/// Why such a command failed.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// A setting is wrong, or the database or Stripe cannot be used.
    #[error("{0}")]
    Failed(String),
    /// What was found is not confirmed.
    #[error("it is not confirmed")]
    NotConfirmed,
    /// The output cannot be written, or the answer cannot be read.
    #[error("cannot print or read the answer")]
    Io(#[from] std::io::Error),
}

impl From<Error> for OfflineError {
    fn from(error: Error) -> Self {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        Self::Failed(cause.unwrap_or_else(|| error.to_string()))
    }
}

impl From<sea_orm::DbErr> for OfflineError {
    fn from(error: sea_orm::DbErr) -> Self {
        Self::Failed(format!("the database cannot be used: {error}"))
    }
}

/// Opens the database. No server can open a SQLite file while the lock is held.
pub(super) async fn open(
    database: &DatabaseConfig,
    clock: &Clock,
) -> Result<(Option<FileLock>, Store), OfflineError> {
    let url = database.url().map_err(OfflineError::Failed)?;
    let lock = Store::lock(&url).await?;
    let store = Store::open_existing(&url, database.database_connections).await?;
    Ok((lock, store.with_clock(clock.clone())))
}

/// Fails if the database, which is called `name`, has an older schema, or if servers count in it. A dry run changes
/// nothing, so servers may run meanwhile.
pub(super) async fn check_ready(
    store: &Store,
    name: &str,
    is_dry_run: bool,
) -> Result<(), OfflineError> {
    match store.check_schema().await {
        Err(SchemaError::Older(_)) => {
            return Err(OfflineError::Failed(format!(
                "{name} has an older schema; run `usage-server migrate`, then run this again"
            )));
        }
        checked => checked.map_err(|error| OfflineError::Failed(error.to_string()))?,
    }
    if !is_dry_run && let Some(why) = find_running(store).await? {
        return Err(OfflineError::Failed(why));
    }
    Ok(())
}

/// Does what a command does between two entries of the audit table: one that it begins, and one that it is done or has
/// failed.
///
/// # Errors
/// Those of the command; or that it began, or is done, cannot be recorded.
pub(super) async fn recorded<T>(
    store: &Store,
    (action, id, request): (&str, Uuid, &Value),
    done: impl Future<Output = Result<T, OfflineError>>,
) -> Result<T, OfflineError> {
    let record = async |outcome, message| {
        store
            .audit_command(action, id, request, (outcome, message))
            .await
    };
    record(Outcome::Begun, None).await?;
    let result = done.await;
    match &result {
        Ok(_) => record(Outcome::Done, None).await?,
        Err(error) => {
            // The error of the command is the one to return.
            if let Err(error) = record(Outcome::Failed, Some(error.to_string())).await {
                tracing::error!(
                    error = error.cause(),
                    action,
                    "that it failed is not in the audit table; that it began is"
                );
            }
        }
    }
    result
}

/// Asks a person. Without `answers`, the answer is no.
pub(super) fn confirm(
    question: &str,
    out: &mut impl Write,
    answers: Option<&mut (impl BufRead + ?Sized)>,
) -> std::io::Result<bool> {
    let Some(answers) = answers else {
        return Ok(false);
    };
    write!(out, "{question} [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    answers.read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
