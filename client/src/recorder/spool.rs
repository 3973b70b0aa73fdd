//! Batches on disk until the server has answered: one file each, named by its idempotency key.
//!
//! A file is written under a temporary name, synced and then renamed, so `NAME.batch` is always complete. What it
//! contains is in `spool_file`. A damaged file is renamed to `NAME.damaged`. Usage that the server
//! rejected permanently is stored as `NAME.refused` with a new key; renamed to `NAME.batch`, it is sent again. Files
//! that nothing sends again have a limit of their own, so that they leave the space for batches alone: the oldest are
//! kept, and what no longer fits is an error.

use super::{
    aggregator::Sum,
    spool_file::{Batch, decode, encode},
    totals,
};
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};
use uuid::Uuid;

const BATCH: &str = "batch";
const DAMAGED: &str = "damaged";
const REFUSED: &str = "refused";
const UNFINISHED: &str = "unfinished";
/// The disk space that even a small file takes.
const BLOCK: u64 = 4_096;
/// The largest file that is read: far larger than any batch.
const MAX_FILE_BYTES: u64 = 16 << 20;

#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    /// The maximum and the current size of the batches, in bytes.
    limit: u64,
    used: AtomicU64,
    /// The size of rejected and damaged files, in bytes. It has the same limit.
    kept_aside: AtomicU64,
    /// Locked as long as this process uses the folder.
    _lock: File,
}

/// A batch that an earlier process left.
#[derive(Debug)]
pub(super) struct LeftBatch {
    pub(super) name: Uuid,
    pub(super) calls: u64,
    pub(super) units: u64,
}

impl Spool {
    /// Locks a folder for this process, and returns the batches that an earlier process left, oldest first.
    pub(super) fn open(folder: &Path, limit: u64) -> io::Result<(Self, Vec<LeftBatch>)> {
        fs::create_dir_all(folder)?;
        // A new folder is durable only once its parent is synced.
        if let Some(parent) = fs::canonicalize(folder)?.parent() {
            sync_folder(parent)?;
        }
        let lock = File::create(folder.join("lock"))?;
        lock.try_lock().map_err(|error| {
            let why = format!(
                "the spool {} is in use by another recorder: {error}",
                folder.display()
            );
            io::Error::new(io::ErrorKind::ResourceBusy, why)
        })?;
        let spool = Self {
            folder: folder.to_owned(),
            limit,
            used: AtomicU64::new(0),
            kept_aside: AtomicU64::new(0),
            _lock: lock,
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            match path.extension().and_then(OsStr::to_str) {
                // The process was killed before it acknowledged this batch.
                Some(UNFINISHED) => discard(&path),
                Some(BATCH) => found.extend(spool.read_left(&path)),
                _ => {}
            }
        }
        spool.measure_kept_aside()?;
        found.sort_unstable_by_key(|found| found.name);
        Ok((spool, found))
    }

    /// Reads a batch that an earlier process left. One that cannot be read is logged and skipped.
    fn read_left(&self, path: &Path) -> Option<LeftBatch> {
        let stem = path.file_stem().and_then(OsStr::to_str);
        let name = stem.and_then(|stem| Uuid::parse_str(stem).ok());
        // An id can be spelled in other ways, which are names of other files.
        let name = name.filter(|name| self.path(*name, BATCH).file_name() == path.file_name());
        let Some(name) = name else {
            tracing::error!(file = %path.display(), "a batch of usage in the spool is not named by a UUID in lower case and is skipped; rename it");
            return None;
        };
        let read = self.read(name).map(|batch| {
            let length = fs::metadata(path).map_or(0, |metadata| metadata.len());
            batch.map(|batch| (batch, length))
        });
        match read {
            Ok(None) => None,
            Ok(Some((batch, length))) => {
                self.used.fetch_add(length.max(BLOCK), Ordering::Relaxed);
                let (calls, units) = totals(&batch.sums);
                Some(LeftBatch { name, calls, units })
            }
            Err(error) => {
                tracing::error!(%error, file = %path.display(), "a spooled batch of usage cannot be read and is skipped");
                None
            }
        }
    }

    /// Writes a batch so that it survives a crash of the process or the machine.
    pub(super) fn write(&self, name: Uuid, sums: &[Sum]) -> io::Result<()> {
        let bytes = encode(name, sums);
        let length = disk_size(&bytes);
        let used = self.used.fetch_add(length, Ordering::Relaxed);
        let written = if used.saturating_add(length) > self.limit {
            let why = format!("the spool is full: {used} of {} bytes are used", self.limit);
            Err(io::Error::new(io::ErrorKind::StorageFull, why))
        } else {
            self.write_whole(&self.path(name, BATCH), &bytes)
        };
        if written.is_err() {
            self.used.fetch_sub(length, Ordering::Relaxed);
            // The batch stays in memory, so it must not also be found here.
            discard(&self.path(name, UNFINISHED));
            discard(&self.path(name, BATCH));
        }
        written
    }

