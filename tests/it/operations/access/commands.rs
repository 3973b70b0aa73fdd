//! `usage-server keys` and `audit` on the database, and the key of a file at the start.

use std::collections::BTreeSet;

use clap::Parser;
use serde_json::Value;
use usage_client::ErrorKind;
use usage_server::{
    ServeError,
    commands::{audit, keys},
};

use super::{client, first_admin};
use crate::support::world::{Server, World, on_both_engines, poll};

on_both_engines!(
    a_key_of_the_command_is_the_way_back,
    a_command_revokes_a_key_of_a_running_server,
    the_key_of_a_file_becomes_the_first_one_once,
    wrong_flags_are_refused,
    more_keys_than_are_read_at_once_are_listed,
);

/// Three pages of the command, and of a server.
pub(crate) const MANY_KEYS: usize = 2_500;

/// Adds so many keys, like the one whose name is `root`.
pub(crate) async fn add_many_keys(world: &World) {
    let insert = format!(
        "INSERT INTO api_keys (id, name, role, scope, secret_hash, created_at) \
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY_KEYS}) \
         SELECT CAST(1000000000000000 + i AS TEXT), 'many', role, scope, secret_hash, created_at \
         FROM api_keys, n WHERE name = 'root'"
    );
    world.execute_sql(&insert).await;
}

#[derive(Parser)]
enum Cli {
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    Audit(audit::AuditCommand),
}

/// Runs a command of usage-server. Returns its output and its notes, or why it failed.
async fn try_command(world: &World, args: &[&str]) -> Result<(String, String), String> {
    let url = format!("--database-url={}", world.database_url);
    let mut all = vec!["usage-server"];
    all.extend(args);
    if !args.contains(&"generate") {
        all.push(&url);
    }
    let cli = Cli::try_parse_from(all).map_err(|error| error.to_string())?;
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    let ended = match cli {
        Cli::Keys(command) => keys::run(&command, &mut out, &mut notes).await,
        Cli::Audit(command) => audit::run(&command, &mut out).await,
    };
    ended.map_err(|error| error.to_string())?;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ok((text(out), text(notes)))
}

