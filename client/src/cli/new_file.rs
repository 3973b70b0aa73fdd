//! A new file for an export. It has its name only when all of it is on the disk: also a program that is killed leaves nothing
//! that could be taken for a complete export.

use super::exit::Failure;
use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
};

/// A file that is written under the name `FILE.unfinished`, and removed if it is dropped before it is finished.
#[derive(Debug)]
pub(super) struct NewFile<'a> {
    path: &'a Path,
    unfinished: PathBuf,
    writer: BufWriter<File>,
    is_finished: bool,
}

impl<'a> NewFile<'a> {
    /// Only its owner can read it. What a killed program left unfinished is replaced.
    ///
    /// # Errors
    /// A file has the name, or this one cannot be made.
    pub(super) fn create(path: &'a Path) -> Result<Self, Failure> {
        refuse_existing(path)?;
        let mut unfinished = OsString::from(path);
        unfinished.push(".unfinished");
        let unfinished = PathBuf::from(unfinished);
        let failed = |error| Failure::file(&unfinished, error);
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let writer = BufWriter::new(options.open(&unfinished).map_err(failed)?);
        Ok(Self {
            path,
            unfinished,
            writer,
            is_finished: false,
        })
    }

    /// Gives it its name, when all of it is on the disk.
    ///
    /// # Errors
    /// It cannot be written, or a file has the name meanwhile.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        let failed = |error| Failure::file(self.path, error);
        self.writer.flush().map_err(failed)?;
        self.writer.get_ref().sync_all().map_err(failed)?;
        refuse_existing(self.path)?;
        fs::rename(&self.unfinished, self.path).map_err(failed)?;
        self.is_finished = true;
        sync_folder_of(self.path).map_err(|error| Failure::file(self.path, error))
    }
}

impl Write for NewFile<'_> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.writer.write(part)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for NewFile<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            // If it cannot be removed, its name still says what it is.
            let _removed = fs::remove_file(&self.unfinished);
        }
    }
}

fn refuse_existing(path: &Path) -> Result<(), Failure> {
    match path.symlink_metadata() {
        Ok(_) => Err(Failure::file(path, "a file with this name exists")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::file(path, error)),
    }
}

/// A new name is durable only once its folder is synced.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_when_it_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("march.csv");
        let unfinished = folder.path().join("march.csv.unfinished");
        // As a killed program leaves it, readable for all.
        fs::write(&unfinished, "an older one that is longer").unwrap();
        let mut file = NewFile::create(&path).unwrap();
        file.write_all(b"rows").unwrap();
        assert!(unfinished.exists() && !path.exists());
        file.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "rows");
        assert!(!unfinished.exists());
        #[cfg(unix)]
        {
            let mode =
                std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
            assert_eq!(mode & 0o777, 0o600);
        }
        let refused = NewFile::create(&path).unwrap_err();
        assert!(format!("{refused:?}").contains("exists"), "{refused:?}");
    }

    #[test]
    fn a_file_that_is_not_finished_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("march.csv");
        let mut file = NewFile::create(&path).unwrap();
        file.write_all(b"rows").unwrap();
        drop(file);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // Nor does it replace a file that got the name meanwhile.
        let file = NewFile::create(&path).unwrap();
        fs::write(&path, "of another program").unwrap();
        assert!(file.finish().is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "of another program");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
