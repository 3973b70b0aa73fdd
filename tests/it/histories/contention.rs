//! What PostgreSQL undoes because of others is run again inside: no caller sees it. The clients here repeat nothing.

use futures_util::future::join_all;
use sea_orm::{ConnectionTrait as _, DatabaseTransaction, TransactionTrait as _};
use usage_client::{Batch, Correct, ForceReport, Increment, PutAccount, Reason, UsageClient};

use super::model::METERS;
use crate::support::world::{World, hours_ago, on_postgres, within};

on_postgres!(
    transactions_that_fail_with_a_serialization_failure_are_run_again,
    transactions_that_fail_with_a_deadlock_are_run_again,
    transactions_that_fail_with_a_lock_timeout_are_run_again,
    callers_do_not_see_a_deadlock_with_another_transaction,
    callers_do_not_see_a_lock_that_is_held_longer_than_the_limit,
    callers_of_one_account_at_several_replicas_see_no_error,
    the_default_isolation_of_the_database_does_not_matter,
);

/// Lets the first statement that writes to each table fail with an error code, after each [`PROVOKE_AGAIN`].
const PROVOKE: &str = "
    CREATE FUNCTION provoke() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF nextval(('writes_to_' || TG_TABLE_NAME)::regclass) <= 1 THEN
            RAISE EXCEPTION 'provoked by a test' USING ERRCODE = TG_ARGV[0];
        END IF;
        RETURN NULL;
    END $$;
    DO $$ DECLARE t text; BEGIN
        FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
            EXECUTE format('CREATE SEQUENCE %I START 100', 'writes_to_' || t);
            EXECUTE format('CREATE TRIGGER provoke BEFORE INSERT OR UPDATE OR DELETE ON %I
                FOR EACH STATEMENT EXECUTE FUNCTION provoke(%L)', t, 'GIVEN_STATE');
        END LOOP;
    END $$";
/// Lets them fail once.
const PROVOKE_AGAIN: &str = "DO $$ DECLARE s text; BEGIN
        FOR s IN SELECT sequencename FROM pg_sequences WHERE sequencename LIKE 'writes_to_%' LOOP
            PERFORM setval(quote_ident(s)::regclass, 1, false);
        END LOOP;
    END $$";

/// Statements that wait for a lock.
const WAITING: &str =
    "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// One call of each kind that writes.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Increment,
    Batch,
    Correct,
    PutAccount,
    ForceReport,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::Increment,
        Self::Batch,
        Self::Correct,
        Self::PutAccount,
        Self::ForceReport,
    ];

    /// A table that it writes to, whatever was called before.
    fn table(self) -> &'static str {
        match self {
            Self::Increment | Self::Batch => "open_reports",
            Self::Correct => "usage_reports",
            Self::PutAccount => "account_links",
            Self::ForceReport => "report_runs",
        }
    }

    /// Makes the call for an account that is not free yet.
    async fn call(self, client: &UsageClient) {
        let at = hours_ago(2);
        match self {
            Self::Increment => {
                let increment = Increment::new("acct").quantity(3).timestamp(at);
                assert!(!client.increment(increment).await.unwrap().duplicate);
            }
            Self::Batch => count_both_meters(client).await,
            Self::Correct => {
                let correction = Correct::new("acct", 5, "a test").timestamp(at);
                assert!(!client.correct(correction).await.unwrap().duplicate);
            }
            Self::PutAccount => {
                client.put_account(PutAccount::free("acct")).await.unwrap();
            }
            Self::ForceReport => {
                let run = client.force_report(ForceReport::accounts(["acct"]));
                let summary = run.await.unwrap().summary();
                within("a summary", summary).await.unwrap();
            }
        }
    }
}

/// Counts 1 of each meter, in one transaction.
async fn count_both_meters(client: &UsageClient) {
    let items = METERS.map(|meter| Increment::new("acct").meter(meter).timestamp(hours_ago(2)));
    let batch: Batch = items.into_iter().collect();
    client.increment_batch(batch).await.unwrap();
}

async fn transactions_that_fail_with_a_serialization_failure_are_run_again(world: World) {
    all_kinds_succeed_beside(world, "40001").await;
}

