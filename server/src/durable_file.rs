//! Files that are written once: they are on the disk under their name, or not there at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
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
