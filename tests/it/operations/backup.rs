//! `usage-server backup`: a copy of a database that is in use, whole and checked.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use usage_client::Increment;
use usage_server::{
    commands::{
        backup::{self, BackupCommand, BackupError},
        offline::OfflineError,
        restore::{self, RestoreCommand},
    },
    store::Store,
};

use crate::support::world::{Backup, World, hours_ago, on_postgres, on_sqlite, within};

on_sqlite!(
    a_backup_beside_callers_is_whole_and_can_be_restored,
    an_existing_file_is_not_overwritten,
    a_backup_of_a_damaged_ledger_is_refused,
    a_backup_is_put_in_place_and_the_former_database_is_kept,
    nothing_is_replaced_by_what_is_no_backup_or_while_a_server_runs,
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
    let command = RestoreCommand {
        config: world.config().into(),
        backup_at: Some(hours_ago(4).timestamp_millis()),
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
