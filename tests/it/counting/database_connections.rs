//! PostgreSQL connections that break, die silently or cannot be made: calls are delayed by seconds, and none is lost.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};
use usage_client::{Increment, PutAccount, Reason, Retry};
use uuid::Uuid;

use crate::{
    operations::webhooks::{assert_status, event},
    support::{
        postgres::{Cluster, Durability, execute},
        world::{World, on_postgres, poll},
    },
};

on_postgres!(
    broken_database_connections_fail_no_call,
    a_read_on_a_connection_that_was_just_closed_is_answered,
    silently_dead_database_connections_delay_calls_by_seconds,
    connections_that_die_on_their_return_delay_calls_by_seconds,
    an_unreachable_database_is_reported_within_seconds,
    a_server_that_became_read_only_is_reported_as_unavailable,
    a_read_only_database_answers_no_call,
    a_commit_waits_for_the_disk_whatever_the_role_is_set_to,
    a_change_whose_caller_gave_up_is_made_to_its_end,
    a_connection_given_up_during_begin_is_not_used_again,
    a_commit_that_reached_no_standby_is_not_acknowledged,
    postgresql_drops_the_connections_of_a_machine_that_is_gone,
);

/// Longer than the service lets a call wait for the database, and far shorter than TCP would.
const CALL_LIMIT: Duration = Duration::from_secs(15);
/// Less than the service waits for a transaction, and far more than one takes.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(3);
/// How often waiting COMMITs are cancelled.
const CANCEL_INTERVAL: Duration = Duration::from_millis(5);

