//! Durability on SQLite: a full disk loses no acknowledged unit, and a server whose file was deleted or replaced stops.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use usage_client::{Batch, Increment, Reason};
use usage_server::ServeError;

use crate::support::{
    small_disk::SmallDisk,
    world::{Server, World, on_sqlite, within},
};

on_sqlite!(
    a_full_disk_loses_no_acknowledged_unit,
    a_server_whose_file_was_deleted_stops,
    a_server_whose_file_was_replaced_stops,
    a_server_whose_file_was_overwritten_in_place_stops,
    a_server_whose_file_was_truncated_stops,
    a_server_whose_log_was_deleted_stops,
    a_server_whose_log_was_moved_stops,
    a_server_whose_log_was_replaced_stops,
    a_second_server_on_a_file_is_refused,
    a_second_server_on_another_name_of_a_file_is_refused,
    a_second_server_is_refused_whatever_is_deleted_beside_the_file,
    a_server_started_while_another_stops_waits_for_it,
);

/// Counts one unit under a key; whether it was acknowledged.
async fn count_key(world: &World, key: u32) -> bool {
    let increment = Increment::new("acct").key(format!("key-{key}"));
    match world.client().increment(increment).await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(
                error.reason(),
                Some(&Reason::DatabaseUnavailable),
                "{error}"
            );
            assert!(error.is_retryable(), "{error}");
            false
        }
    }
}

/// The most batches until a full disk refuses one. Some may fit into a log that is already there.
const BATCHES: u32 = 8;

/// A unit of each of 1,000 accounts, with long names and keys.
fn large_batch(round: u32, part: u32) -> Batch {
    let items = (0..1_000).map(|n| {
        let account = format!("{round}-{part}-{n:0>100}");
        Increment::new(account).key(format!("{round}-{n:0>200}"))
    });
    items
        .collect::<Batch>()
        .key(format!("batch-{round}-{part}"))
}

/// Sends batches to a full disk until one is refused; returns their number and why.
async fn send_until_refused(world: &World, round: u32) -> (u32, usage_client::Error) {
    for part in 0..BATCHES {
        let client = world.client();
        let sent = client.increment_batch(large_batch(round, part)).await;
        if let Err(refused) = sent {
            return (part + 1, refused);
        }
    }
    panic!("a full disk took {BATCHES} batches");
}

async fn a_full_disk_loses_no_acknowledged_unit(mut world: World) {
    let Some(disk) = SmallDisk::mount(16) else {
        return;
    };
    world.move_database_to(&disk.path().join("usage.db")).await;
    let mut acknowledged = 0;
    let mut sent = Vec::new();
    for round in 0..2 {
        acknowledged += i64::from(count_key(&world, round * 100).await);
        disk.fill();
        // The group commit fails several times before its caller gets the error. Little usage may still fit.
        let (parts, refused) = send_until_refused(&world, round).await;
        assert_eq!(refused.reason(), Some(&Reason::DatabaseUnavailable));
        let key = round * 100 + 1;
        let was_counted = count_key(&world, key).await;
        world.usage("acct").await;
        disk.free();
        // What failed is repeated under its key, and counting goes on without a restart.
        for part in 0..parts {
            let batch = large_batch(round, part);
            let repeated = world.client().increment_batch(batch).await.unwrap();
            assert!(repeated.duplicate || part + 1 == parts);
            sent.push((round, part));
        }
        for key in key + u32::from(was_counted)..key + 20 {
            assert!(count_key(&world, key).await, "the disk is free");
        }
        acknowledged += 20;
        assert_eq!(world.usage("acct").await.0, acknowledged);
    }
    world.crash_and_restart().await;
    assert_eq!(world.usage("acct").await.0, acknowledged, "after a crash");
    for (round, part) in sent {
        let batch = large_batch(round, part);
        let repeated = world.client().increment_batch(batch).await;
        assert!(repeated.unwrap().duplicate, "after a crash");
        let account = format!("{round}-{part}-{:0>100}", 7);
        assert_eq!(world.usage(&account).await.0, 1);
    }
    world.finish().await;
}

/// Counts until the server has stopped, and checks that it did not acknowledge what it could not keep.
async fn check_stops(world: &mut World) {
    let refused = world.client().increment("acct").await.unwrap_err();
    assert!(refused.is_retryable(), "{refused}");
    let ended = world.ended().await;
    let error = ended.expect_err("an error");
    assert!(matches!(error, ServeError::FileLost(_)), "{error}");
    assert!(error.to_string().contains("usage.db"), "{error}");
}

