//! Reporting: each closed report reaches Stripe exactly once, as one event, billed to the customer of its account.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use fake_stripe::StoredEvent;
use usage_client::{Batch, ForceReport, Increment, PutAccount, ReportState, UsageReport};
use usage_server::commands::doctor::Severity;

use crate::support::world::{World, hours_ago, on_both_engines};

on_both_engines!(
    new_usage_after_a_close_opens_another_report,
    stripe_receives_each_report_as_one_event,
    reports_of_one_window_have_different_minutes,
    a_free_account_never_reaches_stripe,
    an_account_without_a_customer_is_reported_once_it_is_linked,
    a_link_without_a_date_bills_from_now,
    a_link_with_a_known_period_bills_from_its_start,
    increments_during_reporting_are_in_exactly_one_report,
    late_usage_joins_its_own_window_and_gets_a_second_report,
    usage_older_than_33_days_is_sent_without_a_report_run,
    two_meters_go_to_two_stripe_meters,
    each_customer_has_one_call_in_flight,
    a_report_marked_before_a_pause_is_marked_again,
    usage_of_a_removed_meter_is_given_up_in_time,
);

/// Asserts that the fake Stripe has one event for each of these reports, and no others.
fn check_events(reports: &[UsageReport], events: &[StoredEvent]) {
    assert_eq!(reports.len(), events.len());
    for report in reports {
        let event = events
            .iter()
            .find(|event| event.identifier == report.identifier)
            .expect("its event");
        let stamp = report.event_timestamp.expect("a timestamp");
        assert!(report.window.contains(stamp), "{report:?}");
        assert_eq!(event.timestamp, stamp.timestamp());
        assert_eq!(event.value, report.quantity);
        assert_eq!(Some(&event.customer), report.stripe_customer.as_ref());
    }
}

async fn new_usage_after_a_close_opens_another_report(world: World) {
    let hour = hours_ago(3);
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hour).await;
    let open = world.reports("acct").await.pop().unwrap();
    assert_eq!((open.state, open.reported), (ReportState::Open, false));
    assert_eq!((open.period_end, open.closed_at), (None, None));
    assert_eq!((open.attempts, open.run_id), (0, None));

    let summary = world.report_all().await;
    assert_eq!((summary.closed.reports, summary.closed.quantity), (1, 5));
    assert_eq!(summary.accepted, summary.closed);
    let sent = world.reports("acct").await.pop().unwrap();
    assert_eq!(sent.id, open.id);
    assert_eq!((sent.state, sent.reported), (ReportState::Accepted, true));
    assert_eq!((sent.window.start, sent.window.end), (hour, hours_ago(2)));
    assert_eq!(sent.period_end, Some(sent.window.end));
    assert!(sent.closed_at.is_some() && sent.reported_at.is_some() && sent.first_sent_at.is_some());
    assert_eq!(sent.event_timestamp, Some(hour));
    assert_eq!((sent.attempts, sent.last_error), (1, None));
    assert_eq!(sent.run_id, summary.run_id);
    assert_eq!(world.usage("acct").await, (5, 5, 0, 0));

    world.count("acct", 2, hour).await;
    let reports = world.reports("acct").await;
    assert_eq!(reports.len(), 2);
    assert_eq!(
        (reports[0].state, reports[0].quantity),
        (ReportState::Open, 2)
    );
    assert_eq!(reports[1].quantity, 5, "a closed report does not change");
    assert_eq!(world.usage("acct").await, (7, 5, 2, 0));
    world.finish().await;
}

