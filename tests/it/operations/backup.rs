//! `usage-server backup`: a copy of a database that is in use, whole and checked.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use fake_stripe::Fault;
use sea_orm::{ConnectionTrait as _, TransactionTrait as _};
use usage_client::Increment;
use usage_server::{
    commands::{
        backup::{self, BackupCommand, BackupError},
        offline::OfflineError,
        restore::{self, RestoreCommand},
    },
    config::CommandConfig,
    store::Store,
};

use crate::support::world::{Backup, World, hours_ago, on_postgres, on_sqlite, poll, within};

on_sqlite!(
    a_backup_beside_callers_is_whole_and_can_be_restored,
    an_existing_file_is_not_overwritten,
    a_backup_of_a_damaged_ledger_is_refused,
    a_backup_is_put_in_place_and_the_former_database_is_kept,
    nothing_is_replaced_by_what_is_no_backup_or_while_a_server_runs,
    nothing_is_replaced_before_the_settings_are_right,
    a_log_that_a_lost_database_left_is_not_taken_for_that_of_the_backup,
    a_restore_that_was_interrupted_can_be_run_again_and_nothing_else,
    a_backup_that_is_in_place_sends_nothing_before_the_comparison,
    a_link_to_the_database_stays_one,
);
on_postgres!(postgres_is_backed_up_by_its_own_tools);

async fn back_up(world: &World, file: &Path) -> Result<String, BackupError> {
    let command = BackupCommand {
        file: file.to_owned(),
        database: world.config().database,
    };
    let mut out = Vec::new();
    backup::run(&command, &mut out).await?;
    Ok(String::from_utf8(out).unwrap())
}

fn beside(world: &World, name: &str) -> PathBuf {
    world.sqlite_file().with_file_name(name)
}

async fn units_of(file: &Path) -> i128 {
    let url = format!("sqlite://{}", file.display());
    let store = Store::open_existing(&url, 1).await.unwrap();
    let ledger = store.ledger_totals().await.unwrap();
    store.close().await.unwrap();
    assert!(ledger.is_balanced(), "{ledger:?}");
    ledger.committed
}

