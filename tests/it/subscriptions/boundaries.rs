//! Boundaries: usage before and after a link, an unlink and a billing period's end inside an hour is billed correctly,
//! to the millisecond.

use chrono::{DateTime, TimeDelta, Utc};
use usage_client::{ErrorKind, PutAccount, ReportState, UsageReport};

use crate::support::world::{World, hours_ago, on_both_engines};

on_both_engines!(
    usage_around_a_link_is_billed_from_the_link_on,
    usage_around_an_unlink_is_billed_until_the_unlink,
    usage_around_a_new_customer_is_billed_to_each_customer,
    usage_around_a_period_end_has_events_on_both_sides,
    an_event_without_a_whole_minute_is_not_dated_before_its_boundary,
    a_boundary_beside_the_usage_of_an_open_report_moves_its_edge,
    a_boundary_inside_the_usage_of_an_open_report_closes_it,
    a_report_straddling_a_new_customer_is_billed_to_the_old_one,
    a_backdated_link_bills_earlier_free_usage,
    a_new_customer_is_not_billed_for_another_customers_usage,
    late_usage_is_billed_to_the_customer_of_its_time,
);

const MS: TimeDelta = TimeDelta::milliseconds(1);

/// A time inside an hour, some hours ago.
fn middle() -> DateTime<Utc> {
    hours_ago(4) + TimeDelta::minutes(30)
}

/// The account's reports by the start of their windows.
async fn by_window(world: &World, account: &str) -> Vec<UsageReport> {
    let mut reports = world.reports(account).await;
    reports.sort_by_key(|report| (report.window.start, report.closed_at));
    reports
}

fn edges(report: &UsageReport) -> (DateTime<Utc>, DateTime<Utc>, i64) {
    (report.window.start, report.window.end, report.quantity)
}

/// A customer's events: the timestamp and quantity of each.
async fn billed(world: &World, customer: &str) -> Vec<(DateTime<Utc>, i64)> {
    let events = world.meter_events(customer).await;
    let moment = |secs| DateTime::from_timestamp(secs, 0).unwrap();
    events
        .iter()
        .map(|event| (moment(event.timestamp), event.value))
        .collect()
}

async fn usage_around_a_link_is_billed_from_the_link_on(world: World) {
    let boundary = middle() + TimeDelta::milliseconds(250);
    world
        .stripe()
        .create_subscribed_customer("cus_acct")
        .await
        .unwrap();
    let link = PutAccount::stripe("acct", "cus_acct").bill_from(boundary);
    world.client().put_account(link).await.unwrap();
    world.count("acct", 3, boundary - MS).await;
    world.count("acct", 5, boundary).await;
    world.report_all().await;
    let reports = by_window(&world, "acct").await;
    assert_eq!(edges(&reports[0]), (hours_ago(4), boundary, 3));
    assert_eq!(edges(&reports[1]), (boundary, hours_ago(3), 5));
    assert_eq!(reports[0].state, ReportState::NotBillable);
    assert_eq!(
        billed(&world, "cus_acct").await,
        [(middle() + TimeDelta::minutes(1), 5)]
    );
    world.finish().await;
}

async fn usage_around_an_unlink_is_billed_until_the_unlink(mut world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.freeze(middle()).await;
    let account = world
        .client()
        .put_account(PutAccount::free("acct"))
        .await
        .unwrap()
        .account;
    assert_eq!(account.valid_from, middle());
    world.count("acct", 3, middle() - MS).await;
    world.count("acct", 5, middle()).await;
    world.report_all().await;
    assert_eq!(world.usage("acct").await, (8, 3, 0, 5));
    assert_eq!(billed(&world, "cus_acct").await, [(hours_ago(4), 3)]);
    world.finish().await;
}

async fn usage_around_a_new_customer_is_billed_to_each_customer(mut world: World) {
    world.link_to_new_customer("acct", "cus_old").await;
    world
        .stripe()
        .create_subscribed_customer("cus_new")
        .await
        .unwrap();
    world.freeze(middle()).await;
    world
        .client()
        .put_account(PutAccount::stripe("acct", "cus_new"))
        .await
        .unwrap();
    world.count("acct", 3, middle() - MS).await;
    world.count("acct", 5, middle()).await;
    world.report_all().await;
    assert_eq!(billed(&world, "cus_old").await, [(hours_ago(4), 3)]);
    assert_eq!(billed(&world, "cus_new").await, [(middle(), 5)]);
    world.finish().await;
}

