//! Checks of the folder of archives: whether it can be written, and whether each recorded file is there in its size.
//! `usage-server archives verify` reads the files.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use super::finding::{Finding, cause_of, first_names};
use crate::{
    config::ArchiveConfig,
    domain::report_archive::ReportArchive,
    error::Result,
    report_archive_file::{check_writable, names_in, path_of},
    store::Store,
};

const CHECK: &str = "archives";

/// What is recorded of archives.
#[derive(Debug, Default, PartialEq, Eq)]
struct Recorded {
    files: HashSet<String>,
    reports: i64,
    /// The recorded files that are not as they were, and what is wrong.
    wrong: BTreeMap<String, &'static str>,
}

pub(super) async fn check(store: &Store, config: &ArchiveConfig, findings: &mut Vec<Finding>) {
    let folder = config.archive_dir.as_deref();
    let recorded = match read(store, folder).await {
        Ok(recorded) => recorded,
        Err(error) => {
            findings.push(Finding::unchecked(CHECK, &cause_of(&error)));
            return;
        }
    };
    let Some(folder) = folder else {
        findings.push(check_without_folder(&recorded));
        return;
    };
    let shown = folder.display();
    if let Err(error) = check_writable(folder) {
        findings.push(Finding::bad(
            CHECK,
            format!("ARCHIVE_DIR {shown} cannot be written: {error}; nothing is folded"),
            "create the folder, and let the service write there",
        ));
        return;
    }
    let before = findings.len();
    findings.extend(check_files(&recorded));
    match names_in(folder) {
        Ok(names) => findings.extend(check_left_over(&recorded, names)),
        Err(error) => findings.push(Finding::unchecked(CHECK, &format!("{shown}: {error}"))),
    }
    if findings.len() == before {
        let (files, reports) = (recorded.files.len(), recorded.reports);
        let days = config.fold_after_days;
        findings.push(Finding::ok(
            CHECK,
            format!("{files} files with {reports} reports are in {shown}; finished reports are folded after {days} days"),
        ));
    }
}

async fn read(store: &Store, folder: Option<&Path>) -> Result<Recorded> {
    let mut recorded = Recorded::default();
    let mut last = 0;
    loop {
        let page = store.archives_after(last).await?;
        let Some(newest) = page.last() else {
            return Ok(recorded);
        };
        last = newest.number;
        for archive in page {
            recorded.reports = recorded.reports.saturating_add(archive.totals.reports);
            let wrong = folder.and_then(|folder| fault(folder, &archive));
            let name = archive.file.name;
            recorded
                .wrong
                .extend(wrong.map(|what| (name.clone(), what)));
            recorded.files.insert(name);
        }
    }
}

fn fault(folder: &Path, archive: &ReportArchive) -> Option<&'static str> {
    match std::fs::metadata(path_of(folder, &archive.file)) {
        Ok(found) if i64::try_from(found.len()) == Ok(archive.file.bytes) => None,
        Ok(_) => Some("has another size"),
        Err(_) => Some("is missing"),
    }
}

fn check_without_folder(recorded: &Recorded) -> Finding {
    if recorded.files.is_empty() {
        return Finding::ok(CHECK, "ARCHIVE_DIR is not set, so no report is folded");
    }
    Finding::warn(
        CHECK,
        format!(
            "ARCHIVE_DIR is not set, so no more reports are folded, and {} files were not checked",
            recorded.files.len()
        ),
        "set it to the folder of the archives",
    )
}

fn check_files(recorded: &Recorded) -> Option<Finding> {
    let wrong: Vec<String> = recorded
        .wrong
        .iter()
        .map(|(name, what)| format!("{name} {what}"))
        .collect();
    (!wrong.is_empty()).then(|| {
        Finding::bad(
            CHECK,
            format!(
                "of {} recorded files: {}",
                recorded.files.len(),
                first_names(&wrong, wrong.len())
            ),
            "restore them from a backup of the folder; usage and its totals are complete without them, single reports are not",
        )
    })
}

fn check_left_over(recorded: &Recorded, mut names: Vec<String>) -> Option<Finding> {
    names.retain(|name| !recorded.files.contains(name));
    (!names.is_empty()).then(|| {
        Finding::warn(
            CHECK,
            format!(
                "files that are not recorded: {}; a crash left them, they are of another database, or a backup was restored that is older",
                first_names(&names, names.len())
            ),
            "their reports are in the database, or in newer files: remove those that are of no other database",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    #[test]
    fn wrong_files_and_left_over_files_are_named() {
        let mut recorded = Recorded::default();
        assert_eq!(check_without_folder(&recorded).severity, Severity::Ok);
        assert_eq!(check_files(&recorded), None);
        recorded.files.insert("a".to_owned());
        assert_eq!(check_without_folder(&recorded).severity, Severity::Warn);
        recorded.wrong.insert("a".to_owned(), "is missing");
        let found = check_files(&recorded).unwrap();
        assert_eq!(found.severity, Severity::Bad);
        assert!(found.fact.contains("a is missing"), "{found}");
        assert_eq!(check_left_over(&recorded, vec!["a".to_owned()]), None);
        let names = vec!["a".to_owned(), "b".to_owned()];
        let found = check_left_over(&recorded, names).unwrap();
        assert!(found.fact.contains("not recorded: b;"), "{found}");
    }
}
