//! The SQLite file: detects that it or its log was deleted, replaced or overwritten, and locks it for one server.
//!
//! Writes to a deleted or replaced file succeed until the process ends. Then they are lost.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    str::FromStr as _,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use sea_orm::{DbErr, RuntimeErr};
use sqlx::sqlite::SqliteConnectOptions;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long a start waits for the lock, for example while the previous process is stopping.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(100);
/// The permissions of a new file: only its owner reads what customers used. SQLite gives its log the same.
const NEW_FILE_MODE: u32 = 0o600;
/// Where SQLite's header has the number that `PRAGMA user_version` sets.
const MARKER_AT: u64 = 60;

/// The open file.
#[derive(Debug)]
pub(super) struct SqliteFile {
    path: PathBuf,
    /// Its write-ahead log, which contains the latest commits.
    log: PathBuf,
    opened: Identity,
    /// The log at the last check.
    opened_log: Mutex<Option<Identity>>,
    marker: OnceLock<Marker>,
    lost: CancellationToken,
    /// Why it was lost.
    loss: OnceLock<Loss>,
}

/// Device and inode.
type Identity = (u64, u64);

/// A number in the header that no other program knows. A copy of the file from before this start has another one.
#[derive(Debug)]
struct Marker {
    file: Arc<File>,
    number: u32,
    /// The number before. It is in the file until a checkpoint has copied the new one into it.
    before: u32,
    is_written: AtomicBool,
}

impl Marker {
    fn is_in_file(&self) -> io::Result<bool> {
        let found = read_marker(&self.file)?;
        if found == self.number {
            self.is_written.store(true, Ordering::Relaxed);
            return Ok(true);
        }
        Ok(found == self.before && !self.is_written.load(Ordering::Relaxed))
    }
}

/// What another program did to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Deleted,
    Replaced,
    Overwritten,
    LogLost,
}

impl Loss {
    fn text(self) -> &'static str {
        match self {
            Self::Deleted => "was deleted",
            Self::Replaced => "was replaced by another file",
            Self::Overwritten => {
                "was overwritten, so its log no longer belongs to it; move its -wal and -shm away, then restore a backup"
            }
            Self::LogLost => "has lost its log, which was deleted, moved or replaced",
        }
    }
}

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
            marker: OnceLock::new(),
            lost: CancellationToken::new(),
            loss: OnceLock::new(),
        })
    }

    /// Chooses a marker, to be written into the file; absent where the lock is not on the file. From now on, a file that
    /// does not have it was overwritten.
    pub(super) fn new_marker(&self, lock: &FileLock) -> Result<Option<u32>, DbErr> {
        let file = Arc::clone(&lock.file);
        let locked = file.metadata().map(|found| (found.dev(), found.ino()));
        let locked = locked.map_err(|error| unusable(&self.path, &error.to_string()))?;
        if locked != self.opened {
            return if cfg!(target_os = "linux") {
                Err(unusable(&self.path, "it was replaced during the start"))
            } else {
                Ok(None)
            };
        }
        let before =
            read_marker(&file).map_err(|error| unusable(&self.path, &error.to_string()))?;
        // Its last bytes, because the first ones are the time. SQLite reads the number as a positive one.
        let [.., a, b, c, d] = Uuid::new_v4().into_bytes();
        let number = u32::from_be_bytes([a, b, c, d]) >> 1;
        let marker = Marker {
            file,
            number,
            before,
            is_written: AtomicBool::new(false),
        };
        // There is one lock, and so one marker.
        let _ = self.marker.set(marker);
        Ok(Some(number))
    }

    /// Fails if the file or its log was deleted, replaced or overwritten, so that writes are lost.
    pub(super) fn check(&self) -> Result<(), DbErr> {
        let loss = match identity(&self.path) {
            Ok(found) if found != self.opened => Loss::Replaced,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Loss::Deleted,
            Err(error) => return Err(unusable(&self.path, &error.to_string())),
            Ok(_) if !self.has_its_contents()? => Loss::Overwritten,
            Ok(_) if !self.has_its_log() => Loss::LogLost,
            Ok(_) => return Ok(()),
        };
        // The first one is the cause.
        let loss = *self.loss.get_or_init(|| loss);
        self.lost.cancel();
        Err(unusable(&self.path, loss.text()))
    }

    /// Resolves after a failed check.
    pub(super) async fn lost(&self) -> String {
        self.lost.cancelled().await;
        let what = self.loss.get().map_or("was lost", |loss| loss.text());
        format!("the database file {} {what}", self.path.display())
    }

    /// Whether a check found that another program wrote into the file.
    pub(super) fn is_overwritten(&self) -> bool {
        self.loss.get() == Some(&Loss::Overwritten)
    }

    /// The size of the log, zero if there is none.
    pub(super) fn log_bytes(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |found| found.len())
    }

    /// When a process last wrote to the log; absent if there is none.
    pub(super) fn log_written_at(&self) -> Option<SystemTime> {
        fs::metadata(&self.log).ok()?.modified().ok()
    }

    fn has_its_contents(&self) -> Result<bool, DbErr> {
        let Some(marker) = self.marker.get() else {
            return Ok(true);
        };
        match marker.is_in_file() {
            Ok(is_in_file) => Ok(is_in_file),
            // Truncated.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(unusable(&self.path, &error.to_string())),
        }
    }

    /// SQLite itself replaces the log when no connection is open. The log is lost if this process still has the earlier
    /// one open, which was deleted or moved.
    fn has_its_log(&self) -> bool {
        let found = identity(&self.log).ok();
        let mut opened_log = self
            .opened_log
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if found.is_some() && *opened_log == found {
            return true;
        }
        if let Some(earlier) = *opened_log
            && has_open(earlier)
        {
            return false;
        }
        *opened_log = found;
        true
    }
}

