//! The files that old audit entries, runs and decisions are written to before they are deleted: one JSON object a line, first
//! one that describes the file and then one for each row. A file is written once and never changed.

use std::{io, path::Path};

use serde_json::json;
use uuid::Uuid;

use crate::{
    domain::{Millis, period::rfc3339},
    durable_file,
    record::Record,
};

/// What the file's first line begins with, so that another program knows it.
const FORMAT: &str = "usage-record-archive";
/// The version of the format.
const VERSION: u32 = 1;

/// The rows of a file to write.
#[derive(Clone, Debug)]
pub(crate) struct NewRecordArchive {
    pub(crate) database: Uuid,
    /// `audit`, `runs` or `decisions`.
    pub(crate) kind: &'static str,
    pub(crate) records: Vec<Record>,
    pub(crate) now: Millis,
}

/// Writes the rows to a new file of a folder, and returns its name. The file is on the disk then.
///
/// # Errors
/// The folder or the file cannot be written. Nothing is left under the file's name.
pub(crate) fn write(folder: &Path, archive: &NewRecordArchive) -> io::Result<String> {
    let written_at = rfc3339(archive.now);
    let date = written_at.get(..10).unwrap_or_default();
    // A name that no other file has.
    let id = Uuid::now_v7().simple();
    let name = format!("usage-{}_{date}_{id}.jsonl", archive.kind);
    durable_file::write_new(folder, &name, |mut out| {
        let header = json!({
            "format": FORMAT,
            "version": VERSION,
            "database": archive.database.to_string(),
            "kind": archive.kind,
            "records": archive.records.len(),
            "written_at": written_at,
        });
        writeln!(out, "{header}")?;
        let mut records = archive.records.iter();
        records.try_for_each(|record| record.write_json(&mut out))
    })?;
    Ok(name)
}
