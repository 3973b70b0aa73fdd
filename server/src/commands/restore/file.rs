//! `usage-server restore --from FILE`: puts a backup of a SQLite database in the place of the database. What was there stays
//! beside it under another name.
//!
//! An interruption leaves the former database whole, or a database that no program opens until the command is run again:
//! a database without its log would be an older one, and nothing would show it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::{
    clock::Clock,
    commands::{
        backup::{BackupError, check, sync},
        offline::OfflineError,
    },
    domain::period::rfc3339,
    durable_file::create_new,
    store::Store,
};

/// SQLite's files beside a database. With another database they would be mistaken for its own.
const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];
/// What is added to the database's name for the copy while it is written and checked.
const COPYING: &str = ".restoring";
/// What is added to the database's name for the one that it was.
const FORMER: &str = ".before-restore-";

/// What was put in place.
#[derive(Debug)]
pub(super) struct Placed {
    /// The units in the backup.
    pub(super) units: i128,
    /// Where the former database is, if there was one.
    pub(super) former: Option<PathBuf>,
    /// Where a log is that had no database.
    pub(super) log: Option<PathBuf>,
}

/// Puts a backup in place, as a copy in which sending is paused. It is checked before anything is changed, and no server may
/// use the database. After an interruption, the same command can be run again.
pub(super) async fn put_in_place(
    url: &str,
    backup: &Path,
    clock: &Clock,
) -> Result<Placed, OfflineError> {
    let Some(database) = Store::sqlite_path(url)? else {
        return Err(OfflineError::Failed(
            "--from is for SQLite; restore PostgreSQL with pg_restore, or from its own backups"
                .to_owned(),
        ));
    };
    // A link stays: SQLite's other files are beside what it leads to.
    let database = fs::canonicalize(&database).unwrap_or(database);
    if beside(backup, "-wal").exists() {
        return Err(OfflineError::Failed(format!(
            "{} has a log beside it, so it is not a backup but a database; make a copy with `usage-server backup`",
            backup.display()
        )));
    }
    let had_one = fs::metadata(&database).is_ok_and(|found| found.len() > 0);
    // On the former file. A server that starts once it is replaced has that of the new one.
    let _lock = Store::lock(url).await?;
    let copy = beside(&database, COPYING);
    // Those of an interrupted restore.
    remove_copy(&copy).map_err(failed(&copy))?;
    let units = match checked_copy(backup, &copy, clock).await {
        Ok(units) => units,
        Err(error) => {
            // Why it cannot be restored comes first.
            let _ = remove_copy(&copy);
            return Err(error);
        }
    };
    let time = rfc3339(clock.now()).replace([':', '.'], "-");
    let new_name = beside(&database, &format!("{FORMER}{time}"));
    let former = if had_one {
        let kept = keep_former(&database, &new_name);
        Some(kept.map_err(failed(&new_name))?)
    } else {
        None
    };
    let former_name = former.as_ref().unwrap_or(&new_name);
    check_names_of_logs(&database, former_name).map_err(failed(former_name))?;
    let ready = Store::restored_beside(&database);
    fs::rename(&copy, &ready)
        .and_then(|()| sync(&ready))
        .map_err(failed(&ready))?;
    let log = move_logs(&database, former_name).map_err(failed(&database))?;
    fs::rename(&ready, &database)
        .and_then(|()| sync(&database))
        .map_err(failed(&database))?;
    Ok(Placed {
        units,
        log: log.filter(|_| !had_one),
        former,
    })
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> OfflineError {
    let path = path.display().to_string();
    move |error| OfflineError::Failed(format!("{path}: {error}"))
}

/// Copies a backup, checks the copy, and pauses sending in it. Returns the units in it.
async fn checked_copy(backup: &Path, copy: &Path, clock: &Clock) -> Result<i128, OfflineError> {
    copy_to_new(backup, copy)?;
    let name = backup.display();
    let units = check(copy).await.map_err(|error| match error {
        BackupError::OlderSchema => OfflineError::Failed(format!(
            "{name} has an older schema than this program, or is no database of it; run `usage-server migrate --database-url sqlite://{name}`, then run this again"
        )),
        BackupError::Failed(why) => {
            OfflineError::Failed(format!("{name} cannot be restored: {why}"))
        }
        other => OfflineError::Failed(other.to_string()),
    })?;
    // Whatever becomes of the rest: nothing is sent before the comparison with Stripe.
    let url = format!("sqlite://{}", copy.display());
    let store = Store::open_existing(&url, 1).await?;
    let paused = store.pause_until_restored(clock.now()).await;
    store.close().await?;
    paused?;
    // The copy alone is put in place.
    let log = beside(copy, "-wal");
    if fs::metadata(&log).is_ok_and(|found| found.len() > 0) {
        return Err(OfflineError::Failed(format!(
            "{}: it was not copied into the database",
            log.display()
        )));
    }
    for suffix in BESIDE {
        let other = beside(copy, suffix);
        remove(&other).map_err(failed(&other))?;
    }
    sync(copy).map_err(failed(copy))?;
    Ok(units)
}

/// A path with something added to its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn copy_to_new(from: &Path, to: &Path) -> Result<(), OfflineError> {
    let mut source = fs::File::open(from).map_err(failed(from))?;
    let mut copy = create_new(to).map_err(failed(to))?;
    // Either may fail: the disk may be full.
    let whole = io::copy(&mut source, &mut copy).and_then(|_| copy.sync_all());
    whole.map_err(|error| {
        let (from, to) = (from.display(), to.display());
        OfflineError::Failed(format!("cannot copy {from} to {to}: {error}"))
    })
}

