//! The disk below SQLite: what is written and what is synced of each file, faults of single writes and syncs, and power
//! cuts.
//!
//! The bytes are in real files, so that everything that is not SQLite finds them as usual. This remembers what of them
//! would survive a power cut.

use std::{
    collections::BTreeMap,
    ffi::c_int,
    fs, io,
    sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError},
};

use libsqlite3_sys::{SQLITE_FULL, SQLITE_IOERR_FSYNC, SQLITE_IOERR_WRITE};

use crate::random::Random;

/// A sector is written as a whole or not at all.
const SECTOR: usize = 512;

/// The disk of this process.
pub(crate) static DISK: LazyLock<Disk> = LazyLock::new(Disk::default);

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Write,
    Sync,
}

/// What goes wrong with one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskFault {
    /// Nothing is done, and it fails with EIO.
    Error,
    /// Nothing is done, and it fails with ENOSPC.
    Full,
    /// Half is written, and it fails. A sync fails.
    Short,
    /// It is done, and it fails all the same.
    AfterEffect,
    /// It takes this many milliseconds.
    Slow(u32),
    /// The power is cut before it.
    PowerCut,
}

/// What a power cut leaves of writes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsynced {
    Kept,
    Dropped,
    /// Some of them, and the last one in part.
    Torn,
}

/// A fault that waits for its operation: the `nth` of the step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Armed {
    /// The number of the fault in the list of the run.
    pub(crate) fault: usize,
    pub(crate) operation: Operation,
    pub(crate) nth: u64,
    pub(crate) how: DiskFault,
}

/// What the layer below SQLite has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Do,
    Fail(c_int),
    /// Write this many bytes, then fail.
    Short(usize, c_int),
    DoThenFail(c_int),
}

/// How many operations there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) writes: u64,
    pub(crate) syncs: u64,
}

#[derive(Debug, Default)]
struct File {
    synced: Vec<u8>,
    unsynced: Vec<Change>,
    open: usize,
}

#[derive(Debug)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Truncate(usize),
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, File>,
    is_off: bool,
    of_step: Counts,
    of_run: Counts,
    armed: Vec<Armed>,
    met: Vec<usize>,
    now_ms: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    state: Mutex<State>,
    moved: Condvar,
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file was opened.
    pub(crate) fn opened(&self, path: &str) {
        let mut state = self.lock();
        if let Some(known) = state.files.get_mut(path) {
            known.open += 1;
            return;
        }
        // No connection has it open, so reading it releases no lock of SQLite.
        let synced = fs::read(path).unwrap_or_default();
        let file = File {
            synced,
            unsynced: Vec::new(),
            open: 1,
        };
        state.files.insert(path.to_owned(), file);
    }

    pub(crate) fn closed(&self, path: &str) {
        let mut state = self.lock();
        if let Some(known) = state.files.get_mut(path) {
            known.open = known.open.saturating_sub(1);
        }
        self.moved.notify_all();
    }

    /// Whether a file may be deleted: not while the power is off.
    pub(crate) fn deletes(&self, path: &str) -> bool {
        let mut state = self.lock();
        if state.is_off {
            return false;
        }
        state.files.remove(path);
        true
    }

    pub(crate) fn is_off(&self) -> bool {
        self.lock().is_off
    }

    /// What becomes of an operation. Waits where it is slow.
    pub(crate) fn judge(&self, operation: Operation, bytes: usize) -> Verdict {
        let mut state = self.lock();
        let failure = match operation {
            Operation::Write => SQLITE_IOERR_WRITE,
            Operation::Sync => SQLITE_IOERR_FSYNC,
        };
        if state.is_off {
            return Verdict::Fail(failure);
        }
        let number = state.count(operation);
        let hit = state
            .armed
            .iter()
            .position(|armed| armed.operation == operation && armed.nth == number);
        let Some(hit) = hit.map(|place| state.armed.remove(place)) else {
            return Verdict::Do;
        };
        state.met.push(hit.fault);
        match hit.how {
            DiskFault::Full => Verdict::Fail(SQLITE_FULL),
            DiskFault::Short if operation == Operation::Write => {
                Verdict::Short(bytes / 2, SQLITE_FULL)
            }
            DiskFault::Error | DiskFault::Short => Verdict::Fail(failure),
            DiskFault::AfterEffect => Verdict::DoThenFail(failure),
            DiskFault::PowerCut => {
                state.is_off = true;
                Verdict::Fail(failure)
            }
            DiskFault::Slow(ms) => {
                let until = state.now_ms + u64::from(ms);
                let state = self.wait_until(state, until);
                if state.is_off {
                    Verdict::Fail(failure)
                } else {
                    Verdict::Do
                }
            }
        }
    }

    /// Waits in simulated time, as SQLite does for a lock.
    pub(crate) fn sleep(&self, ms: u64) {
        let state = self.lock();
        let until = state.now_ms + ms;
        drop(self.wait_until(state, until));
    }

    fn wait_until<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        until: u64,
    ) -> MutexGuard<'a, State> {
        while state.now_ms < until && !state.is_off {
            let waited = self.moved.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    pub(crate) fn written(&self, path: &str, at: i64, bytes: &[u8]) {
        let at = usize::try_from(at).unwrap_or(0);
        let bytes = bytes.to_vec();
        self.change(path, Change::Write { at, bytes });
    }

    pub(crate) fn truncated(&self, path: &str, size: i64) {
        self.change(path, Change::Truncate(usize::try_from(size).unwrap_or(0)));
    }

    fn change(&self, path: &str, change: Change) {
        let mut state = self.lock();
        if !state.is_off
            && let Some(file) = state.files.get_mut(path)
        {
            file.unsynced.push(change);
        }
    }

    pub(crate) fn synced(&self, path: &str) {
        let mut state = self.lock();
        if !state.is_off
            && let Some(file) = state.files.get_mut(path)
        {
            for change in std::mem::take(&mut file.unsynced) {
                apply(&mut file.synced, &change);
            }
        }
    }

    /// Moves the time of slow operations.
    pub(crate) fn advance(&self, ms: u64) {
        self.lock().now_ms += ms;
        self.moved.notify_all();
    }

    /// Begins a step with these faults. Those of the step before that were not met are dropped.
    pub(crate) fn begin_step(&self, armed: Vec<Armed>) {
        let mut state = self.lock();
        state.of_step = Counts::default();
        state.armed = armed;
    }

    /// The faults that were met since the last call.
    pub(crate) fn take_met(&self) -> Vec<usize> {
        std::mem::take(&mut self.lock().met)
    }

    pub(crate) fn counts(&self) -> Counts {
        self.lock().of_run
    }

    /// Cuts the power: from now on each operation fails.
    pub(crate) fn cut_power(&self) {
        self.lock().is_off = true;
        self.moved.notify_all();
    }

    /// The number of files that SQLite has open.
    pub(crate) fn open_files(&self) -> usize {
        self.lock().files.values().map(|file| file.open).sum()
    }

    /// Forgets files that are closed: they are read again when they are opened, because something else replaces them.
    pub(crate) fn forget_closed(&self) {
        self.lock().files.retain(|_, file| file.open > 0);
    }

    /// Restores the power once no file is open: writes what is left of each file.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(crate) fn restore_power(&self, unsynced: Unsynced, random: &mut Random) -> io::Result<()> {
        let mut state = self.lock();
        for (path, file) in &mut state.files {
            let mut left = file.synced.clone();
            let changes = std::mem::take(&mut file.unsynced);
            for change in &changes {
                match unsynced {
                    Unsynced::Kept => apply(&mut left, change),
                    Unsynced::Torn if random.one_in(2) => apply(&mut left, &torn(change, random)),
                    Unsynced::Dropped | Unsynced::Torn => {}
                }
            }
            fs::write(path, &left)?;
            file.synced = left;
            // Shared memory does not survive.
            if let Err(error) = fs::remove_file(format!("{path}-shm"))
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
        }
        state.is_off = false;
        state.armed.clear();
        Ok(())
    }
}