async fn usage_around_a_period_end_has_events_on_both_sides(world: World) {
    let end = middle() + TimeDelta::seconds(7);
    world.link_to_new_customer("acct", "cus_acct").await;
    let period = PutAccount::stripe("acct", "cus_acct").current_period(hours_ago(50), end);
    world.client().put_account(period).await.unwrap();
    for round in 0..2 {
        world.count("acct", 3 + round, end - MS).await;
        world.count("acct", 5 + round, end).await;
        world.report_all().await;
    }
    let minutes = TimeDelta::minutes;
    let expected = [
        (hours_ago(4), 3),
        (hours_ago(4) + minutes(1), 4),
        (middle() + minutes(1), 5),
        (middle() + minutes(2), 6),
    ];
    assert_eq!(billed(&world, "cus_acct").await, expected);
    world.finish().await;
}

async fn an_event_without_a_whole_minute_is_not_dated_before_its_boundary(world: World) {
    let boundary = hours_ago(3) - TimeDelta::milliseconds(29_500);
    world
        .stripe()
        .create_subscribed_customer("cus_acct")
        .await
        .unwrap();
    let link = PutAccount::stripe("acct", "cus_acct").bill_from(boundary);
    world.client().put_account(link).await.unwrap();
    for round in 0..2 {
        world.count("acct", 5 + round, boundary).await;
        world.report_all().await;
    }
    let events = billed(&world, "cus_acct").await;
    assert_eq!(events.len(), 2);
    for (stamp, _) in events {
        assert!(boundary <= stamp && stamp < hours_ago(3), "{stamp}");
    }
    world.finish().await;
}

async fn a_boundary_beside_the_usage_of_an_open_report_moves_its_edge(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    let minutes = TimeDelta::minutes;
    let (before, after) = (hours_ago(4) + minutes(10), hours_ago(6) + minutes(50));
    world.count("acct", 3, before).await;
    world.count("acct", 4, after).await;
    for edge in [hours_ago(6) + minutes(30), hours_ago(4) + minutes(30)] {
        let start = edge - TimeDelta::days(30);
        let period = PutAccount::stripe("acct", "cus_acct").current_period(start, edge);
        world.client().put_account(period).await.unwrap();
    }
    world.count("acct", 10, before + minutes(30)).await;
    world.count("acct", 20, after - minutes(40)).await;
    world.count("acct", 100, before).await;
    world.count("acct", 200, after).await;
    let reports = by_window(&world, "acct").await;
    let expected = [
        (hours_ago(6), hours_ago(6) + minutes(30), 20),
        (hours_ago(6) + minutes(30), hours_ago(5), 204),
        (hours_ago(4), hours_ago(4) + minutes(30), 103),
        (hours_ago(4) + minutes(30), hours_ago(3), 10),
    ];
    assert_eq!(reports.iter().map(edges).collect::<Vec<_>>(), expected);
    assert!(
        reports
            .iter()
            .all(|report| report.state == ReportState::Open && !report.straddled)
    );
    world.report_all().await;
    assert_eq!(world.usage("acct").await, (337, 337, 0, 0));
    world.finish().await;
}

async fn a_boundary_inside_the_usage_of_an_open_report_closes_it(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    let (before, after) = (
        middle() - TimeDelta::minutes(20),
        middle() + TimeDelta::minutes(10),
    );
    world.count("acct", 3, before).await;
    world.count("acct", 4, after).await;
    let period = PutAccount::stripe("acct", "cus_acct").current_period(hours_ago(50), middle());
    world.client().put_account(period).await.unwrap();
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    let straddled = world.reports("acct").await.pop().unwrap();
    assert_eq!(edges(&straddled), (hours_ago(4), hours_ago(3), 7));
    assert!(straddled.straddled);
    assert_eq!(straddled.period_end, Some(hours_ago(3)));
    world.count("acct", 10, before).await;
    world.count("acct", 20, after).await;
    world.report_all().await;
    let expected = [
        (hours_ago(4), 7),
        (hours_ago(4) + TimeDelta::minutes(1), 10),
        (middle(), 20),
    ];
    assert_eq!(billed(&world, "cus_acct").await, expected);
    world.finish().await;
}

