//! Which reports are folded, and which are not.

use chrono::TimeDelta;
use usage_client::{Correct, DeleteAccount, PutAccount};

use super::{
    AGE, COUNTED, begin, files, fold_again, ledger, let_pass, lines, use_and_close, verified,
    wait_until_folded,
};
use crate::{
    operations::deletion::unfinished::fail_deletions,
    support::world::{World, at, on_both_engines, on_postgres, parse_config},
};

on_both_engines!(
    reports_are_folded_at_their_age_and_not_before,
    only_finished_usage_is_folded,
    without_a_folder_nothing_is_folded,
    a_restored_backup_folds_its_reports_again,
    usage_that_was_folded_is_not_billed_by_a_later_link,
    an_account_that_is_being_deleted_is_not_archived,
);

on_postgres!(
    two_replicas_fold_each_report_once,
    a_report_that_changes_meanwhile_is_not_folded,
    a_crash_after_the_file_was_written_loses_nothing,
);

async fn reports_are_folded_at_their_age_and_not_before(mut world: World) {
    let folder = begin(&mut world).await;
    use_and_close(&world, 5, at(COUNTED)).await;
    let window = TimeDelta::minutes(15);
    // With the hour until the job runs, the window's end is one minute too young.
    let_pass(&mut world, AGE + window - TimeDelta::minutes(61)).await;
    assert_eq!(world.count_rows("usage_reports").await, 1);
    assert_eq!(files(folder.path()).len(), 0);
    fold_again(&world).await;
    assert_eq!(world.count_rows("usage_reports").await, 0);
    assert_eq!(world.count_rows("folded_reports").await, 1);
    // A run without anything to fold writes nothing.
    fold_again(&world).await;
    assert_eq!(files(folder.path()).len(), 1);
    world.finish().await;
}

async fn an_account_that_is_being_deleted_is_not_archived(mut world: World) {
    let folder = begin(&mut world).await;
    use_and_close(&world, 5, at(COUNTED)).await;
    fail_deletions(&world, true).await;
    let delete = async |world: &World| {
        let client = world.client();
        client.delete_account(DeleteAccount::new("free")).await
    };
    delete(&world).await.unwrap_err();
    // A file would keep the id: it is never changed.
    let_pass(&mut world, AGE + TimeDelta::days(1)).await;
    assert_eq!(world.count_rows("usage_reports").await, 1);
    assert_eq!(files(folder.path()).len(), 0);
    fail_deletions(&world, false).await;
    let token = delete(&world).await.unwrap().token.unwrap();
    fold_again(&world).await;
    let files = files(folder.path());
    assert_eq!(lines(&files[0])[0]["account_id"], token.as_str());
    assert_eq!(files.len(), 1);
    world.finish().await;
}

async fn only_finished_usage_is_folded(mut world: World) {
    let folder = begin(&mut world).await;
    let states = [
        "closed",
        "confirmed",
        "too_late",
        "written_off",
        "not_billable",
        "no_customer",
    ];
    for (quantity, _) in (1..).zip(states) {
        use_and_close(&world, quantity, at(COUNTED)).await;
    }
    let correction = Correct::new("free", 7, "a log was lost").key("k");
    let client = world.client();
    client.correct(correction.clone()).await.unwrap();
    world.stop().await;
    for (quantity, state) in (1..).zip(states) {
        let sql = format!(
            "UPDATE usage_reports SET state = '{state}' WHERE quantity = {quantity} AND kind = 'usage'"
        );
        world.execute_sql(&sql).await;
    }
    let totals = ledger(&world).await;
    let_pass(&mut world, AGE + TimeDelta::days(1)).await;
    assert_eq!(world.count_rows("usage_reports").await, 5);
    assert_eq!(world.count_rows("folded_reports").await, 2);
    let sums = "folded_reports WHERE (quantity = 4 AND state = 'written_off') OR (quantity = 5 AND state = 'not_billable')";
    assert_eq!(world.count_rows(sums).await, 2);
    assert_eq!(ledger(&world).await, totals);
    let (is_well, printed) = verified(&world, folder.path()).await;
    assert!(is_well, "{printed}");
    let repeated = world.client().correct(correction).await.unwrap();
    assert!(repeated.duplicate);
    world.finish().await;
}

