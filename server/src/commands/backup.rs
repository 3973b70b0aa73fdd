//! `usage-server backup`: copies a SQLite database that is in use into a new file, and checks the copy.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;

use crate::{
    config::DatabaseConfig,
    domain::period::rfc3339,
    durable_file::NewFile,
    error::Error,
    store::{SchemaError, Store},
};

/// The flags of the command.
#[derive(Args, Debug)]
pub struct BackupCommand {
    /// The new file.
    pub file: PathBuf,
    /// The database.
    #[command(flatten)]
    pub database: DatabaseConfig,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A setting is wrong, the database cannot be used, or the copy is not right.
    #[error("{0}")]
    Failed(String),
    /// The schema of what was read is older than that of this program.
    #[error("{}", SchemaError::Older(1))]
    OlderSchema,
    /// The file cannot be written.
    #[error("{}: {error}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The output cannot be written.
    #[error("cannot print")]
    Print(#[from] io::Error),
}

impl From<SchemaError> for BackupError {
    fn from(error: SchemaError) -> Self {
        match error {
            SchemaError::Older(_) => Self::OlderSchema,
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<Error> for BackupError {
    fn from(error: Error) -> Self {
        Self::Failed(error.cause())
    }
}

/// Makes the backup, and prints how to restore it. A server may be running: it counts meanwhile.
///
/// # Errors
/// See [`BackupError`]. There is no file then, unless it existed before.
pub async fn run(command: &BackupCommand, out: &mut impl Write) -> Result<(), BackupError> {
    let url = command.database.url().map_err(BackupError::Failed)?;
    if !url.starts_with("sqlite:") {
        return Err(BackupError::Failed(
            "this is for SQLite; back PostgreSQL up with pg_dump, or with what your provider has"
                .to_owned(),
        ));
    }
    let unusable = |error: sea_orm::DbErr| BackupError::from(SchemaError::from(error));
    let store = Store::open_existing(&url, command.database.database_connections)
        .await
        .map_err(unusable)?;
    let made = make(&store, &command.file).await;
    store.close().await.map_err(unusable)?;
    let made = made?;
    writeln!(
        out,
        "{}: {} bytes, {} units counted. To restore it, run\n\
         usage-server restore --from {} --backup-at {}",
        command.file.display(),
        made.bytes,
        made.units,
        command.file.display(),
        made.at
    )?;
    Ok(())
}

/// A backup.
struct Made {
    /// From before the copy began.
    at: String,
    bytes: u64,
    units: i128,
}

async fn make(store: &Store, file: &Path) -> Result<Made, BackupError> {
    store.check_schema().await?;
    // The check opens it by a URL.
    let is_plain = file
        .to_str()
        .is_some_and(|name| !name.contains(['?', '%', '#']));
    if !is_plain {
        return Err(BackupError::Failed(format!(
            "{}: choose a name without ?, % and #",
            file.display()
        )));
    }
    let at = rfc3339(store.shared_now().await?);
    let of_file = |error| BackupError::File {
        file: file.to_owned(),
        error,
    };
    // Under its name only once it is whole.
    let new = NewFile::create(file).map_err(of_file)?;
    store.copy_into(new.unfinished()).await?;
    let units = check(new.unfinished()).await?;
    new.finish().map_err(of_file)?;
    let bytes = fs::metadata(file).map_err(of_file)?.len();
    Ok(Made { at, bytes, units })
}

/// Makes the file and its name durable.
pub(super) fn sync(file: &Path) -> io::Result<()> {
    File::open(file)?.sync_all()?;
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Whether the copy is whole: its pages and indexes, its schema, and the ledger check. Returns the units in it.
pub(super) async fn check(file: &Path) -> Result<i128, BackupError> {
    let url = format!("sqlite://{}", file.display());
    let unusable =
        |error: sea_orm::DbErr| BackupError::Failed(format!("the copy cannot be used: {error}"));
    let copy = Store::open_existing(&url, 1).await.map_err(unusable)?;
    let checked = async {
        copy.check_integrity().await?;
        copy.check_schema().await?;
        let ledger = copy.ledger_totals().await?;
        if ledger.is_balanced() {
            Ok(ledger.committed)
        } else {
            let counted = ledger.counted();
            let committed = ledger.committed;
            Err(BackupError::Failed(format!(
                "the ledger check of the copy fails, so that of the database does too: {committed} units were committed, and \
                 its reports have {counted}; run `usage-server doctor`"
            )))
        }
    };
    let checked = checked.await;
    copy.close().await.map_err(unusable)?;
    checked
}