async fn stripe_receives_each_report_as_one_event(world: World) {
    let mut expected = 0;
    for account in ["a", "b", "c"] {
        world
            .link_to_new_customer(account, &format!("cus_{account}"))
            .await;
    }
    for round in 0..2 {
        let mut batch = Batch::new();
        for (index, account) in ["a", "b", "c"].into_iter().enumerate() {
            for hours in 0..8 {
                let quantity = 1 + round + 10 * i64::try_from(index).unwrap() + 100 * hours;
                expected += quantity;
                let at = hours_ago(hours) + TimeDelta::milliseconds(hours);
                batch = batch.push(Increment::new(account).quantity(quantity).timestamp(at));
            }
        }
        world.client().increment_batch(batch).await.unwrap();
        world.report_all().await;
    }
    let mut total = 0;
    for account in ["a", "b", "c"] {
        let events = world.meter_events(&format!("cus_{account}")).await;
        check_events(&world.reports(account).await, &events);
        assert_eq!(events.len(), 16);
        total += events.iter().map(|event| event.value).sum::<i64>();
    }
    assert_eq!(total, expected);
    let stats = world.stripe().stats().await.unwrap();
    assert_eq!((stats.events, stats.duplicates_refused), (48, 0));
    world.finish().await;
}

async fn reports_of_one_window_have_different_minutes(world: World) {
    let hour = hours_ago(2);
    world.link_to_new_customer("acct", "cus_acct").await;
    for round in 0..5 {
        world
            .count("acct", 1 + round, hour + TimeDelta::minutes(59))
            .await;
        world.report_all().await;
    }
    let events = world.meter_events("cus_acct").await;
    check_events(&world.reports("acct").await, &events);
    let minutes: Vec<i64> = events
        .iter()
        .map(|event| event.timestamp - hour.timestamp())
        .collect();
    assert_eq!(minutes, [0, 60, 120, 180, 240]);
    world.finish().await;
}

async fn a_free_account_never_reaches_stripe(world: World) {
    world
        .client()
        .put_account(PutAccount::free("free"))
        .await
        .unwrap();
    world.link_to_new_customer("paying", "cus_paying").await;
    for account in ["free", "paying"] {
        world
            .client()
            .increment(Increment::new(account).quantity(4))
            .await
            .unwrap();
        world.count(account, 3, hours_ago(1)).await;
    }
    let summary = world.report_all().await;
    assert_eq!(
        (summary.not_billable.quantity, summary.accepted.quantity),
        (7, 7)
    );
    assert_eq!(world.usage("free").await, (7, 0, 0, 7));
    for report in world.reports("free").await {
        assert_eq!(
            (report.state, report.stripe_customer),
            (ReportState::NotBillable, None)
        );
        assert!(report.period_end.is_some() && !report.reported);
    }
    let sent = world.all_attempts().await;
    assert!(
        sent.iter()
            .all(|request| request.customer.as_deref() == Some("cus_paying"))
    );
    world.finish().await;
}

async fn an_account_without_a_customer_is_reported_once_it_is_linked(world: World) {
    world.count("acct", 3, hours_ago(5)).await;
    world.count("acct", 5, hours_ago(3)).await;
    let summary = world.report_all().await;
    assert_eq!(
        (summary.no_customer.reports, summary.no_customer.quantity),
        (2, 8)
    );
    world
        .wait_until_reports_are("acct", &[ReportState::NoCustomer])
        .await;
    assert_eq!(world.usage("acct").await, (8, 0, 8, 0));
    assert_eq!(world.all_attempts().await.len(), 0);

    world
        .stripe()
        .create_subscribed_customer("cus_acct")
        .await
        .unwrap();
    let link = PutAccount::stripe("acct", "cus_acct").bill_from(hours_ago(4));
    world.client().put_account(link).await.unwrap();
    world.wait_until_sent("acct").await;
    assert_eq!(world.usage("acct").await, (8, 5, 0, 3));
    let events = world.meter_events("cus_acct").await;
    assert_eq!((events.len(), events[0].value), (1, 5));
    assert_eq!(events[0].timestamp, hours_ago(3).timestamp());
    world.finish().await;
}

