//! The schedule: each due run begins once, on any replica, and none is lost. Invalid settings stop the start with one
//! line.

use chrono::{DateTime, TimeDelta, Utc};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use usage_client::{Increment, ReportState};
use usage_server::{Listeners, clock::Clock, serve};

use crate::support::world::{
    Engine, World, at, hours_ago, on_both_engines, on_postgres, parse_config, within,
};

on_both_engines!(
    a_run_missed_while_down_begins_at_the_start,
    several_missed_runs_begin_one_run,
    a_daily_run_keeps_its_local_hour_when_clocks_change,
    the_schedule_goes_on_when_the_wall_clock_steps_back,
    a_last_run_recorded_ahead_of_the_clock_is_due,
    a_scheduled_run_begins_when_due,
    a_run_interrupted_by_a_crash_is_resumed,
    deleting_old_commits_and_keys_keeps_the_ledger_balanced,
    old_commits_are_rolled_up_beyond_64_bits,
);

on_postgres!(two_replicas_begin_a_scheduled_run_once,);

/// Noon of the day before yesterday.
fn noon() -> DateTime<Utc> {
    let today = hours_ago(0)
        .date_naive()
        .and_time(chrono::NaiveTime::MIN)
        .and_utc();
    today - TimeDelta::hours(36)
}

/// A world with a schedule that was first checked at a time.
async fn scheduled(world: &mut World, schedule: &[&str], first_look: DateTime<Utc>) {
    world.reconfigure(schedule).await;
    world.stop().await;
    world.execute_sql("DELETE FROM leases").await;
    world.clock = Clock::manual(first_look.timestamp_millis());
    world.start_server().await;
    assert_eq!(runs(world).await, 0, "the first check begins no run");
}

/// The number of runs after the first tick.
async fn runs(world: &World) -> i64 {
    world.reports("anybody").await;
    world.count_rows("report_runs").await
}

async fn restart_at(world: &mut World, now: DateTime<Utc>) {
    world.stop().await;
    world.clock.set(now.timestamp_millis());
    world.start_server().await;
}

async fn a_run_missed_while_down_begins_at_the_start(mut world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    scheduled(&mut world, &["--report-schedule=0 0 * * *"], noon()).await;
    world.count("acct", 5, noon()).await;
    restart_at(&mut world, noon() + TimeDelta::hours(11)).await;
    assert_eq!(runs(&world).await, 0);
    assert_eq!(world.reports("acct").await[0].state, ReportState::Open);
    restart_at(&mut world, noon() + TimeDelta::hours(15)).await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    assert!(world.reports("acct").await[0].run_id.is_some());
    assert_eq!(runs(&world).await, 1);
    world.finish().await;
}

async fn several_missed_runs_begin_one_run(mut world: World) {
    scheduled(&mut world, &["--report-schedule=0 * * * *"], noon()).await;
    for _ in 0..3 {
        restart_at(&mut world, noon() + TimeDelta::minutes(605)).await;
        assert_eq!(runs(&world).await, 1);
    }
    restart_at(&mut world, noon() + TimeDelta::minutes(660)).await;
    assert_eq!(runs(&world).await, 2);
    world.finish().await;
}

async fn two_replicas_begin_a_scheduled_run_once(mut world: World) {
    scheduled(&mut world, &["--report-schedule=0 * * * *"], noon()).await;
    world.stop().await;
    for hour in 1..=3 {
        world
            .clock
            .set((noon() + TimeDelta::hours(hour)).timestamp_millis());
        let (one, two) = tokio::join!(world.replica(), world.replica());
        for replica in [&one, &two] {
            replica.client().await;
        }
        world
            .wait_until("a run", || async {
                world.count_rows("report_runs").await >= hour
            })
            .await;
        one.stop().await.unwrap();
        two.stop().await.unwrap();
        assert_eq!(world.count_rows("report_runs").await, hour);
    }
    world.finish().await;
}

async fn the_schedule_goes_on_when_the_wall_clock_steps_back(mut world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    scheduled(&mut world, &["--report-schedule=0 * * * *"], noon()).await;
    world.count("acct", 5, noon()).await;
    // Four minutes: one that is further off does no background work.
    world.clock.step(-240_000);
    world.clock.advance(3_600_000);
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    assert_eq!(world.count_rows("report_runs").await, 1);
    world.finish().await;
}

async fn a_last_run_recorded_ahead_of_the_clock_is_due(mut world: World) {
    scheduled(&mut world, &["--report-schedule=0 0 * * *"], noon()).await;
    for _ in 0..2 {
        restart_at(&mut world, noon() - TimeDelta::hours(1)).await;
        assert_eq!(runs(&world).await, 1, "it is due once");
    }
    restart_at(&mut world, noon() + TimeDelta::hours(12)).await;
    // The stopped server may not have released its lease yet.
    world
        .wait_until("the second run", async || runs(&world).await == 2)
        .await;
    world.finish().await;
}

async fn a_daily_run_keeps_its_local_hour_when_clocks_change(mut world: World) {
    let flags = [
        "--report-schedule=30 6 * * *",
        "--report-time-zone=Europe/Vienna",
    ];
    scheduled(&mut world, &flags, at("2026-03-28T00:00:00Z")).await;
    for (moment, expected) in [
        ("2026-03-28T05:29:59Z", 0),
        ("2026-03-28T05:30:00Z", 1),
        ("2026-03-29T04:29:59Z", 1),
        ("2026-03-29T04:30:00Z", 2),
        ("2026-03-29T05:30:00Z", 2),
        ("2026-10-24T04:30:00Z", 3),
        ("2026-10-25T04:30:00Z", 3),
        ("2026-10-25T05:30:00Z", 4),
    ] {
        restart_at(&mut world, at(moment)).await;
        assert_eq!(runs(&world).await, expected, "{moment}");
    }
    world.finish().await;
}

