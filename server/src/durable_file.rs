//! Files that are written once: they are on the disk under their name, or not there at all.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufWriter, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::domain::hex::hex;

/// What is added to the name while a file is written.
pub(crate) const UNFINISHED: &str = ".unfinished";
/// The permissions of a file: only its owner reads what customers used.
const FILE_MODE: u32 = 0o600;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) sha256: String,
    pub(crate) bytes: u64,
}

/// Writes a new file of a folder. When it returns, the file is on the disk under its name.
///
/// # Errors
/// The folder or the file cannot be written, or the file exists. Nothing is left under the file's name.
pub(crate) fn write_new(
    folder: &Path,
    name: &str,
    write_contents: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<Written> {
    let file = folder.join(name);
    let unfinished = folder.join(format!("{name}{UNFINISHED}"));
    if file.try_exists()? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let written = write(&unfinished, write_contents).and_then(|written| {
        fs::rename(&unfinished, &file)?;
        // The name is on the disk only with its folder.
        File::open(folder)?.sync_all()?;
        Ok(written)
    });
    if written.is_err() {
        // Why it could not be written comes first. No other file has these names.
        let _ = fs::remove_file(&unfinished);
        let _ = fs::remove_file(&file);
    }
    written
}

/// A new file of a name that somebody chose, which is written piece by piece. It has its name once it is whole; until then
/// it has another one. Dropping it removes what was written.
#[derive(Debug)]
pub(crate) struct NewFile {
    name: PathBuf,
    unfinished: PathBuf,
    /// Locked, so that no other process writes the same file.
    out: BufWriter<File>,
    is_finished: bool,
}

impl NewFile {
    /// Begins a file. What an interrupted process left of it is overwritten.
    ///
    /// # Errors
    /// A file of this name exists, another process writes one, or it cannot be written.
    pub(crate) fn create(name: &Path) -> io::Result<Self> {
        check_is_free(name)?;
        let mut unfinished = name.as_os_str().to_owned();
        unfinished.push(UNFINISHED);
        let unfinished = PathBuf::from(unfinished);
        // Not a link to a file elsewhere.
        if fs::symlink_metadata(&unfinished).is_ok_and(|found| !found.is_file()) {
            return Err(in_use(&unfinished, "is no file"));
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(&unfinished)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(in_use(&unfinished, "is being written by another process"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Whoever had the lock may have given it the other name.
        let (locked, named) = (file.metadata()?, fs::metadata(&unfinished)?);
        if (locked.dev(), locked.ino()) != (named.dev(), named.ino()) {
            return Err(in_use(&unfinished, "was written by another process"));
        }
        file.set_len(0)?;
        Ok(Self {
            name: name.to_owned(),
            unfinished,
            out: BufWriter::new(file),
            is_finished: false,
        })
    }

    /// Its name until it is whole.
    pub(crate) fn unfinished(&self) -> &Path {
        &self.unfinished
    }

    /// Gives it its name. When it returns, the file is on the disk under it.
    ///
    /// # Errors
    /// It cannot be written, or a file of this name exists by now. It is removed then.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.out.flush()?;
        self.out.get_ref().sync_all()?;
        check_is_free(&self.name)?;
        fs::rename(&self.unfinished, &self.name)?;
        self.is_finished = true;
        let folder = self.name.parent();
        let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Write for NewFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.out.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_finished {
            // Why it is not finished was said before.
            let _ = fs::remove_file(&self.unfinished);
        }
    }
}

fn check_is_free(name: &Path) -> io::Result<()> {
    if name.try_exists()? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    Ok(())
}

fn in_use(path: &Path, why: &str) -> io::Error {
    let text = format!("{} {why}", path.display());
    io::Error::new(io::ErrorKind::AlreadyExists, text)
}

/// Creates a new file that only its owner reads.
///
/// # Errors
/// It exists, or cannot be created.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)
}

fn write(
    path: &Path,
    write_contents: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<Written> {
    let mut out = Hashing {
        inner: BufWriter::new(create_new(path)?),
        digest: Sha256::new(),
        bytes: 0,
    };
    write_contents(&mut out)?;
    out.flush()?;
    let file = out
        .inner
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(Written {
        sha256: hex(&out.digest.finalize()),
        bytes: out.bytes,
    })
}

/// Hashes and counts what is written.
struct Hashing<W> {
    inner: W,
    digest: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.digest
            .update(buffer.get(..written).unwrap_or_default());
        self.bytes = self
            .bytes
            .saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_once_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("export.csv");
        let names = || -> Vec<_> {
            let entries = fs::read_dir(folder.path()).unwrap();
            entries.map(|entry| entry.unwrap().file_name()).collect()
        };
        // What a killed process leaves is in no one's way.
        let left = folder.path().join(format!("export.csv{UNFINISHED}"));
        fs::write(&left, "half of a longer file").unwrap();
        let mut file = NewFile::create(&name).unwrap();
        file.write_all(b"whole").unwrap();
        assert!(!name.exists());
        let other = NewFile::create(&name).unwrap_err();
        assert!(other.to_string().contains("another process"), "{other}");
        file.finish().unwrap();
        assert_eq!(fs::read_to_string(&name).unwrap(), "whole");
        assert_eq!(names(), ["export.csv"]);
        let other = NewFile::create(&name).unwrap_err();
        assert_eq!(other.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&name).unwrap(), "whole");
    }

    #[test]
    fn a_file_that_is_not_finished_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = NewFile::create(&folder.path().join("export.csv")).unwrap();
        file.write_all(b"half").unwrap();
        file.flush().unwrap();
        drop(file);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("export.csv");
        let file = NewFile::create(&name).unwrap();
        fs::write(&name, "precious").unwrap();
        file.finish().unwrap_err();
        assert_eq!(fs::read_to_string(&name).unwrap(), "precious");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
