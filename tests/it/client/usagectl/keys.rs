//! The API key of the command line.

use super::usagectl;
use crate::{
    operations::access::first_admin,
    support::world::{World, on_both_engines},
};

on_both_engines!(the_key_is_taken_from_a_flag_or_a_file);

async fn the_key_is_taken_from_a_flag_or_a_file(world: World) {
    let (_, key) = first_admin(&world).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("usage.key");
    std::fs::write(&file, format!("{key}\n")).unwrap();
    let file = file.to_str().unwrap();
    for (flags, code) in [
        (vec![], 1),
        (vec!["--api-key", &key], 0),
        (vec!["--api-key-file", file], 0),
        // An empty one counts as none.
        (vec!["--api-key", "", "--api-key-file", file], 0),
        (vec!["--api-key-file", "/nowhere/usage.key"], 1),
    ] {
        let args = [&["increment", "acct"][..], &flags].concat();
        let ran = usagectl(world.endpoint(), &args).await;
        assert_eq!(ran.code, code, "{flags:?}: {}", ran.err);
        assert!(!ran.err.contains(&key) && !ran.out.contains(&key));
    }
    let unknown = key.replace(&key[3..19], "0123456789abcdef");
    let ran = usagectl(world.endpoint(), &["get", "acct", "--api-key", &unknown]).await;
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("unauthenticated (UNAUTHENTICATED)"),
        "{}",
        ran.err
    );
    assert!(!ran.err.contains(&unknown[20..]), "{}", ran.err);
    world.finish().await;
}