async fn transactions_that_fail_with_a_deadlock_are_run_again(world: World) {
    all_kinds_succeed_beside(world, "40P01").await;
}

async fn transactions_that_fail_with_a_lock_timeout_are_run_again(world: World) {
    all_kinds_succeed_beside(world, "55P03").await;
}

async fn all_kinds_succeed_beside(world: World, code: &str) {
    let why = "its tables have no such triggers";
    let Some(mut world) = world.unless_distributed(why).await else {
        return;
    };
    // Triggers lock all tables, and jobs write to some.
    world.stop().await;
    world
        .execute_sql(&PROVOKE.replace("GIVEN_STATE", code))
        .await;
    world.start_server().await;
    for kind in Kind::ALL {
        world.execute_sql(PROVOKE_AGAIN).await;
        kind.call(&world.client()).await;
        let table = kind.table();
        let repeated = format!("writes_to_{table} WHERE last_value > 1");
        let repeated = world.count_rows(&repeated).await;
        assert_eq!(repeated, 1, "{kind:?} did not fail at {table}");
    }
    assert_eq!(world.total_of_all_meters("acct").await, 3 + 2 + 5);
    world.finish().await;
}

/// Another transaction, which other programs could have. It is rolled back when it is dropped.
async fn other_transaction(world: &World) -> DatabaseTransaction {
    let database = world.connect_to_database().await;
    let other = database.begin().await.expect("a transaction");
    // In a deadlock, the service gives way.
    run(&other, "SET LOCAL deadlock_timeout = '10min'").await;
    other
}

async fn run(transaction: &DatabaseTransaction, sql: &str) {
    let done = transaction.execute_unprepared(sql).await;
    done.expect("a statement");
}

/// Waits until a statement of the service waits for a row of an open report.
async fn wait_until_one_waits(world: &World) {
    let waiting = format!("{WAITING} AND query LIKE '%open_reports%'");
    world
        .wait_until("a statement that waits for a lock", || async {
            world.count_rows(&waiting).await > 0
        })
        .await;
}

/// The other transaction locks the rows in the opposite order. It gets the second one only because the transaction of the
/// service, which has that row, is undone.
async fn callers_do_not_see_a_deadlock_with_another_transaction(world: World) {
    let why = "a deadlock there is found by its coordinator, after some seconds";
    let Some(world) = world.unless_distributed(why).await else {
        return;
    };
    let lock = |meter: &str| {
        format!(
            "SELECT 1 FROM open_reports WHERE account_id = 'acct' AND meter = '{meter}' FOR UPDATE"
        )
    };
    let [first, second] = METERS;
    for kind in [Kind::Batch, Kind::PutAccount, Kind::ForceReport] {
        count_both_meters(&world.client()).await;
        let other = other_transaction(&world).await;
        run(&other, &lock(second)).await;
        let client = world.client();
        let called = tokio::spawn(async move { kind.call(&client).await });
        wait_until_one_waits(&world).await;
        within("the second row", run(&other, &lock(first))).await;
        other.rollback().await.expect("an end of the transaction");
        within("the call", called).await.expect("no error");
    }
    assert_eq!(world.total_of_all_meters("acct").await, 3 * 2 + 2);
    world.finish().await;
}

