//! Commits: acknowledged usage is counted once, also if the database's response is lost, if several replicas count
//! concurrently, and if a report is full.

use std::time::Duration;

use sea_orm::{ConnectionTrait as _, TransactionTrait as _};
use usage_client::{Batch, ForceReport, Increment, IncrementResult, ReportState};
use usage_server::store::Store;

use crate::support::{
    commit_lock::CommitLock,
    postgres::{cluster, execute},
    world::{Engine, Server, World, hours_ago, on_both_engines, on_postgres},
};

on_postgres!(
    a_commit_with_a_lost_response_counts_once,
    a_commit_that_never_arrived_is_retried_and_counts_once,
    a_commit_lost_repeatedly_counts_once,
    callers_of_a_shared_lost_commit_are_each_counted_once,
    two_replicas_count_a_key_once,
    two_replicas_count_a_batch_once,
    two_replicas_counting_the_same_accounts_lose_nothing,
    concurrent_counting_and_closing_never_deadlock,
    closing_locks_all_reports_in_the_order_of_counting,
    a_call_whose_caller_gave_up_is_not_counted_later,
    replicas_starting_together_migrate_an_empty_database_once,
);

on_both_engines!(
    a_full_report_closes_and_another_of_its_window_opens,
    a_group_larger_than_a_report_fills_several_reports,
);

/// The largest quantities of an increment and of a report.
const MANY: i64 = 1_000_000_000_000;
const FULL: i64 = 999_999_999_999_999;

/// One call of each kind, in sequence. Together they count 111,111.
async fn one_of_each_kind(world: &World, mut before_each: impl FnMut()) {
    let client = world.client();
    let increment = |quantity: i64| Increment::new("acct").quantity(quantity);
    for increment in [
        increment(1).key("k"),
        increment(10).without_key(),
        increment(100).without_key().timestamp(hours_ago(50)),
    ] {
        before_each();
        let counted = client.increment(increment).await.unwrap();
        assert!(!counted.duplicate, "it was never acknowledged before");
    }
    let items = Batch::new()
        .push(increment(1_000))
        .push(increment(0))
        .push(increment(1).key("k"));
    let expected = |results: &[IncrementResult]| {
        assert_eq!(results[0], IncrementResult::Counted);
        assert!(matches!(results[1], IncrementResult::Refused { .. }));
        assert_eq!(results[2], IncrementResult::Duplicate);
    };
    for batch in [items.clone().key("b"), items.without_key()] {
        before_each();
        let outcome = client.increment_batch(batch).await.unwrap();
        assert!(!outcome.duplicate);
        expected(&outcome.results);
    }
    before_each();
    let keyed_items = Batch::new()
        .push(increment(9_000).key("i"))
        .push(increment(100_000));
    let outcome = client.increment_batch(keyed_items).await.unwrap();
    assert_eq!(
        outcome.results,
        [IncrementResult::Counted, IncrementResult::Counted]
    );
}

const OF_EACH_KIND: i64 = 111_111;
const KINDS: usize = 6;

async fn a_commit_with_a_lost_response_counts_once(mut world: World) {
    let proxy = world.connect_through_proxy().await;
    one_of_each_kind(&world, || proxy.lose_next_commit_answer()).await;
    assert_eq!(proxy.commits_lost(), KINDS);
    assert_eq!(world.usage("acct").await.0, OF_EACH_KIND);
    world.finish().await;
}

async fn a_commit_that_never_arrived_is_retried_and_counts_once(mut world: World) {
    let proxy = world.connect_through_proxy().await;
    one_of_each_kind(&world, || proxy.drop_next_commit()).await;
    assert_eq!(proxy.commits_lost(), KINDS);
    assert_eq!(world.usage("acct").await.0, OF_EACH_KIND);
    world.finish().await;
}

