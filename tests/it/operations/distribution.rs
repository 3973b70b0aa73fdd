//! `usage-server distribute`, and a service on a database that Citus spreads over machines.

use sea_orm::{ConnectionTrait as _, Statement};
use usage_client::{Batch, Increment, Retry};
use usage_server::{
    commands::{
        distribute::{DistributeCommand, run},
        doctor::Severity,
    },
    config::DatabaseConfig,
    domain::{account_id::AccountId, shards::ShardMap},
    store::Store,
};

use crate::support::{
    postgres::{CITUS, Cluster, Durability, cluster, execute},
    world::{Server, World, on_both_engines, on_citus},
};

on_both_engines!(a_database_without_citus_is_not_distributed);

on_citus!(
    a_database_is_distributed_with_its_usage_and_only_once,
    a_database_that_servers_use_is_not_distributed,
    the_number_of_shards_does_not_change,
    a_server_refuses_to_enter_by_a_worker,
    doctor_checks_the_settings_of_citus,
    accounts_are_on_the_shards_that_citus_says,
    a_batch_over_several_shards_counts_whole_or_not_at_all,
    a_killed_worker_loses_nothing,
);

/// Runs the command on a database. Returns what it printed, or why it failed.
async fn distribute(world: &World, url: &str, shards: Option<u32>) -> Result<String, String> {
    let database = DatabaseConfig {
        database_url: Some(url.to_owned().into()),
        database_url_file: None,
        ..world.config().database
    };
    let mut printed = Vec::new();
    let done = run(&DistributeCommand { database, shards }, &mut printed).await;
    done.map_err(|error| error.to_string())?;
    Ok(String::from_utf8(printed).unwrap())
}

/// A database with today's schema, whose tables are not distributed.
async fn migrated(cluster: &Cluster) -> String {
    let url = cluster.create_database().unwrap();
    let store = Store::open(&url, 2).await.unwrap();
    store.migrate().await.unwrap();
    store.close().await.unwrap();
    url
}

async fn a_database_without_citus_is_not_distributed(world: World) {
    let reason = "its database has Citus";
    let Some(mut world) = world.unless_distributed(reason).await else {
        return;
    };
    world.stop().await;
    let why = distribute(&world, &world.database_url, None).await;
    assert!(why.unwrap_err().contains("has no Citus"));
    world.finish().await;
}

async fn a_database_is_distributed_with_its_usage_and_only_once(mut world: World) {
    world.stop().await;
    world.database_url = migrated(cluster().unwrap()).await;
    world.start_server().await;
    let key = |n: usize| Increment::new(format!("acct-{n}")).key(format!("key-{n}"));
    for n in 0..20 {
        world.client().increment(key(n)).await.unwrap();
    }
    let running = distribute(&world, &world.database_url, None).await;
    assert!(running.unwrap_err().contains("stop every server first"));
    world.stop().await;
    let printed = distribute(&world, &world.database_url, None).await.unwrap();
    assert!(
        printed.contains("open_reports: spread by account_id"),
        "{printed}"
    );
    assert!(
        printed.contains("customers: stays at the coordinator"),
        "{printed}"
    );
    assert!(printed.contains("4 shards on 2 machines"), "{printed}");
    let again = distribute(&world, &world.database_url, Some(4))
        .await
        .unwrap();
    assert!(again.starts_with("nothing to do"), "{again}");
    world.start_server().await;
    for n in 0..20 {
        assert!(
            world.client().increment(key(n)).await.unwrap().duplicate,
            "{n}"
        );
        assert_eq!(world.usage(&format!("acct-{n}")).await.0, 1, "{n}");
    }
    world.report_all().await;
    world.finish().await;
}

async fn a_database_that_servers_use_is_not_distributed(mut world: World) {
    world.stop().await;
    world.database_url = migrated(cluster().unwrap()).await;
    world.start_server().await;
    let why = distribute(&world, &world.database_url, None).await;
    assert!(why.unwrap_err().contains("stop every server first"));
    world.finish().await;
}

async fn the_number_of_shards_does_not_change(world: World) {
    let why = distribute(&world, &world.database_url, Some(7)).await;
    assert!(why.unwrap_err().contains("already have 4 shards"));
    world.finish().await;
}

async fn a_server_refuses_to_enter_by_a_worker(world: World) {
    let mut config = world.config();
    let worker = cluster().unwrap().url_at_worker(&world.database_url, 0);
    let url = worker.unwrap();
    config.database.database_url = Some(url.clone().into());
    let why = distribute(&world, &url, None).await;
    assert!(why.unwrap_err().contains("connect to the coordinator"));
    let (severity, found) = world.doctor_says(Some(&url), "citus").await;
    assert!(
        severity == Severity::Bad && found.contains("names a worker"),
        "{found}"
    );
    let server = Server::start(config, world.clock.clone()).await;
    let refused = server.ended().await.unwrap_err();
    assert!(
        matches!(refused, usage_server::ServeError::Worker),
        "{refused}"
    );
    world.finish().await;
}

