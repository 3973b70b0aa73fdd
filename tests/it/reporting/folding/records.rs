//! Old audit entries, runs and decisions: they are archived, and only then deleted.

use std::os::unix::fs::PermissionsExt as _;

use chrono::TimeDelta;
use serde_json::Value;
use usage_client::{ResolveAction, ResolveReport};

use super::{AGE, COUNTED, begin, files, fold_again, let_pass, lines, name_of, use_and_close};
use crate::support::world::{World, at, on_both_engines, parse_config};

on_both_engines!(
    old_records_are_archived_and_then_deleted,
    records_stay_without_a_folder,
    a_folder_that_cannot_be_written_keeps_no_other_rows,
);

/// The last run of the job that deletes old rows was at the time of the clock.
async fn wait_until_cleaned(world: &World) {
    let now = world.clock.now();
    let ran = format!("leases WHERE name = 'cleanup' AND last_run_at >= {now}");
    world
        .wait_until("a cleanup", async || world.count_rows(&ran).await == 1)
        .await;
}

/// Two runs, an audit entry of each change, and a decision on a report that is folded later.
async fn make_records(world: &World) {
    use_and_close(world, 5, at(COUNTED)).await;
    use_and_close(world, 6, at(COUNTED) + TimeDelta::minutes(30)).await;
    let rejected =
        "UPDATE usage_reports SET state = 'rejected', customer = 'cus' WHERE quantity = 5";
    world.execute_sql(rejected).await;
    let reports = world.reports("free").await;
    let report = reports.iter().find(|report| report.quantity == 5).unwrap();
    let decision = ResolveReport::new("free", report.id.clone(), ResolveAction::WriteOff, "old");
    world.client().resolve_report(decision).await.unwrap();
}

async fn old_records_are_archived_and_then_deleted(mut world: World) {
    let folder = begin(&mut world).await;
    world
        .reconfigure(&["--audit-days=36", "--run-days=36"])
        .await;
    make_records(&world).await;
    // The last run of the schedule is read by the scheduler.
    let scheduled = "UPDATE report_runs SET trigger = 'schedule' WHERE closed_quantity = 6";
    world.execute_sql(scheduled).await;
    let entries = world.count_rows("audit_entries").await;
    assert!(entries >= 2, "{entries}");
    let_pass(&mut world, TimeDelta::days(35)).await;
    wait_until_cleaned(&world).await;
    assert_eq!(world.count_rows("audit_entries").await, entries);
    assert_eq!(world.count_rows("report_runs").await, 2);

    let_pass(&mut world, AGE).await;
    // The decision follows once its report is in an archive.
    fold_again(&world).await;
    wait_until_cleaned(&world).await;
    assert_eq!(world.count_rows("audit_entries").await, 0);
    assert_eq!(world.count_rows("report_runs").await, 1);
    assert_eq!(world.count_rows("report_decisions").await, 0);
    let files = files(folder.path());
    let archived = |kind: &str| -> Vec<Value> {
        let prefix = format!("usage-{kind}_");
        let of_kind = files
            .iter()
            .filter(|file| name_of(file).starts_with(&prefix));
        of_kind.flat_map(|file| lines(file)).collect()
    };
    assert_eq!(archived("audit").len(), usize::try_from(entries).unwrap());
    assert_eq!(archived("audit")[0]["action"], "PutAccount");
    let runs = archived("runs");
    assert_eq!((runs.len(), &runs[0]["closed_quantity"]), (1, &5.into()));
    let decisions = archived("decisions");
    assert_eq!(
        (decisions.len(), &decisions[0]["reason"]),
        (1, &"old".into())
    );
    for file in &files {
        let mode = std::fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
    world.finish().await;
}

async fn records_stay_without_a_folder(mut world: World) {
    let folder = begin(&mut world).await;
    world
        .reconfigure(&["--audit-days=36", "--run-days=36", "--archive-dir"])
        .await;
    make_records(&world).await;
    let entries = world.count_rows("audit_entries").await;
    world.stop().await;
    world.reconfigure(&["--stripe-secret-key"]).await;
    world.stop().await;
    world.move_clocks(world.now() + AGE).await;
    world.start_server().await;
    world.wait_until_job_ran("cleanup").await;
    world.move_clocks(world.now() + TimeDelta::hours(1)).await;
    wait_until_cleaned(&world).await;
    assert_eq!(world.count_rows("audit_entries").await, entries);
    assert_eq!(world.count_rows("report_runs").await, 2);
    assert_eq!(world.count_rows("report_decisions").await, 1);
    assert_eq!(files(folder.path()).len(), 0);
    world.finish().await;
}

async fn a_folder_that_cannot_be_written_keeps_no_other_rows(mut world: World) {
    let folder = begin(&mut world).await;
    let flags = ["--audit-days=36", "--run-days=36"];
    world.reconfigure(&flags).await;
    make_records(&world).await;
    let entries = world.count_rows("audit_entries").await;
    world.reconfigure(&["--stripe-secret-key"]).await;
    // More than many steps delete: a pause of seconds between them would be noticed.
    world
        .execute_sql(
            "INSERT INTO webhook_events (id, kind, livemode, created_at, received_at) \
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) \
             SELECT 'evt_' || i, 'invoice.created', false, 0, 0 FROM n",
        )
        .await;
    let elsewhere = folder.path().with_extension("moved");
    std::fs::rename(folder.path(), &elsewhere).unwrap();
    world.stop().await;
    world.move_clocks(world.now() + AGE).await;
    world.start_server().await;
    world.wait_until_job_ran("cleanup").await;
    world.move_clocks(world.now() + TimeDelta::hours(1)).await;
    world
        .wait_until("a cleanup", async || {
            world.count_rows("webhook_events").await == 0
        })
        .await;
    assert_eq!(world.count_rows("audit_entries").await, entries);
    // The job is repeated until the folder can be written.
    std::fs::rename(&elsewhere, folder.path()).unwrap();
    wait_until_cleaned(&world).await;
    assert_eq!(world.count_rows("audit_entries").await, 0);
    world.finish().await;
}

#[test]
fn ages_below_the_minimum_are_refused() {
    for flag in ["--audit-days=35", "--run-days=35", "--run-days=36501"] {
        let refused = parse_config(&[flag.to_owned()]).unwrap_err().to_string();
        assert!(refused.contains("from 36 to 36500"), "{refused}");
    }
    let default = parse_config(&[]).unwrap().archive;
    assert_eq!((default.audit_days, default.run_days), (730, 400));
}
