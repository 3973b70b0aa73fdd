//! The progress of an import, stored in a small file beside the imported one.
//!
//! It only saves time: without it everything is sent again, and nothing is counted twice.

use super::{bad::quoted, batch::Tally, physical::Place, source};
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

/// How an import reads lines and names their keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Options {
    /// The prefix of keys.
    pub(super) name: String,
    /// The column of each field.
    pub(super) columns: Vec<(String, String)>,
    pub(super) time_zone: Option<String>,
    pub(super) ignore_unknown: bool,
}

impl Options {
    /// Whether lines that were read with `earlier` could have other keys now, and count again.
    fn change_keys(&self, earlier: &Self) -> bool {
        let is_other_zone = earlier.time_zone.is_some() && earlier.time_zone != self.time_zone;
        earlier.name != self.name || earlier.columns != self.columns || is_other_zone
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    options: Options,
    offset: u64,
    line: u64,
    tally: Tally,
    /// The checksum of everything before the offset after decompression, to detect that the file has changed.
    crc32: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Progress {
    imported: PathBuf,
    path: PathBuf,
    options: Options,
}

impl Progress {
    pub(super) fn new(imported: &Path, path: Option<PathBuf>, options: Options) -> Self {
        let beside = || {
            let mut path = OsString::from(imported);
            path.push(".progress");
            path.into()
        };
        Self {
            imported: imported.to_owned(),
            path: path.unwrap_or_else(beside),
            options,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The last line that an earlier import has finished, its results, and a message for the user.
    pub(super) fn read(&self) -> io::Result<(u64, Tally, Option<String>)> {
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
        if self.options.change_keys(&stored.options) {
            return Err(io::Error::other(format!(
                "an import with --name {} and other options was not finished; continue it with the same --name, columns \
                 and time zone, or delete this file to start at the first line, where lines that get other keys count \
                 again",
                quoted(&stored.options.name)
            )));
        }
        if self.options != stored.options {
            // Lines that were bad may be good now. Each is needed, to number the equal ones.
            return restart("the import was begun with other options");
        }
        if checksum(&self.imported, stored.offset)? != Some(stored.crc32) {
            return restart("the imported file has changed since");
        }
        let note = format!("going on after line {}", stored.line);
        Ok((stored.line, stored.tally, Some(note)))
    }

    /// Stores that everything before this position is finished.
    pub(super) fn write(&self, place: Place, tally: &Tally) -> io::Result<()> {
        let stored = Stored {
            options: self.options.clone(),
            offset: place.offset,
            line: place.line,
            tally: tally.clone(),
            crc32: place.crc32,
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

/// The checksum of the file's first bytes after decompression; `None` if it has fewer.
fn checksum(path: &Path, bytes: u64) -> io::Result<Option<u32>> {
    let mut rest = source::open_path(path, Arc::default())?.take(bytes);
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = [0; 8 * 1024];
    loop {
        let count = rest.read(&mut buffer)?;
        if count == 0 {
            return Ok((rest.limit() == 0).then(|| hasher.finalize()));
        }
        hasher.update(buffer.get(..count).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            name: "usage.csv".to_owned(),
            columns: vec![("account_id".to_owned(), "account_id".to_owned())],
            time_zone: None,
            ignore_unknown: false,
        }
    }

    #[test]
    fn progress_is_valid_until_the_file_before_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("usage.csv");
        fs::write(&file, "0123456789").unwrap();
        let open = || Progress::new(&file, None, options());
        let read = |progress: Progress| {
            let (line, tally, note) = progress.read().unwrap();
            (line, tally.units, note.unwrap_or_default())
        };
        assert_eq!(read(open()), (0, 0, String::new()));
        let mut tally = Tally::default();
        for (offset, line, text) in [(4, 1, "0123"), (7, 2, "0123456")] {
            tally.units += 5;
            let crc32 = crc32fast::hash(text.as_bytes());
            let place = Place {
                offset,
                line,
                crc32,
            };
            open().write(place, &tally).unwrap();
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
        open().remove().unwrap();
        assert_eq!(read(open()).2, "");
    }

    #[test]
    fn other_options_restart_an_import_or_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("usage.csv");
        fs::write(&file, "0123456789").unwrap();
        let place = Place {
            offset: 4,
            line: 1,
            crc32: crc32fast::hash(b"0123"),
        };
        let zone = |zone: Option<&str>| Options {
            time_zone: zone.map(str::to_owned),
            ..options()
        };
        let read = |before: &Options, now: Options| {
            let progress = Progress::new(&file, None, before.clone());
            progress.write(place, &Tally::default()).unwrap();
            let read = Progress::new(&file, None, now).read();
            read.map(|(line, ..)| line)
        };
        let utc = zone(Some("UTC"));
        assert_eq!(read(&utc, utc.clone()).unwrap(), 1);
        let lenient = Options {
            ignore_unknown: true,
            ..options()
        };
        for now in [lenient, utc.clone()] {
            assert_eq!(read(&options(), now).unwrap(), 0);
        }
        let mut renamed = utc.clone();
        renamed.name = "other".to_owned();
        let mut moved = utc.clone();
        moved.columns[0].1 = "customer".to_owned();
        for now in [renamed, moved, zone(Some("Europe/Vienna")), zone(None)] {
            let why = read(&utc, now).unwrap_err().to_string();
            assert!(why.contains("--name 'usage.csv'"), "{why}");
        }
    }
}