async fn a_backup_beside_callers_is_whole_and_can_be_restored(mut world: World) {
    world.count("acct", 1_000, hours_ago(1)).await;
    let client = world.client();
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone();
    let callers = tokio::spawn(async move {
        let mut counted = 0;
        while !stopped.is_cancelled() {
            client.increment(Increment::new("acct")).await.unwrap();
            counted += 1;
        }
        counted
    });
    let files = [1, 2, 3].map(|n| beside(&world, &format!("backup{n}.db")));
    let mut last = 1_000;
    for file in &files {
        let printed = back_up(&world, file).await.unwrap();
        assert!(
            printed.contains("usage-server restore --from ") && printed.contains(" --backup-at 20"),
            "{printed}"
        );
        let units = units_of(file).await;
        assert!(units >= last, "{units} after {last}");
        last = units;
        assert_eq!(
            fs::metadata(file).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    stop.cancel();
    let counted: i64 = callers.await.unwrap();
    assert_eq!(world.usage("acct").await.0, 1_000 + counted);
    // The file is a database like any other.
    world.put_back(&Backup::Sqlite(files[2].clone())).await;
    world.start_server().await;
    assert_eq!(i128::from(world.usage("acct").await.0), last);
    world.finish().await;
}

/// Runs `usage-server restore --from`. Returns what it printed.
async fn restore_from(world: &World, backup: &Path) -> Result<String, OfflineError> {
    restore_with(world, world.config().into(), backup).await
}

async fn restore_with(
    world: &World,
    config: CommandConfig,
    backup: &Path,
) -> Result<String, OfflineError> {
    let command = RestoreCommand {
        config,
        backup_at: Some(hours_ago(4).timestamp_millis()),
        bill_from: None,
        from: Some(backup.to_owned()),
        yes: true,
        dry_run: false,
    };
    let mut out = Vec::new();
    let restored = restore::run(&command, &world.clock, &mut out, None);
    within("a restore", restored).await?;
    Ok(String::from_utf8(out).unwrap())
}

async fn a_backup_is_put_in_place_and_the_former_database_is_kept(mut world: World) {
    world.link_to_new_customer("acct", "cus").await;
    world.count("acct", 5, hours_ago(2)).await;
    world.report_all().await;
    let file = beside(&world, "backup.db");
    back_up(&world, &file).await.unwrap();
    world.count("acct", 7, hours_ago(2)).await;
    world.report_all().await;
    world.count("acct", 1, hours_ago(2)).await;
    world.kill_and_wait().await;
    let printed = restore_from(&world, &file).await.unwrap();
    let words = "the former database is ";
    let former = printed.lines().find_map(|line| line.strip_prefix(words));
    // With its log.
    assert_eq!(units_of(Path::new(former.unwrap())).await, 13);
    world.start_server().await;
    // Stripe has 7 beyond the backup. The last unit is lost unless it is repeated.
    assert_eq!(world.usage("acct").await.0, 12, "{printed}");
    assert_eq!(world.stripe_total("cus", "api_calls").await, 12);
    assert_eq!(units_of(&file).await, 5);
    world.finish().await;
}

/// Whether this process has a file open, where that can be seen.
fn is_open(file: &Path) -> bool {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten();
    let targets = open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    targets.into_iter().any(|target| target == file)
}

/// A database of which Stripe has 12 units, and a backup with 5 of them. One unit more is only in the log.
async fn lose_after_a_backup(world: &mut World) -> PathBuf {
    world.link_to_new_customer("acct", "cus").await;
    world.count("acct", 5, hours_ago(2)).await;
    world.report_all().await;
    let file = beside(world, "backup.db");
    back_up(world, &file).await.unwrap();
    world.count("acct", 7, hours_ago(2)).await;
    world.report_all().await;
    world.count("acct", 1, hours_ago(2)).await;
    // Whoever closes the file last copies the log into it. A machine that loses its power does not.
    let reader = world.connect_to_database().await;
    let read = "SELECT 1 FROM sending";
    reader.execute_unprepared(read).await.unwrap();
    world.kill_and_wait().await;
    // While something is read, the log is not begun anew between the two copies.
    let reading = reader.begin().await.unwrap();
    reading.execute_unprepared(read).await.unwrap();
    let files = ["usage.db", "usage.db-wal"].map(|name| beside(world, name));
    let kept = ["kept", "kept-wal"].map(|name| beside(world, name));
    for (file, kept) in files.iter().zip(&kept) {
        fs::copy(file, kept).unwrap();
    }
    reading.rollback().await.unwrap();
    reader.close().await.unwrap();
    // The last one to close the file removes the log, so the copies come after that.
    let is_closed = async || (!is_open(&files[0])).then_some(());
    poll("the ends of all connections", is_closed).await;
    for (file, kept) in files.iter().zip(&kept) {
        fs::rename(kept, file).unwrap();
    }
    assert!(fs::metadata(&files[1]).unwrap().len() > 0);
    file
}

async fn nothing_is_replaced_before_the_settings_are_right(mut world: World) {
    let file = lose_after_a_backup(&mut world).await;
    let mut config = CommandConfig::from(world.config());
    config.stripe.stripe_secret_key = None;
    let refused = restore_with(&world, config, &file).await.unwrap_err();
    assert!(
        refused.to_string().contains("STRIPE_SECRET_KEY"),
        "{refused}"
    );
    world.start_server().await;
    assert_eq!(world.usage("acct").await.0, 13);
    world.finish().await;
}

async fn a_log_that_a_lost_database_left_is_not_taken_for_that_of_the_backup(mut world: World) {
    let file = lose_after_a_backup(&mut world).await;
    fs::remove_file(world.sqlite_file()).unwrap();
    let printed = restore_from(&world, &file).await.unwrap();
    assert!(
        printed.contains("a log without a database is kept as"),
        "{printed}"
    );
    world.start_server().await;
    assert_eq!(world.usage("acct").await.0, 12, "{printed}");
    world.finish().await;
}

async fn a_restore_that_was_interrupted_can_be_run_again_and_nothing_else(mut world: World) {
    let file = lose_after_a_backup(&mut world).await;
    // It ended after the log was moved, and before the backup got the database's name.
    let database = world.sqlite_file();
    let former = beside(&world, "usage.db.before-restore-2026");
    fs::hard_link(&database, &former).unwrap();
    let [from, to] = ["usage.db-wal", "usage.db.before-restore-2026-wal"];
    fs::rename(beside(&world, from), beside(&world, to)).unwrap();
    fs::copy(&file, beside(&world, "usage.db.restored")).unwrap();
    // Without its log the database lacks what was acknowledged.
    let refused = Store::open(&world.database_url, 1).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("was interrupted while it replaced"),
        "{refused}"
    );
    let printed = restore_from(&world, &file).await.unwrap();
    let words = format!("the former database is {}", former.display());
    assert!(printed.contains(&words), "{printed}");
    assert_eq!(units_of(&former).await, 13, "with its log");
    world.start_server().await;
    assert_eq!(world.usage("acct").await.0, 12, "{printed}");
    world.finish().await;
}

async fn a_backup_that_is_in_place_sends_nothing_before_the_comparison(mut world: World) {
    let file = lose_after_a_backup(&mut world).await;
    let silent = Fault::status(500).always().on_path("/v1/billing/meters");
    world.stripe().script(silent).await.unwrap();
    // It is in place, and the comparison is not done.
    restore_from(&world, &file).await.unwrap_err();
    assert_eq!(units_of(&world.sqlite_file()).await, 5);
    let paused = "sending WHERE paused_why = 'restoring'";
    assert_eq!(world.count_rows(paused).await, 1);
    world.stripe().clear_faults().await.unwrap();
    assert!(world.restore(Some(hours_ago(4)), (true, false)).await.0);
    assert_eq!(world.count_rows(paused).await, 0);
    world.start_server().await;
    assert_eq!(world.usage("acct").await.0, 12);
    world.finish().await;
}

async fn a_link_to_the_database_stays_one(mut world: World) {
    let file = lose_after_a_backup(&mut world).await;
    let elsewhere = beside(&world, "elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for name in ["usage.db", "usage.db-wal"] {
        fs::rename(beside(&world, name), elsewhere.join(name)).unwrap();
    }
    let real = elsewhere.join("usage.db");
    std::os::unix::fs::symlink(&real, world.sqlite_file()).unwrap();
    let printed = restore_from(&world, &file).await.unwrap();
    assert!(
        fs::symlink_metadata(world.sqlite_file())
            .unwrap()
            .is_symlink()
    );
    assert!(
        printed.contains("elsewhere/usage.db.before-restore-"),
        "{printed}"
    );
    world.start_server().await;
    assert_eq!(world.usage("acct").await.0, 12, "{printed}");
    world.finish().await;
}

async fn nothing_is_replaced_by_what_is_no_backup_or_while_a_server_runs(mut world: World) {
    world.count("acct", 5, hours_ago(1)).await;
    let file = beside(&world, "backup.db");
    back_up(&world, &file).await.unwrap();
    world.count("acct", 7, hours_ago(1)).await;
    let refused = restore_from(&world, &file).await.unwrap_err();
    assert!(refused.to_string().contains("another"), "{refused}");
    assert_eq!(world.usage("acct").await.0, 12);
    world.stop().await;
    let wrong = beside(&world, "wrong.db");
    fs::write(&wrong, "not a database").unwrap();
    // A database, but none of this service.
    let empty = beside(&world, "empty.db");
    fs::write(&empty, "").unwrap();
    let refused = restore_from(&world, &empty).await.unwrap_err().to_string();
    assert!(refused.contains("is no database of it"), "{refused}");
    for wrong in [&wrong, &beside(&world, "absent.db")] {
        let refused = restore_from(&world, wrong).await.unwrap_err();
        let name = wrong.file_name().unwrap().to_str().unwrap();
        assert!(refused.to_string().contains(name), "{refused}");
    }
    world.start_server().await;
    assert_eq!(world.usage("acct").await.0, 12);
    world.finish().await;
}

async fn an_existing_file_is_not_overwritten(world: World) {
    let file = beside(&world, "precious.db");
    fs::write(&file, "precious").unwrap();
    let refused = back_up(&world, &file).await.unwrap_err();
    assert!(refused.to_string().contains("precious.db"), "{refused}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    let odd = back_up(&world, &beside(&world, "a?b.db"))
        .await
        .unwrap_err();
    assert!(odd.to_string().contains("a name without ?"), "{odd}");
    let nowhere = back_up(&world, Path::new("/nowhere/backup.db")).await;
    assert!(
        matches!(nowhere, Err(BackupError::File { .. })),
        "{nowhere:?}"
    );
    world.finish().await;
}

async fn a_backup_of_a_damaged_ledger_is_refused(world: World) {
    world.count("acct", 7, hours_ago(1)).await;
    world
        .execute_sql("UPDATE open_reports SET quantity = 8")
        .await;
    let file = beside(&world, "wrong.db");
    let refused = back_up(&world, &file).await.unwrap_err();
    assert!(
        refused.to_string().contains("7 units were committed"),
        "{refused}"
    );
    assert!(!file.exists());
    world
        .execute_sql("UPDATE open_reports SET quantity = 7")
        .await;
    world.finish().await;
}

async fn postgres_is_backed_up_by_its_own_tools(world: World) {
    let refused = back_up(&world, Path::new("backup.db")).await.unwrap_err();
    assert!(refused.to_string().contains("pg_dump"), "{refused}");
    assert!(!Path::new("backup.db").exists());
    world.finish().await;
}