/// Calls wait for three seconds at most for these locks. That a transaction was undone shows by a later one that waits.
async fn callers_do_not_see_a_lock_that_is_held_longer_than_the_limit(world: World) {
    let why = "the limit of workers is that of their settings";
    let Some(world) = world.unless_distributed(why).await else {
        return;
    };
    let kinds = [Kind::Increment, Kind::Correct, Kind::ForceReport];
    let other = other_transaction(&world).await;
    let waits_with = |kind: Kind| match kind {
        Kind::Increment => "%open_reports%".to_owned(),
        kind => format!("INSERT INTO \"{}\"%", kind.table()),
    };
    let calls = kinds.map(|kind| {
        let client = world.client();
        let lock = format!("LOCK TABLE {} IN EXCLUSIVE MODE", kind.table());
        (lock, async move { kind.call(&client).await })
    });
    let mut called = Vec::new();
    for (lock, call) in calls {
        run(&other, &lock).await;
        called.push(tokio::spawn(call));
    }
    world
        .execute_sql("CREATE TEMP TABLE first_seen (query text, xact_start timestamptz)")
        .await;
    for kind in kinds {
        let like = waits_with(kind);
        let see = format!(
            "INSERT INTO first_seen SELECT '{like}', MIN(xact_start) FROM {WAITING} AND query LIKE '{like}' \
             HAVING COUNT(*) > 0"
        );
        let seen = format!("first_seen WHERE query = '{like}'");
        world
            .wait_until("a first attempt", || async {
                world.execute_sql(&see).await;
                world.count_rows(&seen).await > 0
            })
            .await;
    }
    for kind in kinds {
        let like = waits_with(kind);
        let again = format!(
            "{WAITING} AND query LIKE '{like}' AND xact_start > \
             (SELECT xact_start FROM first_seen WHERE first_seen.query = '{like}')"
        );
        world
            .wait_until("a second attempt", || async {
                world.count_rows(&again).await > 0
            })
            .await;
    }
    other.rollback().await.expect("an end of the transaction");
    for call in called {
        within("a call", call).await.expect("no error");
    }
    assert_eq!(world.total_of_all_meters("acct").await, 3 + 5);
    world.finish().await;
}

async fn callers_of_one_account_at_several_replicas_see_no_error(world: World) {
    const CALLERS: usize = 8;
    const ROUNDS: i64 = 10;
    let replicas = [world.replica().await, world.replica().await];
    let mut clients = vec![world.client()];
    for replica in &replicas {
        clients.push(replica.client().await);
    }
    world.create_customers(&["cus_acct"]).await;
    let client = |n: usize| clients[n % clients.len()].clone();
    let counting = (0..CALLERS).map(|n| {
        let client = client(n);
        tokio::spawn(async move {
            for _ in 0..ROUNDS {
                count_both_meters(&client).await;
            }
        })
    });
    let linking = (0..2).map(|n| {
        let client = client(n);
        tokio::spawn(async move {
            for _ in 0..ROUNDS / 2 {
                for put in [
                    PutAccount::free("acct"),
                    PutAccount::stripe("acct", "cus_acct"),
                ] {
                    client.put_account(put).await.unwrap();
                }
            }
        })
    });
    let others = [Kind::Correct, Kind::ForceReport, Kind::ForceReport];
    let others = others.into_iter().zip(0..).map(|(kind, n)| {
        let client = client(n);
        tokio::spawn(async move {
            for _ in 0..ROUNDS {
                kind.call(&client).await;
            }
        })
    });
    let all: Vec<_> = counting.chain(linking).chain(others).collect();
    for ended in within("all calls", join_all(all)).await {
        ended.expect("no error");
    }
    let counted = 2 * i64::try_from(CALLERS).unwrap() * ROUNDS;
    let corrected = 5 * ROUNDS;
    assert_eq!(world.total_of_all_meters("acct").await, counted + corrected);
    for replica in replicas {
        replica.stop().await.unwrap();
    }
    world.finish().await;
}

/// Corrections read the total after they got their lock. In a transaction that reads one state, this would be that of before.
async fn the_default_isolation_of_the_database_does_not_matter(mut world: World) {
    let (_, name) = world.database_url.rsplit_once('/').expect("a name");
    let set =
        format!("ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'");
    world.execute_sql(&set).await;
    world.restart().await;
    let replica = world.replica().await;
    let clients = [world.client(), replica.client().await];
    let at = hours_ago(2);
    for _ in 0..10 {
        world.count("acct", 5, at).await;
        let corrections = clients.each_ref().map(|client| {
            let correction = Correct::new("acct", -5, "a test").timestamp(at);
            client.correct(correction)
        });
        let corrected = join_all(corrections).await;
        let refused: Vec<_> = corrected.into_iter().filter_map(Result::err).collect();
        let reasons: Vec<_> = refused.iter().map(usage_client::Error::reason).collect();
        assert_eq!(reasons, [Some(&Reason::BelowZero)], "{refused:?}");
    }
    assert_eq!(world.usage("acct").await.0, 0);
    replica.stop().await.unwrap();
    world.finish().await;
}
