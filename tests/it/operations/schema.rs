//! The schema of the database: a replica goes on while a later version extends it, and a program that is too old for a
//! database does not start on it.

use sea_orm::{ConnectionTrait as _, Statement};
use usage_client::{ForceReport, Increment, ReportState};
use usage_server::{
    ServeError,
    commands::{
        audit::{self, AuditCommand},
        doctor::Severity,
    },
    store::{SchemaError, Store},
};

use crate::support::world::{Engine, Server, World, hours_ago, on_both_engines, within};

on_both_engines!(
    a_replica_goes_on_while_every_table_gets_a_column,
    a_newer_schema_is_refused_and_named,
    an_empty_database_lacks_the_schema,
);

/// The migration of a later version.
const LATER: &str = "m20991231_000001_later";

async fn tables(world: &World) -> Vec<String> {
    let database = world.connect_to_database().await;
    let sql = match world.engine {
        Engine::Sqlite => {
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        }
        Engine::Postgres => {
            "SELECT CAST(tablename AS text) AS name FROM pg_tables WHERE schemaname = 'public'"
        }
    };
    let sql = Statement::from_string(database.get_database_backend(), sql);
    let rows = database.query_all_raw(sql).await.unwrap();
    let names = rows.iter().map(|row| row.try_get("", "name").unwrap());
    names.collect()
}

/// What a migration of a later version does: it only adds.
async fn migrate_further(world: &World) {
    for table in tables(world).await {
        let add = format!("ALTER TABLE {table} ADD COLUMN later_column text");
        world.execute_sql(&add).await;
    }
    let applied =
        format!("INSERT INTO seaql_migrations (version, applied_at) VALUES ('{LATER}', 0)");
    world.execute_sql(&applied).await;
}

/// Uses what replicas do all day: counting with keys and in batches, showing, reporting, linking, verifying.
async fn use_everything(world: &World, account: &str) {
    let customer = format!("cus_{account}");
    world.link_to_new_customer(account, &customer).await;
    let client = world.client();
    let increment = Increment::new(account).timestamp(hours_ago(3));
    for _ in 0..2 {
        let keyed = increment.clone().key(format!("{account}-k"));
        client.increment(keyed).await.unwrap();
    }
    let batch = vec![increment.clone().quantity(10), increment.quantity(100)];
    client.increment_batch(batch).await.unwrap();
    let run = client.force_report(ForceReport::accounts([account])).await;
    let summary = run.unwrap().summary().await.unwrap();
    assert_eq!(summary.accepted.quantity, 111);
    world
        .wait_until_reports_are(account, &[ReportState::Accepted])
        .await;
    assert_eq!(world.usage(account).await.0, 111);
    client.get_account(account).await.unwrap();
    assert_eq!(world.stripe_total(&customer, "api_calls").await, 111);
}

async fn a_replica_goes_on_while_every_table_gets_a_column(mut world: World) {
    // Its statements are prepared on each of its connections.
    use_everything(&world, "before").await;
    use_everything(&world, "before2").await;
    migrate_further(&world).await;
    use_everything(&world, "after").await;
    use_everything(&world, "after2").await;
    // It stops as usual; what it counted is whole.
    world.stop().await;
    world.finish().await;
}

async fn a_newer_schema_is_refused_and_named(mut world: World) {
    world.count("acct", 7, hours_ago(1)).await;
    migrate_further(&world).await;
    world.stop().await;
    for no_migrate in [false, true] {
        let mut config = world.config();
        config.no_migrate = no_migrate;
        let server = Server::start(config, world.clock.clone()).await;
        let error = within("a refused start", server.ended()).await.unwrap_err();
        assert!(matches!(error, ServeError::Database(_)), "{error:?}");
        assert!(format!("{error:?}").contains(LATER), "{error:?}");
    }
    let store = Store::open_existing(&world.database_url, 4).await.unwrap();
    let refused = store.check_schema().await.unwrap_err();
    assert!(matches!(&refused, SchemaError::Newer(name) if name == LATER));
    store.close().await.unwrap();
    let command = AuditCommand {
        database: world.config().database,
        from: None,
        until: None,
        key: None,
        account: None,
    };
    let refused = audit::run(&command, &mut Vec::new()).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("a newer schema than this usage-server"),
        "{refused}"
    );
    let (severity, line) = world.doctor_says(None, "database").await;
    assert_eq!(severity, Severity::Bad);
    assert!(line.contains(LATER), "{line}");
    // The data is untouched, and the version of that schema goes on.
    let forget = format!("DELETE FROM seaql_migrations WHERE version = '{LATER}'");
    world.execute_sql(&forget).await;
    world.start_server().await;
    assert_eq!(world.usage("acct").await.0, 7);
    world.finish().await;
}

async fn an_empty_database_lacks_the_schema(world: World) {
    let url = world.empty_database();
    let store = Store::open(&url, 4).await.unwrap();
    let older = store.check_schema().await.unwrap_err();
    assert!(matches!(older, SchemaError::Older(1)), "{older:?}");
    store.migrate().await.unwrap();
    store.check_schema().await.unwrap();
    store.close().await.unwrap();
    world.finish().await;
}