async fn a_commit_lost_repeatedly_counts_once(mut world: World) {
    let proxy = world.connect_through_proxy().await;
    // Two commits do not arrive. The third one does, but its response is lost.
    one_of_each_kind(&world, || {
        proxy.drop_next_commit();
        proxy.drop_next_commit();
        proxy.lose_next_commit_answer();
    })
    .await;
    assert_eq!(proxy.commits_lost(), 3 * KINDS);
    assert_eq!(world.usage("acct").await.0, OF_EACH_KIND);
    world.finish().await;
}

async fn callers_of_a_shared_lost_commit_are_each_counted_once(mut world: World) {
    let proxy = world.connect_through_proxy().await;
    let lock = CommitLock::commits_of(&world).await;
    // The first commit may contain only one of the calls. The second one contains the others.
    proxy.lose_next_commit_answer();
    proxy.lose_next_commit_answer();
    let callers: Vec<_> = (0..50)
        .map(|n| {
            let client = world.client();
            let increment = Increment::new("acct");
            let increment = if n % 2 == 0 {
                increment.without_key()
            } else {
                increment
            };
            tokio::spawn(async move { client.increment(increment).await })
        })
        .collect();
    lock.release().await;
    for caller in callers {
        assert!(!caller.await.unwrap().unwrap().duplicate);
    }
    assert!(proxy.commits_lost() >= 1);
    assert_eq!(world.usage("acct").await.0, 50);
    world.finish().await;
}

async fn a_call_whose_caller_gave_up_is_not_counted_later(world: World) {
    let lock = CommitLock::commits_of(&world).await;
    let client = world.client();
    let begun = tokio::spawn(async move { client.increment("acct").await });
    let waiting = "pg_locks JOIN pg_database d ON d.oid = database \
        WHERE datname = current_database() AND NOT granted";
    world
        .wait_until("a group that waits for the lock", || async {
            world.count_rows(waiting).await > 0
        })
        .await;
    // The group of this call does not begin before the lock is released.
    let impatient = world.client().with_timeout(Duration::from_millis(300));
    let waiting = Increment::new("acct").quantity(100).without_key();
    impatient.increment(waiting).await.unwrap_err();
    // On the same connection: the server has seen by now that the caller gave up.
    world.usage("acct").await;
    lock.release().await;
    begun.await.unwrap().unwrap();
    world.client().increment("acct").await.unwrap();
    assert_eq!(world.usage("acct").await.0, 2);
    world.finish().await;
}

async fn two_replicas_count_a_key_once(world: World) {
    let replica = world.replica().await;
    let clients = [world.client(), replica.client().await];
    for round in 0..25 {
        let increment = Increment::new("acct").quantity(3).key(format!("k{round}"));
        let (left, right) = tokio::join!(
            clients[0].increment(increment.clone()),
            clients[1].increment(increment)
        );
        assert_ne!(left.unwrap().duplicate, right.unwrap().duplicate);
    }
    assert_eq!(world.usage("acct").await.0, 75);
    replica.stop().await.unwrap();
    world.finish().await;
}

async fn two_replicas_count_a_batch_once(world: World) {
    let replica = world.replica().await;
    let clients = [world.client(), replica.client().await];
    for round in 0..25 {
        let batch = Batch::new()
            .push(Increment::new("acct").quantity(3))
            .push(Increment::new("acct").quantity(0))
            .key(format!("b{round}"));
        let (left, right) = tokio::join!(
            clients[0].increment_batch(batch.clone()),
            clients[1].increment_batch(batch)
        );
        let (left, right) = (left.unwrap(), right.unwrap());
        assert_ne!(left.duplicate, right.duplicate);
        assert_eq!(left.results, right.results);
    }
    assert_eq!(world.usage("acct").await.0, 75);
    replica.stop().await.unwrap();
    world.finish().await;
}

