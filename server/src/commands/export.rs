//! `usage-server export`: writes audit entries, runs, decisions, reports or the sign-off of a month, as JSON lines or CSV. It only
//! reads, page by page; a server may be running.

mod records;

use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};

use self::records::{audit, decisions, reports, runs};
use super::{keys::open, reconcile::parse_time};
use crate::{
    config::{DatabaseConfig, within},
    domain::{Millis, account_id::AccountId, decision::RecordedDecision},
    durable_file::NewFile,
    error::Error,
    record::RecordWriter,
    sign_off::{ACCOUNTS_PER_PAGE, Refusal, SignOff, Waiting, parse_months},
    store::Store,
};
pub use crate::{
    record::{Exported, Format},
    sign_off::Months,
};

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// What admins did, tried and were refused; newest first.
    Audit,
    /// Runs of the reporter; oldest first.
    Runs,
    /// Admins' decisions on reports, by account.
    Decisions,
    /// Usage reports that are not folded: the open ones, then the closed ones, the latest first.
    Reports,
    /// What was counted in a month and what became of it, by account, customer and meter, with totals.
    SignOff,
}

/// The flags of the command.
#[derive(Args, Debug)]
pub struct ExportCommand {
    /// What to export.
    pub kind: Kind,
    /// The database.
    #[command(flatten)]
    pub database: DatabaseConfig,
    /// JSON lines, or CSV.
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    pub format: Format,
    /// A new file, which only its owner can read. Default: standard output.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Only what is of this time or later: a date or an RFC 3339 time. Of a report, the start of its window counts.
    #[arg(long, value_parser = parse_time)]
    pub from: Option<Millis>,
    /// Only what is from before this time.
    #[arg(long, value_parser = parse_time)]
    pub until: Option<Millis>,
    /// Only what is about this account. Runs are about all.
    #[arg(long)]
    pub account: Option<String>,
    /// Of `sign-off`: the calendar month in UTC, such as `2026-10`, or `all` for each month.
    #[arg(long, value_parser = parse_months)]
    pub month: Option<Months>,
    /// Of `sign-off`: also a month in which something is not final yet. Its rows say so.
    #[arg(long)]
    pub open: bool,
    /// Of `sign-off`: how many accounts are read in one transaction.
    #[arg(long, default_value_t = ACCOUNTS_PER_PAGE, value_parser = within::<u64>(1..=10_000))]
    pub accounts_per_page: u64,
}

/// Why nothing, or not all, was exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A setting is wrong, or the database cannot be used.
    #[error("{0}")]
    Failed(String),
    /// An account was deleted meanwhile: its rows have other places, and some may be missing.
    #[error("an account was deleted meanwhile, so rows of it may be missing: export again")]
    AccountDeleted,
    /// Something of the month is not final.
    #[error("{0}; --open exports it as it is, with final false")]
    NotClosed(String),
    /// The month is closed, and something of it changed during the export.
    #[error(
        "usage or a decision of the month was added meanwhile, so what was written is not complete: export again"
    )]
    Changed,
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

impl From<Error> for ExportError {
    fn from(error: Error) -> Self {
        Self::Failed(error.cause())
    }
}

impl From<Refusal> for ExportError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotClosed(why) => Self::NotClosed(why),
            Refusal::BooksDiffer(why) => Self::Failed(why),
            Refusal::Store(error) => error.into(),
            Refusal::Print(error) => Self::Print(error),
        }
    }
}

/// Exports. `notes` gets what is said of a sign-off.
///
/// # Errors
/// See [`ExportError`]. There is no file then, unless it existed before.
pub async fn run(
    command: &ExportCommand,
    now: Millis,
    stdout: &mut (impl Write + Send),
    notes: &mut (impl Write + Send),
) -> Result<Exported, ExportError> {
    let selection = Selection::of(command, now)?;
    let store = open(&command.database).await.map_err(ExportError::Failed)?;
    let exported = export(&store, command, &selection, stdout).await;
    let closed = store.close().await;
    let exported = exported?;
    closed.map_err(|error| ExportError::Failed(error.to_string()))?;
    if let Some(sign_off) = &selection.sign_off {
        let file = command.out.as_deref().map(Path::display);
        let name = file.map_or_else(|| "standard output".to_owned(), |name| name.to_string());
        writeln!(
            notes,
            "{name}: {} rows, {}; SHA-256 {}",
            exported.rows,
            sign_off.compared(command.open),
            exported.sha256
        )?;
    }
    Ok(exported)
}

