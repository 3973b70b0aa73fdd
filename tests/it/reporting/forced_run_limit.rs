//! How many forced runs may close reports at a time.

use fake_stripe::Fault;
use usage_client::{DeleteAccount, Error, ErrorKind, ForceReport, PutAccount, Reason};

use crate::support::world::{Engine, World, hours_ago, on_both_engines};

on_both_engines!(
    a_run_that_is_refused_changes_nothing,
    of_many_runs_at_once_one_gets_the_last_place,
    a_key_gets_one_of_the_last_places_once,
);

/// The forced runs that may close reports at a time.
const LIMIT: u32 = 100;
const EVENTS: &str = "/v1/billing/meter_events";

/// Inserts forced runs of no account, and lets none end from now on.
async fn insert_unfinished(world: &World, runs: u32) {
    let (id, keep) = match world.engine {
        Engine::Sqlite => (
            "randomblob(16)",
            "CREATE TRIGGER keep_unfinished BEFORE UPDATE OF closing_finished_at ON report_runs \
             BEGIN SELECT RAISE(IGNORE); END",
        ),
        Engine::Postgres => (
            "gen_random_uuid()",
            "CREATE FUNCTION keep_unfinished() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
             CREATE TRIGGER keep_unfinished BEFORE UPDATE OF closing_finished_at ON report_runs \
             FOR EACH ROW EXECUTE FUNCTION keep_unfinished()",
        ),
    };
    world.execute_sql(keep).await;
    let now = world.clock.now();
    world
        .execute_sql(&format!(
            "INSERT INTO report_runs (id, \"trigger\", requested_by, scope, started_at, heartbeat_at, closed_reports, \
             closed_quantity) \
             WITH RECURSIVE runs (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM runs WHERE number < {runs}) \
             SELECT {id}, 'force', 'a test', '[]', {now}, {now}, 0, 0 FROM runs"
        ))
        .await;
}

async fn unfinished(world: &World) -> i64 {
    world
        .count_rows("report_runs WHERE closing_finished_at IS NULL")
        .await
}

#[track_caller]
fn assert_too_many(refused: &Error) {
    assert_eq!(refused.reason(), Some(&Reason::Overloaded), "{refused}");
    assert!(refused.to_string().contains("100 forced runs"), "{refused}");
}

async fn a_run_that_is_refused_changes_nothing(mut world: World) {
    // Without a run, the retry is a minute later, which is longer than a test waits.
    world.reconfigure(&["--stripe-retry-ms=60000"]).await;
    let client = world.client();
    client.put_account(PutAccount::free("gone")).await.unwrap();
    let deletion = DeleteAccount::new("gone");
    client.delete_account(deletion).await.unwrap();
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(1)).await;
    let fault = Fault::status(500).on_path(EVENTS);
    world.stripe().script(fault).await.unwrap();
    let failed = world.report_all().await;
    assert_eq!(failed.retried_later.quantity, 5);
    let waiting = world.reports("acct").await;
    assert!(waiting[0].last_error.is_some());

    let of_deleted = ForceReport::accounts(["acct", "gone"]);
    let refused = client.force_report(of_deleted).await.unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::AccountDeleted), "{refused}");
    assert_eq!(world.reports("acct").await, waiting);

    insert_unfinished(&world, LIMIT).await;
    let refused = client.force_report(ForceReport::all()).await.unwrap_err();
    assert_too_many(&refused);
    assert_eq!(refused.kind(), ErrorKind::Overloaded);
    assert_eq!(world.reports("acct").await, waiting);
    assert_eq!(unfinished(&world).await, i64::from(LIMIT));
    // What was begun before can be watched.
    let known = ForceReport::watch(failed.run_id.unwrap());
    drop(client.force_report(known).await.unwrap());

    let ended = "DELETE FROM report_runs WHERE id = \
        (SELECT id FROM report_runs WHERE requested_by = 'a test' LIMIT 1)";
    world.execute_sql(ended).await;
    let run = client.force_report(ForceReport::all()).await.unwrap();
    world.wait_until_sent("acct").await;
    assert_eq!(world.usage("acct").await, (5, 5, 0, 0));
    drop(run);
    world.finish().await;
}

async fn of_many_runs_at_once_one_gets_the_last_place(world: World) {
    let (replica, other) = world.second_client().await;
    let clients = [world.client(), other];
    insert_unfinished(&world, LIMIT - 1).await;
    let calls = clients.iter().cycle().take(8);
    let calls = calls.map(|client| client.force_report(ForceReport::accounts(["acct"])));
    let answers = futures_util::future::join_all(calls).await;
    let (begun, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((begun.len(), refused.len()), (1, 7));
    for refused in refused {
        assert_too_many(&refused.unwrap_err());
    }
    assert_eq!(unfinished(&world).await, i64::from(LIMIT));
    drop(begun);
    if let Some(replica) = replica {
        replica.stop().await.unwrap();
    }
    world.finish().await;
}

async fn a_key_gets_one_of_the_last_places_once(world: World) {
    let (replica, other) = world.second_client().await;
    let clients = [world.client(), other];
    insert_unfinished(&world, LIMIT - 1).await;
    let key = uuid::Uuid::now_v7().to_string();
    let calls = clients.iter().cycle().take(8);
    let calls = calls.map(|client| {
        let one = ForceReport::accounts(["acct"]).key(&key);
        client.force_report(one)
    });
    for begun in futures_util::future::join_all(calls).await {
        assert_eq!(begun.unwrap().run_id(), Some(key.as_str()));
    }
    assert_eq!(unfinished(&world).await, i64::from(LIMIT));
    if let Some(replica) = replica {
        replica.stop().await.unwrap();
    }
    world.finish().await;
}