/// Every caller uses the same accounts and keys, each in another order.
async fn two_replicas_counting_the_same_accounts_lose_nothing(world: World) {
    const CALLERS: usize = 8;
    const ACCOUNTS: usize = 40;
    let replica = world.replica().await;
    let clients = [world.client(), replica.client().await];
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let client = clients[caller % 2].clone();
            tokio::spawn(async move {
                let mut counted = 0;
                for round in 0..5 {
                    let items = (0..ACCOUNTS).map(|n| {
                        let n = (n * (2 * caller + 1) + caller) % ACCOUNTS;
                        let own = Increment::new(format!("acct{n}")).without_key();
                        let shared = Increment::new(format!("acct{n}")).key(format!("{round}-{n}"));
                        [own, shared]
                    });
                    let batch: Batch = items.flatten().collect();
                    let outcome = client.increment_batch(batch).await.unwrap();
                    let is_counted =
                        |result: &&IncrementResult| **result == IncrementResult::Counted;
                    counted += outcome.results.iter().filter(is_counted).count();
                }
                counted
            })
        })
        .collect();
    let mut counted = 0;
    for caller in callers {
        counted += caller.await.unwrap();
    }
    // The keys of each caller, and the shared keys once.
    assert_eq!(counted, 5 * ACCOUNTS * (CALLERS + 1));
    let mut shown = 0;
    for n in 0..ACCOUNTS {
        shown += world.usage(&format!("acct{n}")).await.0;
    }
    assert_eq!(usize::try_from(shown).unwrap(), counted);
    replica.stop().await.unwrap();
    world.finish().await;
}

/// Moves the world to a database that sorts text by a locale, not by bytes.
async fn sort_by_locale(world: &mut World) {
    let (server, name) = world.database_url.rsplit_once('/').unwrap();
    let url = format!("{server}/people_{name}");
    let create = format!(
        "CREATE DATABASE people_{name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"
    );
    execute(&world.database_url, &create).unwrap();
    world.stop().await;
    world.database_url = url;
    world.start_server().await;
}

/// The number of deadlocks, by the statistics of PostgreSQL, which include only closed connections. The service itself
/// resolves a deadlock by a retry.
fn assert_no_deadlocks(world: &World) {
    let none = "DO $$ BEGIN \
        WHILE EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()) \
        LOOP PERFORM pg_sleep(0.01); PERFORM pg_stat_clear_snapshot(); END LOOP; \
        ASSERT (SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()) = 0; END $$";
    execute(&world.database_url, none).unwrap();
}

/// Counting and closing lock the same rows in the same order, for any order of names.
async fn concurrent_counting_and_closing_never_deadlock(mut world: World) {
    sort_by_locale(&mut world).await;
    let replica = world.replica().await;
    let clients = [world.client(), replica.client().await];
    let callers: Vec<_> = (0..4)
        .map(|caller| {
            let client = clients[caller % 2].clone();
            tokio::spawn(async move {
                for _ in 0..15 {
                    let names = (0..100).map(|n| format!("{}{n}", ["a", "B"][n % 2]));
                    let batch: Batch = names.map(Increment::new).collect();
                    client.increment_batch(batch).await.unwrap();
                }
            })
        })
        .collect();
    for client in clients.iter().cycle().take(10) {
        let run = client.force_report(ForceReport::all()).await.unwrap();
        run.summary().await.unwrap();
    }
    for caller in callers {
        caller.await.unwrap();
    }
    replica.stop().await.unwrap();
    world.stop().await;
    assert_no_deadlocks(&world);
    world.finish().await;
}

async fn closing_locks_all_reports_in_the_order_of_counting(world: World) {
    // They are stored in the opposite order.
    let count = async |accounts: std::ops::Range<i32>| {
        for n in accounts.rev() {
            let account = format!("acct{n:03}");
            world.client().increment(account.as_str()).await.unwrap();
        }
    };
    count(0..30).await;
    let other = world.connect_to_database().await;
    let other = other.begin().await.unwrap();
    let lock = async |account: &str| {
        let sql =
            format!("SELECT id FROM open_reports WHERE account_id = '{account}' FOR UPDATE NOWAIT");
        other.execute_unprepared(&sql).await
    };
    lock("acct010").await.unwrap();
    let client = world.client();
    let run = tokio::spawn(async move {
        let run = client.force_report(ForceReport::all()).await.unwrap();
        run.summary().await.unwrap()
    });
    let waiting =
        "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    world
        .wait_until("a page that waits for a report", || async {
            world.count_rows(waiting).await > 0
        })
        .await;
    lock("acct020")
        .await
        .expect("a report after the locked one");
    lock("acct005")
        .await
        .expect_err("a report before the locked one");
    other.rollback().await.unwrap();
    assert_eq!(run.await.unwrap().closed.reports, 30);
    world.finish().await;
}