async fn without_a_folder_nothing_is_folded(mut world: World) {
    let folder = begin(&mut world).await;
    use_and_close(&world, 5, at(COUNTED)).await;
    world
        .reconfigure(&["--archive-dir", "--stripe-secret-key"])
        .await;
    world.stop().await;
    world.move_clocks(world.now() + AGE * 10).await;
    world.execute_sql("DELETE FROM leases").await;
    world.start_server().await;
    world.wait_until_job_ran("cleanup").await;
    world.move_clocks(world.now() + TimeDelta::hours(1)).await;
    let cleaned = format!(
        "leases WHERE name = 'cleanup' AND last_run_at >= {}",
        world.clock.now()
    );
    world
        .wait_until("a cleanup", async || world.count_rows(&cleaned).await == 1)
        .await;
    assert_eq!(
        world
            .count_rows("leases WHERE name = 'report folding'")
            .await,
        0
    );
    assert_eq!(world.count_rows("usage_reports").await, 1);
    assert_eq!(files(folder.path()).len(), 0);
    world.finish().await;
}

#[test]
fn an_age_below_the_minimum_is_refused_with_the_limit() {
    for days in ["59", "0", "-1", "36501"] {
        let flags = [format!("--fold-after-days={days}")];
        let refused = parse_config(&flags).unwrap_err().to_string();
        for word in ["--fold-after-days", days, "from 60 to 36500"] {
            assert!(refused.contains(word), "{word} is not in {refused}");
        }
    }
    let default = parse_config(&[]).unwrap().archive;
    assert_eq!((default.fold_after_days, default.archive_dir), (400, None));
    assert!(parse_config(&["--fold-after-days=60".to_owned()]).is_ok());
}

async fn a_restored_backup_folds_its_reports_again(mut world: World) {
    let folder = begin(&mut world).await;
    use_and_close(&world, 5, at(COUNTED)).await;
    use_and_close(&world, 6, at(COUNTED) + TimeDelta::minutes(30)).await;
    let totals = ledger(&world).await;
    let backup = world.back_up().await;
    let_pass(&mut world, AGE + TimeDelta::days(1)).await;
    assert_eq!(world.count_rows("folded_reports").await, 2);
    world.put_back(&backup).await;
    world.start_server().await;
    assert_eq!(world.count_rows("usage_reports").await, 2);
    assert_eq!(ledger(&world).await, totals);
    let (_, line) = world.doctor_says(None, "archives").await;
    assert!(line.contains("not recorded"), "{line}");

    fold_again(&world).await;
    assert_eq!(world.count_rows("usage_reports").await, 0);
    assert_eq!(world.count_rows("folded_reports").await, 2);
    assert_eq!(ledger(&world).await, totals);
    assert_eq!(files(folder.path()).len(), 2, "the first file is left");
    let (is_well, printed) = verified(&world, folder.path()).await;
    assert!(is_well, "{printed}");
    world.finish().await;
}

async fn usage_that_was_folded_is_not_billed_by_a_later_link(mut world: World) {
    let _folder = begin(&mut world).await;
    use_and_close(&world, 5, at(COUNTED)).await;
    let_pass(&mut world, AGE + TimeDelta::days(1)).await;
    world.create_customers(&["cus_acct"]).await;
    let link = |from| PutAccount::stripe("free", "cus_acct").bill_from(from);
    let client = world.client();
    let refused = client.put_account(link(at(COUNTED))).await.unwrap_err();
    assert!(refused.to_string().contains("folded"), "{refused}");
    let later = at(COUNTED) + TimeDelta::seconds(1);
    client.put_account(link(later)).await.unwrap();
    world.finish().await;
}

async fn two_replicas_fold_each_report_once(mut world: World) {
    let folder = begin(&mut world).await;
    for number in 0..40 {
        let time = at(COUNTED) + TimeDelta::seconds(i64::from(number % 4) * 900);
        world.move_clocks(at(COUNTED) + TimeDelta::hours(1)).await;
        use_and_close(&world, i64::from(number) + 1, time).await;
    }
    let totals = ledger(&world).await;
    world.reconfigure(&["--stripe-secret-key"]).await;
    world.stop().await;
    world.move_clocks(world.now() + AGE).await;
    world.start_server().await;
    let replica = world.replica().await;
    world.wait_until_job_ran("report folding").await;
    world.move_clocks(world.now() + TimeDelta::hours(1)).await;
    wait_until_folded(&world).await;
    // Whoever had the lease, the other one finds nothing.
    world.expire_leases().await;
    fold_again(&world).await;
    replica.stop().await.unwrap();
    assert_eq!(world.count_rows("usage_reports").await, 0);
    assert_eq!(world.count_rows("folded_reports").await, 4);
    assert_eq!(ledger(&world).await, totals);
    let (is_well, printed) = verified(&world, folder.path()).await;
    assert!(is_well, "{printed}");
    assert!(printed.contains("with 40 reports"), "{printed}");
    world.finish().await;
}

