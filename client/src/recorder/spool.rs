//! Batches on disk, until the server has answered: a file each, named by its idempotency key.
//!
//! A file is written beside its place, synced and then renamed, so that what has its name is whole. It holds
//! the contract's own message and a checksum. One that is damaged all the same is set aside.

use super::sums::Sum;
use crate::proto::{IncrementBatchRequest, IncrementRequest};
use prost::Message as _;
use prost_types::Timestamp;
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};
use uuid::Uuid;

/// Begins each file; another format would begin otherwise.
const MAGIC: &[u8; 8] = b"usagebt1";
const BATCH: &str = "batch";
const DAMAGED: &str = "damaged";
const UNFINISHED: &str = "unfinished";

#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    /// The bytes that may lie there, and those that do.
    limit: u64,
    used: AtomicU64,
    /// Held as long as this process uses the folder.
    _lock: File,
}

/// A batch that another process left.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) key: Uuid,
    pub(super) sums: Vec<Sum>,
}

impl Spool {
    /// Opens a folder for this process alone; answers what an earlier one left, in order.
    pub(super) fn open(folder: &Path, limit: u64) -> io::Result<(Self, Vec<Found>)> {
        fs::create_dir_all(folder)?;
        let lock = File::create(folder.join("lock"))?;
        lock.try_lock().map_err(|error| {
            let why = format!("{} is in use: {error}", folder.display());
            io::Error::new(io::ErrorKind::ResourceBusy, why)
        })?;
        let spool = Self {
            folder: folder.to_owned(),
            limit,
            used: AtomicU64::new(0),
            _lock: lock,
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            match path.extension().and_then(OsStr::to_str) {
                // Its writer died before it said that this is kept.
                Some(UNFINISHED) => fs::remove_file(&path)?,
                Some(BATCH) => {
                    let name = path.file_stem().and_then(OsStr::to_str);
                    if let Some(key) = name.and_then(|name| Uuid::parse_str(name).ok())
                        && let Some(sums) = spool.read(key)?
                    {
                        let bytes = fs::metadata(&path)?.len();
                        spool.used.fetch_add(bytes, Ordering::Relaxed);
                        found.push(Found { key, sums });
                    }
                }
                _ => {}
            }
        }
        found.sort_unstable_by_key(|found| found.key);
        Ok((spool, found))
    }

    /// Keeps a batch; it is there after a crash of the process or of the machine.
    pub(super) fn write(&self, key: Uuid, sums: &[Sum]) -> io::Result<()> {
        let bytes = encode(key, sums);
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let used = self.used.fetch_add(length, Ordering::Relaxed);
        let written = if used.saturating_add(length) > self.limit {
            let why = format!("the spool holds {used} of {} bytes", self.limit);
            Err(io::Error::new(io::ErrorKind::StorageFull, why))
        } else {
            self.write_whole(key, &bytes)
        };
        if written.is_err() {
            self.used.fetch_sub(length, Ordering::Relaxed);
        }
        written
    }

    fn write_whole(&self, key: Uuid, bytes: &[u8]) -> io::Result<()> {
        let unfinished = self.path(key, UNFINISHED);
        let mut file = File::create(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, self.path(key, BATCH))?;
        self.sync_folder()
    }

    /// A batch as it was written; nothing where it was damaged, and then it is set aside.
    pub(super) fn read(&self, key: Uuid) -> io::Result<Option<Vec<Sum>>> {
        let path = self.path(key, BATCH);
        let sums = decode(&fs::read(&path)?);
        if sums.is_none() {
            let aside = self.path(key, DAMAGED);
            fs::rename(&path, &aside)?;
            tracing::error!(file = %aside.display(), "a spooled batch of usage is damaged and set aside");
        }
        Ok(sums)
    }