async fn doctor_checks_the_settings_of_citus(world: World) {
    let (severity, found) = world.doctor_says(None, "citus").await;
    assert!(severity == Severity::Ok, "{found}");
    assert!(found.contains("4 shards on 2 machines"), "{found}");
    let name = world.database_url.rsplit('/').next().unwrap();
    let at_worker = cluster().unwrap().url_at_worker(&world.database_url, 1);
    let set = format!("ALTER DATABASE {name} SET lock_timeout = 0");
    execute(&at_worker.unwrap(), &set).unwrap();
    let set = format!("ALTER DATABASE {name} SET citus.max_adaptive_executor_pool_size = 2");
    execute(&world.database_url, &set).unwrap();
    let (severity, found) = world.doctor_says(None, "citus").await;
    assert!(
        severity == Severity::Warn && found.contains("pool_size is 2"),
        "{found}"
    );
    world.finish().await;
}

/// The number that a query answers.
async fn number(world: &World, query: &str) -> i64 {
    let database = world.connect_to_database().await;
    let sql = format!("SELECT CAST(({query}) AS bigint) AS number");
    let statement = Statement::from_string(database.get_database_backend(), sql);
    let row = database.query_one_raw(statement).await.unwrap().unwrap();
    database.close().await.unwrap();
    row.try_get("", "number").unwrap()
}

async fn accounts_are_on_the_shards_that_citus_says(world: World) {
    let mut last_hashes = Vec::new();
    for place in 0..4 {
        let last = format!(
            "SELECT CAST(shardmaxvalue AS integer) FROM pg_dist_shard \
             WHERE logicalrelid = 'open_reports'::regclass ORDER BY 1 LIMIT 1 OFFSET {place}"
        );
        last_hashes.push(i32::try_from(number(&world, &last).await).unwrap());
    }
    let map = ShardMap::new(last_hashes);
    let mut shards = [None; 4];
    for n in 0..60 {
        let account = format!("acct_{n}:{}", "x".repeat(n));
        let query =
            format!("SELECT get_shard_id_for_distribution_column('open_reports', '{account}')");
        let shard = number(&world, &query).await;
        let place = map.shard_of(&AccountId::parse(&account).unwrap());
        assert_eq!(*shards[place].get_or_insert(shard), shard, "{account}");
    }
    assert!(shards.iter().all(Option::is_some), "{shards:?}");
    world.finish().await;
}

/// Runs a statement for each shard of open reports on a worker; `%s` is its table.
fn alter_open_reports(world: &World, worker: usize, statement: &str) {
    let sql = format!(
        "SET citus.override_table_visibility TO off; SET citus.enable_manual_changes_to_shards TO on; \
         DO $$ DECLARE shard text; BEGIN \
         FOR shard IN SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^open_reports_[0-9]+$' \
         LOOP EXECUTE format('{statement}', shard); END LOOP; END $$"
    );
    let url = cluster()
        .unwrap()
        .url_at_worker(&world.database_url, worker);
    execute(&url.unwrap(), &sql).unwrap();
}

async fn a_batch_over_several_shards_counts_whole_or_not_at_all(world: World) {
    let batch = || {
        let accounts = (0..40).map(|n| Increment::new(format!("acct-{n}")).key("k"));
        accounts.fold(Batch::new(), Batch::push).key("batch")
    };
    let refuse = "ALTER TABLE %s ADD CONSTRAINT refuse CHECK (quantity < 0) NOT VALID";
    alter_open_reports(&world, 1, refuse);
    let once = world.client().with_retry(Retry::never());
    once.increment_batch(batch()).await.unwrap_err();
    for table in ["open_reports", "idempotency_keys", "batch_keys", "commits"] {
        assert_eq!(world.count_rows(table).await, 0, "{table}");
    }
    alter_open_reports(&world, 1, "ALTER TABLE %s DROP CONSTRAINT refuse");
    let counted = world.client().increment_batch(batch()).await.unwrap();
    assert!(!counted.duplicate);
    assert_eq!(world.count_rows("open_reports").await, 40);
    world.finish().await;
}

/// Kills a server process of a worker as a crash does; the worker starts again by itself.
fn crash(url: &str) {
    // The connection breaks too.
    let _ = execute(url, "COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'");
}

async fn a_killed_worker_loses_nothing(mut world: World) {
    // Other tests use the workers of the shared cluster.
    let pg_config = std::env::var_os(CITUS).unwrap();
    let own = Cluster::start_distributed(&pg_config, Durability::Off).unwrap();
    world.stop().await;
    world.database_url = migrated(&own).await;
    distribute(&world, &world.database_url, None).await.unwrap();
    world.start_server().await;
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let client = world.client();
            tokio::spawn(async move {
                for n in 0..40 {
                    let increment = Increment::new(format!("acct-{}", (caller + n) % 10));
                    client.increment(increment).await.unwrap();
                }
            })
        })
        .collect();
    for (place, caller) in callers.into_iter().enumerate() {
        crash(&own.url_at_worker(&world.database_url, place % 2).unwrap());
        caller.await.unwrap();
    }
    let mut counted = 0;
    for n in 0..10 {
        counted += world.usage(&format!("acct-{n}")).await.0;
    }
    assert_eq!(counted, 8 * 40);
    world.finish().await;
}