async fn a_link_without_a_date_bills_from_now(mut world: World) {
    let now = hours_ago(2) + TimeDelta::minutes(20);
    world.freeze(now).await;
    let subscription = world.customer_with_another_subscription("cus_acct").await;
    world
        .count("acct", 3, now - TimeDelta::milliseconds(1))
        .await;
    let link = PutAccount::stripe("acct", "cus_acct").subscription(subscription);
    let account = world.client().put_account(link).await.unwrap().account;
    assert_eq!(account.valid_from, now);
    world.count("acct", 5, now).await;
    world.report_all().await;
    assert_eq!(world.usage("acct").await, (8, 5, 0, 3));
    assert_eq!(
        world.meter_events("cus_acct").await[0].timestamp,
        now.timestamp()
    );
    world.finish().await;
}

async fn a_link_with_a_known_period_bills_from_its_start(world: World) {
    let start = hours_ago(4) + TimeDelta::minutes(30);
    world
        .stripe()
        .create_subscribed_customer("cus_acct")
        .await
        .unwrap();
    world.count("acct", 3, start - TimeDelta::hours(1)).await;
    world.count("acct", 5, start).await;
    world.report_all().await;
    let link =
        PutAccount::stripe("acct", "cus_acct").current_period(start, start + TimeDelta::days(30));
    let account = world.client().put_account(link).await.unwrap().account;
    assert_eq!(account.valid_from, start);
    world.wait_until_sent("acct").await;
    assert_eq!(world.usage("acct").await, (8, 5, 0, 3));
    world.finish().await;
}

async fn increments_during_reporting_are_in_exactly_one_report(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let client = world.client();
            tokio::spawn(async move {
                for _ in 0..40 {
                    let one = Increment::new("acct")
                        .quantity(caller + 1)
                        .timestamp(hours_ago(1));
                    client.increment(one).await.unwrap();
                }
            })
        })
        .collect();
    while callers.iter().any(|caller| !caller.is_finished()) {
        world.report_all().await;
    }
    for caller in callers {
        caller.await.unwrap();
    }
    world.report_all().await;
    let total = 40 * (1..=8).sum::<i64>();
    assert_eq!(world.usage("acct").await, (total, total, 0, 0));
    let events = world.meter_events("cus_acct").await;
    check_events(&world.reports("acct").await, &events);
    assert_eq!(events.iter().map(|event| event.value).sum::<i64>(), total);
    world.finish().await;
}

async fn late_usage_joins_its_own_window_and_gets_a_second_report(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(6)).await;
    world.report_all().await;
    world
        .count("acct", 2, hours_ago(6) + TimeDelta::minutes(30))
        .await;
    world.count("acct", 1, hours_ago(2)).await;
    world.report_all().await;
    let mut reports = world.reports("acct").await;
    reports.sort_by_key(|report| (report.window.start, report.closed_at));
    let windows: Vec<_> = reports
        .iter()
        .map(|report| (report.window.start, report.quantity))
        .collect();
    assert_eq!(
        windows,
        [(hours_ago(6), 5), (hours_ago(6), 2), (hours_ago(2), 1)]
    );
    check_events(&reports, &world.meter_events("cus_acct").await);
    world.finish().await;
}

async fn usage_older_than_33_days_is_sent_without_a_report_run(world: World) {
    world
        .stripe()
        .create_subscribed_customer("cus_acct")
        .await
        .unwrap();
    let link = PutAccount::stripe("acct", "cus_acct").bill_from(hours_ago(34 * 24));
    world.client().put_account(link).await.unwrap();
    let hour = hours_ago(33 * 24 + 3);
    for quantity in [5, 2] {
        world.count("acct", quantity, hour).await;
        world
            .wait_until_reports_are("acct", &[ReportState::Accepted])
            .await;
    }
    let reports = world.reports("acct").await;
    assert_eq!(reports.len(), 2);
    assert!(reports.iter().all(|report| report.run_id.is_none()));
    check_events(&reports, &world.meter_events("cus_acct").await);
    world.finish().await;
}

