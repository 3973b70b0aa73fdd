//! Runs the Python scripts in `tests/`. An environment variable names a Python with their packages, as in `.ci/run`.

use std::{io::Write as _, process::Command};

use crate::support::world::within;

/// The Python that a variable names. Without it, prints that the test is skipped; in CI it fails.
pub(crate) fn python(variable: &str) -> Option<String> {
    let python = std::env::var(variable).ok();
    if python.is_none() {
        let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        let missing = format!("{variable} names no Python that has what the script needs");
        assert!(!is_ci, "{missing}");
        // Not captured by the test runner: a skipped test must not look like a passed one.
        writeln!(std::io::stderr(), "SKIPPED: {missing}").expect("standard error");
    }
    python
}

/// Runs a script, which must succeed. Returns its output.
pub(crate) async fn run(python: String, script: &str, args: &[&str]) -> String {
    let script = format!("{}/tests/{script}", env!("CARGO_MANIFEST_DIR"));
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let running =
        tokio::task::spawn_blocking(move || Command::new(python).arg(script).args(args).output());
    let output = within("the script", running)
        .await
        .expect("no panic")
        .expect("a Python that starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    text
}