async fn export(
    store: &Store,
    command: &ExportCommand,
    selection: &Selection,
    stdout: &mut (impl Write + Send),
) -> Result<Exported, ExportError> {
    // What is to be final is read once before anything is written.
    let known = match &selection.sign_off {
        Some(sign_off) if !command.open => {
            let read = write_rows(store, command, selection, &mut io::sink()).await?;
            sign_off.check_is_closed(&read.waiting)?;
            sign_off.check_is_balanced(store).await?;
            Some(read.exported)
        }
        _ => None,
    };
    let written = match &command.out {
        None => {
            let mut out = BufWriter::new(stdout);
            let written = write_rows(store, command, selection, &mut out).await?;
            out.flush()?;
            check_is_same(known.as_ref(), &written)?;
            written
        }
        Some(file) => to_file(store, command, selection, file, known.as_ref()).await?,
    };
    Ok(written.exported)
}

async fn to_file(
    store: &Store,
    command: &ExportCommand,
    selection: &Selection,
    file: &Path,
    known: Option<&Exported>,
) -> Result<Written, ExportError> {
    let of_file = |error| ExportError::File {
        file: file.to_owned(),
        error,
    };
    // An existing file is never overwritten, and one with only a part of the rows never has this name.
    let mut out = NewFile::create(file).map_err(of_file)?;
    let written = match write_rows(store, command, selection, &mut out).await {
        Ok(written) => written,
        Err(ExportError::Print(error)) => return Err(of_file(error)),
        Err(other) => return Err(other),
    };
    check_is_same(known, &written)?;
    out.finish().map_err(of_file)?;
    Ok(written)
}

/// A closed month is read twice, and is the same each time.
fn check_is_same(known: Option<&Exported>, written: &Written) -> Result<(), ExportError> {
    match known {
        Some(known) if *known != written.exported => Err(ExportError::Changed),
        _ => Ok(()),
    }
}

/// What is exported of a kind.
struct Selection {
    from: Option<Millis>,
    until: Option<Millis>,
    account: Option<AccountId>,
    sign_off: Option<SignOff>,
}

impl Selection {
    fn of(command: &ExportCommand, now: Millis) -> Result<Self, ExportError> {
        let refuse = |why: &str| Err(ExportError::Failed(why.to_owned()));
        let account = match &command.account {
            None => None,
            Some(_) if command.kind == Kind::Runs => {
                return refuse("--account: a run is of several accounts; leave it out");
            }
            Some(account) => Some(
                AccountId::parse_field("--account", account)
                    .map_err(|violation| ExportError::Failed(violation.message))?,
            ),
        };
        let is_sign_off = command.kind == Kind::SignOff;
        if is_sign_off && (command.from.is_some() || command.until.is_some()) {
            return refuse("--from and --until: a sign-off is of whole months; give --month");
        }
        if !is_sign_off && (command.month.is_some() || command.open) {
            return refuse("--month and --open are of sign-off; leave them out");
        }
        let sign_off = match (is_sign_off, &command.month) {
            (false, _) => None,
            (true, Some(months)) => Some(SignOff {
                months: months.clone(),
                account: account.clone(),
                accounts_per_page: command.accounts_per_page,
                now,
            }),
            (true, None) => {
                return refuse("sign-off needs --month, such as --month 2026-10, or --month all");
            }
        };
        Ok(Self {
            from: command.from,
            until: command.until,
            account,
            sign_off,
        })
    }

    fn includes(&self, at: Millis) -> bool {
        self.from.is_none_or(|from| at >= from) && self.until.is_none_or(|until| at < until)
    }

    fn is_of_account(&self, decision: &RecordedDecision) -> bool {
        let account = self.account.as_ref();
        account.is_none_or(|account| *account == decision.account_id)
    }
}

/// What was written, and what of it is not final.
struct Written {
    exported: Exported,
    waiting: Waiting,
}

async fn write_rows<W: Write>(
    store: &Store,
    command: &ExportCommand,
    selection: &Selection,
    out: &mut W,
) -> Result<Written, ExportError> {
    let mut writer = RecordWriter::new(out, command.format);
    let deletions = store.deletions_seen().await?;
    let mut waiting = Waiting::default();
    match command.kind {
        Kind::Audit => audit(store, selection, &mut writer).await?,
        Kind::Runs => runs(store, selection, &mut writer).await?,
        Kind::Decisions => decisions(store, selection, &mut writer).await?,
        Kind::Reports => reports(store, selection, &mut writer).await?,
        Kind::SignOff => {
            if let Some(sign_off) = &selection.sign_off {
                let mut reading = sign_off.begin();
                let mut put = |record: &_| writer.write(record);
                while reading.write_page(store, &mut put).await? {}
                (_, waiting) = reading.finish();
            }
        }
    }
    let moves_rows = matches!(
        command.kind,
        Kind::Decisions | Kind::Reports | Kind::SignOff
    );
    if moves_rows && store.deletions_seen().await? != deletions {
        return Err(ExportError::AccountDeleted);
    }
    Ok(Written {
        exported: writer.finish(),
        waiting,
    })
}