async fn two_meters_go_to_two_stripe_meters(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count_of("acct", "api_calls", 3, hours_ago(1)).await;
    world.count_of("acct", "tokens", 500, hours_ago(1)).await;
    world.report_all().await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 3);
    assert_eq!(world.stripe_total("cus_acct", "llm_tokens").await, 500);
    assert_eq!(world.usage_of("acct", "tokens").await, (500, 500, 0, 0));
    world.finish().await;
}

async fn each_customer_has_one_call_in_flight(world: World) {
    let names: Vec<String> = (0..100).map(|number| format!("acct-{number:02}")).collect();
    for some in names.chunks(8) {
        futures_util::future::join_all(some.iter().map(async |name| {
            world
                .link_to_new_customer(name, &format!("cus_{name}"))
                .await;
        }))
        .await;
    }
    for hours in [1, 2] {
        for meter in ["api_calls", "tokens"] {
            let increments = names.iter().map(|name| {
                Increment::new(name)
                    .meter(meter)
                    .quantity(hours)
                    .timestamp(hours_ago(hours))
            });
            world
                .client()
                .increment_batch(increments.collect::<Batch>())
                .await
                .unwrap();
        }
    }
    let summary = world.report_all().await;
    assert_eq!(
        (summary.closed.reports, summary.closed.quantity),
        (400, 600)
    );
    assert_eq!(summary.accepted, summary.closed);
    let events = world.stripe().events().await.unwrap();
    let identifiers: BTreeSet<_> = events.iter().map(|event| &event.identifier).collect();
    assert_eq!((events.len(), identifiers.len()), (400, 400));
    assert_eq!(events.iter().map(|event| event.value).sum::<i64>(), 600);
    let stats = world.stripe().stats().await.unwrap();
    assert_eq!(
        (stats.max_in_flight_per_customer_meter, stats.lock_timeouts),
        (1, 0)
    );
    world.finish().await;
}

/// One event a second is sent, so the last ones still wait for their turn when the clocks jump, as after a pause of the
/// whole replica.
async fn a_report_marked_before_a_pause_is_marked_again(mut world: World) {
    world.reconfigure(&["--stripe-events-per-sec=1"]).await;
    let start = hours_ago(2);
    world.freeze(start).await;
    for account in ["a", "b", "c", "d"] {
        world
            .link_to_new_customer(account, &format!("cus_{account}"))
            .await;
        world.count(account, 5, hours_ago(5)).await;
    }
    let run = world.client().force_report(ForceReport::all()).await;
    world
        .wait_until("all to be marked", || async {
            world
                .count_rows("usage_reports WHERE state = 'sending' AND attempts = 1")
                .await
                >= 3
        })
        .await;
    world.move_clocks(start + TimeDelta::hours(25)).await;
    drop(run);
    let mut marked_again = 0;
    for account in ["a", "b", "c", "d"] {
        world.wait_until_sent(account).await;
        let report = world.reports(account).await.remove(0);
        assert!(report.reported, "{report:?}");
        marked_again += i32::from(report.attempts > 1);
        assert_eq!(world.meter_events(&format!("cus_{account}")).await.len(), 1);
    }
    assert!(marked_again > 0, "some waited for their turn");
    world.finish().await;
}

async fn usage_of_a_removed_meter_is_given_up_in_time(mut world: World) {
    let start = hours_ago(2);
    world.freeze(start).await;
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count_of("acct", "tokens", 7, start).await;
    world.reconfigure(&["--meters=api_calls:call"]).await;
    // The summary would wait: the report is not sent.
    let run = world.client().force_report(ForceReport::all()).await;
    drop(run.unwrap());
    world
        .wait_until_reports_are("acct", &[ReportState::Closed])
        .await;
    let (severity, line) = world.doctor_says(None, "meters").await;
    assert_eq!(severity, Severity::Bad, "{line}");
    assert!(line.contains("not configured: tokens;"), "{line}");
    world.move_clocks(start + TimeDelta::days(36)).await;
    world
        .wait_until_reports_are("acct", &[ReportState::TooLate])
        .await;
    world.finish().await;
}
