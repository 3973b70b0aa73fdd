//! Restoring a backup of a database that ran in shadow mode: what the other integration billed is never sent, and what this
//! service sent after the moment is not sent again.

use chrono::TimeDelta;
use usage_client::ReportState;
use usage_server::commands::doctor::Severity;

use super::shadow::{NOON, both, shadow, theirs};
use crate::support::world::{World, at, on_both_engines};

on_both_engines!(
    a_restore_compares_only_what_is_from_the_moment_on,
    a_backup_from_before_the_moment_sends_nothing_until_it_is_named,
    a_moment_that_is_stated_in_the_restore_bills_nothing_twice,
    a_moment_that_is_named_stays_if_nothing_is_entered,
    a_stated_moment_takes_back_nothing_that_was_billed,
);

const MOMENT: &str = "2027-03-20T15:00:00Z";

async fn total(world: &World) -> i64 {
    world.stripe_total("cus_acct", "api_calls").await
}

/// Names the moment, lets the other integration send 20 before it, and sends 100 after it.
async fn switch_over(world: &mut World) {
    let named = world.client().switch_billing(at(MOMENT), "a test").await;
    named.unwrap();
    let before = at(MOMENT) - TimeDelta::hours(1);
    world.move_clocks(before).await;
    both(world, "theirs_2", 20, before).await;
    world.move_clocks(at(MOMENT) + TimeDelta::minutes(1)).await;
    world.reconfigure(&["--reporting=on"]).await;
    world.count("acct", 100, world.now()).await;
    let summary = world.report_all().await;
    assert_eq!(summary.accepted.quantity, 100);
}

async fn a_restore_compares_only_what_is_from_the_moment_on(mut world: World) {
    shadow(&mut world).await;
    both(&world, "theirs_1", 10, at(NOON)).await;
    switch_over(&mut world).await;
    let backup_at = at("2027-03-21T10:00:00Z");
    world.move_clocks(backup_at).await;
    let backup = world.back_up().await;
    world.move_clocks(backup_at + TimeDelta::minutes(30)).await;
    // Both sides send late usage of the day of the moment.
    let (their_time, our_time) = (
        at(MOMENT) - TimeDelta::hours(1),
        at(MOMENT) + TimeDelta::hours(2),
    );
    theirs(&world, "theirs_late", 1_000, their_time).await;
    world.count("acct", 7, our_time).await;
    world.report_all().await;
    assert_eq!(total(&world).await, 1_137);
    world.put_back(&backup).await;
    let lacks = "Stripe has 7 units that the database lacks";
    // Also with an earlier time, which is always right.
    for stated in [backup_at, at(NOON)] {
        let (_, printed) = world.restore(Some(stated), (false, true)).await;
        assert!(printed.contains(lacks), "{printed}");
    }
    let (is_done, printed) = world.restore(Some(at(NOON)), (true, false)).await;
    assert!(is_done && printed.contains(lacks), "{printed}");
    world.start_server().await;
    assert_eq!(world.usage("acct").await, (137, 107, 0, 30));
    // The caller repeats it.
    world.count("acct", 7, our_time).await;
    world.report_all().await;
    let known = [
        ReportState::Accepted,
        ReportState::Confirmed,
        ReportState::NotBillable,
    ];
    world.wait_until_reports_are("acct", &known).await;
    assert_eq!(total(&world).await, 1_137);
    assert_eq!(world.usage("acct").await, (137, 107, 0, 30));
    world.finish().await;
}

async fn a_backup_from_before_the_moment_sends_nothing_until_it_is_named(mut world: World) {
    shadow(&mut world).await;
    both(&world, "theirs_1", 10, at(NOON)).await;
    let backup = world.back_up().await;
    switch_over(&mut world).await;
    assert_eq!(total(&world).await, 130);
    world.put_back(&backup).await;
    let (is_done, printed) = world.restore(Some(at(NOON)), (true, false)).await;
    assert!(is_done, "{printed}");
    assert!(printed.contains("--bill-from"), "{printed}");
    world.start_server().await;
    let (severity, line) = world.doctor_says(None, "shadow mode").await;
    assert_eq!(severity, Severity::Bad, "{line}");
    // Callers repeat what is from both sides of the moment.
    let before = at(MOMENT) - TimeDelta::hours(1);
    world.count("acct", 20, before).await;
    world.count("acct", 100, at(MOMENT)).await;
    world.report_all().await;
    world.count("acct", 5, world.now()).await;
    world.report_all().await;
    assert_eq!(total(&world).await, 130);
    assert_eq!(world.usage("acct").await, (135, 0, 0, 135));
    world.stop().await;
    // What is counted at the time of the restore itself is not looked up.
    let later = world.now() + TimeDelta::hours(2);
    world.move_clocks(later).await;
    // Without a confirmation nothing changes.
    for answer in ["n\n", ""] {
        let (done, printed) = world
            .restore_with_moment(at(NOON), at(MOMENT), Some(answer))
            .await;
        assert!(!done.unwrap(), "{printed}");
        assert!(
            printed.contains("Bill usage of 2027-03-20T15:00:00Z and later"),
            "{printed}"
        );
        assert!(printed.contains("Nothing was changed"), "{printed}");
    }
    world.start_server().await;
    assert_eq!(world.usage("acct").await, (135, 0, 0, 135));
    let (severity, line) = world.doctor_says(None, "shadow mode").await;
    assert_eq!(severity, Severity::Bad, "{line}");
    assert_eq!(world.doctor_says(None, "sending").await.0, Severity::Ok);
    world.stop().await;
    let (done, printed) = world.restore_with_moment(at(NOON), at(MOMENT), None).await;
    assert!(done.unwrap(), "{printed}");
    assert!(
        printed.contains("billed from 2027-03-20T15:00:00Z on: 2 reports"),
        "{printed}"
    );
    let sent = "1 reports with 5 units are not at Stripe";
    assert!(printed.contains(sent), "{printed}");
    world.start_server().await;
    world.wait_until_sent("acct").await;
    assert_eq!(total(&world).await, 135);
    assert_eq!(world.usage("acct").await, (135, 105, 0, 30));
    assert_eq!(world.doctor_says(None, "shadow mode").await.0, Severity::Ok);
    world.finish().await;
}