impl State {
    fn count(&mut self, operation: Operation) -> u64 {
        let pick = |counts: &mut Counts| {
            let number = match operation {
                Operation::Write => &mut counts.writes,
                Operation::Sync => &mut counts.syncs,
            };
            *number += 1;
            *number
        };
        pick(&mut self.of_run);
        pick(&mut self.of_step)
    }
}

fn apply(to: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { at, bytes } => {
            let end = at + bytes.len();
            if to.len() < end {
                to.resize(end, 0);
            }
            to[*at..end].copy_from_slice(bytes);
        }
        Change::Truncate(size) => to.truncate(*size),
    }
}

/// A write of which only some sectors at its beginning arrived, or all of it.
fn torn(change: &Change, random: &mut Random) -> Change {
    match change {
        Change::Write { at, bytes } if random.one_in(4) => {
            let sectors = random.place(bytes.len() / SECTOR + 1);
            let bytes = bytes[..(sectors * SECTOR).min(bytes.len())].to_vec();
            Change::Write { at: *at, bytes }
        }
        Change::Write { at, bytes } => Change::Write {
            at: *at,
            bytes: bytes.clone(),
        },
        Change::Truncate(size) => Change::Truncate(*size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_synced_survives_a_power_cut_that_drops_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"").unwrap();
        let name = path.to_str().unwrap();
        for (unsynced, left) in [
            (Unsynced::Dropped, &b"ab"[..]),
            (Unsynced::Kept, &b"abcd"[..]),
        ] {
            let disk = Disk::default();
            fs::write(&path, b"").unwrap();
            disk.opened(name);
            disk.written(name, 0, b"ab");
            disk.synced(name);
            disk.written(name, 2, b"cd");
            disk.cut_power();
            disk.written(name, 4, b"ef");
            assert_eq!(
                disk.judge(Operation::Sync, 0),
                Verdict::Fail(SQLITE_IOERR_FSYNC)
            );
            disk.closed(name);
            disk.restore_power(unsynced, &mut Random::new(1)).unwrap();
            assert_eq!(fs::read(&path).unwrap(), left);
        }
    }

    #[test]
    fn the_nth_operation_of_a_step_meets_its_fault() {
        let disk = Disk::default();
        let armed = Armed {
            fault: 7,
            operation: Operation::Write,
            nth: 2,
            how: DiskFault::Short,
        };
        disk.begin_step(vec![armed]);
        assert_eq!(disk.judge(Operation::Write, 8), Verdict::Do);
        assert_eq!(disk.judge(Operation::Sync, 0), Verdict::Do);
        assert_eq!(
            disk.judge(Operation::Write, 8),
            Verdict::Short(4, SQLITE_FULL)
        );
        assert_eq!(disk.judge(Operation::Write, 8), Verdict::Do);
        assert_eq!(disk.take_met(), [7]);
        assert_eq!(
            disk.counts(),
            Counts {
                writes: 3,
                syncs: 1
            }
        );
    }
}
