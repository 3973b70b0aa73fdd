//! The switch-over from another integration to this service: each unit is billed once, whatever the servers, the
//! callers and the subscription do meanwhile.

use std::time::Duration;

use chrono::TimeDelta;
use usage_client::{
    CancelSubscription, ChangePlan, Error, ErrorKind, ForceReport, Reason, ReportState,
    ShadowFinding,
};

use super::shadow::{NOON, assert_refused, both, compared, shadow, theirs};
use crate::support::world::{Server, World, at, billing::PRO, on_both_engines, on_postgres};

on_both_engines!(
    each_unit_is_billed_once_around_the_switch_over,
    usage_is_not_lost_while_servers_have_not_switched,
    a_cancel_after_the_switch_waits_until_stripe_shows_what_was_sent_since,
    a_moment_is_a_full_hour_ahead_and_final_once_it_has_come,
);
on_postgres!(replicas_that_switch_at_different_times_bill_each_unit_once);

/// The quantities of the meter on the customer's final invoices.
async fn invoiced(world: &World) -> Vec<i64> {
    world.invoiced_quantities("cus_acct", "api_calls").await
}

async fn each_unit_is_billed_once_around_the_switch_over(mut world: World) {
    shadow(&mut world).await;
    let moment = at("2027-03-20T15:00:00Z");
    both(&world, "theirs_1", 10, at(NOON)).await;
    world.report_all().await;
    world
        .client()
        .switch_billing(moment, "a test")
        .await
        .unwrap();
    let two_hours_before = moment - TimeDelta::hours(2);
    world.move_clocks(two_hours_before).await;
    both(&world, "theirs_2", 20, two_hours_before).await;
    world.move_clocks(moment - TimeDelta::seconds(1)).await;
    both(&world, "theirs_3", 40, world.now()).await;
    world.move_clocks(moment + TimeDelta::minutes(1)).await;
    world.count("acct", 100, moment).await;
    // The server that only reads is replaced after the moment.
    world.reconfigure(&["--reporting=on"]).await;
    world.count("acct", 200, world.now()).await;
    // What arrives late belongs to the side of its time.
    let late = moment - TimeDelta::milliseconds(1);
    both(&world, "theirs_4", 80, late).await;
    let summary = world.report_all().await;
    assert_eq!(summary.accepted.quantity, 300);
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 450);
    let days = compared(&world).await;
    assert!(
        days.iter().all(|day| day.finding == ShadowFinding::Equal),
        "{days:?}"
    );
    let end = at("2027-03-22T09:00:00Z");
    world.advance_past_draft(end).await;
    assert_eq!(invoiced(&world).await, [450]);
    world
        .advance_until_found("usage_reports WHERE state = 'invoiced'")
        .await;
    let reports = world.reports("acct").await;
    let of = |state, elsewhere| {
        let own = reports
            .iter()
            .filter(move |report| report.state == state && report.billed_elsewhere == elsewhere);
        own.map(|report| report.quantity).sum::<i64>()
    };
    assert_eq!(of(ReportState::Invoiced, false), 300);
    assert_eq!(of(ReportState::NotBillable, true), 150);
    world.finish().await;
}

async fn usage_is_not_lost_while_servers_have_not_switched(mut world: World) {
    shadow(&mut world).await;
    let moment = at("2027-03-20T13:00:00Z");
    world
        .client()
        .switch_billing(moment, "a test")
        .await
        .unwrap();
    world.move_clocks(moment + TimeDelta::minutes(30)).await;
    world.count("acct", 6, moment).await;
    world.start_run().await;
    world
        .wait_until_reports_are("acct", &[ReportState::Closed])
        .await;
    let change = ChangePlan::new("acct", PRO);
    assert_refused(
        world.client().change_plan(change).await,
        "REPORTING is shadow",
    );
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 0);
    world.crash_and_restart().await;
    world.reconfigure(&["--reporting=on"]).await;
    world.wait_until_sent("acct").await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 6);
    world.finish().await;
}

