//! The API key of the command line.

use std::collections::BTreeSet;

use serde_json::Value;
use usage_client::cli::{self, Streams};

use super::usagectl;
use crate::{
    operations::access::{
        commands::{MANY_KEYS, add_many_keys},
        first_admin,
    },
    support::world::{World, on_both_engines},
};

on_both_engines!(
    the_key_is_taken_from_a_flag_or_a_file,
    keys_are_created_listed_and_revoked_and_the_audit_names_who_did_it,
    a_key_that_cannot_be_printed_is_named,
    a_list_of_keys_goes_on_over_pages_to_its_limit,
);

async fn a_list_of_keys_goes_on_over_pages_to_its_limit(world: World) {
    let (_, key) = first_admin(&world).await;
    add_many_keys(&world).await;
    let list = async |flags: &[&str]| {
        let args = ["keys", "list", "--json", "--api-key", &key];
        let ran = usagectl(world.endpoint(), &[&args[..], flags].concat()).await;
        assert_eq!(ran.code, 0, "{}", ran.err);
        let keys: Vec<Value> = serde_json::from_str(&ran.out).unwrap();
        let ids = keys.iter().map(|key| key["id"].to_string());
        (ids.collect::<BTreeSet<_>>(), ran.err)
    };
    let (first, err) = list(&["--limit=1500"]).await;
    assert_eq!(first.len(), 1_500);
    let token = err.trim().strip_prefix("there are more: --page-token ");
    let (rest, err) = list(&["--limit=1500", "--page-token", token.unwrap()]).await;
    assert_eq!((rest.len(), err.as_str()), (MANY_KEYS + 1 - 1_500, ""));
    assert!(first.is_disjoint(&rest));
    world.finish().await;
}

async fn the_key_is_taken_from_a_flag_or_a_file(world: World) {
    let (_, key) = first_admin(&world).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("usage.key");
    std::fs::write(&file, format!("{key}\n")).unwrap();
    let file = file.to_str().unwrap();
    let empty = folder.path().join("empty.key");
    std::fs::write(&empty, "\n").unwrap();
    let empty = empty.to_str().unwrap();
    for (flags, code) in [
        (vec![], 1),
        (vec!["--api-key", &key], 0),
        (vec!["--api-key-file", file], 0),
        // An empty one counts as none.
        (vec!["--api-key", "", "--api-key-file", file], 0),
        (vec!["--api-key-file", "/nowhere/usage.key"], 1),
        (vec!["--api-key-file", empty], 1),
    ] {
        let args = [&["increment", "acct"][..], &flags].concat();
        let ran = usagectl(world.endpoint(), &args).await;
        assert_eq!(ran.code, code, "{flags:?}: {}", ran.err);
        assert!(!ran.err.contains(&key) && !ran.out.contains(&key));
    }
    // It is told before it is sent to another machine in plain text.
    let away = ["increment", "acct", "--api-key", &key, "--timeout", "1"];
    let ran = usagectl("http://192.0.2.1:50051", &away).await;
    assert_ne!(ran.code, 0);
    assert!(
        ran.err
            .starts_with("warning: the API key is sent unencrypted"),
        "{}",
        ran.err
    );
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

async fn keys_are_created_listed_and_revoked_and_the_audit_names_who_did_it(world: World) {
    let (root, key) = first_admin(&world).await;
    let as_admin = async |args: &[&str]| {
        let args = [&["--api-key", &key][..], args].concat();
        let ran = usagectl(world.endpoint(), &args).await;
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        ran
    };
    let as_json = async |args: &[&str]| -> Value {
        serde_json::from_str(&as_admin(&[args, &["--json"]].concat()).await.out).unwrap()
    };
    let new = [
        "keys",
        "create",
        "--role",
        "writer",
        "--name",
        "backend",
        "--account",
        "a",
        "--account",
        "b",
    ];
    let created = as_admin(&new).await;
    let writer = created.out.trim();
    assert!(writer.starts_with("ub_"), "{writer}");
    assert!(!created.err.contains(writer), "{}", created.err);
    let ran = usagectl(world.endpoint(), &["--api-key", writer, "increment", "a"]).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let denied = usagectl(world.endpoint(), &["--api-key", writer, "keys", "list"]).await;
    assert_eq!(denied.code, 1, "{}", denied.err);

    let listed = as_json(&["keys", "list"]).await;
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 2);
    let backend = listed.iter().find(|one| one["name"] == "backend").unwrap();
    assert_eq!(backend["accounts"], "a b");
    assert_eq!(backend["role"], "writer");
    let id = backend["id"].as_str().unwrap();
    let revoked = as_json(&["keys", "revoke", id]).await;
    assert!(revoked[0]["revoked_at"].is_string(), "{revoked}");
    let again = as_admin(&["keys", "revoke", id]).await;
    assert!(again.err.contains("was revoked before"), "{}", again.err);
    let ran = usagectl(world.endpoint(), &["--api-key", writer, "increment", "a"]).await;
    assert_eq!(ran.code, 1, "{}", ran.err);

    let entries = as_json(&["audit", "--start", "-1h", "--key", &root.id]).await;
    let entries = entries.as_array().unwrap();
    let of = |action: &str, outcome: &str| {
        let is_it = |one: &&Value| one["action"] == action && one["outcome"] == outcome;
        entries.iter().filter(is_it).count()
    };
    assert_eq!((of("CreateKey", "done"), of("RevokeKey", "done")), (1, 2));
    assert!(entries.iter().all(|one| one["key_name"] == "root"));
    assert!(!format!("{entries:?}").contains(writer));
    let page = as_admin(&["audit", "--limit", "1", "--csv"]).await;
    assert!(page.err.contains("--page-token "), "{}", page.err);
    world.finish().await;
}

/// A closed pipe.
struct Closed;

impl std::io::Write for Closed {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }
}

async fn a_key_that_cannot_be_printed_is_named(world: World) {
    let (_, key) = first_admin(&world).await;
    let args = [
        "usagectl",
        "--server",
        world.endpoint(),
        "--api-key",
        &key,
        "keys",
        "create",
        "--role",
        "reader",
        "--name",
        "dashboard",
    ];
    let run = async |out: &mut (dyn std::io::Write + Send),
                     err: &mut (dyn std::io::Write + Send)| {
        let streams = Streams {
            input: Box::new(std::io::empty()),
            out,
            err,
            are_terminals: false,
            width: None,
            stop: Box::pin(std::future::pending()),
        };
        cli::run(args, streams).await
    };
    let mut told = Vec::new();
    assert_eq!(run(&mut Closed, &mut told).await, 1);
    let told = String::from_utf8(told).unwrap();
    assert!(
        told.contains("revoke it with `usagectl keys revoke "),
        "{told}"
    );
    // Without a place for the notice, the key is printed all the same.
    let mut out = Vec::new();
    assert_eq!(run(&mut out, &mut Closed).await, 0);
    assert!(String::from_utf8(out).unwrap().starts_with("ub_"));
    world.finish().await;
}