    /// Replaces an answered batch by another one, atomically.
    pub(super) fn replace(&self, name: Uuid, key: Uuid, sums: &[Sum]) -> io::Result<()> {
        let (path, bytes) = (self.path(name, BATCH), encode(key, sums));
        let before = fs::metadata(&path)?.len().max(BLOCK);
        self.write_whole(&path, &bytes)?;
        self.used.fetch_add(disk_size(&bytes), Ordering::Relaxed);
        self.used.fetch_sub(before, Ordering::Relaxed);
        Ok(())
    }

    /// Stores usage that the server rejected permanently; returns the file.
    ///
    /// # Errors
    /// The rejected and damaged files would exceed the limit, or the disk fails.
    pub(super) fn write_refused(&self, name: Uuid, sums: &[Sum]) -> io::Result<PathBuf> {
        let bytes = encode(Uuid::now_v7(), sums);
        let length = disk_size(&bytes);
        let fits = |kept: u64| kept.saturating_add(length) <= self.limit;
        // Somebody may have removed files since they were measured.
        if !fits(self.kept_aside.load(Ordering::Relaxed)) && !fits(self.measure_kept_aside()?) {
            let why = format!(
                "the rejected and damaged files in {} take their {} bytes; check and remove them",
                self.folder.display(),
                self.limit
            );
            return Err(io::Error::new(io::ErrorKind::StorageFull, why));
        }
        let mut path = self.path(name, REFUSED);
        if path.exists() {
            // Another part of the same batch was rejected before.
            path = self.path(Uuid::now_v7(), REFUSED);
        }
        self.write_whole(&path, &bytes)?;
        self.kept_aside.fetch_add(length, Ordering::Relaxed);
        Ok(path)
    }

    /// Measures the rejected and damaged files again.
    fn measure_kept_aside(&self) -> io::Result<u64> {
        let mut bytes = 0_u64;
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let path = entry.path();
            let extension = path.extension().and_then(OsStr::to_str);
            if matches!(extension, Some(REFUSED | DAMAGED)) {
                // A file that was just removed takes no space.
                let length = entry
                    .metadata()
                    .map_or(0, |metadata| metadata.len().max(BLOCK));
                bytes = bytes.saturating_add(length);
            }
        }
        self.kept_aside.store(bytes, Ordering::Relaxed);
        Ok(bytes)
    }

    fn write_whole(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let unfinished = path.with_extension(UNFINISHED);
        let mut file = File::create(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        sync_folder(&self.folder)
    }

    /// Reads a batch; `None` if it is damaged, in which case the file is renamed.
    pub(super) fn read(&self, name: Uuid) -> io::Result<Option<Batch>> {
        let path = self.path(name, BATCH);
        let metadata = fs::metadata(&path)?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
        }
        // To read a larger one could take all memory.
        let is_readable = metadata.len() <= MAX_FILE_BYTES;
        let batch = if is_readable {
            decode(&fs::read(&path)?)
        } else {
            None
        };
        if batch.is_none() {
            let aside = self.path(name, DAMAGED);
            fs::rename(&path, &aside)?;
            self.measure_kept_aside()?;
            tracing::error!(file = %aside.display(), "a spooled batch of usage is damaged and was renamed");
        }
        Ok(batch)
    }

    /// Removes a batch that the server has answered.
    pub(super) fn remove(&self, name: Uuid) -> io::Result<()> {
        let path = self.path(name, BATCH);
        let bytes = fs::metadata(&path)?.len().max(BLOCK);
        fs::remove_file(&path)?;
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn path(&self, name: Uuid, extension: &str) -> PathBuf {
        self.folder.join(format!("{name}.{extension}"))
    }
}

/// A renamed file is durable only once its folder is synced.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Removes a file that is no longer needed, if it exists.
fn discard(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, file = %path.display(), "a file that is no longer needed could not be removed from the spool");
    }
}

