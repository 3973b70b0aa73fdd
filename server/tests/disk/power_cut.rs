//! What a power cut leaves of the files: computed from the recorded writes and syncs of a server.
//!
//! Synced bytes stay. The others are lost, kept, torn, or some are lost. After a failed sync, bytes that were not synced are
//! lost in the worst case, also if a later sync succeeds: the kernel may have dropped them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    faults::{DATABASE, JOURNAL, LOG},
    random::Random,
};

const HEAD_BYTES: usize = 16;

/// What becomes of bytes that were written and not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsynced {
    Kept,
    Lost,
    /// Every second write is lost.
    Partly,
    /// Each write is kept, lost, cut off, or ends in other bytes, drawn from a seed.
    Torn(u64),
}

/// Every write, sync, truncation and deletion, in their order.
pub(crate) struct Recording(Vec<(i32, Step)>);

#[derive(Clone)]
enum Step {
    Write { at: usize, bytes: Vec<u8> },
    Truncate { length: usize },
    Sync,
    FailedSync,
    Delete,
}

impl Recording {
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let mut rest = bytes.as_slice();
        let mut steps = Vec::new();
        // A step that was cut off by SIGKILL ended nothing.
        while let Some((head, after)) = rest.split_at_checked(HEAD_BYTES) {
            let length = u32::from_ne_bytes(head[4..8].try_into().unwrap());
            let at = u64::from_ne_bytes(head[8..16].try_into().unwrap());
            let at = usize::try_from(at).unwrap();
            let Some((bytes, after)) = after.split_at_checked(usize::try_from(length).unwrap())
            else {
                break;
            };
            rest = after;
            let step = match head[0] {
                b'W' => Step::Write {
                    at,
                    bytes: bytes.to_vec(),
                },
                b'T' => Step::Truncate { length: at },
                b'S' => Step::Sync,
                b'F' => Step::FailedSync,
                b'D' => Step::Delete,
                other => panic!("a record of kind {other}"),
            };
            steps.push((i32::from(head[1]), step));
        }
        Self(steps)
    }

    /// Writes the database and its log as a power cut would leave them.
    pub(crate) fn write_image(&self, database: &Path, unsynced: Unsynced) {
        let mut files = BTreeMap::<i32, RecordedFile>::new();
        for (file, step) in &self.0 {
            files.entry(*file).or_default().apply(step, unsynced);
        }
        for (file, suffix) in [(DATABASE, ""), (LOG, "-wal"), (JOURNAL, "-journal")] {
            let mut path = database.as_os_str().to_owned();
            path.push(suffix);
            if let Some(recorded) = files.remove(&file)
                && let Some(contents) = recorded.after_power_cut(unsynced)
            {
                fs::write(PathBuf::from(path), contents).unwrap();
            }
        }
    }
}

#[derive(Default)]
struct RecordedFile {
    exists: bool,
    durable: Vec<u8>,
    pending: Vec<Step>,
}

impl RecordedFile {
    fn apply(&mut self, step: &Step, unsynced: Unsynced) {
        self.exists = true;
        match step {
            Step::Write { .. } | Step::Truncate { .. } => self.pending.push(step.clone()),
            Step::Sync => {
                for step in std::mem::take(&mut self.pending) {
                    apply_to(&mut self.durable, &step);
                }
            }
            Step::FailedSync if unsynced == Unsynced::Kept => {}
            Step::FailedSync => self.lose(unsynced),
            Step::Delete => *self = Self::default(),
        }
    }

    /// Drops or damages writes that were not synced.
    fn lose(&mut self, unsynced: Unsynced) {
        for (number, step) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            if let Some(left) = left_of(step, number, unsynced) {
                apply_to(&mut self.durable, &left);
            }
        }
    }

    fn after_power_cut(mut self, unsynced: Unsynced) -> Option<Vec<u8>> {
        self.lose(unsynced);
        self.exists.then_some(self.durable)
    }
}

/// What is left of a step that was not synced.
fn left_of(step: Step, number: usize, unsynced: Unsynced) -> Option<Step> {
    match step {
        Step::Write { at, bytes } => {
            let bytes = left_of_write(bytes, number, unsynced)?;
            Some(Step::Write { at, bytes })
        }
        other => Some(other),
    }
}

fn left_of_write(bytes: Vec<u8>, number: usize, unsynced: Unsynced) -> Option<Vec<u8>> {
    match unsynced {
        Unsynced::Kept => Some(bytes),
        Unsynced::Lost => None,
        Unsynced::Partly => number.is_multiple_of(2).then_some(bytes),
        Unsynced::Torn(seed) => {
            let number = u64::try_from(number).unwrap();
            torn(bytes, &mut Random(seed.wrapping_add(number)))
        }
    }
}

/// What is left of a write, if anything.
fn torn(mut bytes: Vec<u8>, random: &mut Random) -> Option<Vec<u8>> {
    let length = i64::try_from(bytes.len()).unwrap();
    let place = usize::try_from(random.below(length.max(1))).unwrap();
    match random.below(4) {
        0 => return None,
        1 => bytes.truncate(place),
        2 => {
            for byte in bytes.iter_mut().skip(place) {
                *byte = u8::try_from(random.below(256)).unwrap();
            }
        }
        _ => {}
    }
    Some(bytes)
}

fn apply_to(contents: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write { at, bytes } => {
            let end = at + bytes.len();
            if contents.len() < end {
                contents.resize(end, 0);
            }
            contents[*at..end].copy_from_slice(bytes);
        }
        Step::Truncate { length } => contents.resize(*length, 0),
        Step::Sync | Step::FailedSync | Step::Delete => {}
    }
}