async fn a_server_whose_file_was_deleted_stops(mut world: World) {
    world.client().increment("acct").await.unwrap();
    fs::remove_file(world.sqlite_file()).unwrap();
    check_stops(&mut world).await;
}

async fn a_server_whose_file_was_replaced_stops(mut world: World) {
    world.client().increment("acct").await.unwrap();
    let file = world.sqlite_file();
    let copy = file.with_extension("copy");
    fs::copy(&file, &copy).unwrap();
    fs::rename(&copy, &file).unwrap();
    check_stops(&mut world).await;
}

async fn a_server_whose_file_was_overwritten_in_place_stops(mut world: World) {
    world.stop().await;
    let file = world.sqlite_file();
    let backup = file.with_extension("backup");
    fs::copy(&file, &backup).unwrap();
    world.start_server().await;
    world.client().increment("acct").await.unwrap();
    let inode = fs::metadata(&file).unwrap().ino();
    fs::copy(&backup, &file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().ino(), inode, "in place");
    check_stops(&mut world).await;
    // Its log belongs to other contents, so nothing of it was copied into the backup.
    assert!(fs::read(&file).unwrap() == fs::read(&backup).unwrap());
}

async fn a_server_whose_file_was_truncated_stops(mut world: World) {
    world.client().increment("acct").await.unwrap();
    let file = File::options().write(true).open(world.sqlite_file());
    file.unwrap().set_len(0).unwrap();
    check_stops(&mut world).await;
}

fn log_of(world: &World) -> PathBuf {
    world.sqlite_file().with_extension("db-wal")
}

/// Counts, loses the log, and checks that the server stops without losing what was acknowledged.
async fn check_stops_without_log(mut world: World, lose: impl FnOnce(&Path)) {
    world.client().increment("acct").await.unwrap();
    lose(&log_of(&world));
    check_stops(&mut world).await;
    world.start_server().await;
    assert!(world.usage("acct").await.0 >= 1, "what was acknowledged");
    world.finish().await;
}

async fn a_server_whose_log_was_deleted_stops(world: World) {
    check_stops_without_log(world, |log| fs::remove_file(log).unwrap()).await;
}

async fn a_server_whose_log_was_moved_stops(world: World) {
    let moved = |log: &Path| fs::rename(log, log.with_extension("moved")).unwrap();
    check_stops_without_log(world, moved).await;
}

async fn a_server_whose_log_was_replaced_stops(world: World) {
    let replace = |log: &Path| {
        let copy = log.with_extension("copy");
        fs::copy(log, &copy).unwrap();
        fs::rename(copy, log).unwrap();
    };
    check_stops_without_log(world, replace).await;
}

async fn a_second_server_is_refused_whatever_is_deleted_beside_the_file(world: World) {
    let lock = world.sqlite_file().with_extension("db.lock");
    if lock.exists() {
        fs::remove_file(lock).unwrap();
    }
    let second = Server::start(world.config(), world.clock.clone()).await;
    let error = second.ended().await.expect_err("a refusal");
    assert!(
        error.to_string().contains("another usage-server"),
        "{error}"
    );
    world.finish().await;
}

async fn a_second_server_on_a_file_is_refused(world: World) {
    let second = Server::start(world.config(), world.clock.clone()).await;
    let error = second.ended().await.expect_err("a refusal");
    assert!(
        error.to_string().contains("another usage-server"),
        "{error}"
    );
    world.client().increment("acct").await.unwrap();
    assert_eq!(world.usage("acct").await.0, 1, "the first goes on");
    world.finish().await;
}

async fn a_second_server_on_another_name_of_a_file_is_refused(world: World) {
    let name = world.sqlite_file().with_extension("link");
    std::os::unix::fs::symlink(world.sqlite_file(), &name).unwrap();
    let mut config = world.config();
    config.database.database_url = Some(format!("sqlite://{}", name.display()).into());
    let second = Server::start(config, world.clock.clone()).await;
    let error = second.ended().await.expect_err("a refusal");
    assert!(
        error.to_string().contains("another usage-server"),
        "{error}"
    );
    world.finish().await;
}

async fn a_server_started_while_another_stops_waits_for_it(mut world: World) {
    let second = Server::start(world.config(), world.clock.clone()).await;
    world.stop().await;
    within("the second server", second.client()).await;
    second.stop().await.unwrap();
    world.finish().await;
}
