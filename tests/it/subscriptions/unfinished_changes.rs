//! Changes of subscriptions that do not end by themselves: aborted by an admin, named by the doctor, and asking Stripe
//! slowly meanwhile.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use fake_stripe::Fault;
use sea_orm::{ConnectionTrait as _, Statement};
use tokio::task::JoinHandle;
use usage_client::{
    AbortSubscriptionChange, CancelSubscription, ChangePlan, Changed, Error, ErrorKind, Reason,
    ReportState,
};
use usage_server::commands::doctor::Severity;

use crate::support::world::{
    TIMEOUT, World, at,
    billing::{BASIC, PRO},
    on_both_engines,
};

on_both_engines!(
    an_abort_ends_a_waiting_change_and_leaves_everything_as_it_was,
    a_stuck_change_is_named_and_can_be_aborted,
    an_abort_finishes_a_change_that_stripe_has_made,
    a_key_refused_when_reading_ends_a_change,
    waiting_changes_ask_stripe_at_one_rate,
    a_change_that_is_next_checked_after_its_deadline_is_not_made,
    a_change_that_stripe_is_not_asked_for_in_time_is_not_made,
);

const START: &str = "2027-03-10T13:12:34Z";
const END: &str = "2027-04-10T13:12:34Z";
const NOW: &str = "2027-03-20T08:30:10Z";
const UNFINISHED: &str = "subscription_changes WHERE finished_at IS NULL";

type Call = JoinHandle<Result<Changed, Error>>;

fn abort() -> AbortSubscriptionChange {
    AbortSubscriptionChange::new("acct").requested_by("ada")
}

fn begin_plan_change(world: &World) -> Call {
    let client = world.client();
    tokio::spawn(async move { client.change_plan(ChangePlan::new("acct", PRO)).await })
}

fn begin_abort(world: &World) -> Call {
    let client = world.client();
    tokio::spawn(async move { client.abort_subscription_change(abort()).await })
}

/// Waits until a change meets a condition.
async fn wait_until_change(world: &World, condition: &str) {
    let matching = format!("subscription_changes WHERE {condition}");
    world
        .wait_until(condition, async || world.count_rows(&matching).await > 0)
        .await;
}

/// Begins a change of the plan, and lets it come so far that Stripe was asked for it.
async fn begin_requested_plan_change(world: &World) -> Call {
    let call = begin_plan_change(world);
    world.advance_once_change_begins().await;
    wait_until_change(world, "requested_at IS NOT NULL AND error IS NOT NULL").await;
    call
}

/// The replica that works on the change.
async fn holder(world: &World) -> String {
    let database = world.connect_to_database().await;
    let sql = "SELECT holder FROM subscription_changes";
    let statement = Statement::from_string(database.get_database_backend(), sql);
    let row = database.query_one_raw(statement).await.unwrap().unwrap();
    let holder = row.try_get("", "holder").unwrap();
    database.close().await.unwrap();
    holder
}

/// Begins an abort, and waits until no replica asks Stripe for the change any more.
async fn begin_abort_and_wait_until_held(world: &World) -> Call {
    let before = holder(world).await;
    let call = begin_abort(world);
    wait_until_change(world, &format!("holder <> '{before}'")).await;
    call
}

fn assert_aborted(ended: Result<Changed, Error>) {
    let refused = ended.unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::ChangeAborted), "{refused}");
    assert_eq!(refused.kind(), ErrorKind::Precondition);
    let text = refused.to_string();
    assert!(text.contains("ada (no key, 127.0.0.1:"), "{text}");
    assert!(text.contains(") aborted the change"), "{text}");
}

async fn prices(world: &World) -> Vec<String> {
    let subscriptions = world.stripe().subscriptions().await.unwrap();
    let items = subscriptions[0].items.iter();
    items.map(|item| item.price.clone()).collect()
}