    /// Forgets a batch that the server has answered for.
    pub(super) fn remove(&self, key: Uuid) -> io::Result<()> {
        let path = self.path(key, BATCH);
        let bytes = fs::metadata(&path)?.len();
        fs::remove_file(&path)?;
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn path(&self, key: Uuid, extension: &str) -> PathBuf {
        self.folder.join(format!("{key}.{extension}"))
    }

    /// A new name is only kept with its folder.
    fn sync_folder(&self) -> io::Result<()> {
        if cfg!(unix) {
            File::open(&self.folder)?.sync_all()?;
        }
        Ok(())
    }
}

fn encode(key: Uuid, sums: &[Sum]) -> Vec<u8> {
    let increments = sums.iter().map(|sum| IncrementRequest {
        account_id: sum.account.to_string(),
        meter: sum.meter.to_string(),
        quantity: Some(sum.quantity),
        timestamp: Some(Timestamp {
            seconds: sum.second,
            nanos: 0,
        }),
        ..Default::default()
    });
    let message = IncrementBatchRequest {
        increments: increments.collect(),
        idempotency_key: key.to_string(),
    };
    let mut rest = u32::try_from(sums.len())
        .unwrap_or(u32::MAX)
        .to_le_bytes()
        .to_vec();
    rest.extend(sums.iter().flat_map(|sum| sum.records.to_le_bytes()));
    rest.extend(message.encode_to_vec());
    let mut bytes = MAGIC.to_vec();
    bytes.extend(crc32fast::hash(&rest).to_le_bytes());
    bytes.extend(rest);
    bytes
}

fn decode(bytes: &[u8]) -> Option<Vec<Sum>> {
    let bytes = bytes.strip_prefix(MAGIC)?;
    let (checksum, rest) = bytes.split_first_chunk::<4>()?;
    if crc32fast::hash(rest) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
    let (records, message) = rest.split_at_checked(count.checked_mul(8)?)?;
    let (records, _) = records.as_chunks::<8>();
    let message = IncrementBatchRequest::decode(message).ok()?;
    let increments = message.increments.into_iter().zip(records);
    let sums = increments.map(|(increment, records)| {
        Some(Sum {
            account: increment.account_id.into(),
            meter: increment.meter.into(),
            second: increment.timestamp?.seconds,
            quantity: increment.quantity?,
            records: u64::from_le_bytes(*records),
        })
    });
    sums.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums() -> Vec<Sum> {
        let sum = |account: &str, second| Sum {
            account: account.into(),
            meter: "tokens".into(),
            second,
            quantity: 7,
            records: 3,
        };
        vec![sum("a", 1_700_000_000), sum("b", 1_700_000_001)]
    }

    fn open(folder: &Path) -> (Spool, Vec<Found>) {
        Spool::open(folder, 1_000).unwrap()
    }

    #[test]
    fn what_is_kept_is_found_by_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let keys = [Uuid::now_v7(), Uuid::now_v7()];
        let (spool, found) = open(folder.path());
        assert!(found.is_empty());
        for key in keys {
            spool.write(key, &sums()).unwrap();
        }
        let busy = Spool::open(folder.path(), 1_000).unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy, "{busy}");
        drop(spool);
        let (spool, found) = open(folder.path());
        assert_eq!(found.iter().map(|one| one.key).collect::<Vec<_>>(), keys);
        assert!(found.iter().all(|one| one.sums == sums()));
        spool.remove(keys[0]).unwrap();
        drop(spool);
        assert_eq!(open(folder.path()).1.len(), 1);
    }

    #[test]
    fn what_is_damaged_is_set_aside_and_the_rest_is_kept() {
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
        assert_eq!(found[0].key, keys[3]);
        for key in &keys[..3] {
            assert!(spool.path(*key, DAMAGED).exists());
        }
        assert!(!folder.path().join("x.unfinished").exists());
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let folder = tempfile::tempdir().unwrap();
        let first = Uuid::now_v7();
        let one = u64::try_from(encode(first, &sums()).len()).unwrap();
        let (spool, _) = Spool::open(folder.path(), one + 1).unwrap();
        spool.write(first, &sums()).unwrap();
        let full = spool.write(Uuid::now_v7(), &sums());
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
        spool.remove(first).unwrap();
        spool.write(Uuid::now_v7(), &sums()).unwrap();
    }
}