async fn a_scheduled_run_begins_when_due(mut world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    scheduled(&mut world, &["--report-schedule=0 * * * *"], noon()).await;
    world.count("acct", 5, noon()).await;
    world
        .clock
        .set((noon() + TimeDelta::hours(1)).timestamp_millis());
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    assert_eq!(world.count_rows("report_runs").await, 1);
    world.finish().await;
}

async fn a_run_interrupted_by_a_crash_is_resumed(mut world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.freeze(noon()).await;
    let run = world.report_all().await.run_id;
    world.count("acct", 5, noon()).await;
    world.crash();
    // The state after a crash before anything was closed.
    world
        .execute_sql("UPDATE report_runs SET closing_finished_at = NULL")
        .await;
    world.expire_leases().await;
    world.start_server().await;
    // A SQLite file has one server, so the other one is dead.
    if world.engine == Engine::Postgres {
        let report = world.reports("acct").await.remove(0);
        assert_eq!(report.state, ReportState::Open, "its server may live");
    }
    world.crash_and_restart().await;
    // A running server would take the run over, and its stop would leave a new heartbeat.
    restart_at(&mut world, noon() + TimeDelta::seconds(31)).await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    assert_eq!(world.reports("acct").await[0].run_id, run);
    assert_eq!(world.count_rows("report_runs").await, 1);
    world.finish().await;
}

async fn deleting_old_commits_and_keys_keeps_the_ledger_balanced(mut world: World) {
    world.freeze(noon()).await;
    let keyed = Increment::new("acct").quantity(5).key("k");
    world.client().increment(keyed.clone()).await.unwrap();
    for quantity in 1..=4 {
        world.count("acct", quantity, noon()).await;
    }
    assert_eq!(world.count_rows("commits").await, 5);
    world.wait_until_job_ran("cleanup").await;
    restart_at(&mut world, noon() + TimeDelta::days(35)).await;
    // After a long pause, nothing is deleted for an hour: the clock may be wrong.
    let hour = TimeDelta::hours(1).num_milliseconds();
    world.clock.advance(hour);
    let (replica, _) = world.second_client().await;
    world
        .wait_until("one commit", || async {
            world.count_rows("commits").await == 1
        })
        .await;
    assert!(
        world
            .client()
            .increment(keyed.clone())
            .await
            .unwrap()
            .duplicate
    );
    restart_at(&mut world, noon() + TimeDelta::days(37)).await;
    world.clock.advance(hour);
    world
        .wait_until("no key", || async {
            world.count_rows("idempotency_keys").await == 0
        })
        .await;
    assert!(!world.client().increment(keyed).await.unwrap().duplicate);
    if let Some(replica) = replica {
        replica.stop().await.unwrap();
    }
    world.finish().await;
}

async fn old_commits_are_rolled_up_beyond_64_bits(mut world: World) {
    world.freeze(noon()).await;
    for (account, quantity) in [("acct", i64::MAX), ("other", i64::MAX), ("third", 5)] {
        let hour = noon() - TimeDelta::hours(1);
        world
            .insert_folded(account, "api_calls", quantity, hour)
            .await;
    }
    world.wait_until_job_ran("cleanup").await;
    restart_at(&mut world, noon() + TimeDelta::days(2)).await;
    // After a long pause, nothing is deleted for an hour.
    world.clock.advance(TimeDelta::hours(1).num_milliseconds());
    // No two of them fit into one row. The world's end compares their sum with that of the reports.
    world
        .wait_until("the sums", async || {
            world.count_rows("commits WHERE committed_at = 0").await == 3
        })
        .await;
    assert_eq!(world.count_rows("commits").await, 3);
    world.finish().await;
}

#[test]
fn a_flag_outside_its_range_is_refused_with_the_range() {
    for (flag, words) in [
        ("--window-mins=20", "15, 30 or 60"),
        ("--window-mins=an hour", "15, 30 or 60"),
        ("--stripe-events-per-sec=0", "from 1 to 1000"),
        ("--stripe-retry-ms=5", "from 10 to 60000"),
        ("--stripe-api-base=stripe", "relative URL"),
        ("--meters=with space", "meter"),
    ] {
        let error = parse_config(&[flag.to_owned()]).unwrap_err().to_string();
        let name = flag.split('=').next().unwrap();
        assert!(error.contains(name) && error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn invalid_settings_stop_the_start_with_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!(
        "--database-url=sqlite://{}",
        folder.path().join("usage.db").display()
    );
    for (flags, words) in [
        (&["--report-schedule=every day"][..], "every day"),
        (&["--report-schedule=0 0 31 2 *"], "never fires"),
        (&["--report-time-zone=Mars/Olympus"], "Mars/Olympus"),
        (&["--meters=a,b", "--default-meter=c"], "\"c\""),
        (&["--meters=a,a"], "\"a\""),
        (&["--meters=a=x,b=x", "--default-meter=a"], "\"x\""),
    ] {
        let mut all = vec![database.clone()];
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let config = parse_config(&all).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listeners = Listeners::grpc_only(listener);
        let serving = Box::pin(serve(
            listeners,
            config,
            Clock::system(),
            CancellationToken::new(),
        ));
        let error = within("a refusal", serving).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