async fn an_abort_ends_a_waiting_change_and_leaves_everything_as_it_was(mut world: World) {
    world.start_subscribed(at(NOW), &[BASIC], at(START)).await;
    let client = world.client();
    let nothing = client.abort_subscription_change(abort()).await.unwrap_err();
    assert_eq!(nothing.reason(), Some(&Reason::NoChangeInProgress));
    let unknown = AbortSubscriptionChange::new("unknown");
    let unknown = client.abort_subscription_change(unknown).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound, "{unknown}");

    world.count("acct", 4, at(NOW)).await;
    let before = world.subscription("acct").await.unwrap().periods;
    let day = Duration::from_hours(24);
    world.stripe().set_summary_delay(day).await.unwrap();
    let call = tokio::spawn({
        let client = client.clone();
        async move {
            let cancel = CancelSubscription::now("acct");
            client.cancel_subscription(cancel).await
        }
    });
    world.advance_once_change_begins().await;
    world.count("acct", 3, world.now()).await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted, ReportState::Open])
        .await;
    let aborted = client.abort_subscription_change(abort()).await.unwrap();
    let change = aborted.change.clone().expect("a change");
    assert_eq!(change.subscription, "sub_acct");
    assert_aborted(call.await.unwrap());
    let again = client.abort_subscription_change(abort()).await.unwrap();
    assert_eq!(again.change, aborted.change);
    assert_eq!(world.count_rows("subscription_changes").await, 1);
    wait_until_change(&world, "step = 'aborted' AND error LIKE 'ada %'").await;

    let subscriptions = world.stripe().subscriptions().await.unwrap();
    assert_eq!(subscriptions[0].status, "active");
    assert_eq!(world.subscription("acct").await.unwrap().periods, before);
    world
        .stripe()
        .set_summary_delay(Duration::ZERO)
        .await
        .unwrap();
    // Usage since the change began is billed as before.
    world.advance_to(at(END), TimeDelta::days(7)).await;
    world.advance_past_draft(at(END)).await;
    world.assert_invoiced(&[7]).await;
    world.finish().await;
}

async fn a_stuck_change_is_named_and_can_be_aborted(mut world: World) {
    world.start_subscribed(at(NOW), &[BASIC], at(START)).await;
    world.count("acct", 4, at(NOW)).await;
    let (severity, line) = world.doctor_says(None, "changes").await;
    assert_eq!(severity, Severity::Ok, "{line}");
    let fault = Fault::status(500)
        .always()
        .on_method("POST")
        .on_path("/v1/subscriptions/");
    world.stripe().script(fault).await.unwrap();
    let call = begin_requested_plan_change(&world).await;
    world.move_clocks(world.now() + TimeDelta::hours(2)).await;
    // The caller does not wait for ever.
    let waited = call.await.unwrap().unwrap_err();
    assert_eq!(waited.reason(), Some(&Reason::StripeUnavailable));
    let (severity, line) = world.doctor_says(None, "changes").await;
    assert_eq!(severity, Severity::Bad, "{line}");
    for says in [
        "acct (change_plan, changing for 2 h 0 min: Stripe answered 500",
        "usagectl accounts abort-change",
    ] {
        assert!(line.contains(says), "{line}");
    }

    let aborting = begin_abort_and_wait_until_held(&world).await;
    // What was sent before may still arrive.
    world
        .move_clocks(world.now() + TimeDelta::seconds(25))
        .await;
    assert!(aborting.await.unwrap().unwrap().change.is_some());
    assert_eq!(world.count_rows(UNFINISHED).await, 0);
    assert_eq!(prices(&world).await, [BASIC]);
    world.stripe().clear_faults().await.unwrap();
    world.count("acct", 3, world.now()).await;
    world.advance_to(at(END), TimeDelta::days(7)).await;
    world.advance_past_draft(at(END)).await;
    world.assert_invoiced(&[7]).await;
    world.finish().await;
}

async fn an_abort_finishes_a_change_that_stripe_has_made(mut world: World) {
    world.start_subscribed(at(NOW), &[BASIC], at(START)).await;
    world.count("acct", 4, at(NOW)).await;
    let call = begin_plan_change(&world);
    wait_until_change(&world, "step = 'changing'").await;
    // The request is under way while the abort begins, and its answer is lost.
    let lost = Fault::accept_then_drop()
        .on_method("POST")
        .on_path("/v1/subscriptions/")
        .blocked_until_released("made");
    world.stripe().script(lost).await.unwrap();
    world.move_clocks(world.now() + TimeDelta::seconds(2)).await;
    let stripe = world.stripe();
    stripe.wait_for_blocked("made", 1, TIMEOUT).await.unwrap();
    let aborting = begin_abort_and_wait_until_held(&world).await;
    world.stripe().release("made").await.unwrap();
    world
        .wait_until("Stripe to make the change", async || {
            prices(&world).await == [PRO]
        })
        .await;
    world
        .move_clocks(world.now() + TimeDelta::seconds(25))
        .await;
    let refused = aborting.await.unwrap().unwrap_err();
    assert_eq!(
        refused.reason(),
        Some(&Reason::SubscriptionNotChangeable),
        "{refused}"
    );
    assert!(call.await.unwrap().unwrap().change.is_some());
    wait_until_change(&world, "step = 'done'").await;
    world.assert_invoiced(&[4]).await;
    world.finish().await;
}

