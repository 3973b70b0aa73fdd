//! Audit entries are only added: what may change or delete them is known, and the database can refuse it to the service.

use std::{
    fs,
    path::{Path, PathBuf},
};

use sea_orm::ConnectionTrait as _;
use usage_client::{
    PutAccount,
    proto::{KeyRole, ListAuditEntriesRequest, RevokeKeyRequest},
};

use super::{access, client, create, entries, first_admin, new_key};
use crate::support::{
    postgres::execute,
    world::{World, on_postgres},
};

on_postgres!(a_service_that_may_not_change_entries_writes_them);

/// The only files that name the table, or change its rows: those that define it, that delete entries which were archived, and
/// that replace the id of a deleted account.
const MAY_CHANGE: [&str; 3] = [
    "entity/audit_entry.rs",
    "store/account_deletion/mentions.rs",
    "store/old_records.rs",
];
/// Those that name it for a list of tables.
const MAY_NAME: [&str; 2] = ["store/account_export.rs", "store/distribution.rs"];

fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn no_other_code_changes_or_deletes_entries() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("server/src");
    let mut files = Vec::new();
    sources(&folder, &mut files);
    let mut seen = 0;
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(&folder).unwrap().to_str().unwrap();
        // As one line, however it is formatted.
        let text: String = text.split_whitespace().collect();
        let changes = ["audit_entry::Entity::update", "audit_entry::Entity::delete"];
        let names = [
            "\"audit_entries\"",
            "UPDATEaudit_entries",
            "FROMaudit_entries",
        ];
        let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
        let (is_change, is_name) = (has(&changes), has(&names));
        let may_change = MAY_CHANGE.contains(&name);
        assert!(!is_change || may_change, "{name} changes audit entries");
        assert!(
            !is_name || may_change || MAY_NAME.contains(&name),
            "{name} names the table of audit entries"
        );
        seen += usize::from(is_change || is_name);
    }
    assert_eq!(seen, MAY_CHANGE.len() + MAY_NAME.len());
}

/// As the documentation advises, for a service that deletes neither accounts nor old entries.
async fn a_service_that_may_not_change_entries_writes_them(world: World) {
    let reason = "roles of one node say nothing about the others";
    let Some(mut world) = world.unless_distributed(reason).await else {
        return;
    };
    let (_, admin) = first_admin(&world).await;
    world.stop().await;
    let owner = world.database_url.clone();
    let (server, name) = owner.rsplit_once('/').unwrap();
    // A role is one of the whole cluster.
    let role = format!("service_of_{name}");
    for sql in [
        format!("CREATE ROLE {role} LOGIN"),
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"),
        format!("GRANT CREATE, USAGE ON SCHEMA public TO {role}"),
        format!("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}"),
        format!("REVOKE UPDATE, DELETE ON audit_entries FROM {role}"),
    ] {
        execute(&owner, &sql).unwrap();
    }
    let (_, address) = server.rsplit_once('@').unwrap();
    world.database_url = format!("postgres://{role}@{address}/{name}");
    world.reconfigure(&["--no-migrate"]).await;
    let mut access = access(&world, Some(&admin)).await;
    let before = entries(&mut access, ListAuditEntriesRequest::default()).await;
    let with_key = client(world.endpoint(), &admin).await;
    with_key
        .put_account(PutAccount::free("acct"))
        .await
        .unwrap();
    with_key.increment("acct").await.unwrap();
    let created = create(&mut access, new_key("w", KeyRole::Writer)).await;
    let id = created.key.unwrap().id;
    access.revoke_key(RevokeKeyRequest { id }).await.unwrap();
    let after = entries(&mut access, ListAuditEntriesRequest::default()).await;
    let new: Vec<&str> = after[before.len()..]
        .iter()
        .map(|entry| &*entry.action)
        .collect();
    assert_eq!(new, ["PutAccount", "PutAccount", "CreateKey", "RevokeKey"]);
    let as_service = world.connect_to_database().await;
    for sql in [
        "UPDATE audit_entries SET message = 'other'",
        "DELETE FROM audit_entries",
    ] {
        let changed = as_service.execute_unprepared(sql).await;
        assert!(changed.is_err(), "{sql}: {changed:?}");
    }
    as_service.close().await.unwrap();
    world.database_url = owner;
    world.finish().await;
}
