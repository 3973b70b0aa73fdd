//! The progress of an import, stored in a small file beside the imported one.
//!
//! It only saves time: without it everything is sent again, and nothing is counted twice.

use super::{batch::Tally, lines::Place};
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    name: String,
    offset: u64,
    line: u64,
    tally: Tally,
    /// The checksum of everything before the offset, to detect that the file has changed.
    crc32: u32,
}

pub(super) struct Progress {
    imported: PathBuf,
    path: PathBuf,
    name: String,
    /// The checksum of everything before the offset.
    hasher: crc32fast::Hasher,
    offset: u64,
}

impl Progress {
    pub(super) fn new(imported: &Path, path: Option<PathBuf>, name: &str) -> Self {
        let beside = || {
            let mut path = OsString::from(imported);
            path.push(".progress");
            path.into()
        };
        Self {
            imported: imported.to_owned(),
            path: path.unwrap_or_else(beside),
            name: name.to_owned(),
            hasher: crc32fast::Hasher::new(),
            offset: 0,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The last line that an earlier import has finished, its results, and a message for the user.
    pub(super) fn read(&mut self) -> io::Result<(u64, Tally, Option<String>)> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((0, Tally::default(), None));
            }
            Err(error) => return Err(error),
        };
        let restart = |why: &str| {
            let note = format!(
                "{}: {why}; starting at the first line, nothing is counted twice",
                self.path.display()
            );
            Ok((0, Tally::default(), Some(note)))
        };
        let Ok(stored) = serde_json::from_str::<Stored>(&text) else {
            return restart("the file is damaged");
        };
        if stored.name != self.name {
            return restart("the file belongs to an import with another --name");
        }
        let mut hasher = crc32fast::Hasher::new();
        let length = hash(&self.imported, 0, stored.offset, &mut hasher)?;
        if length != stored.offset || hasher.clone().finalize() != stored.crc32 {
            return restart("the imported file has changed since");
        }
        (self.hasher, self.offset) = (hasher, stored.offset);
        let note = format!("going on after line {}", stored.line);
        Ok((stored.line, stored.tally, Some(note)))
    }

    /// Stores that everything before this position is finished.
    pub(super) fn write(&mut self, place: Place, tally: &Tally) -> io::Result<()> {
        let more = place.offset.saturating_sub(self.offset);
        hash(&self.imported, self.offset, more, &mut self.hasher)?;
        self.offset = place.offset;
        let stored = Stored {
            name: self.name.clone(),
            offset: place.offset,
            line: place.line,
            tally: tally.clone(),
            crc32: self.hasher.clone().finalize(),
        };
        let mut unfinished = OsString::from(&self.path);
        unfinished.push(".unfinished");
        fs::write(&unfinished, serde_json::to_string(&stored)?)?;
        fs::rename(&unfinished, &self.path)
    }

    /// Removes the file after the import is done.
    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Adds bytes of a file to the hasher, and returns their number.
fn hash(path: &Path, from: u64, bytes: u64, hasher: &mut crc32fast::Hasher) -> io::Result<u64> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut rest = file.take(bytes);
    let mut buffer = [0; 8 * 1024];
    let mut all = 0_u64;
    loop {
        let count = rest.read(&mut buffer)?;
        if count == 0 {
            return Ok(all);
        }
        hasher.update(buffer.get(..count).unwrap_or_default());
        all = all.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_valid_until_the_file_before_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("usage.csv");
        fs::write(&file, "0123456789").unwrap();
        let open = || Progress::new(&file, None, "usage.csv");
        let read = |mut progress: Progress| {
            let (line, tally, note) = progress.read().unwrap();
            (line, tally.units, note.unwrap_or_default())
        };
        assert_eq!(read(open()), (0, 0, String::new()));
        let (mut first, mut tally) = (open(), Tally::default());
        for (offset, line) in [(4, 1), (7, 2)] {
            tally.units += 5;
            first.write(Place { offset, line }, &tally).unwrap();
        }
        let known = (2, 10, "going on after line 2".to_owned());
        assert_eq!(read(open()), known);

        fs::write(&file, "0123456abcdef").unwrap();
        assert_eq!(read(open()), known, "later lines may change");
        for changed in ["0123x56789", "012345"] {
            fs::write(&file, changed).unwrap();
            let (line, units, note) = read(open());
            assert_eq!((line, units), (0, 0));
            assert!(note.contains("has changed since"), "{note}");
        }
        assert_eq!(read(Progress::new(&file, None, "other")).0, 0);
        open().remove().unwrap();
        assert_eq!(read(open()).2, "");
    }
}
