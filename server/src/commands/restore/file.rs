//! `usage-server restore --from FILE`: puts a backup of a SQLite database in the place of the database. What was there stays
//! beside it under another name.

use std::{
    fs, io,
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
const BESIDE: [&str; 2] = ["-wal", "-shm"];

/// What was put in place.
pub(super) struct Placed {
    /// The units in the backup.
    pub(super) units: i128,
    /// Where the former database is, if there was one.
    pub(super) former: Option<PathBuf>,
}

/// Puts a backup in place, as a copy. It is checked before anything is changed, and no server may use the database.
/// After an interruption, the same command can be run again.
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
    let failed = |path: &Path, error: io::Error| {
        OfflineError::Failed(format!("{}: {error}", path.display()))
    };
    if beside(backup, "-wal").exists() {
        return Err(OfflineError::Failed(format!(
            "{} has a log beside it, so it is not a backup but a database; make a copy with `usage-server backup`",
            backup.display()
        )));
    }
    let had_one = fs::metadata(&database).is_ok_and(|found| found.len() > 0);
    // On the former file. A server that starts once it is replaced has that of the new one.
    let _lock = Store::lock(url).await?;
    let copy = beside(&database, ".restoring");
    // That of an interrupted restore.
    remove(&copy).map_err(|error| failed(&copy, error))?;
    let copied = copy_to_new(backup, &copy).map_err(|error| failed(backup, error));
    let checked = match copied {
        Ok(()) => check(&copy).await.map_err(|error| match error {
            BackupError::Failed(why) => {
                OfflineError::Failed(format!("{} cannot be restored: {why}", backup.display()))
            }
            other => OfflineError::Failed(other.to_string()),
        }),
        Err(error) => Err(error),
    };
    if checked.is_err() {
        // Why it cannot be restored comes first.
        let _ = fs::remove_file(&copy);
    }
    let units = checked?;
    let former = if had_one {
        let time = rfc3339(clock.now()).replace([':', '.'], "-");
        let former = beside(&database, &format!(".before-restore-{time}"));
        keep_former(&database, &former).map_err(|error| failed(&former, error))?;
        Some(former)
    } else {
        None
    };
    fs::rename(&copy, &database)
        .and_then(|()| sync(&database))
        .map_err(|error| failed(&database, error))?;
    Ok(Placed { units, former })
}

/// A path with something added to its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn copy_to_new(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = fs::File::open(from)?;
    let mut copy = create_new(to)?;
    io::copy(&mut source, &mut copy)?;
    copy.sync_all()
}

/// Gives the former database another name, with its log. Its own name stays until it is that of the backup.
fn keep_former(database: &Path, former: &Path) -> io::Result<()> {
    fs::hard_link(database, former)?;
    for suffix in BESIDE {
        let (file, kept) = (beside(database, suffix), beside(former, suffix));
        match fs::rename(file, kept) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    sync(former)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