/// Gives the former database another name. Its own name stays until it is that of the backup. Returns the other name:
/// that of an interrupted restore, if there was one, whose log may be moved already.
fn keep_former(database: &Path, new_name: &Path) -> io::Result<PathBuf> {
    if let Some(known) = find_former(database)? {
        return Ok(known);
    }
    fs::hard_link(database, new_name)?;
    sync(new_name)?;
    Ok(new_name.to_owned())
}

/// Another name that an interrupted restore gave to this very file.
fn find_former(database: &Path) -> io::Result<Option<PathBuf>> {
    let (Some(folder), Some(name)) = (database.parent(), database.file_name()) else {
        return Ok(None);
    };
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let mut prefix = name.to_owned();
    prefix.push(FORMER);
    let own = fs::metadata(database)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_former = name
            .as_encoded_bytes()
            .starts_with(prefix.as_encoded_bytes());
        if !is_former {
            continue;
        }
        let found = entry.metadata()?;
        if (found.dev(), found.ino()) == (own.dev(), own.ino()) {
            return Ok(Some(folder.join(name)));
        }
    }
    Ok(None)
}

/// Fails if moving the logs would overwrite a file.
fn check_names_of_logs(database: &Path, former: &Path) -> io::Result<()> {
    for suffix in BESIDE {
        let (file, kept) = (beside(database, suffix), beside(former, suffix));
        if file.try_exists()? && kept.try_exists()? {
            let text = format!("{} exists, and nothing is overwritten", kept.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
    }
    Ok(())
}

/// Moves what SQLite wrote beside the former database to its other name. Returns where its log is, if there was one.
fn move_logs(database: &Path, former: &Path) -> io::Result<Option<PathBuf>> {
    let mut log = None;
    for suffix in BESIDE {
        let (file, kept) = (beside(database, suffix), beside(former, suffix));
        match fs::rename(&file, &kept) {
            Ok(()) if suffix != "-shm" => log = Some(kept),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(log)
}

fn remove_copy(copy: &Path) -> io::Result<()> {
    for suffix in BESIDE {
        remove(&beside(copy, suffix))?;
    }
    remove(copy)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