async fn a_key_refused_when_reading_ends_a_change(mut world: World) {
    world.start_subscribed(at(NOW), &[BASIC], at(START)).await;
    world.count("acct", 4, at(NOW)).await;
    let before = world.subscription("acct").await.unwrap().periods;
    let call = begin_plan_change(&world);
    // All usage is shown, and the clock stands still before the request.
    wait_until_change(&world, "step = 'changing'").await;
    let fault = Fault::status(403)
        .always()
        .on_method("GET")
        .on_path("/v1/subscriptions/");
    world.stripe().script(fault).await.unwrap();
    world.move_clocks(world.now() + TimeDelta::seconds(2)).await;
    wait_until_change(&world, "step = 'refused' AND requested_at IS NULL").await;
    let refused = call.await.unwrap().unwrap_err();
    assert_eq!(
        refused.reason(),
        Some(&Reason::SubscriptionNotChangeable),
        "{refused}"
    );
    assert!(refused.to_string().contains("403"), "{refused}");
    world.stripe().clear_faults().await.unwrap();
    assert_eq!(world.subscription("acct").await.unwrap().periods, before);
    world.count("acct", 5, world.now()).await;
    let change = begin_plan_change(&world);
    assert!(
        world
            .while_clock_moves(change)
            .await
            .unwrap()
            .unwrap()
            .change
            .is_some()
    );
    world.assert_invoiced(&[9]).await;
    world.finish().await;
}

async fn waiting_changes_ask_stripe_at_one_rate(mut world: World) {
    /// Each change asks for one total in two seconds.
    const CHANGES: usize = 30;
    /// At most these at once, and then ten a second. A few were under way before.
    const AT_ONCE: usize = 10;
    const UNDER_WAY: usize = 4;
    world.with_prices_at(at(NOW)).await;
    let day = Duration::from_hours(24);
    world.stripe().set_summary_delay(day).await.unwrap();
    let mut calls = Vec::new();
    for n in 0..CHANGES {
        let name = format!("a{n}");
        world.subscribe(&name, &[BASIC], at(START)).await;
        world.link_to_subscription(&name).await;
        world.count(&name, 1, at(NOW) - TimeDelta::hours(3)).await;
    }
    world.report_all().await;
    for n in 0..CHANGES {
        let client = world.client();
        let cancel = CancelSubscription::now(format!("a{n}"));
        calls.push(tokio::spawn(async move {
            client.cancel_subscription(cancel).await
        }));
    }
    let totals_read = async || {
        let requests = world.stripe().requests().await.unwrap();
        let totals = requests.iter();
        totals
            .filter(|request| request.path.ends_with("/event_summaries"))
            .count()
    };
    let at_least = async |number: usize| {
        world
            .wait_until("totals to be read", async || totals_read().await >= number)
            .await;
    };
    at_least(1).await;
    let (begun, before) = (Instant::now(), totals_read().await);
    at_least(before + CHANGES).await;
    let fastest =
        Duration::from_millis(100) * u32::try_from(CHANGES - AT_ONCE - UNDER_WAY).unwrap();
    assert!(begun.elapsed() >= fastest, "{:?}", begun.elapsed());
    for call in calls {
        call.abort();
    }
    world.finish().await;
}

async fn a_change_that_is_next_checked_after_its_deadline_is_not_made(mut world: World) {
    world.start_subscribed(at(NOW), &[BASIC], at(START)).await;
    world.count("acct", 4, at(NOW)).await;
    let day = Duration::from_hours(24);
    world.stripe().set_summary_delay(day).await.unwrap();
    let call = begin_plan_change(&world);
    world.advance_once_change_begins().await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    assert_undone_after_hours(world, call, "%was over").await;
}

async fn a_change_that_stripe_is_not_asked_for_in_time_is_not_made(mut world: World) {
    world.start_subscribed(at(NOW), &[BASIC], at(START)).await;
    world.count("acct", 4, at(NOW)).await;
    let call = begin_plan_change(&world);
    // All usage is shown, and the clock stands still before the request.
    wait_until_change(&world, "step = 'changing'").await;
    assert_undone_after_hours(world, call, "Stripe was not asked%").await;
}

/// Without a replica for hours, in which Stripe shows everything, the change is not made, and all is billed as before.
async fn assert_undone_after_hours(mut world: World, call: Call, why: &str) {
    world.stop().await;
    assert!(call.await.unwrap().is_err());
    world
        .stripe()
        .set_summary_delay(Duration::ZERO)
        .await
        .unwrap();
    world.move_clocks(world.now() + TimeDelta::hours(3)).await;
    world.start_server().await;
    wait_until_change(&world, &format!("step = 'undone' AND error LIKE '{why}'")).await;
    assert_eq!(prices(&world).await, [BASIC]);
    world.count("acct", 3, world.now()).await;
    world.advance_to(at(END), TimeDelta::days(7)).await;
    world.advance_past_draft(at(END)).await;
    world.assert_invoiced(&[7]).await;
    world.finish().await;
}
