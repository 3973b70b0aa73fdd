//! Wrong clocks: usage is counted by the time that was right before, and nothing is closed, sent or deleted until the
//! clocks agree.

use chrono::{DateTime, TimeDelta, Utc};
use usage_client::{
    Error, Increment, Reason, ReportState,
    proto::{ForceReportRequest, usage_service_client::UsageServiceClient},
};

use crate::support::world::{World, hours_ago, on_both_engines, on_sqlite};

on_both_engines!(
    usage_is_counted_and_not_reported_while_the_database_clock_is_ahead,
    stripe_decides_whether_the_database_clock_is_right,
    a_replica_whose_clock_is_wrong_does_no_background_work,
    times_stored_in_the_future_delay_nothing,
);

on_sqlite!(leases_of_a_killed_server_do_not_delay_the_next_one,);

const DAY_MS: i64 = 86_400_000;

/// Why a run is refused; `None` if it begins. It has nothing to close.
async fn refusal(world: &World) -> Option<Error> {
    let mut usage = UsageServiceClient::new(world.grpc_channel().await);
    let of_none = ForceReportRequest {
        account_ids: vec!["without-usage".to_owned()],
        ..ForceReportRequest::default()
    };
    let asked = usage.force_report(of_none).await;
    let refused = asked.err().map(Error::from);
    if let Some(refused) = &refused {
        assert_eq!(refused.reason(), Some(&Reason::ClockInDoubt), "{refused}");
    }
    refused
}

/// Moves the server's clocks on until it does or does not rely on the time.
async fn wait_until_in_doubt(world: &World, is_in_doubt: bool) {
    world
        .wait_until("the clocks", async || {
            // A reading of the database's clock is used for a second.
            world.clock.advance(1_100);
            refusal(world).await.is_some() == is_in_doubt
        })
        .await;
}

/// When the usage of an account's only report was counted.
async fn counted_at(world: &World, account: &str) -> DateTime<Utc> {
    let reports = world.reports(account).await;
    assert_eq!(reports.len(), 1, "{reports:?}");
    reports[0].window.start
}

async fn usage_is_counted_and_not_reported_while_the_database_clock_is_ahead(mut world: World) {
    let start = hours_ago(5);
    world.freeze(start).await;
    world.link_to_new_customer("acct", "cus_acct").await;
    let keyed = Increment::new("acct").quantity(5).key("k");
    world.client().increment(keyed.clone()).await.unwrap();
    world.clock.step_database(400 * DAY_MS);
    wait_until_in_doubt(&world, true).await;
    let refused = refusal(&world).await.unwrap();
    assert!(
        refused.to_string().contains("jumped ahead by 34560000 s"),
        "{refused}"
    );
    assert!(world.client().increment(keyed).await.unwrap().duplicate);
    let new = Increment::new("acct").quantity(1);
    world.client().increment(new).await.unwrap();
    let window = counted_at(&world, "acct").await;
    assert!((start - window) < TimeDelta::hours(1), "{window}");
    assert_eq!(world.reports("acct").await[0].state, ReportState::Open);
    world.clock.step_database(-400 * DAY_MS);
    wait_until_in_doubt(&world, false).await;
    world.report_all().await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 6);
    world.finish().await;
}

async fn stripe_decides_whether_the_database_clock_is_right(mut world: World) {
    let start = hours_ago(5);
    world.freeze(start).await;
    world.reconfigure(&["--clock-check-secs=10"]).await;
    world.link_to_new_customer("acct", "cus_acct").await;
    // As after a machine with the database was suspended for two hours.
    world.clock.step(2 * 3_600_000);
    world.clock.step_database(2 * 3_600_000);
    wait_until_in_doubt(&world, true).await;
    let moved = start + TimeDelta::hours(2);
    world
        .stripe()
        .set_clock(moved.timestamp_millis())
        .await
        .unwrap();
    wait_until_in_doubt(&world, false).await;
    world
        .client()
        .increment(Increment::new("acct").quantity(1))
        .await
        .unwrap();
    let window = counted_at(&world, "acct").await;
    assert!(
        moved - window < TimeDelta::hours(1),
        "{window}: the time that Stripe confirmed"
    );
    // All clocks of this side agree, and Stripe's does not.
    let ahead = moved + TimeDelta::minutes(30);
    world
        .stripe()
        .set_clock(ahead.timestamp_millis())
        .await
        .unwrap();
    wait_until_in_doubt(&world, true).await;
    let refused = refusal(&world).await.unwrap();
    assert!(refused.to_string().contains("behind Stripe's"), "{refused}");
    world.finish().await;
}

async fn a_replica_whose_clock_is_wrong_does_no_background_work(mut world: World) {
    let start = hours_ago(5);
    world.freeze(start).await;
    world.link_to_new_customer("acct", "cus_acct").await;
    world.clock.step(-360_000);
    wait_until_in_doubt(&world, true).await;
    let refused = refusal(&world).await.unwrap();
    assert!(
        refused.to_string().contains("behind the database's"),
        "{refused}"
    );
    world
        .client()
        .increment(Increment::new("acct").quantity(2))
        .await
        .unwrap();
    let right = format!("all_reports WHERE first_at >= {}", start.timestamp_millis());
    assert_eq!(world.count_rows(&right).await, 1, "the database's time");
    world.clock.step(360_000);
    wait_until_in_doubt(&world, false).await;
    world.report_all().await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 2);
    world.finish().await;
}

async fn times_stored_in_the_future_delay_nothing(mut world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 3, hours_ago(3)).await;
    world.stop().await;
    // Further than anything waits.
    let ahead = world.clock.now() + DAY_MS / 8;
    for change in [
        format!(
            "INSERT INTO usage_reports (account_id, id, meter, window_start, window_end, period_end, closed_at, quantity, \
             first_at, last_at, state, customer, next_attempt_at) SELECT account_id, id, meter, window_start, window_end, \
             {now}, {now}, quantity, first_at, last_at, 'closed', 'cus_acct', {ahead} FROM open_reports",
            now = world.clock.now()
        ),
        "DELETE FROM open_reports".to_owned(),
        format!(
            "UPDATE leases SET last_run_at = {ahead}, held_until = 0 WHERE last_run_at IS NOT NULL"
        ),
    ] {
        world.execute_sql(&change).await;
    }
    let diagnosis = super::doctor::examine(&world).await;
    super::doctor::assert_bad(&diagnosis, "stored times", &["leases, usage_reports"]);
    world.start_server().await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    world
        .wait_until("corrected times", async || {
            let left = format!("leases WHERE last_run_at > {}", world.clock.now() + 120_000);
            world.count_rows(&left).await == 0
        })
        .await;
    world.finish().await;
}

async fn leases_of_a_killed_server_do_not_delay_the_next_one(mut world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 3, hours_ago(3)).await;
    world.stop().await;
    let until = world.clock.now() + DAY_MS;
    let names = ["sender", "period end", "report schedule"];
    for name in names {
        world
            .execute_sql(&format!(
                "INSERT INTO leases (name, holder, held_until, last_run_at) VALUES ('{name}', 'dead', {until}, {now}) \
                 ON CONFLICT (name) DO UPDATE SET holder = 'dead', held_until = {until}",
                now = world.clock.now()
            ))
            .await;
    }
    world.start_server().await;
    let summary = world.report_all().await;
    assert_eq!(summary.accepted.reports, 1, "{summary:?}");
    world.finish().await;
}
