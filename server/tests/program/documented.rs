//! Each command of usage-server in the documentation is one.

use std::path::Path;

use crate::{
    documented_commands::{commands, is_about_placeholder},
    process::Process,
};

/// What the documentation calls the program.
const NAMES: [&str; 3] = [
    "usage-server",
    "target/release/usage-server",
    "cargo run --",
];

#[test]
fn each_documented_command_exists_with_its_flags() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let documented = commands(&root, &NAMES);
    assert!(documented.len() > 40, "{}", documented.len());
    for command in documented {
        // The help is printed once all before it was understood, and nothing is done.
        let output = Process::binary()
            .args(&command.args)
            .arg("--help")
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() || is_about_placeholder(&error),
            "{}: {:?}: {error}",
            command.place,
            command.args
        );
    }
}
