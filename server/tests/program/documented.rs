//! Each command of usage-server in the documentation is one, with everything that it needs.

use std::{collections::BTreeMap, path::Path};

use tempfile::TempDir;

use crate::{documented_commands::commands, process::Process};

/// What the documentation calls the program.
const NAMES: [&str; 3] = [
    "usage-server",
    "target/release/usage-server",
    "cargo run --",
];
/// The exit code for a command line that cannot be read.
const INVALID_ARGUMENTS: i32 = 2;

#[test]
fn each_documented_command_can_be_typed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let documented = commands(&root, &NAMES);
    assert!(documented.len() > 40, "{}", documented.len());
    let folder = TempDir::new().unwrap();
    // The same one is documented in many places.
    let mut known = BTreeMap::new();
    for command in documented {
        known.entry(command.runnable()).or_insert(command);
    }
    for (mut args, command) in known {
        // The only one that needs no database, and runs for long.
        if args.first().is_some_and(|first| first == "demo") {
            args.push("--help".to_owned());
        }
        // It is run, and fails for want of a database or a server after its command line was read.
        let output = Process::binary()
            .args(&args)
            .current_dir(folder.path())
            .env("DATABASE_URL", "sqlite:///nowhere/usage.db")
            .env("HTTP_LISTEN", "off")
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        let code = output.status.code();
        assert!(
            code.is_some_and(|code| code != INVALID_ARGUMENTS),
            "{}: {:?}: {code:?}: {error}",
            command.place,
            command.args
        );
    }
}
