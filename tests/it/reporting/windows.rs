//! Boundaries: usage before and after them goes to different reports, to the millisecond.

use chrono::{DateTime, TimeDelta, Utc};
use usage_client::{Increment, Period, PutAccount, ReportState, UsageReport};

use crate::{
    subscriptions::links::put,
    support::world::{World, at, on_both_engines},
};

on_both_engines!(
    usage_around_a_link_is_in_different_reports,
    usage_around_a_known_period_end_is_in_different_reports,
    a_late_boundary_moves_the_edge_of_a_report_on_one_side,
    a_late_boundary_does_not_split_a_straddling_report,
);

/// The start of an hour that is used only for tests of boundaries.
const HOUR: &str = "2026-06-20T10:00:00Z";

fn minute(minute: i64) -> DateTime<Utc> {
    at(HOUR) + TimeDelta::minutes(minute)
}

/// The windows of the account's reports with their quantities, ordered by time.
async fn windows(world: &World) -> Vec<(Period, i64)> {
    let mut reports = world.reports("acct").await;
    reports.sort_by_key(|report| (report.window.start, report.quantity));
    let window = |report: &UsageReport| (report.window, report.quantity);
    reports.iter().map(window).collect()
}

async fn usage_around_a_link_is_in_different_reports(mut world: World) {
    let clock = world.set_time(HOUR).await;
    world.stripe().set_clock(clock.now()).await.unwrap();
    let subscription = world.customer_with_another_subscription("cus_a").await;
    let go_to = |moment: DateTime<Utc>| clock.set(moment.timestamp_millis());
    go_to(minute(10));
    world
        .client()
        .increment(Increment::new("acct").quantity(1))
        .await
        .unwrap();
    let (link, unlink) = (
        minute(20) + TimeDelta::milliseconds(123),
        minute(40) + TimeDelta::milliseconds(7),
    );
    go_to(link);
    put(
        &world,
        PutAccount::stripe("acct", "cus_a").subscription(subscription),
    )
    .await;
    world
        .client()
        .increment(Increment::new("acct").quantity(10))
        .await
        .unwrap();
    go_to(unlink);
    put(&world, PutAccount::free("acct")).await;
    go_to(minute(50));
    world
        .client()
        .increment(Increment::new("acct").quantity(100))
        .await
        .unwrap();
    // Late usage is assigned to the right side, to the millisecond.
    let millisecond = TimeDelta::milliseconds(1);
    world.count("acct", 2, link - millisecond).await;
    world.count("acct", 20, link).await;
    world.count("acct", 40, unlink - millisecond).await;
    world.count("acct", 200, unlink).await;
    let expected = [
        (Period::new(minute(0), link), 3),
        (Period::new(link, unlink), 70),
        (Period::new(unlink, minute(60)), 300),
    ];
    assert_eq!(windows(&world).await, expected);
    // Also after a restart, with empty caches.
    world.restart().await;
    world.count("acct", 80, link).await;
    assert_eq!(windows(&world).await[1], (Period::new(link, unlink), 150));

    let now = clock.now();
    world.stripe().set_clock(now).await.unwrap();
    world.report_all().await;
    let mut reports = world.reports("acct").await;
    reports.sort_by_key(|report| report.window.start);
    assert!(reports.iter().all(|report| !report.straddled));
    let billed: Vec<_> = reports
        .iter()
        .map(|report| (report.state, report.stripe_customer.as_deref()))
        .collect();
    let expected = [
        (ReportState::NotBillable, None),
        (ReportState::Accepted, Some("cus_a")),
        (ReportState::NotBillable, None),
    ];
    assert_eq!(billed, expected);
    assert_eq!(world.stripe_total("cus_a", "api_calls").await, 150);
    world.finish().await;
}

async fn usage_around_a_known_period_end_is_in_different_reports(mut world: World) {
    let clock = world.set_time(HOUR).await;
    let end = minute(30) + TimeDelta::milliseconds(500);
    world.create_customers(&["cus_a"]).await;
    let period =
        PutAccount::stripe("acct", "cus_a").current_period(at(HOUR) - TimeDelta::days(30), end);
    put(&world, period).await;
    for (moment, quantity) in [
        (minute(29), 1),
        (end - TimeDelta::milliseconds(1), 2),
        (end, 4),
        // Before the job for period ends closes reports, five minutes after the end.
        (minute(34), 8),
    ] {
        clock.set(moment.timestamp_millis());
        let increment = Increment::new("acct").quantity(quantity);
        world.client().increment(increment).await.unwrap();
    }
    let expected = [
        (Period::new(minute(0), end), 3),
        (Period::new(end, minute(60)), 12),
    ];
    assert_eq!(windows(&world).await, expected);
    world.finish().await;
}

async fn a_late_boundary_moves_the_edge_of_a_report_on_one_side(mut world: World) {
    world.set_time("2026-06-20T12:00:00Z").await;
    world.create_customers(&["cus_a"]).await;
    world.count("acct", 1, minute(30)).await;
    world.count("acct", 2, minute(50)).await;
    let edge = minute(30);
    let period =
        PutAccount::stripe("acct", "cus_a").current_period(edge, edge + TimeDelta::days(30));
    put(&world, period).await;
    world.count("acct", 4, minute(40)).await;
    world
        .count("acct", 8, edge - TimeDelta::milliseconds(1))
        .await;
    let expected = [
        (Period::new(minute(0), edge), 8),
        (Period::new(edge, minute(60)), 7),
    ];
    assert_eq!(windows(&world).await, expected);
    assert!(
        world
            .reports("acct")
            .await
            .iter()
            .all(|report| !report.straddled)
    );
    world.finish().await;
}

async fn a_late_boundary_does_not_split_a_straddling_report(mut world: World) {
    world.set_time("2026-06-20T12:00:00Z").await;
    world.create_customers(&["cus_a"]).await;
    let edge = minute(30);
    world
        .count("acct", 1, edge - TimeDelta::milliseconds(1))
        .await;
    world.count("acct", 2, edge).await;
    let period =
        PutAccount::stripe("acct", "cus_a").current_period(edge, edge + TimeDelta::days(30));
    put(&world, period).await;
    world.count("acct", 4, edge).await;
    world.count("acct", 8, minute(10)).await;
    let whole = Period::new(minute(0), minute(60));
    let mut expected = vec![
        (whole, 3),
        (Period::new(minute(0), edge), 8),
        (Period::new(edge, minute(60)), 4),
    ];
    expected.sort_by_key(|(window, quantity)| (window.start, *quantity));
    assert_eq!(windows(&world).await, expected);
    let straddled = |report: &&UsageReport| report.straddled;
    let reports = world.reports("acct").await;
    let straddled: Vec<_> = reports.iter().filter(straddled).collect();
    assert_eq!(straddled.len(), 1);
    assert_eq!(straddled[0].window, whole);
    assert_eq!(straddled[0].period_end, Some(minute(60)));
    world.finish().await;
}
