//! The folder of one test: the database, the rules of its faults, and the record of its writes.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use usage_server::store::Store;

use crate::{
    callers::Calls,
    faults::Faults,
    memory_folder::memory_folder,
    power_cut::{Recording, Unsynced},
    process::Process,
};

/// A database on a disk that can fail.
pub(crate) struct Disk {
    folder: TempDir,
    pub(crate) faults: Faults,
}

impl Disk {
    pub(crate) fn new() -> Self {
        let folder = memory_folder();
        let faults = Faults::create(folder.path().join("rules"));
        Self { folder, faults }
    }

    /// Starts a server on the database, with faults.
    pub(crate) async fn start(&self) -> Process {
        self.start_with(&[]).await
    }

    /// Starts a server with more flags.
    pub(crate) async fn start_with(&self, flags: &[String]) -> Process {
        let mut command = Process::binary();
        command
            .envs(self.environment())
            .env("DATABASE_URL", url(&self.database()));
        Process::start(command, flags).await
    }

    /// The environment that lets a server's disk fail, and records what it writes.
    fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let mut variables = Vec::from(self.faults.environment());
        variables.push(("DISK_RECORD", self.record()));
        variables
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.folder.path().join("usage.db")
    }

    fn record(&self) -> PathBuf {
        self.folder.path().join("record")
    }

    /// After SIGKILL: starts a server on the files as they are.
    pub(crate) async fn check_files(&self, calls: &Calls) {
        check_database(&self.database(), calls, "after SIGKILL").await;
    }

    /// After SIGKILL: starts a server on the files as they are, and on what a power cut would have left of them. What was
    /// acknowledged must be there, and what was not counts once when it is repeated.
    pub(crate) async fn check(&self, calls: &Calls) {
        let all = [
            Unsynced::Lost,
            Unsynced::Partly,
            Unsynced::Kept,
            Unsynced::Torn(1),
        ];
        self.check_images(calls, &all).await;
    }

    /// As [`Disk::check`], for some power cuts.
    pub(crate) async fn check_images(&self, calls: &Calls, all: &[Unsynced]) {
        let recording = Recording::read(&self.record());
        // First, because the others come from the record.
        self.check_files(calls).await;
        for (number, &unsynced) in all.iter().enumerate() {
            let image = self.folder.path().join(format!("image-{number}.db"));
            recording.write_image(&image, unsynced);
            check_database(&image, calls, &format!("after a power cut: {unsynced:?}")).await;
        }
    }
}

pub(crate) fn url(path: &Path) -> String {
    format!("sqlite://{}", path.display())
}

/// Repeats every call on a server without faults.
async fn check_database(path: &Path, calls: &Calls, when: &str) {
    let mut command = Process::binary();
    command.env("DATABASE_URL", url(path));
    let process = Process::start(command, &[]).await;
    calls.repeat(&process, when).await;
    process.kill();
    let store = Store::open(&url(path), 4).await.unwrap();
    let ledger = store.ledger_totals().await.unwrap();
    store.close().await.unwrap();
    assert!(ledger.is_balanced(), "{when}: {ledger:?}");
}
