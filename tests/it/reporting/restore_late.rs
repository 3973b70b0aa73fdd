//! Restoring a backup after late usage was sent: its time is before the backup, and only Stripe has it.

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::NewPrice;
use usage_client::{Increment, PutAccount, ReportKind};
use uuid::Uuid;

use crate::support::world::{World, hours_ago, on_both_engines};

on_both_engines!(
    late_usage_that_was_sent_after_the_backup_is_entered,
    days_of_which_stripe_had_more_before_the_backup_are_left_out,
    the_time_before_the_backup_is_not_compared_beside_another_database,
    usage_is_entered_for_the_account_of_its_time,
);

fn backup_at() -> DateTime<Utc> {
    hours_ago(60) + TimeDelta::minutes(30)
}

async fn count(world: &World, account: &str, (key, quantity): (&str, i64), hours: i64) {
    let increment = Increment::new(account)
        .quantity(quantity)
        .key(key)
        .timestamp(backup_at() - TimeDelta::hours(hours));
    world.client().increment(increment).await.expect("counted");
}

/// Late usage of some hours before the backup.
async fn count_late(world: &World) {
    for (usage, hours) in [(("b", 7), 72), (("c", 5), 30), (("d", 2), 1)] {
        count(world, "acct", usage, hours).await;
    }
}

/// An account of which Stripe has 10 units of 72 hours before the backup.
async fn begin(world: &mut World) {
    world.freeze(backup_at()).await;
    let stripe = world.stripe();
    stripe.create_subscribed_customer("cus").await.unwrap();
    let from = backup_at() - TimeDelta::days(10);
    let link = PutAccount::stripe("acct", "cus").bill_from(from);
    world.client().put_account(link).await.unwrap();
    count(world, "acct", ("a", 10), 72).await;
    world.report_all().await;
    assert_eq!(at_stripe(world).await, 10);
}

async fn at_stripe(world: &World) -> i64 {
    world.stripe_total("cus", "api_calls").await
}

/// After a backup, late usage is sent. Then the backup is put back, two hours later.
async fn lose_late_usage(world: &mut World) {
    let backup = world.back_up().await;
    world.move_clocks(backup_at() + TimeDelta::minutes(5)).await;
    count_late(world).await;
    world.report_all().await;
    // A run ends without a report that waits for a sync.
    world.wait_until_sent("acct").await;
    assert_eq!(at_stripe(world).await, 24);
    world.put_back(&backup).await;
    world.move_clocks(backup_at() + TimeDelta::hours(2)).await;
}

async fn restore(world: &World) -> String {
    let (is_done, printed) = world.restore(Some(backup_at()), (true, false)).await;
    assert!(is_done, "{printed}");
    printed
}

/// Lets hours pass, with a run in each.
async fn report_for_hours(world: &World) {
    for _ in 0..3 {
        world.report_all().await;
        world
            .move_clocks(world.now() + TimeDelta::minutes(61))
            .await;
        world.wait_until_all_sent().await;
    }
}

async fn late_usage_that_was_sent_after_the_backup_is_entered(mut world: World) {
    begin(&mut world).await;
    lose_late_usage(&mut world).await;
    let printed = restore(&world).await;
    assert!(
        printed.contains("14 units that the database lacks"),
        "{printed}"
    );
    world.start_server().await;
    assert_eq!(world.usage("acct").await.0, 24);
    world.stop().await;
    let again = restore(&world).await;
    assert!(again.contains("Stripe has nothing"), "{again}");
    world.start_server().await;
    // Callers repeat it: it takes the place of what was entered.
    count_late(&world).await;
    report_for_hours(&world).await;
    assert_eq!(at_stripe(&world).await, 24);
    assert_eq!(world.usage("acct").await.0, 24);
    let reports = world.reports("acct").await;
    let entered = reports
        .iter()
        .filter(|one| one.kind == ReportKind::AlreadySent);
    assert_eq!(entered.count(), 0, "{reports:?}");
    world.finish().await;
}

async fn days_of_which_stripe_had_more_before_the_backup_are_left_out(mut world: World) {
    begin(&mut world).await;
    // Something else had sent a unit there, and verification had found it.
    let at = (backup_at() - TimeDelta::hours(72)).timestamp_millis();
    let day = at - at.rem_euclid(24 * 3_600_000);
    for sql in [
        "DELETE FROM verifications".to_owned(),
        format!(
            "INSERT INTO verifications (customer, meter, day, sent_total, stripe_total, finding, changed_at, verified_at) \
             VALUES ('cus', 'api_calls', {day}, 10, 11, 'over', {at}, {at})"
        ),
    ] {
        world.execute_sql(&sql).await;
    }
    lose_late_usage(&mut world).await;
    let printed = restore(&world).await;
    for part in [
        "7 units that the database lacks",
        "1 days before the backup were left out",
    ] {
        assert!(printed.contains(part), "{part} in {printed}");
    }
    world.start_server().await;
    assert_eq!(world.usage("acct").await.0, 17);
    // Callers repeat it: nothing is billed twice.
    count_late(&world).await;
    report_for_hours(&world).await;
    assert_eq!(at_stripe(&world).await, 24);
    assert_eq!(world.usage("acct").await.0, 24);
    world.finish().await;
}

async fn the_time_before_the_backup_is_not_compared_beside_another_database(mut world: World) {
    begin(&mut world).await;
    let meters = world.stripe().meters().await.unwrap();
    let meter = meters.iter().find(|one| one.event_name == "api_calls");
    let price = NewPrice::volume("price_x", "prod_x", &meter.unwrap().id, &[(None, "1")]);
    world.stripe().create_price(&price).await.unwrap();
    let key = format!("metadata[usage_{}]", Uuid::new_v4().simple());
    let value = format!("7 nonce {}", backup_at().timestamp());
    world
        .call_stripe("POST", "/v1/products/prod_x", &[(&key, &value)])
        .await;
    lose_late_usage(&mut world).await;
    let printed = restore(&world).await;
    for part in ["Stripe has nothing", "Other databases send to these meters"] {
        assert!(printed.contains(part), "{part} in {printed}");
    }
    world.start_server().await;
    assert_eq!(world.usage("acct").await.0, 10);
    count_late(&world).await;
    report_for_hours(&world).await;
    assert_eq!(at_stripe(&world).await, 24);
    assert_eq!(world.usage("acct").await.0, 24);
    world.finish().await;
}

async fn usage_is_entered_for_the_account_of_its_time(mut world: World) {
    begin(&mut world).await;
    let backup = world.back_up().await;
    count(&world, "acct", ("b", 7), 72).await;
    world.report_all().await;
    assert_eq!(at_stripe(&world).await, 17);
    world.put_back(&backup).await;
    // In the backup, the customer belongs to another account since a day.
    let since = (backup_at() - TimeDelta::hours(24)).timestamp_millis();
    world
        .execute_sql(&format!(
            "INSERT INTO account_links (account_id, version, valid_from, customer, recorded_at, ended, end_requested) \
             VALUES ('zz', 1, {since}, 'cus', {since}, false, false)"
        ))
        .await;
    world.move_clocks(backup_at() + TimeDelta::hours(2)).await;
    let printed = restore(&world).await;
    assert!(
        printed.contains("7 units that the database lacks"),
        "{printed}"
    );
    world.start_server().await;
    assert_eq!(world.usage("acct").await.0, 17);
    assert_eq!(world.usage("zz").await.0, 0);
    world.finish().await;
}
