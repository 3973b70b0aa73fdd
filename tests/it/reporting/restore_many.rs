//! Restoring a backup in which one customer has more reports than one query reads.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use usage_client::PutAccount;

use crate::support::world::{Engine, World, hours_ago, on_both_engines};

on_both_engines!(a_stream_of_40000_reports_is_compared);

/// Reports of the account `busy`, known to be at Stripe and not sent: this many of each.
const BUSY_REPORTS: i64 = 20_500;
const HOUR_MS: i64 = 3_600_000;

/// Inserts them: of the first, one in ten seconds; of the others, as many in each of fifty hours. Returns the totals of
/// the hours.
async fn insert_busy_reports(world: &World, at: i64) -> BTreeMap<i64, i64> {
    let id = match world.engine {
        Engine::Sqlite => "randomblob(16)",
        Engine::Postgres => "gen_random_uuid()",
    };
    let last = BUSY_REPORTS - 1;
    let insert = format!(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {last}) \
         INSERT INTO usage_reports (account_id, id, meter, quantity, customer, first_at, last_at, closed_at, \
         window_start, window_end, period_end, state, event_timestamp, reported_at, confirmed_at) \
         SELECT 'busy', {id}, 'api_calls', 1, 'cus_busy'"
    );
    let event = format!("({at} - i * 10000)");
    let start = format!("({event} - {event} % {HOUR_MS})");
    let confirmed = format!(
        "{event}, {event}, {at}, {start}, {start} + {HOUR_MS}, {event} + 1, 'confirmed', {event}, {at}, {at}"
    );
    world
        .execute_sql(&format!("{insert}, {confirmed} FROM n"))
        .await;
    let hour = at - at.rem_euclid(HOUR_MS);
    let start = format!("({hour} - (i % 50) * {HOUR_MS})");
    let end = format!("{start} + {HOUR_MS}");
    let none = "CAST(NULL AS bigint)";
    let closed =
        format!("{start}, {start}, {at}, {start}, {end}, {end}, 'closed', {none}, {none}, {none}");
    world
        .execute_sql(&format!("{insert}, {closed} FROM n"))
        .await;
    let commit = format!("INSERT INTO commits VALUES ({id}, 1, 2 * {BUSY_REPORTS}, {at})");
    world.execute_sql(&commit).await;
    let mut totals = BTreeMap::new();
    for i in 0..BUSY_REPORTS {
        let event = at - i * 10_000;
        for start in [event - event.rem_euclid(HOUR_MS), hour - (i % 50) * HOUR_MS] {
            *totals.entry(start).or_default() += 1;
        }
    }
    totals
}

async fn a_stream_of_40000_reports_is_compared(mut world: World) {
    let now = hours_ago(60) + TimeDelta::minutes(30);
    world.freeze(now).await;
    world
        .stripe()
        .create_subscribed_customer("cus_busy")
        .await
        .unwrap();
    let link = PutAccount::stripe("busy", "cus_busy").bill_from(now - TimeDelta::days(4));
    world.client().put_account(link).await.unwrap();
    world.stop().await;
    let mut totals = insert_busy_reports(&world, now.timestamp_millis()).await;
    // Stripe has all of them, and 7 units more.
    *totals.values_mut().nth(10).unwrap() += 7;
    for (start, total) in &totals {
        let (timestamp, value) = ((start / 1000).to_string(), total.to_string());
        let form = [
            ("event_name", "api_calls"),
            ("identifier", timestamp.as_str()),
            ("timestamp", timestamp.as_str()),
            ("payload[stripe_customer_id]", "cus_busy"),
            ("payload[value]", value.as_str()),
        ];
        world
            .call_stripe("POST", "/v1/billing/meter_events", &form)
            .await;
    }
    let stated = Some(now - TimeDelta::hours(60));
    let (is_done, printed) = world.restore(stated, (true, false)).await;
    assert!(is_done, "{printed}");
    for part in [
        "Stripe has 7 units that the database lacks",
        "0 reports with 0 units are not at Stripe",
    ] {
        assert!(printed.contains(part), "{part} in {printed}");
    }
    let confirmed = "usage_reports WHERE state = 'confirmed' AND kind = 'usage'";
    assert_eq!(world.count_rows(confirmed).await, 2 * BUSY_REPORTS);
    world.finish().await;
}
