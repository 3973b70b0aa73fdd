//! A new file for an export. It has its name only when all of it is on the disk: also a program that is killed leaves nothing
//! that could be taken for a complete export.

use super::exit::Failure;
use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
};
use uuid::Uuid;

/// A file that is written under a name of its own, `FILE.RANDOM.unfinished`, and removed if it is dropped before it is finished.
#[derive(Debug)]
pub(super) struct NewFile<'a> {
    path: &'a Path,
    unfinished: PathBuf,
    writer: BufWriter<File>,
}

impl<'a> NewFile<'a> {
    /// Only its owner can read it.
    ///
    /// # Errors
    /// A file has the name, or this one cannot be made.
    pub(super) fn create(path: &'a Path) -> Result<Self, Failure> {
        if path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
        // Another program may write the same export.
        let mut unfinished = OsString::from(path);
        unfinished.push(format!(".{}.unfinished", Uuid::now_v7().simple()));
        let unfinished = PathBuf::from(unfinished);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&unfinished);
        let file = file.map_err(|error| Failure::file(&unfinished, error))?;
        Ok(Self {
            path,
            unfinished,
            writer: BufWriter::new(file),
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
        self.publish().map_err(|error| {
            if error.kind() == ErrorKind::AlreadyExists {
                exists(self.path)
            } else {
                failed(error)
            }
        })?;
        sync_folder_of(self.path).map_err(failed)
    }

    /// Gives it a second name, because to rename would replace a file that has it. The first one goes when this is dropped.
    fn publish(&self) -> io::Result<()> {
        match fs::hard_link(&self.unfinished, self.path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => self.replace_empty(),
            linked => linked,
        }
    }

    /// The same where files have one name only: an empty file takes the name first.
    fn replace_empty(&self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).open(self.path)?;
        fs::rename(&self.unfinished, self.path)
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
        // If it cannot be removed, its name still says what it is.
        let _removed = fs::remove_file(&self.unfinished);
    }
}

fn exists(path: &Path) -> Failure {
    Failure::file(path, "a file with this name exists")
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

    fn names(folder: &Path) -> Vec<OsString> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn a_file_has_its_name_when_it_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("march.csv");
        let mut file = NewFile::create(&path).unwrap();
        file.write_all(b"rows").unwrap();
        assert!(!path.exists());
        file.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "rows");
        assert_eq!(names(folder.path()), ["march.csv"]);
        #[cfg(unix)]
        {
            let permissions = path.metadata().unwrap().permissions();
            let mode = std::os::unix::fs::PermissionsExt::mode(&permissions);
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
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn where_files_have_one_name_none_is_replaced_either() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("march.csv");
        let mut file = NewFile::create(&path).unwrap();
        file.write_all(b"rows").unwrap();
        file.flush().unwrap();
        file.replace_empty().unwrap();
        let other = file.replace_empty().unwrap_err();
        assert_eq!(other.kind(), ErrorKind::AlreadyExists);
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "rows");
        assert_eq!(names(folder.path()), ["march.csv"]);
    }

    #[test]
    fn of_two_that_write_the_same_file_the_first_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("march.csv");
        let mut first = NewFile::create(&path).unwrap();
        let mut second = NewFile::create(&path).unwrap();
        second.write_all(b"ro").unwrap();
        first.write_all(b"rows").unwrap();
        first.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "rows");
        let refused = second.finish().unwrap_err();
        assert!(format!("{refused:?}").contains("exists"), "{refused:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "rows");
        assert_eq!(names(folder.path()), ["march.csv"]);
    }
}
