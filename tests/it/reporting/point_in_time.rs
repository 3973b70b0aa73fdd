//! Point-in-time recovery of PostgreSQL from a base backup and its archived log: what was acknowledged until the time is there,
//! and what Stripe knows beyond it is neither lost nor billed twice.

use chrono::{DateTime, Utc};
use usage_client::Increment;
use usage_server::clock::Clock;

use crate::support::{
    postgres::{Archive, Cluster, execute},
    world::{World, hours_ago, on_postgres, poll},
};

on_postgres!(a_recovery_to_a_point_in_time_neither_loses_nor_doubles_usage);

/// Counts usage of a time, and reports it.
async fn use_and_report(world: &World, quantity: i64, key: &str, at: DateTime<Utc>) {
    let increment = Increment::new("acct").quantity(quantity).key(key);
    let increment = increment.timestamp(at);
    world.client().increment(increment).await.unwrap();
    world.report_all().await;
}

async fn a_recovery_to_a_point_in_time_neither_loses_nor_doubles_usage(mut world: World) {
    let archive = Archive::new().expect("a folder");
    let cluster = Cluster::start_archiving(&archive).expect("PostgreSQL");
    world.stop().await;
    world.database_url = cluster.create_database().unwrap();
    world.start_server().await;
    world.link_to_new_customer("acct", "cus").await;
    use_and_report(&world, 5, "before the backup", hours_ago(2)).await;
    cluster.back_up(&archive).expect("a base backup");
    use_and_report(&world, 7, "after the backup", hours_ago(2)).await;
    let until = DateTime::from_timestamp_millis(Clock::system().now()).unwrap();
    use_and_report(&world, 100, "after the time", until).await;
    // Late usage: of before the base backup.
    use_and_report(&world, 40, "late", hours_ago(50)).await;
    assert_eq!(world.stripe_total("cus", "api_calls").await, 152);
    world.stop().await;
    let switch = "CREATE TABLE switched AS SELECT pg_walfile_name(pg_switch_wal()) AS name";
    execute(&world.database_url, switch).unwrap();
    let archived = "DO $$ BEGIN ASSERT (SELECT last_archived_wal FROM pg_stat_archiver) \
        >= (SELECT name FROM switched); END $$";
    poll("the archive", async || {
        execute(&world.database_url, archived).ok()
    })
    .await;
    let url = world.database_url.clone();
    cluster.crash().expect("a crash");

    let recovered = Cluster::recover(&archive, until).expect("a recovered server");
    let (_, name) = url.rsplit_once('/').unwrap();
    world.database_url = format!("postgres://usage@{}/{name}", recovered.address());
    let (is_done, printed) = world.restore(Some(until), (true, false)).await;
    assert!(is_done, "{printed}");
    world.start_server().await;
    // 12 were recovered. Stripe has 140 more, which are entered as already sent.
    assert_eq!(world.usage("acct").await.0, 152, "{printed}");
    use_and_report(&world, 100, "after the time", until).await;
    use_and_report(&world, 3, "new", until).await;
    assert_eq!(world.usage("acct").await.0, 155);
    // A look-up of the customer's hours delays it.
    poll("the new usage at Stripe", async || {
        world.report_all().await;
        let total = world.stripe_total("cus", "api_calls").await;
        assert!(total <= 155, "{total}");
        (total == 155).then_some(())
    })
    .await;
    world.finish().await;
}