async fn a_report_straddling_a_new_customer_is_billed_to_the_old_one(mut world: World) {
    world.link_to_new_customer("acct", "cus_old").await;
    world
        .stripe()
        .create_subscribed_customer("cus_new")
        .await
        .unwrap();
    world.freeze(middle()).await;
    world
        .count("acct", 3, middle() - TimeDelta::minutes(5))
        .await;
    // Three minutes in the future, because the callers' clocks are ahead.
    world
        .count("acct", 4, middle() + TimeDelta::minutes(3))
        .await;
    world
        .client()
        .put_account(PutAccount::stripe("acct", "cus_new"))
        .await
        .unwrap();
    world
        .count("acct", 10, middle() + TimeDelta::minutes(3))
        .await;
    world.report_all().await;
    assert!(
        world
            .reports("acct")
            .await
            .iter()
            .any(|report| report.straddled)
    );
    assert_eq!(billed(&world, "cus_old").await, [(hours_ago(4), 7)]);
    assert_eq!(billed(&world, "cus_new").await, [(middle(), 10)]);
    world.finish().await;
}

async fn a_backdated_link_bills_earlier_free_usage(world: World) {
    world
        .client()
        .put_account(PutAccount::free("acct"))
        .await
        .unwrap();
    for hours in [6, 4, 2] {
        world.count("acct", hours, hours_ago(hours)).await;
    }
    world.report_all().await;
    assert_eq!(world.usage("acct").await, (12, 0, 0, 12));
    world
        .stripe()
        .create_subscribed_customer("cus_acct")
        .await
        .unwrap();
    let link = PutAccount::stripe("acct", "cus_acct").bill_from(hours_ago(4));
    world.client().put_account(link).await.unwrap();
    world.wait_until_sent("acct").await;
    assert_eq!(world.usage("acct").await, (12, 6, 0, 6));
    assert_eq!(
        billed(&world, "cus_acct").await,
        [(hours_ago(4), 4), (hours_ago(2), 2)]
    );
    world.finish().await;
}

async fn a_new_customer_is_not_billed_for_another_customers_usage(world: World) {
    world.link_to_new_customer("acct", "cus_old").await;
    world.count("acct", 3, hours_ago(5)).await;
    world.report_all().await;
    world
        .stripe()
        .create_subscribed_customer("cus_new")
        .await
        .unwrap();
    let backwards = PutAccount::stripe("acct", "cus_new").bill_from(hours_ago(6));
    let error = world.client().put_account(backwards).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let known_period =
        PutAccount::stripe("acct", "cus_new").current_period(hours_ago(6), hours_ago(-600));
    let account = world
        .client()
        .put_account(known_period)
        .await
        .unwrap()
        .account;
    assert!(
        account.valid_from > hours_ago(0),
        "the default stops where the other is billed"
    );
    world.report_all().await;
    assert_eq!(billed(&world, "cus_old").await, [(hours_ago(5), 3)]);
    assert_eq!(billed(&world, "cus_new").await, []);
    world.finish().await;
}

async fn late_usage_is_billed_to_the_customer_of_its_time(mut world: World) {
    world.link_to_new_customer("acct", "cus_old").await;
    world
        .stripe()
        .create_subscribed_customer("cus_new")
        .await
        .unwrap();
    world.freeze(middle()).await;
    world.count("acct", 3, hours_ago(5)).await;
    world
        .client()
        .put_account(PutAccount::stripe("acct", "cus_new"))
        .await
        .unwrap();
    world.move_clocks(hours_ago(1)).await;
    world.count("acct", 4, hours_ago(5)).await;
    world.count("acct", 5, hours_ago(2)).await;
    world.report_all().await;
    assert_eq!(billed(&world, "cus_old").await, [(hours_ago(5), 7)]);
    assert_eq!(billed(&world, "cus_new").await, [(hours_ago(2), 5)]);
    world.finish().await;
}
