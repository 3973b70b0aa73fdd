//! Folders in memory for test databases, so that the time of a commit does not depend on a busy disk.

use std::{fs, path::Path};

use tempfile::TempDir;

/// The file system in memory on Linux.
const MEMORY: &str = "/dev/shm";
/// The free space that it must have. Containers often have a small one.
const MIN_SIZE_KB: u64 = 1_048_576;

/// A folder that is removed when dropped: in memory if there is enough space, otherwise in the folder for temporary
/// files.
pub(crate) fn memory_folder() -> TempDir {
    if is_large_enough()
        && let Ok(folder) = tempfile::tempdir_in(Path::new(MEMORY))
    {
        return folder;
    }
    tempfile::tempdir().expect("a folder")
}

fn is_large_enough() -> bool {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| line.split_once(&format!(" {MEMORY} ")))
        .filter_map(|(_, rest)| rest.split_once("size="))
        .filter_map(|(_, size)| size.split_once('k'))
        .any(|(size, _)| size.parse().is_ok_and(|size: u64| size >= MIN_SIZE_KB))
}