async fn a_cancel_after_the_switch_waits_until_stripe_shows_what_was_sent_since(mut world: World) {
    shadow(&mut world).await;
    // Much more than what is sent from here, and in the same billing period.
    theirs(&world, "theirs", 1_000, at(NOON)).await;
    let moment = at("2027-03-20T13:00:00Z");
    world
        .client()
        .switch_billing(moment, "a test")
        .await
        .unwrap();
    world.move_clocks(moment + TimeDelta::minutes(1)).await;
    world.reconfigure(&["--reporting=on"]).await;
    world.count("acct", 4, world.now()).await;
    let stripe = world.stripe();
    // What the other integration sent is shown by now, and what is sent from here is not.
    let late = Duration::from_mins(30);
    stripe.set_summary_delay(late).await.unwrap();
    let client = world.client().clone();
    let (refused, ()) = tokio::join!(
        client.cancel_subscription(CancelSubscription::now("acct")),
        async {
            world.advance_once_change_begins().await;
            world
                .wait_until_reports_are("acct", &[ReportState::Accepted])
                .await;
            let over = world.now() + TimeDelta::seconds(125);
            world.move_clocks(over).await;
        }
    );
    let refused = refused.unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::ChangeTimedOut), "{refused}");
    let subscriptions = world.stripe().subscriptions().await.unwrap();
    assert_eq!(subscriptions[0].status, "active");
    world.finish().await;
}

async fn a_moment_is_a_full_hour_ahead_and_final_once_it_has_come(mut world: World) {
    let name = async |world: &World, text: &str| {
        let named = world.client().switch_billing(at(text), "a test").await;
        named.map(|named| named.former_bill_from)
    };
    let refused = |result: Result<_, Error>, words: &str| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    refused(name(&world, "2100-01-01T00:00:00Z").await, "never used");
    shadow(&mut world).await;
    refused(name(&world, "2027-03-20T14:30:00Z").await, "full hour");
    refused(name(&world, NOON).await, "10 minutes after");
    let one = "2027-03-20T14:00:00Z";
    assert_eq!(name(&world, one).await.unwrap(), None);
    assert_eq!(name(&world, one).await.unwrap(), Some(at(one)));
    let other = "2027-03-20T13:00:00Z";
    assert_eq!(name(&world, other).await.unwrap(), Some(at(one)));
    world.move_clocks(at(other) - TimeDelta::minutes(5)).await;
    let later = "2027-03-20T15:00:00Z";
    refused(name(&world, later).await, "less than 10 minutes");
    world.move_clocks(at(other)).await;
    refused(
        name(&world, "2027-03-21T00:00:00Z").await,
        "has billed since",
    );
    let entries = "audit_entries WHERE action = 'SwitchBilling' AND outcome = 'done'";
    assert_eq!(world.count_rows(entries).await, 3);
    world.finish().await;
}

async fn replicas_that_switch_at_different_times_bill_each_unit_once(mut world: World) {
    shadow(&mut world).await;
    let mut config = world.config();
    config.stripe.reporting = usage_server::config::Reporting::On;
    let moment = at("2027-03-20T13:00:00Z");
    both(&world, "theirs_1", 1, at(NOON)).await;
    // One replica is switched before anything is named: it sends nothing.
    let replica = Server::start(config, world.clock.clone()).await;
    let client = replica.client().await;
    let run = client.force_report(ForceReport::all()).await.unwrap();
    assert_eq!(run.summary().await.unwrap().not_billable.quantity, 1);
    let words = "billed by another integration";
    let cancel = CancelSubscription::at_period_end("acct");
    assert_refused(client.cancel_subscription(cancel.clone()).await, words);
    world
        .client()
        .switch_billing(moment, "a test")
        .await
        .unwrap();
    world.move_clocks(moment - TimeDelta::minutes(10)).await;
    assert_refused(client.cancel_subscription(cancel).await, words);
    both(&world, "theirs_2", 2, world.now()).await;
    world.move_clocks(moment + TimeDelta::minutes(2)).await;
    // The other closes what the first one sends, and stops in between.
    world.count("acct", 4, moment).await;
    world.start_run().await;
    world
        .wait_until("the usage at Stripe", async || {
            world.stripe_total("cus_acct", "api_calls").await == 7
        })
        .await;
    world.count("acct", 8, moment + TimeDelta::minutes(1)).await;
    world.start_run().await;
    world.kill_and_wait().await;
    world.expire_leases().await;
    world.reconfigure(&["--reporting=on"]).await;
    both(&world, "theirs_3", 16, moment - TimeDelta::minutes(1)).await;
    world.start_run().await;
    world
        .wait_until("all usage at Stripe", async || {
            world.stripe_total("cus_acct", "api_calls").await == 31
        })
        .await;
    world.wait_until_sent("acct").await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 31);
    assert_eq!(world.usage("acct").await, (31, 12, 0, 19));
    replica.stop().await.unwrap();
    world.finish().await;
}