/// Waits until a file is written whose transaction waits for a lock of the test.
async fn wait_for_file(world: &World, folder: &std::path::Path) {
    world
        .wait_until("a file", async || {
            let is_whole =
                |file: &std::path::PathBuf| file.extension().is_some_and(|end| end == "jsonl");
            files(folder).iter().any(is_whole)
        })
        .await;
}

async fn a_report_that_changes_meanwhile_is_not_folded(mut world: World) {
    use sea_orm::{ConnectionTrait as _, TransactionTrait as _};
    let folder = begin(&mut world).await;
    use_and_close(&world, 5, at(COUNTED)).await;
    let totals = ledger(&world).await;
    // Folding begins 60 days and an hour later.
    world.reconfigure(&["--stripe-secret-key"]).await;
    world.stop().await;
    world.move_clocks(world.now() + AGE).await;
    world.start_server().await;
    world.wait_until_job_ran("report folding").await;
    let database = world.connect_to_database().await;
    let change = database.begin().await.unwrap();
    let sql = "UPDATE usage_reports SET last_error = 'changed'";
    change.execute_unprepared(sql).await.unwrap();
    world.move_clocks(world.now() + TimeDelta::hours(1)).await;
    wait_for_file(&world, folder.path()).await;
    change.commit().await.unwrap();
    wait_until_folded(&world).await;
    assert_eq!(world.count_rows("usage_reports").await, 1);
    assert_eq!(world.count_rows("report_archives").await, 0);
    assert_eq!(files(folder.path()).len(), 0, "its file is removed");
    assert_eq!(ledger(&world).await, totals);
    fold_again(&world).await;
    assert_eq!(world.count_rows("usage_reports").await, 0);
    let (is_well, printed) = verified(&world, folder.path()).await;
    assert!(is_well, "{printed}");
    database.close().await.unwrap();
    world.finish().await;
}

async fn a_crash_after_the_file_was_written_loses_nothing(mut world: World) {
    use sea_orm::{ConnectionTrait as _, TransactionTrait as _};
    let folder = begin(&mut world).await;
    use_and_close(&world, 5, at(COUNTED)).await;
    let totals = ledger(&world).await;
    world.reconfigure(&["--stripe-secret-key"]).await;
    world.stop().await;
    world.move_clocks(world.now() + AGE).await;
    world.start_server().await;
    world.wait_until_job_ran("report folding").await;
    let database = world.connect_to_database().await;
    let lock = database.begin().await.unwrap();
    let sql = "SELECT 1 FROM usage_reports WHERE account_id = 'free' FOR UPDATE";
    lock.query_all_raw(sea_orm::Statement::from_string(
        sea_orm::DbBackend::Postgres,
        sql,
    ))
    .await
    .unwrap();
    world.move_clocks(world.now() + TimeDelta::hours(1)).await;
    wait_for_file(&world, folder.path()).await;
    world.kill_and_wait().await;
    lock.rollback().await.unwrap();
    database.close().await.unwrap();
    assert_eq!(world.count_rows("usage_reports").await, 1);
    assert_eq!(world.count_rows("report_archives").await, 0);
    let left: Vec<_> = files(folder.path());
    assert_eq!(left.len(), 1);
    let (_, line) = world.doctor_says(None, "archives").await;
    assert!(line.contains(&super::name_of(&left[0])), "{line}");

    world.start_server().await;
    world.expire_leases().await;
    fold_again(&world).await;
    assert_eq!(world.count_rows("usage_reports").await, 0);
    assert_eq!(world.count_rows("folded_reports").await, 1);
    assert_eq!(files(folder.path()).len(), 2);
    assert_eq!(ledger(&world).await, totals);
    let (is_well, printed) = verified(&world, folder.path()).await;
    assert!(is_well, "{printed}");
    world.finish().await;
}
