//! Each command of usagectl in the documentation is one, with everything that it needs.

use std::path::Path;

use usage_client::cli::check;

use crate::support::documented::commands;

#[test]
fn each_documented_command_can_be_typed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documented = commands(root, &["usagectl"]);
    assert!(documented.len() > 30, "{}", documented.len());
    for command in documented {
        let args = command.runnable();
        let program = std::iter::once("usagectl".to_owned());
        if let Err(error) = check(program.chain(args)) {
            panic!("{}: {:?}: {error}", command.place, command.args);
        }
    }
}