async fn a_moment_that_is_stated_in_the_restore_bills_nothing_twice(mut world: World) {
    shadow(&mut world).await;
    both(&world, "theirs_1", 10, at(NOON)).await;
    let backup = world.back_up().await;
    switch_over(&mut world).await;
    world.put_back(&backup).await;
    let half = at(MOMENT) + TimeDelta::minutes(30);
    let (refused, _) = world.restore_with_moment(at(NOON), half, None).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("full hour"), "{refused}");
    let (done, printed) = world.restore_with_moment(at(NOON), at(MOMENT), None).await;
    assert!(done.unwrap(), "{printed}");
    let lacks = "Stripe has 100 units that the database lacks";
    assert!(printed.contains(lacks), "{printed}");
    world.start_server().await;
    let before = at(MOMENT) - TimeDelta::hours(1);
    world.count("acct", 20, before).await;
    let later = at(MOMENT) + TimeDelta::hours(2);
    world.move_clocks(later).await;
    world.count("acct", 5, later).await;
    world.report_all().await;
    world.wait_until_sent("acct").await;
    assert_eq!(total(&world).await, 135);
    assert_eq!(world.usage("acct").await, (135, 105, 0, 30));
    world.finish().await;
}

async fn a_moment_that_is_named_stays_if_nothing_is_entered(mut world: World) {
    shadow(&mut world).await;
    both(&world, "theirs_1", 10, at(NOON)).await;
    let backup = world.back_up().await;
    switch_over(&mut world).await;
    world.put_back(&backup).await;
    let (bill, enter) = (
        "Bill usage of 2027-03-20T15:00:00Z and later",
        "Enter this as usage already sent?",
    );
    let (done, printed) = world
        .restore_with_moment(at(NOON), at(MOMENT), Some("y\nn\n"))
        .await;
    assert!(!done.unwrap(), "{printed}");
    assert!(printed.contains(bill), "{printed}");
    let last = printed.lines().last().unwrap();
    for said in [
        enter,
        "Nothing was entered.",
        "The moment is named and stays: usage of 2027-03-20T15:00:00Z and later is billed.",
        "The reports that were open are closed.",
        "Sending stays paused: run this again",
    ] {
        assert!(last.contains(said), "{said}: {printed}");
    }
    // It is known now, so only the other question is asked.
    let (done, printed) = world
        .restore_with_moment(at(NOON), at(MOMENT), Some("y\n"))
        .await;
    assert!(done.unwrap(), "{printed}");
    assert!(!printed.contains(bill), "{printed}");
    assert!(printed.contains(enter), "{printed}");
    world.start_server().await;
    let before = at(MOMENT) - TimeDelta::hours(1);
    world.count("acct", 20, before).await;
    let later = at(MOMENT) + TimeDelta::hours(2);
    world.move_clocks(later).await;
    world.count("acct", 5, later).await;
    world.report_all().await;
    world.wait_until_sent("acct").await;
    assert_eq!(total(&world).await, 135);
    assert_eq!(world.usage("acct").await, (135, 105, 0, 30));
    world.finish().await;
}

async fn a_stated_moment_takes_back_nothing_that_was_billed(mut world: World) {
    shadow(&mut world).await;
    switch_over(&mut world).await;
    world.stop().await;
    let later = at(MOMENT) + TimeDelta::hours(1);
    let (refused, _) = world.restore_with_moment(at(NOON), later, None).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("used since then"), "{refused}");
    world.start_server().await;
    assert_eq!(total(&world).await, 120);
    world.finish().await;
}
