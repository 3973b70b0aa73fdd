//! Writes old audit entries, runs and decisions to the folder of archives, and then deletes them.
//!
//! A file is on the disk before its rows are deleted. After a crash in between, the next run writes them to another file as
//! well: a row is the same wherever its id is.

use std::path::PathBuf;

use crate::{
    domain::Millis,
    error::{Error, Result},
    record::Record,
    record_archive_file::{self, NewRecordArchive},
    store::Store,
};

/// For how long rows are kept in the database, and where they are archived.
#[derive(Clone, Debug)]
pub(crate) struct RecordRetention {
    pub(crate) folder: PathBuf,
    /// Audit entries, and decisions on reports that are archived.
    pub(crate) audit_ms: Millis,
    pub(crate) runs_ms: Millis,
}

impl RecordRetention {
    /// Archives and deletes one step of old rows of each kind; false when none are left.
    pub(super) async fn archive_step(&self, store: &Store, now: Millis) -> Result<bool> {
        if store.sending().await?.is_restoring() {
            return Ok(false);
        }
        let (audit_before, runs_before) = (
            now.saturating_sub(self.audit_ms),
            now.saturating_sub(self.runs_ms),
        );
        let entries = store.old_audit_entries(audit_before).await?;
        if !entries.is_empty() {
            let records = entries.iter().map(Record::from).collect();
            self.write(store, "audit", records, now).await?;
            let ids = entries.iter().map(|entry| entry.id).collect();
            store.delete_audit_entries(ids).await?;
        }
        let runs = store.old_runs(runs_before).await?;
        if !runs.is_empty() {
            let records = runs.iter().map(Record::from).collect();
            self.write(store, "runs", records, now).await?;
            let ids = runs.iter().map(|run| run.id).collect();
            store.delete_runs(ids).await?;
        }
        let decisions = store.old_decisions(audit_before).await?;
        if !decisions.is_empty() {
            let records = decisions.iter().map(Record::from).collect();
            self.write(store, "decisions", records, now).await?;
            store.delete_decisions(&decisions).await?;
        }
        Ok(!entries.is_empty() || !runs.is_empty() || !decisions.is_empty())
    }

    async fn write(
        &self,
        store: &Store,
        kind: &'static str,
        records: Vec<Record>,
        now: Millis,
    ) -> Result<()> {
        let rows = records.len();
        let archive = NewRecordArchive {
            database: store.sending().await?.database_id,
            kind,
            records,
            now,
        };
        let folder = self.folder.clone();
        let write = move || record_archive_file::write(&folder, &archive);
        let written = tokio::task::spawn_blocking(write).await;
        let file = written
            .map_err(|error| Error::Internal(error.into()))?
            .map_err(|error| {
                let folder = self.folder.display();
                let why = format!("cannot write to the folder of archives {folder}: {error}");
                Error::Internal(why.into())
            })?;
        tracing::info!(file, kind, rows, "old rows were archived, and are deleted");
        Ok(())
    }
}
