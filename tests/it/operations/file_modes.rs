//! The permissions of the files with usage.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use crate::support::{
    memory_folder::memory_folder,
    world::{World, on_sqlite},
};

on_sqlite!(
    a_new_database_file_is_readable_by_its_owner_alone,
    an_existing_database_file_keeps_its_permissions,
);

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The file, its log and the index of the log.
fn files(database: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|end| format!("{}{end}", database.display()).into())
}

async fn a_new_database_file_is_readable_by_its_owner_alone(mut world: World) {
    let folder = memory_folder();
    let file = folder.path().join("new.db");
    world.move_database_to(&file).await;
    world.count("acct", 7, world.now()).await;
    for file in files(&file) {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    world.finish().await;
}

async fn an_existing_database_file_keeps_its_permissions(mut world: World) {
    let folder = memory_folder();
    let file = folder.path().join("shared.db");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    world.move_database_to(&file).await;
    world.count("acct", 7, world.now()).await;
    for file in files(&file) {
        assert_eq!(mode(&file), 0o640, "{}", file.display());
    }
    world.finish().await;
}