/// Whether this process has a file open. Does not open it: closing it would release SQLite's locks.
fn has_open(file: Identity) -> bool {
    let Ok(open) = fs::read_dir("/proc/self/fd") else {
        return false;
    };
    open.flatten()
        .any(|entry| identity(&entry.path()).is_ok_and(|found| found == file))
}

fn read_marker(file: &File) -> io::Result<u32> {
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, MARKER_AT)?;
    Ok(u32::from_be_bytes(bytes))
}

/// The lock of a SQLite file. It is released when it is dropped, and when the process ends.
#[derive(Debug)]
pub struct FileLock {
    file: Arc<File>,
}

impl FileLock {
    /// Locks the SQLite file of a URL; creates it if it does not exist.
    ///
    /// On Linux the lock is on the database file itself, so no other name and no deleted lock file admits a second
    /// server. It does not affect SQLite's own locks, which are of another kind. But closing the file would release
    /// those, so it stays open until SQLite has closed its connections. On other systems the two kinds exclude each
    /// other, so there the lock is on a file beside it.
    ///
    /// # Errors
    /// Another process holds the lock, or the file cannot be opened.
    pub(super) async fn take(url: &str) -> Result<Self, DbErr> {
        let path = path_of(url)?;
        let path = if cfg!(target_os = "linux") {
            path
        } else {
            // Two names of one file share its lock.
            beside(&fs::canonicalize(&path).unwrap_or(path), ".lock")
        };
        let error = |error: io::Error| unusable(&path, &error.to_string());
        let begun = Instant::now();
        loop {
            let file = open_or_create(&path).map_err(error)?;
            match file.try_lock() {
                Ok(()) => {
                    let locked = file.metadata().map_err(error)?;
                    // Else it was replaced between the two calls.
                    if identity(&path).ok() == Some((locked.dev(), locked.ino())) {
                        let file = Arc::new(file);
                        return Ok(Self { file });
                    }
                }
                Err(TryLockError::Error(cause)) => return Err(error(cause)),
                Err(TryLockError::WouldBlock) => {}
            }
            if begun.elapsed() >= LOCK_WAIT {
                let why = "another usage-server uses this SQLite file; stop it first, or use PostgreSQL for several";
                return Err(unusable(&path, why));
            }
            sleep(LOCK_RETRY).await;
        }
    }
}

/// The backup that is about to take the place of a database, whose log may be moved already.
pub(super) fn restored_beside(path: &Path) -> PathBuf {
    beside(path, ".restored")
}

/// Fails while a restore of the file of a URL is interrupted: without its log it would be an older database.
pub(super) fn check_not_between(url: &str) -> Result<(), DbErr> {
    let path = path_of(url)?;
    let ready = restored_beside(&fs::canonicalize(&path).unwrap_or_else(|_| path.clone()));
    match ready.try_exists() {
        Ok(false) => Ok(()),
        Ok(true) => Err(unusable(
            &path,
            "`usage-server restore --from` was interrupted while it replaced this database; run it again",
        )),
        Err(error) => Err(unusable(&ready, &error.to_string())),
    }
}

/// Creates the SQLite file of a URL if it does not exist.
pub(super) fn create(url: &str) -> Result<(), DbErr> {
    let path = path_of(url)?;
    if path.exists() {
        return Ok(());
    }
    let created = open_or_create(&path);
    created.map_err(|error| unusable(&path, &error.to_string()))?;
    Ok(())
}

/// An existing file keeps its permissions.
fn open_or_create(path: &Path) -> io::Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(NEW_FILE_MODE)
        .open(path)
}

pub(super) fn path_of(url: &str) -> Result<PathBuf, DbErr> {
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

/// The error of connecting, with the file's name.
pub(super) fn named(url: &str, error: &DbErr) -> DbErr {
    let why = match error {
        DbErr::Conn(why) => why.to_string(),
        other => other.to_string(),
    };
    match path_of(url) {
        Ok(path) => unusable(&path, &why),
        Err(wrong_url) => wrong_url,
    }
}

fn unusable(path: &Path, why: &str) -> DbErr {
    failed(format!("{}: {why}", path.display()))
}

fn failed(why: String) -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(why))
}
