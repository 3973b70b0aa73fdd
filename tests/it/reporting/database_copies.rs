//! Copies of a database with the same Stripe key: an old backup or a second copy is noticed, and nothing is billed twice.

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::NewPrice;
use usage_client::{ForceReport, Increment, PutAccount};
use usage_server::commands::doctor::Severity;

use super::stripe_accounts::{own_total, wait_until_held};
use crate::support::world::{
    Backup, Server, World, hours_ago, on_both_engines, on_postgres, within,
};

on_both_engines!(
    a_copy_started_elsewhere_bills_nothing_twice,
    a_copy_that_sent_first_pauses_the_original,
    an_old_backup_served_without_a_restore_sends_nothing,
    another_database_on_the_same_meters_is_told,
);

on_postgres!(replicas_are_no_copies_of_each_other);

fn start_of_test() -> DateTime<Utc> {
    hours_ago(60) + TimeDelta::minutes(30)
}

async fn count_at(world: &World, quantity: i64, at: DateTime<Utc>) {
    let increment = Increment::new("acct").quantity(quantity).timestamp(at);
    world.client().increment(increment).await.unwrap();
}

/// Stops the clocks, creates a price, so that the database can leave its mark at Stripe, and reports 5 units, in two runs
/// of the server: each leaves a mark.
async fn report_with_a_mark(world: &mut World) {
    let now = start_of_test();
    world.freeze(now).await;
    let meters = world.stripe().meters().await.unwrap();
    let meter = meters.iter().find(|meter| meter.event_name == "api_calls");
    let price = NewPrice::volume(
        "price_calls",
        "prod_calls",
        &meter.unwrap().id,
        &[(None, "1")],
    );
    world.stripe().create_price(&price).await.unwrap();
    world
        .stripe()
        .create_subscribed_customer("cus_acct")
        .await
        .unwrap();
    let link = PutAccount::stripe("acct", "cus_acct").bill_from(now - TimeDelta::days(2));
    world.client().put_account(link).await.unwrap();
    count_at(world, 3, now).await;
    world.report_all().await;
    world.restart().await;
    count_at(world, 2, now).await;
    world.report_all().await;
    assert_eq!(own_total(world).await, 5);
    assert_eq!(world.count_rows("sending WHERE mark > 1").await, 1);
}

/// Reports 5 units, and more of which a backup has the report but not its end.
async fn report_beside_a_backup(world: &mut World, quantity: i64) -> Backup {
    report_with_a_mark(world).await;
    count_at(world, quantity, start_of_test()).await;
    let backup = world.back_up().await;
    world.report_all().await;
    assert_eq!(own_total(world).await, 5 + quantity);
    backup
}

async fn is_paused(world: &World) -> bool {
    world
        .count_rows("sending WHERE paused_at IS NOT NULL")
        .await
        == 1
}

/// A server on a copy of the database, with the same key.
async fn start_copy(world: &World, url: &str) -> Server {
    let mut config = world.config();
    config.database.database_url = Some(url.to_owned().into());
    Server::start(config, world.clock.clone()).await
}

async fn a_copy_started_elsewhere_bills_nothing_twice(mut world: World) {
    let backup = report_beside_a_backup(&mut world, 4).await;
    // Stripe has forgotten the identifiers.
    let later = start_of_test() + TimeDelta::hours(25);
    world.move_clocks(later).await;
    let url = World::database_from(&backup);
    let copy = start_copy(&world, &url).await;
    let client = copy.client().await;
    let run = client.force_report(ForceReport::all()).await.unwrap();
    within("a run", run.summary()).await.unwrap();
    assert_eq!(own_total(&world).await, 9, "the copy sends nothing");
    let (severity, line) = world.doctor_says(Some(&url), "sending").await;
    assert_eq!(severity, Severity::Bad, "{line}");
    assert!(line.contains("another copy of it sends"), "{line}");
    let (severity, _) = world.doctor_says(Some(&url), "copies").await;
    assert_eq!(severity, Severity::Bad);
    // The original goes on.
    count_at(&world, 1, later).await;
    world.report_all().await;
    assert_eq!(own_total(&world).await, 10);
    assert!(!is_paused(&world).await);
    assert_eq!(world.doctor_says(None, "copies").await.0, Severity::Ok);
    copy.stop().await.unwrap();
    world.finish().await;
}