async fn command(world: &World, args: &[&str]) -> (String, String) {
    try_command(world, args).await.unwrap()
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

async fn more_keys_than_are_read_at_once_are_listed(world: World) {
    let (root, _) = first_admin(&world).await;
    add_many_keys(&world).await;
    let (listed, _) = command(&world, &["keys", "list", "--json"]).await;
    let ids = json_lines(&listed).into_iter();
    let ids: BTreeSet<String> = ids
        .map(|key| key["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(listed.lines().count(), MANY_KEYS + 1);
    assert_eq!(ids.len(), MANY_KEYS + 1);
    assert!(ids.contains(&root.id));
    let (table, _) = command(&world, &["keys", "list"]).await;
    for id in [root.id.as_str(), "1000000000000001", "1000000000002500"] {
        assert!(table.contains(id), "{id}");
    }
    world.finish().await;
}

async fn a_key_of_the_command_is_the_way_back(world: World) {
    let (root, admin) = first_admin(&world).await;
    command(&world, &["keys", "revoke", &root.id]).await;
    let before = client(world.endpoint(), &admin).await;
    let refused = poll("the end of the key", async || {
        before.increment("acct").await.err()
    });
    assert_eq!(refused.await.kind(), ErrorKind::Unauthenticated);
    let create = ["keys", "create", "--role=admin", "--name=way back"];
    let (text, notes) = command(&world, &create).await;
    let text = text.strip_suffix('\n').unwrap();
    assert!(text.starts_with("ub_") && !notes.contains(text), "{notes}");
    let back = client(world.endpoint(), text).await;
    back.increment("acct").await.unwrap();
    let (listed, _) = command(&world, &["keys", "list", "--json"]).await;
    let states: Vec<_> = json_lines(&listed)
        .iter()
        .map(|key| (key["name"].clone(), key["is_valid"].clone()))
        .collect();
    assert!(states.contains(&("root".into(), false.into())), "{listed}");
    assert!(
        states.contains(&("way back".into(), true.into())),
        "{listed}"
    );
    assert!(!listed.contains(&text[20..]));
    let (table, _) = command(&world, &["keys", "list"]).await;
    assert!(
        table.contains("revoked 20") && table.contains("way back"),
        "{table}"
    );
    world.finish().await;
}

async fn a_command_revokes_a_key_of_a_running_server(world: World) {
    let create = |name: &'static str| {
        [
            "keys",
            "create",
            "--role=writer",
            "--accounts=a,b",
            "--account-prefix=team:",
            "--expires-in=90d",
            name,
        ]
    };
    let (text, notes) = command(&world, &create("--name=w")).await;
    assert!(notes.contains("every call needs a key"), "{notes}");
    let writer = client(world.endpoint(), text.trim()).await;
    // The server notices the first key within seconds.
    poll("a service that asks for keys", async || {
        world.client().increment("a").await.err()
    })
    .await;
    writer.increment("b").await.unwrap();
    let denied = writer.increment("c").await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    let id = &text[3..19];
    command(&world, &["keys", "revoke", id]).await;
    let (_, notes) = command(&world, &["keys", "revoke", id]).await;
    assert!(notes.contains("revoked before"), "{notes}");
    poll("the end of the key", async || {
        writer.increment("b").await.err()
    })
    .await;
    let (audited, _) = command(&world, &["audit"]).await;
    let entries = json_lines(&audited);
    let seen: Vec<_> = entries
        .iter()
        .map(|entry| (&entry["action"], &entry["key_name"]))
        .collect();
    assert_eq!(seen.len(), 3, "{audited}");
    assert!(seen.iter().all(|(_, by)| **by == "command"), "{audited}");
    assert_eq!(entries[2]["action"], "CreateKey");
    assert_eq!(
        entries[2]["after"]["accounts"],
        serde_json::json!(["a", "b"])
    );
    assert!(entries[1]["before"]["revoked_at"].is_null());
    assert!(entries[1]["after"]["revoked_at"].is_string());
    assert!(!audited.contains(&text.trim()[20..]));
    world.finish().await;
}

async fn the_key_of_a_file_becomes_the_first_one_once(mut world: World) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let (first, _) = command(&world, &["keys", "generate"]).await;
    std::fs::write(&file, &first).unwrap();
    let flag = format!("--bootstrap-admin-key-file={}", file.display());
    world.reconfigure(&[&flag]).await;
    let admin = client(world.endpoint(), first.trim()).await;
    admin.increment("acct").await.unwrap();
    let refused = world.client().increment("acct").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unauthenticated);
    // Another key in the file means nothing any more.
    let (second, _) = command(&world, &["keys", "generate"]).await;
    std::fs::write(&file, &second).unwrap();
    world.restart().await;
    let other = client(world.endpoint(), second.trim()).await;
    assert_eq!(
        other.increment("acct").await.unwrap_err().kind(),
        ErrorKind::Unauthenticated
    );
    let admin = client(world.endpoint(), first.trim()).await;
    admin.increment("acct").await.unwrap();
    let (audited, _) = command(&world, &["audit"]).await;
    let entries = json_lines(&audited);
    assert_eq!(entries.len(), 1, "{audited}");
    assert_eq!(entries[0]["action"], "BootstrapKey");
    world.finish().await;
}

async fn wrong_flags_are_refused(mut world: World) {
    for (args, what) in [
        (
            &["keys", "create", "--role=boss", "--name=x"][..],
            "writer, reader or admin",
        ),
        (
            &["keys", "create", "--role=admin", "--name= "],
            "name has 1 characters",
        ),
        (
            &[
                "keys",
                "create",
                "--role=admin",
                "--name=x",
                "--expires-in=soon",
            ],
            "such as 90d",
        ),
        (
            &[
                "keys",
                "create",
                "--role=admin",
                "--name=x",
                "--accounts=a b",
            ],
            "accounts",
        ),
        (&["keys", "revoke", "0123456789abcdef"], "not found"),
        (&["keys", "revoke", "nothing"], "not found"),
        (&["audit", "--from=yesterday"], "RFC 3339"),
    ] {
        let failed = try_command(&world, args).await.unwrap_err();
        assert!(failed.contains(what), "{args:?}: {failed}");
    }
    // Nothing was stored, so the service is still open.
    world.client().increment("acct").await.unwrap();
    world.stop().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "s3cret").unwrap();
    let mut config = world.config();
    config.access.bootstrap_admin_key_file = Some(file);
    let server = Server::start(config, world.clock.clone()).await;
    let failed = server.ended().await.unwrap_err();
    assert!(matches!(failed, ServeError::Config(_)), "{failed}");
    assert!(!failed.to_string().contains("s3cret"), "{failed}");
    world.finish().await;
}