async fn broken_database_connections_fail_no_call(mut world: World) {
    let proxy = world.connect_through_proxy().await;
    let callers: Vec<_> = (0..16)
        .map(|caller| {
            let client = world.client();
            tokio::spawn(async move {
                for n in 0..10 {
                    let increment = Increment::new(format!("acct{}", n % 3));
                    let increment = if caller % 2 == 0 {
                        increment.without_key()
                    } else {
                        increment
                    };
                    client.increment(increment).await.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        proxy.close_connections();
        caller.await.unwrap();
    }
    let mut counted = 0;
    for n in 0..3 {
        counted += world.usage(&format!("acct{n}")).await.0;
    }
    assert_eq!(counted, 160);
    world.finish().await;
}

async fn a_read_on_a_connection_that_was_just_closed_is_answered(mut world: World) {
    let proxy = world.connect_through_proxy().await;
    world.client().increment("acct").await.unwrap();
    for _ in 0..50 {
        // Its connection counts as good for a moment.
        assert_eq!(world.usage("acct").await.0, 1);
        proxy.close_connections();
        assert_eq!(world.usage("acct").await.0, 1);
    }
    world.finish().await;
}

async fn silently_dead_database_connections_delay_calls_by_seconds(mut world: World) {
    let proxy = world.connect_through_proxy().await;
    for round in 0..2 {
        world.client().increment("acct").await.unwrap();
        proxy.silence_connections();
        let calls = (0..8).map(|n| {
            let increment = Increment::new(format!("acct-{n}")).key(format!("{round}"));
            let client = world.client().with_retry(Retry::default());
            async move { client.increment(increment).await }
        });
        let counted = timeout(CALL_LIMIT, join_all(calls)).await.unwrap();
        for counted in counted {
            assert!(!counted.unwrap().duplicate);
        }
    }
    let counted = timeout(CALL_LIMIT, world.usage_with_retry("acct-0")).await;
    assert_eq!(counted.unwrap(), 2);
    // The connection dies after it has taken a COMMIT, which must not count again.
    for keyed in [true, false] {
        proxy.silence_after_next_commit();
        let increment = Increment::new("acct-9");
        let increment = if keyed {
            increment
        } else {
            increment.without_key()
        };
        let counted = timeout(CALL_LIMIT, world.client().increment(increment)).await;
        assert!(!counted.unwrap().unwrap().duplicate);
    }
    assert_eq!(proxy.commits_lost(), 2);
    let counted = timeout(CALL_LIMIT, world.usage_with_retry("acct-9")).await;
    assert_eq!(counted.unwrap(), 2);
    proxy.silence_connections();
    world.finish().await;
}

async fn connections_that_die_on_their_return_delay_calls_by_seconds(mut world: World) {
    let proxy = world.connect_through_proxy().await;
    // The only connection that counts.
    world.reconfigure(&["--writers=1"]).await;
    for round in 0..3 {
        proxy.silence_when_next_returned();
        poll("a connection that dies on its return", async || {
            let client = world.client();
            let counted = timeout(CALL_LIMIT, client.increment("acct")).await;
            counted.unwrap().unwrap();
            (!proxy.awaits_return()).then_some(())
        })
        .await;
        let calls = (0..8).map(|n| {
            let increment = Increment::new(format!("acct-{n}")).key(format!("{round}"));
            let client = world.client().with_retry(Retry::default());
            async move { client.increment(increment).await }
        });
        for counted in timeout(CALL_LIMIT, join_all(calls)).await.unwrap() {
            assert!(!counted.unwrap().duplicate);
        }
    }
    let counted = timeout(CALL_LIMIT, world.usage_with_retry("acct-0")).await;
    assert_eq!(counted.unwrap(), 3);
    proxy.close_connections();
    world.finish().await;
}

async fn an_unreachable_database_is_reported_within_seconds(mut world: World) {
    let proxy = world.connect_through_proxy().await;
    world.client().increment("acct").await.unwrap();
    drop(proxy);
    let calls = (0..8).map(|n| {
        let client = world.client();
        async move { client.increment(format!("acct-{n}")).await }
    });
    for counted in timeout(CALL_LIMIT, join_all(calls)).await.unwrap() {
        let error = counted.unwrap_err();
        assert_eq!(
            error.reason(),
            Some(&Reason::DatabaseUnavailable),
            "{error}"
        );
        assert!(error.retry_after().is_some(), "{error}");
    }
    world.stop().await;
}

/// Runs a statement before each row of a table is inserted.
async fn before_each_insert(world: &World, table: &str, statement: &str) {
    world
        .execute_sql(&format!(
            "CREATE OR REPLACE FUNCTION before_insert() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN {statement} RETURN NEW; END $$"
        ))
        .await;
    world
        .execute_sql(&format!(
            "CREATE TRIGGER before_insert BEFORE INSERT ON {table} \
             FOR EACH ROW EXECUTE FUNCTION before_insert()"
        ))
        .await;
}

async fn a_server_that_became_read_only_is_reported_as_unavailable(world: World) {
    let statement = "RAISE 'read only' USING ERRCODE = '25006';";
    before_each_insert(&world, "commits", statement).await;
    let increment = Increment::new("acct").key("k");
    let counted = timeout(CALL_LIMIT, world.client().increment(increment.clone())).await;
    let error = counted.unwrap().unwrap_err();
    assert_eq!(
        error.reason(),
        Some(&Reason::DatabaseUnavailable),
        "{error}"
    );
    assert!(error.is_retryable(), "{error}");
    world
        .execute_sql("DROP TRIGGER before_insert ON commits")
        .await;
    assert!(!world.client().increment(increment).await.unwrap().duplicate);
    assert_eq!(world.usage("acct").await.0, 1);
    world.finish().await;
}

/// As a standby, or a server that a failover left behind: what it reads may be old.
async fn a_read_only_database_answers_no_call(world: World) {
    let reason = "sessions on the workers are set apart";
    let Some(world) = world.unless_distributed(reason).await else {
        return;
    };
    world.client().increment("acct").await.unwrap();
    let (server, name) = world.database_url.rsplit_once('/').unwrap();
    // Another database, which stays writable.
    let (url, name) = (
        format!("{server}/postgres"),
        name.split('?').next().unwrap(),
    );
    let set = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    execute(&url, &set).unwrap();
    let end_connections = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = '{name}' AND application_name LIKE 'usage-server%'"
    );
    execute(&url, &end_connections).unwrap();
    let client = world.client().with_timeout(CALL_LIMIT);
    let (read, counted) = tokio::join!(
        client.get(world.recent("acct")),
        client.increment(Increment::new("acct").key("k")),
    );
    for error in [read.unwrap_err(), counted.unwrap_err()] {
        assert_eq!(
            error.reason(),
            Some(&Reason::DatabaseUnavailable),
            "{error}"
        );
    }
    let reset = format!("ALTER DATABASE {name} RESET default_transaction_read_only");
    execute(&url, &reset).unwrap();
    // The refused call's outcome is unknown: it is run again meanwhile, and may be committed by now. Its key counts once.
    let retrying = world.client().with_retry(Retry::default());
    let increment = Increment::new("acct").key("k");
    retrying.increment(increment.clone()).await.unwrap();
    assert!(retrying.increment(increment).await.unwrap().duplicate);
    assert_eq!(world.usage_with_retry("acct").await, 2);
    world.finish().await;
}

async fn a_commit_waits_for_the_disk_whatever_the_role_is_set_to(world: World) {
    let reason = "a distributed table has no triggers";
    let Some(mut world) = world.unless_distributed(reason).await else {
        return;
    };
    let name = world.database_url.rsplit('/').next().unwrap().to_owned();
    let name = name.split('?').next().unwrap();
    world
        .execute_sql(&format!(
            "ALTER DATABASE {name} SET synchronous_commit = off"
        ))
        .await;
    world.restart().await;
    let statement =
        "IF current_setting('synchronous_commit') <> 'on' THEN RAISE 'not durable'; END IF;";
    for table in ["commits", "account_links", "webhook_events"] {
        before_each_insert(&world, table, statement).await;
    }
    world.client().increment("acct").await.unwrap();
    let put = PutAccount::free("acct");
    world.client().put_account(put).await.unwrap();
    let body = event("evt_1", "invoice.created");
    assert_status(&world.send_webhook(&body).await, 200);
    world.finish().await;
}

/// A BEGIN that is given up would leave the state of its connection unknown, and cost every connection. So callers do not
/// end one.
async fn a_change_whose_caller_gave_up_is_made_to_its_end(mut world: World) {
    let proxy = world.connect_through_proxy().await;
    proxy.hold_next_begin();
    let client = world.client();
    let put = tokio::spawn(async move { client.put_account(PutAccount::free("acct")).await });
    world
        .wait_until("the change's BEGIN", async || proxy.holds_begin())
        .await;
    put.abort();
    // On the same connection: the server has seen by now that the caller gave up.
    world.usage("acct").await;
    proxy.release_begin();
    let made = "account_links WHERE account_id = 'acct'";
    world
        .wait_until("the change", async || world.count_rows(made).await == 1)
        .await;
    world.finish().await;
}

/// The driver learns that a transaction has begun after the service has given it up. If that connection were used again,
/// increments would be part of a transaction that nothing commits.
async fn a_connection_given_up_during_begin_is_not_used_again(mut world: World) {
    let proxy = world.connect_through_proxy().await;
    // Only counting begins transactions meanwhile.
    proxy.hold_next_begin();
    let begun = Instant::now();
    world.client().increment("acct").await.unwrap();
    assert!(begun.elapsed() > GIVEN_UP_AFTER, "another call was held");
    assert!(proxy.holds_begin());
    proxy.release_begin();
    // More than there are connections that count.
    for n in 0..20 {
        world.client().increment("acct").await.unwrap();
        assert_eq!(world.count_rows("idempotency_keys").await, n + 2);
    }
    world.finish().await;
}

/// A COMMIT whose wait for the standby is cancelled succeeds with a warning.
async fn a_commit_that_reached_no_standby_is_not_acknowledged(mut world: World) {
    // Its settings apply to all databases of a server.
    let Ok(cluster) = Cluster::start(Durability::Off) else {
        panic!("PostgreSQL does not start twice");
    };
    world.stop().await;
    world.database_url = cluster.create_database().unwrap();
    let url = world.database_url.clone();
    world.start_server().await;
    world.client().increment("acct").await.unwrap();
    execute(
        &url,
        "ALTER SYSTEM SET synchronous_standby_names = 'absent'",
    )
    .unwrap();
    execute(&url, "SELECT pg_reload_conf()").unwrap();
    let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    // The reload takes a moment, and calls before it are acknowledged.
    let refused = poll("a call that is refused", || async {
        let increment = Increment::new("acct").key(Uuid::new_v4().to_string());
        let client = world.client();
        let sent = increment.clone();
        let calling = tokio::spawn(async move { client.increment(sent).await });
        while !calling.is_finished() {
            execute(&url, cancel).unwrap();
            sleep(CANCEL_INTERVAL).await;
        }
        let error = calling.await.unwrap().err()?;
        assert_eq!(
            error.reason(),
            Some(&Reason::DatabaseUnavailable),
            "{error}"
        );
        Some(increment)
    })
    .await;
    // Committed here, and known to be a duplicate: an answer still has to wait for the standby.
    let impatient = world.client().with_timeout(Duration::from_secs(2));
    impatient.increment(refused.clone()).await.unwrap_err();
    execute(&url, "ALTER SYSTEM RESET synchronous_standby_names").unwrap();
    execute(&url, "SELECT pg_reload_conf()").unwrap();
    let before = world.usage("acct").await.0;
    assert!(world.client().increment(refused).await.unwrap().duplicate);
    assert_eq!(world.usage("acct").await.0, before, "counted once");
    world.finish().await;
}

async fn postgresql_drops_the_connections_of_a_machine_that_is_gone(world: World) {
    before_each_insert(
        &world,
        "commits",
        // Shown as the operating system has them, in milliseconds and seconds.
        "IF current_setting('tcp_user_timeout') NOT IN ('30000', '30s') \
         OR current_setting('tcp_keepalives_idle') NOT IN ('15', '15s') \
         THEN RAISE 'would wait for hours: % %', current_setting('tcp_user_timeout'), \
         current_setting('tcp_keepalives_idle'); END IF;",
    )
    .await;
    world.client().increment("acct").await.unwrap();
    world.finish().await;
}