fn disk_size(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX).max(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::{super::spool_file::tests::sums, *};

    fn open(folder: &Path) -> (Spool, Vec<LeftBatch>) {
        Spool::open(folder, 1 << 20).unwrap()
    }

    #[test]
    fn batches_are_found_by_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let keys = [Uuid::now_v7(), Uuid::now_v7()];
        let (spool, found) = open(folder.path());
        assert!(found.is_empty());
        for key in keys {
            spool.write(key, &sums()).unwrap();
        }
        let busy = Spool::open(folder.path(), 1 << 20).unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy, "{busy}");
        drop(spool);
        let (spool, found) = open(folder.path());
        assert_eq!(found.iter().map(|one| one.name).collect::<Vec<_>>(), keys);
        for (key, found) in keys.into_iter().zip(found) {
            assert_eq!((found.calls, found.units), (6, 14));
            let sums = sums();
            assert_eq!(spool.read(key).unwrap(), Some(Batch { key, sums }));
        }
        spool.remove(keys[0]).unwrap();
        drop(spool);
        assert_eq!(open(folder.path()).1.len(), 1);
    }

    #[test]
    fn damaged_batches_are_renamed_and_others_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = open(folder.path());
        let keys: Vec<Uuid> = (0..4).map(|_| Uuid::now_v7()).collect();
        for key in &keys {
            spool.write(*key, &sums()).unwrap();
        }
        let path = |key: Uuid| spool.path(key, BATCH);
        let whole = fs::read(path(keys[0])).unwrap();
        fs::write(path(keys[0]), &whole[..whole.len() - 1]).unwrap();
        let mut flipped = whole.clone();
        flipped[40] ^= 1;
        fs::write(path(keys[1]), flipped).unwrap();
        fs::write(path(keys[2]), b"").unwrap();
        fs::write(folder.path().join("x.unfinished"), b"half").unwrap();
        drop(spool);
        let (spool, found) = open(folder.path());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, keys[3]);
        for key in &keys[..3] {
            assert!(spool.path(*key, DAMAGED).exists());
        }
        assert!(!folder.path().join("x.unfinished").exists());
    }

    #[test]
    fn huge_files_are_set_aside_and_files_of_other_names_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = open(folder.path());
        let keys: Vec<Uuid> = (0..4).map(|_| Uuid::now_v7()).collect();
        for key in &keys {
            spool.write(*key, &sums()).unwrap();
        }
        let path = |key: Uuid| spool.path(key, BATCH);
        let huge = File::options().write(true).open(path(keys[0])).unwrap();
        huge.set_len(MAX_FILE_BYTES + 1).unwrap();
        let capitals = keys[1].to_string().to_uppercase();
        let others = ["copy.batch".to_owned(), format!("{capitals}.batch")];
        let others = others.map(|name| folder.path().join(name));
        fs::rename(path(keys[1]), &others[1]).unwrap();
        fs::rename(path(keys[2]), &others[0]).unwrap();
        drop(spool);
        let (spool, found) = open(folder.path());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, keys[3]);
        assert!(spool.path(keys[0], DAMAGED).exists());
        assert!(others.iter().all(|path| path.exists()));
    }

    #[test]
    fn spool_stops_at_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let first = Uuid::now_v7();
        let (spool, _) = Spool::open(folder.path(), BLOCK + 1).unwrap();
        spool.write(first, &sums()).unwrap();
        let full = spool.write(Uuid::now_v7(), &sums());
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
        spool.remove(first).unwrap();
        spool.write(Uuid::now_v7(), &sums()).unwrap();
    }

    #[test]
    fn replaced_and_rejected_batches_can_be_sent_again() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = open(folder.path());
        let [name, key] = [Uuid::now_v7(), Uuid::now_v7()];
        spool.write(name, &sums()).unwrap();
        spool.replace(name, key, &sums()[..1]).unwrap();
        let aside = spool.write_refused(name, &sums()[1..]).unwrap();
        drop(spool);
        let (spool, found) = open(folder.path());
        assert_eq!((found[0].name, found[0].units), (name, 7));
        assert_eq!(spool.read(name).unwrap().unwrap().key, key);
        fs::rename(aside, spool.path(name, BATCH)).unwrap();
        let again = spool.read(name).unwrap().unwrap();
        assert_eq!(again.sums, sums()[1..]);
        assert!(again.key != name && again.key != key, "a new key");
    }

    #[test]
    fn rejected_files_stop_at_their_limit_and_leave_the_space_for_batches() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = Spool::open(folder.path(), 2 * BLOCK).unwrap();
        let [first, second, third] = [Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()];
        let kept = spool.write_refused(first, &sums()).unwrap();
        spool.write_refused(second, &sums()).unwrap();
        let full = spool.write_refused(third, &sums()).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull, "{full}");
        assert!(kept.exists(), "the oldest are kept");
        spool.write(third, &sums()).unwrap();
        drop(spool);
        let (spool, _) = Spool::open(folder.path(), 2 * BLOCK).unwrap();
        spool.write_refused(third, &sums()).unwrap_err();
        fs::remove_file(kept).unwrap();
        spool.write_refused(third, &sums()).unwrap();
    }

    #[test]
    fn parts_of_a_batch_rejected_one_after_the_other_are_all_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = open(folder.path());
        let name = Uuid::now_v7();
        let one = spool.write_refused(name, &sums()[..1]).unwrap();
        let other = spool.write_refused(name, &sums()[1..]).unwrap();
        for (file, sums) in [(one, &sums()[..1]), (other, &sums()[1..])] {
            assert_eq!(decode(&fs::read(file).unwrap()).unwrap().sums, sums);
        }
    }

    #[cfg(unix)]
    #[test]
    fn failed_write_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = open(folder.path());
        let name = Uuid::now_v7();
        // Nothing can be renamed to a folder that is not empty.
        fs::create_dir_all(spool.path(name, BATCH).join("in the way")).unwrap();
        spool.write(name, &sums()).unwrap_err();
        assert!(!spool.path(name, UNFINISHED).exists());
        assert_eq!(spool.used.load(Ordering::Relaxed), 0);
    }
}