async fn a_copy_that_sent_first_pauses_the_original(mut world: World) {
    report_with_a_mark(&mut world).await;
    world.stop().await;
    let backup = world.copy_database().await;
    let copy = start_copy(&world, &World::database_from(&backup)).await;
    let client = copy.client().await;
    let now = start_of_test() + TimeDelta::minutes(20);
    world.move_clocks(now).await;
    let increment = Increment::new("acct").quantity(2).timestamp(now);
    client.increment(increment).await.unwrap();
    let run = client.force_report(ForceReport::all()).await.unwrap();
    within("a run", run.summary()).await.unwrap();
    assert_eq!(own_total(&world).await, 7, "the copy has sent");
    copy.stop().await.unwrap();
    world.start_server().await;
    count_at(&world, 3, now).await;
    wait_until_held(&world, "usage-server restore").await;
    assert_eq!(own_total(&world).await, 7);
    world.stop().await;
    let (is_done, printed) = world.restore(None, (true, false)).await;
    assert!(is_done, "{printed}");
    world.start_server().await;
    count_at(&world, 1, now).await;
    let mut at = now;
    for _ in 0..3 {
        at += TimeDelta::minutes(61);
        world.move_clocks(at).await;
        world.report_all().await;
        world.wait_until_all_sent().await;
    }
    assert_eq!(own_total(&world).await, 11);
    assert!(!is_paused(&world).await);
    world.finish().await;
}

async fn an_old_backup_served_without_a_restore_sends_nothing(mut world: World) {
    let backup = report_beside_a_backup(&mut world, 10).await;
    // Usage that the backup does not know, hours after it.
    let later = start_of_test() + TimeDelta::hours(5);
    world.move_clocks(later).await;
    count_at(&world, 4, later).await;
    world.report_all().await;
    assert_eq!(own_total(&world).await, 19);
    world.put_back(&backup).await;
    let now = start_of_test() + TimeDelta::hours(40);
    world.move_clocks(now).await;
    // Twice without the command.
    for _ in 0..2 {
        world.start_server().await;
        count_at(&world, 1, now).await;
        world.report_all().await;
        world.stop().await;
    }
    assert_eq!(own_total(&world).await, 19);
    assert!(is_paused(&world).await);
    let (severity, line) = world.doctor_says(None, "sending").await;
    assert_eq!(severity, Severity::Bad);
    assert!(line.contains("usage-server restore"), "{line}");
    // What the server wrote to the backup does not count as the time of the backup.
    let (is_done, printed) = world.restore(None, (true, false)).await;
    assert!(is_done, "{printed}");
    let expected = "Stripe has 4 units that the database lacks";
    assert!(printed.contains(expected), "{printed}");
    world.start_server().await;
    let mut at = now;
    for _ in 0..3 {
        at += TimeDelta::minutes(61);
        world.move_clocks(at).await;
        world.report_all().await;
        world.wait_until_all_sent().await;
    }
    assert_eq!(own_total(&world).await, 21, "0 doubled");
    assert_eq!(world.usage("acct").await.0, 21, "counted");
    assert!(!is_paused(&world).await);
    world.finish().await;
}

async fn another_database_on_the_same_meters_is_told(mut world: World) {
    report_with_a_mark(&mut world).await;
    assert_eq!(world.doctor_says(None, "copies").await.0, Severity::Ok);
    let url = world.empty_database();
    let server = start_copy(&world, &url).await;
    server.client().await;
    let (severity, line) = world.doctor_says(Some(&url), "copies").await;
    assert_eq!(severity, Severity::Warn, "{line}");
    assert!(line.contains("other databases"), "{line}");
    assert_eq!(
        world.doctor_says(Some(&url), "sending").await.0,
        Severity::Ok
    );
    server.stop().await.unwrap();
    world.finish().await;
}

async fn replicas_are_no_copies_of_each_other(mut world: World) {
    report_with_a_mark(&mut world).await;
    let mut expected = 5;
    let mut now = start_of_test();
    let mut replica = world.replica().await;
    for round in 0..4 {
        // The mark is due again, and the other replica may write it.
        now += TimeDelta::minutes(11);
        world.move_clocks(now).await;
        count_at(&world, 1, now).await;
        expected += 1;
        world.report_all().await;
        world
            .wait_until("the event", async || own_total(&world).await == expected)
            .await;
        if round % 2 == 0 {
            world.restart().await;
        } else {
            replica.stop().await.unwrap();
            replica = world.replica().await;
        }
    }
    assert!(!is_paused(&world).await);
    // The time of the mark before the last is known: a restore starts from it. One server writes the last mark, so that
    // no other follows it at the same moment.
    replica.stop().await.unwrap();
    now += TimeDelta::minutes(11);
    world.move_clocks(now).await;
    count_at(&world, 1, now).await;
    world.report_all().await;
    world
        .wait_until("the event", async || {
            own_total(&world).await == expected + 1
        })
        .await;
    let marks = "sending WHERE mark >= 4 AND mark_before_at < mark_at";
    assert_eq!(world.count_rows(marks).await, 1);
    assert_eq!(world.doctor_says(None, "copies").await.0, Severity::Ok);
    world.finish().await;
}
