//! Commands of the real binary on a SQLite file: their output and their exit codes.

use std::process::{Command, Output};

use tempfile::TempDir;

use crate::process::Process;

fn run(folder: &TempDir, args: &[&str]) -> Output {
    let mut command: Command = Process::binary();
    let url = format!("sqlite://{}", folder.path().join("usage.db").display());
    command.env("DATABASE_URL", url).env("RUST_LOG", "error");
    command
        .current_dir(folder.path())
        .args(args)
        .output()
        .unwrap()
}

/// The output of a command that must succeed.
fn done(folder: &TempDir, args: &[&str]) -> String {
    let output = run(folder, args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// The one line of a command that must fail.
fn refused(folder: &TempDir, args: &[&str]) -> String {
    let output = run(folder, args);
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
fn the_schema_is_checked_without_a_change() {
    let folder = TempDir::new().unwrap();
    refused(&folder, &["migrate", "--check"]);
    assert!(!folder.path().join("usage.db").exists());
    std::fs::write(folder.path().join("usage.db"), "").unwrap();
    let older = refused(&folder, &["migrate", "--check"]);
    assert!(older.contains("run `usage-server migrate`"), "{older}");
    done(&folder, &["migrate"]);
    let current = done(&folder, &["migrate", "--check"]);
    assert_eq!(current, "the schema is that of this usage-server\n");
}

#[test]
fn a_backup_is_a_new_file() {
    let folder = TempDir::new().unwrap();
    done(&folder, &["migrate"]);
    let printed = done(&folder, &["backup", "copy.db"]);
    assert!(printed.starts_with("copy.db: "), "{printed}");
    assert!(folder.path().join("copy.db").exists());
    let again = refused(&folder, &["backup", "copy.db"]);
    assert!(again.contains("copy.db"), "{again}");
}
