//! The SQLite file: detects that it was deleted or replaced, and locks it for one server.
//!
//! Writes to a deleted or replaced file succeed until the process ends. Then they are lost.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    str::FromStr as _,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use sea_orm::{DbErr, RuntimeErr};
use sqlx::sqlite::SqliteConnectOptions;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How long a start waits for the lock, for example while the previous process is stopping.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(100);

/// The open file.
#[derive(Debug)]
pub(super) struct SqliteFile {
    path: PathBuf,
    /// Its write-ahead log, which contains the latest commits.
    log: PathBuf,
    opened: Identity,
    /// The log at the last check.
    opened_log: Mutex<Option<Identity>>,
    lost: CancellationToken,
}

/// Device and inode.
type Identity = (u64, u64);

impl SqliteFile {
    /// The existing file of a URL.
    pub(super) fn opened(url: &str) -> Result<Self, DbErr> {
        let path = path_of(url)?;
        let error = |error: io::Error| unusable(&path, &error.to_string());
        let opened = identity(&path).map_err(error)?;
        let target = fs::canonicalize(&path).map_err(error)?;
        Ok(Self {
            log: beside(&target, "-wal"),
            path: std::path::absolute(&path).map_err(error)?,
            opened,
            opened_log: Mutex::default(),
            lost: CancellationToken::new(),
        })
    }

    /// Fails if the file or its log was deleted or replaced, so that writes are lost.
    pub(super) fn check(&self) -> Result<(), DbErr> {
        let why = match identity(&self.path) {
            Ok(found) if found != self.opened => "it was replaced",
            Err(error) if error.kind() == io::ErrorKind::NotFound => "it was deleted",
            Err(error) => return Err(unusable(&self.path, &error.to_string())),
            Ok(_) if self.has_its_log() => return Ok(()),
            Ok(_) => "its log was deleted",
        };
        self.lost.cancel();
        Err(unusable(&self.path, why))
    }

    /// Resolves after a failed check.
    pub(super) async fn lost(&self) -> String {
        self.lost.cancelled().await;
        format!(
            "the database file {} was deleted or replaced while it was open",
            self.path.display()
        )
    }

    /// SQLite itself replaces the log when no connection is open. The log is lost only if this process still has a deleted
    /// one open.
    fn has_its_log(&self) -> bool {
        let found = identity(&self.log).ok();
        let mut opened_log = self
            .opened_log
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if found.is_some() && *opened_log == found {
            return true;
        }
        if self.has_deleted_log_open() {
            return false;
        }
        *opened_log = found;
        true
    }

    fn has_deleted_log_open(&self) -> bool {
        let Ok(open) = fs::read_dir("/proc/self/fd") else {
            return false;
        };
        let deleted = beside(&self.log, " (deleted)");
        open.flatten()
            .filter_map(|file| fs::read_link(file.path()).ok())
            .any(|target| target == deleted)
    }
}

/// The lock of a SQLite file. It is released when it is dropped, and when the process ends.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

impl FileLock {
    /// Locks the SQLite file of a URL. The lock is on a separate file, because closing the database file would release the
    /// locks that SQLite has on it.
    ///
    /// # Errors
    /// Another process holds the lock, or the lock file cannot be created.
    pub(super) async fn take(url: &str) -> Result<Self, DbErr> {
        let path = path_of(url)?;
        // Two names of one file share its lock.
        let path = beside(&fs::canonicalize(&path).unwrap_or(path), ".lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| unusable(&path, &error.to_string()))?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::Error(error)) => return Err(unusable(&path, &error.to_string())),
                Err(TryLockError::WouldBlock) if begun.elapsed() < LOCK_WAIT => {
                    sleep(LOCK_RETRY).await;
                }
                Err(TryLockError::WouldBlock) => {
                    let why = "another usage-server uses this SQLite file; stop it first, or use PostgreSQL for several";
                    return Err(unusable(&path, why));
                }
            }
        }
    }
}

fn path_of(url: &str) -> Result<PathBuf, DbErr> {
    let options = SqliteConnectOptions::from_str(url);
    let options = options.map_err(|error| failed(error.to_string()))?;
    Ok(options.get_filename().to_owned())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn identity(path: &Path) -> io::Result<Identity> {
    let found = fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}

fn unusable(path: &Path, why: &str) -> DbErr {
    failed(format!("{}: {why}", path.display()))
}

fn failed(why: String) -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(why))
}
