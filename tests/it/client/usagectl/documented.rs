//! Each command of usagectl in the documentation is one.

use std::path::Path;

use super::usagectl;
use crate::support::documented::{commands, is_about_placeholder};

#[tokio::test]
async fn each_documented_command_exists_with_its_flags() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documented = commands(root, &["usagectl"]);
    assert!(documented.len() > 30, "{}", documented.len());
    for command in documented {
        let args = command.args.iter().map(String::as_str);
        // The help is printed once all before it was understood, and no server is asked.
        let args: Vec<&str> = args.chain(["--help"]).collect();
        let ran = usagectl("http://127.0.0.1:9", &args).await;
        assert!(
            ran.code == 0 || is_about_placeholder(&ran.err),
            "{}: {args:?}: {}",
            command.place,
            ran.err
        );
    }
}
