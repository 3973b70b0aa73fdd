//! A file system of a few megabytes, which a test can fill.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A file system in memory, mounted for one test.
pub(crate) struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// Mounts one. Where that is not permitted, prints that the test was skipped; in CI it fails.
    pub(crate) fn mount(megabytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder.path())
            .output();
        let why = match mounted {
            Ok(mounted) if mounted.status.success() => return Some(Self { folder }),
            Ok(mounted) => String::from_utf8_lossy(&mounted.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!is_ci, "a small file system cannot be mounted: {why}");
        writeln!(
            std::io::stderr(),
            "SKIPPED: a small file system cannot be mounted: {why}"
        )
        .expect("standard error");
        None
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes until nothing more fits.
    pub(crate) fn fill(&self) {
        let mut file = File::create(self.filler()).expect("a file");
        for size in [65_536, 4_096, 1] {
            let bytes = vec![0; size];
            while file.write_all(&bytes).is_ok() {}
        }
    }

    /// Deletes what [`SmallDisk::fill`] wrote.
    pub(crate) fn free(&self) {
        fs::remove_file(self.filler()).expect("a file");
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazy, because a connection may still be closing.
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.path().display());
        }
    }
}
