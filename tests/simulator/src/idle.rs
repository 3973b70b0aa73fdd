//! Finds out that nothing in this process can go on by itself: every other thread sleeps, and none has run meanwhile.
//! Then only the passing of simulated time brings something to happen.
//!
//! All sides of every socket are in this process, and every timer is of simulated time, so a sleeping process stays
//! asleep.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::{self, File},
    os::unix::fs::FileExt as _,
    thread,
    time::{Duration, Instant},
};

/// A look that finds the process busy is repeated after this.
const PAUSE: Duration = Duration::from_micros(150);
/// How long the process may be busy in real time until it counts as stuck.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The threads of this process.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    known: BTreeMap<i32, Thread>,
}

#[derive(Debug)]
struct Thread {
    /// Its state.
    stat: File,
    /// How often it has run.
    schedstat: File,
}

impl Threads {
    /// Waits until the process is idle. Returns whether it became so.
    pub(crate) fn wait_until_idle(&mut self) -> bool {
        let began = Instant::now();
        let mut before = None;
        while began.elapsed() < PATIENCE {
            let now = self.look();
            if now.is_some() && now == before {
                return true;
            }
            before = now;
            if before.is_none() {
                // Rarely, because a look costs as much as some statements.
                thread::sleep(PAUSE);
            }
        }
        false
    }

    /// How often each other thread has run; none if one is running or about to.
    fn look(&mut self) -> Option<Vec<(i32, Vec<u8>)>> {
        let own = own_id();
        let folder = fs::read_dir("/proc/self/task").ok()?;
        let ids: Vec<i32> = folder
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|id| Some(*id) != own)
            .collect();
        self.known.retain(|id, _| ids.contains(id));
        let mut runs = Vec::with_capacity(ids.len());
        for id in ids {
            let thread = match self.known.entry(id) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => match Thread::open(id) {
                    Some(thread) => place.insert(thread),
                    // It has just ended.
                    None => continue,
                },
            };
            match thread.runs() {
                Some(Ok(number)) => runs.push((id, number)),
                Some(Err(())) => return None,
                None => {
                    self.known.remove(&id);
                }
            }
        }
        Some(runs)
    }
}

impl Thread {
    fn open(id: i32) -> Option<Self> {
        Some(Self {
            stat: File::open(format!("/proc/self/task/{id}/stat")).ok()?,
            schedstat: File::open(format!("/proc/self/task/{id}/schedstat")).ok()?,
        })
    }

    /// How often it has run; none if it has ended, and an error while it runs.
    fn runs(&self) -> Option<Result<Vec<u8>, ()>> {
        let mut text = [0; 512];
        let length = self.stat.read_at(&mut text, 0).ok()?;
        // After the name, which may contain anything.
        let end = text[..length].iter().rposition(|byte| *byte == b')')?;
        if !matches!(text.get(end + 2), Some(b'S' | b'I')) {
            return Some(Err(()));
        }
        let length = self.schedstat.read_at(&mut text, 0).ok()?;
        Some(Ok(text[..length].to_vec()))
    }
}

/// The number of the calling thread.
fn own_id() -> Option<i32> {
    let link = fs::read_link("/proc/thread-self").ok()?;
    link.file_name()?.to_str()?.parse().ok()
}