/// The quantities of an account's reports, which are all in one window: open and closed ones.
async fn quantities(world: &World) -> (Vec<i64>, Vec<i64>) {
    let reports = world.reports("acct").await;
    assert!(
        reports
            .iter()
            .all(|report| report.window == reports[0].window)
    );
    let (open, closed): (Vec<_>, Vec<_>) = reports
        .iter()
        .partition(|report| report.state == ReportState::Open);
    assert!(
        open.iter()
            .all(|report| report.period_end.is_none() && report.closed_at.is_none())
    );
    assert!(
        closed
            .iter()
            .all(|report| report.period_end == Some(report.window.end))
    );
    let quantity = |reports: Vec<&usage_client::UsageReport>| {
        reports.iter().map(|report| report.quantity).collect()
    };
    (quantity(open), quantity(closed))
}

async fn a_full_report_closes_and_another_of_its_window_opens(world: World) {
    let large = Increment::new("acct")
        .quantity(MANY)
        .timestamp(hours_ago(5));
    let batch = Batch::from(vec![large.clone(); 999]);
    world.client().increment_batch(batch).await.unwrap();
    let rest = large.clone().quantity(FULL - 999 * MANY);
    world.client().increment(rest).await.unwrap();
    assert_eq!(quantities(&world).await, (vec![FULL], vec![]));
    // One more unit does not fit, and has a key.
    let one_more = large.quantity(1).key("k");
    for repeated in [false, true] {
        let counted = world.client().increment(one_more.clone()).await.unwrap();
        assert_eq!(counted.duplicate, repeated);
    }
    assert_eq!(quantities(&world).await, (vec![1], vec![FULL]));
    assert_eq!(world.usage("acct").await, (FULL + 1, 0, FULL + 1, 0));
    world.finish().await;
}

async fn a_group_larger_than_a_report_fills_several_reports(world: World) {
    let large = Increment::new("acct")
        .quantity(MANY)
        .timestamp(hours_ago(5));
    for _ in 0..3 {
        let batch = Batch::from(vec![large.clone(); 1_000]);
        let outcome = world.client().increment_batch(batch).await.unwrap();
        assert!(
            outcome
                .results
                .iter()
                .all(|result| *result == IncrementResult::Counted)
        );
    }
    let (open, closed) = quantities(&world).await;
    assert!(open.len() == 1 && closed.len() >= 3);
    assert!(open.iter().chain(&closed).all(|quantity| *quantity <= FULL));
    assert_eq!(open.iter().chain(&closed).sum::<i64>(), 3_000 * MANY);
    assert_eq!(world.usage("acct").await.0, 3_000 * MANY);
    world.finish().await;
}

async fn replicas_starting_together_migrate_an_empty_database_once(world: World) {
    let folder = tempfile::tempdir().unwrap();
    let url = match world.engine {
        Engine::Sqlite => format!("sqlite://{}", folder.path().join("empty.db").display()),
        Engine::Postgres => cluster().unwrap().create_database().unwrap(),
    };
    let mut config = world.config();
    config.database.database_url = Some(url.clone().into());
    let start = || Server::start(config.clone(), world.clock.clone());
    let replicas = tokio::join!(start(), start(), start());
    let replicas = [replicas.0, replicas.1, replicas.2];
    for replica in &replicas {
        let client = replica.client().await;
        client.increment("acct").await.unwrap();
    }
    for replica in replicas {
        replica.stop().await.unwrap();
    }
    let store = Store::open(&url, 4).await.unwrap();
    store.check_schema().await.unwrap();
    let ledger = store.ledger_totals().await.unwrap();
    assert!(ledger.is_balanced() && ledger.committed == 3, "{ledger:?}");
    store.close().await.unwrap();
    world.finish().await;
}
