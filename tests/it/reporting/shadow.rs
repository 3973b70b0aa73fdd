//! Shadow mode: another integration bills, everything is counted and compared, and nothing is changed at Stripe.

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::{Fault, NewSubscription};
use usage_client::{
    CancelSubscription, ChangePlan, CompareShadow, Correct, Error, ErrorKind, PutAccount,
    ReportState, ShadowDay, ShadowFinding,
};
use usage_server::ServeError;

use crate::support::world::{
    Server, World, at,
    billing::{BASIC, PRO},
    on_both_engines,
};

on_both_engines!(
    a_day_in_shadow_mode_only_reads_from_stripe,
    a_report_in_shadow_mode_shows_the_event_that_would_be_sent,
    days_are_compared_with_what_the_other_integration_sent,
    customers_without_a_link_are_compared_after_the_others,
    a_list_that_stripe_does_not_give_ends_the_pages_with_the_reason,
    a_link_in_shadow_mode_bills_nothing_that_waited_for_it,
    usage_that_becomes_free_in_shadow_mode_loses_its_mark,
    a_database_that_reports_does_not_become_a_shadow,
);

const START: &str = "2027-02-22T09:00:00Z";
pub(super) const NOON: &str = "2027-03-20T12:00:00Z";

/// A server in shadow mode with stopped clocks, and the account `acct` linked to a subscription.
pub(super) async fn shadow(world: &mut World) {
    world.reconfigure(&["--reporting=shadow"]).await;
    world.start_subscribed(at(NOON), &[BASIC], at(START)).await;
}

/// What the other integration sends.
pub(super) async fn theirs(world: &World, identifier: &str, quantity: i64, at: DateTime<Utc>) {
    theirs_of(world, "cus_acct", identifier, quantity, at).await;
}

/// The same, of another customer.
async fn theirs_of(
    world: &World,
    customer: &str,
    identifier: &str,
    quantity: i64,
    at: DateTime<Utc>,
) {
    let (value, timestamp) = (quantity.to_string(), at.timestamp().to_string());
    let form = [
        ("event_name", "api_calls"),
        ("payload[stripe_customer_id]", customer),
        ("payload[value]", &value),
        ("identifier", identifier),
        ("timestamp", &timestamp),
    ];
    world
        .call_stripe("POST", "/v1/billing/meter_events", &form)
        .await;
}

/// Counts usage here, and lets the other integration send it.
pub(super) async fn both(world: &World, identifier: &str, quantity: i64, at: DateTime<Utc>) {
    world.count("acct", quantity, at).await;
    theirs(world, identifier, quantity, at).await;
}

pub(super) async fn compared(world: &World) -> Vec<ShadowDay> {
    let page = world.client().compare_shadow(CompareShadow::new()).await;
    page.unwrap().days
}

#[track_caller]
pub(super) fn assert_refused<T: std::fmt::Debug>(result: Result<T, Error>, words: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReportingDisabled, "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

async fn a_day_in_shadow_mode_only_reads_from_stripe(mut world: World) {
    shadow(&mut world).await;
    let before = world.stripe().requests().await.unwrap().len();
    let client = world.client();
    world.count("acct", 5, world.now()).await;
    let summary = world.report_all().await;
    assert_eq!(
        (summary.closed.quantity, summary.not_billable.quantity),
        (5, 5)
    );
    let words = "REPORTING is shadow";
    let now = CancelSubscription::now("acct")
        .invoice_now(true)
        .prorate(true);
    assert_refused(client.cancel_subscription(now).await, words);
    let later = CancelSubscription::at_period_end("acct");
    assert_refused(client.cancel_subscription(later).await, words);
    let change = ChangePlan::new("acct", PRO);
    assert_refused(client.change_plan(change).await, words);
    let correction = Correct::new("acct", -2, "counted twice").timestamp(world.now());
    assert_refused(client.correct(correction).await, "another integration");
    assert_eq!(world.count_rows("subscription_changes").await, 0);
    assert_eq!(world.count_rows("usage_reports").await, 1);
    let diagnosis = client.doctor().await.unwrap();
    let found = diagnosis.findings.iter();
    let found = found.filter(|one| one.check == "shadow mode").count();
    assert_eq!(found, 1);
    client
        .reconcile(usage_client::Reconcile::new())
        .await
        .unwrap();
    compared(&world).await;
    world
        .advance_to(world.now() + TimeDelta::days(1), TimeDelta::hours(1))
        .await;
    world.report_all().await;
    let requests = world.stripe().requests().await.unwrap();
    let made = &requests[before..];
    assert!(made.len() > 5, "{}", made.len());
    let changing = made.iter().find(|request| request.method != "GET");
    assert!(changing.is_none(), "{changing:?}");
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 0);
    world.finish().await;
}

async fn a_report_in_shadow_mode_shows_the_event_that_would_be_sent(mut world: World) {
    shadow(&mut world).await;
    world
        .count("acct", 5, at(NOON) - TimeDelta::minutes(20))
        .await;
    world.report_all().await;
    let [report] = &world.reports("acct").await[..] else {
        panic!("one report")
    };
    assert_eq!(report.state, ReportState::NotBillable);
    assert!(report.billed_elsewhere);
    assert_eq!(report.quantity, 5);
    assert_eq!(report.stripe_customer.as_deref(), Some("cus_acct"));
    assert!(report.identifier.starts_with("usage_"));
    assert_eq!(report.event_timestamp, Some(report.window.start));
    assert_eq!(report.attempts, 0);
    assert_eq!(world.usage("acct").await, (5, 0, 0, 5));
    world.finish().await;
}

async fn days_are_compared_with_what_the_other_integration_sent(mut world: World) {
    shadow(&mut world).await;
    let day = |days: i64| at(NOON) - TimeDelta::days(days);
    both(&world, "equal", 7, day(5)).await;
    world.count("acct", 7, day(4)).await;
    theirs(&world, "differs", 8, day(4)).await;
    world.count("acct", 3, day(3)).await;
    theirs(&world, "only_theirs", 4, day(2)).await;
    // Open usage counts too.
    world.report_all().await;
    both(&world, "today", 2, day(0)).await;
    let days = compared(&world).await;
    let found: Vec<_> = days
        .iter()
        .map(|day| {
            (
                (at(NOON) - day.day).num_days(),
                day.counted,
                day.stripe_total.clone().unwrap(),
                day.finding,
                day.preliminary,
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            (5, 7, 7, ShadowFinding::Equal, false),
            (4, 7, 8, ShadowFinding::Differs, false),
            (3, 3, 0, ShadowFinding::OnlyHere, false),
            (2, 0, 4, ShadowFinding::OnlyAtStripe, false),
            (0, 2, 2, ShadowFinding::Equal, true),
        ]
    );
    assert_eq!(days[0].account_ids, ["acct"]);
    let question = CompareShadow::new().only_differences();
    let page = world.client().compare_shadow(question).await.unwrap();
    assert_eq!(page.days.len(), 3);
    assert!(page.shadow && page.bill_from.is_none());
    let other = CompareShadow::new().stripe_customer("cus_other");
    let page = world.client().compare_shadow(other).await.unwrap();
    assert!(page.days.is_empty() && page.next_page_token.is_none());
    world.finish().await;
}

async fn customers_without_a_link_are_compared_after_the_others(mut world: World) {
    shadow(&mut world).await;
    both(&world, "linked", 7, at(NOON)).await;
    for name in ["b", "c"] {
        world.subscribe(name, &[BASIC], at(START)).await;
        let customer = format!("cus_{name}");
        theirs_of(&world, &customer, name, 5, at(NOON)).await;
    }
    // Without usage there is nothing to show.
    world.subscribe("d", &[BASIC], at(START)).await;
    let (mut found, mut token) = (Vec::new(), None::<String>);
    loop {
        let mut question = CompareShadow::new().page_size(1);
        if let Some(token) = token {
            question = question.page_token(token);
        }
        let page = world.client().compare_shadow(question).await.unwrap();
        assert_eq!(page.unlinked_error, None);
        let days = page.days.into_iter();
        found.extend(days.map(|day| (day.stripe_customer, day.finding, day.unlinked)));
        token = page.next_page_token;
        if token.is_none() {
            break;
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    let theirs = ShadowFinding::OnlyAtStripe;
    let expected = [
        ("cus_acct".to_owned(), ShadowFinding::Equal, false),
        ("cus_b".to_owned(), theirs, true),
        ("cus_c".to_owned(), theirs, true),
    ];
    assert_eq!(found, expected);
    incomplete_and_unreadable_subscriptions_hide_no_other(&world).await;
    // One customer of whom Stripe says nothing hides no other.
    let silent = Fault::status(500).on_path("/v1/subscriptions");
    let silent = silent.on_customer("cus_b").always();
    world.stripe().script(silent).await.unwrap();
    let page = world.client().compare_shadow(CompareShadow::new()).await;
    let page = page.unwrap();
    let mut customers: Vec<_> = page.days.iter().map(|day| &*day.stripe_customer).collect();
    customers.sort_unstable();
    assert_eq!(customers, ["cus_acct", "cus_c"]);
    let unread = page.unlinked_error.unwrap_or_default();
    assert!(unread.contains("the subscriptions of cus_b: "), "{unread}");
    world.stripe().clear_faults().await.unwrap();
    let no_lists = Fault::status(403).on_path("/v1/subscriptions").always();
    world.stripe().script(no_lists).await.unwrap();
    let page = world.client().compare_shadow(CompareShadow::new()).await;
    let page = page.unwrap();
    assert!(page.unlinked_error.is_some());
    assert_eq!(page.days.len(), 1);
    world.stripe().clear_faults().await.unwrap();
    world.finish().await;
}

async fn a_list_that_stripe_does_not_give_ends_the_pages_with_the_reason(mut world: World) {
    shadow(&mut world).await;
    both(&world, "linked", 7, at(NOON)).await;
    for name in ["b", "c"] {
        world.subscribe(name, &[BASIC], at(START)).await;
        theirs_of(&world, &format!("cus_{name}"), name, 5, at(NOON)).await;
    }
    let page_of = async |token: &Option<String>| {
        let mut question = CompareShadow::new().page_size(1);
        if let Some(token) = token {
            question = question.page_token(token);
        }
        world.client().compare_shadow(question).await.unwrap()
    };
    let silent = Fault::status(500).on_path("/v1/subscriptions").always();
    world.stripe().script(silent).await.unwrap();
    let linked = page_of(&None).await;
    assert_eq!((linked.days.len(), linked.unlinked_error), (1, None));
    let token = linked.next_page_token;
    assert!(token.is_some());
    let last = page_of(&token).await;
    let why = last.unlinked_error.unwrap_or_default();
    assert!(why.contains("500"), "{why}");
    assert_eq!(last.next_page_token, None);
    // The same page again goes on.
    world.stripe().clear_faults().await.unwrap();
    let (mut found, mut token) = (Vec::new(), token);
    loop {
        let page = page_of(&token).await;
        assert_eq!(page.unlinked_error, None);
        let days = page.days.into_iter();
        found.extend(days.map(|day| day.stripe_customer));
        token = page.next_page_token;
        if token.is_none() {
            break;
        }
    }
    found.sort_unstable();
    assert_eq!(found, ["cus_b", "cus_c"]);
    world.finish().await;
}

/// What has not begun hides no other, and what cannot be read is told.
async fn incomplete_and_unreadable_subscriptions_hide_no_other(world: &World) {
    let unpaid = NewSubscription {
        id: "sub_unpaid".to_owned(),
        customer: "cus_b".to_owned(),
        prices: vec![BASIC.to_owned()],
        ..NewSubscription::default()
    };
    world.stripe().create_subscription(&unpaid).await.unwrap();
    for (id, status, is_read) in [
        ("sub_acct", "7", true),
        ("sub_unpaid", "\"incomplete\"", true),
        ("sub_d", "7", false),
    ] {
        world.stripe().clear_faults().await.unwrap();
        let altered = Fault::alter(id, "status", Some(status)).on_method("GET");
        world.stripe().script(altered.always()).await.unwrap();
        let page = world.client().compare_shadow(CompareShadow::new()).await;
        let page = page.unwrap();
        let mut customers: Vec<_> = page.days.iter().map(|day| &*day.stripe_customer).collect();
        customers.sort_unstable();
        assert_eq!(customers, ["cus_acct", "cus_b", "cus_c"], "{id}");
        let unread = page.unlinked_error;
        let is_told = unread.as_ref().is_some_and(|why| why.contains(id));
        assert_eq!(is_told, !is_read, "{unread:?}");
    }
    world.stripe().clear_faults().await.unwrap();
}

async fn a_link_in_shadow_mode_bills_nothing_that_waited_for_it(mut world: World) {
    world.reconfigure(&["--reporting=shadow"]).await;
    world.with_prices_at(at(NOON)).await;
    world.subscribe("acct", &[BASIC], at(START)).await;
    world.count("acct", 5, at(NOON) - TimeDelta::hours(2)).await;
    world.report_all().await;
    assert_eq!(
        world.reports("acct").await[0].state,
        ReportState::NoCustomer
    );
    world.link_to_subscription("acct").await;
    let report = &world.reports("acct").await[0];
    assert!(report.billed_elsewhere);
    assert_eq!(report.event_timestamp, Some(report.window.start));
    let moment = at("2027-03-20T13:00:00Z");
    world
        .client()
        .switch_billing(moment, "a test")
        .await
        .unwrap();
    world.move_clocks(moment).await;
    world.reconfigure(&["--reporting=on"]).await;
    world.report_all().await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 0);
    let correction = Correct::new("acct", 1, "late").timestamp(at(NOON));
    assert_refused(
        world.client().correct(correction).await,
        "another integration",
    );
    world.finish().await;
}

async fn usage_that_becomes_free_in_shadow_mode_loses_its_mark(mut world: World) {
    shadow(&mut world).await;
    let before = at(NOON) - TimeDelta::minutes(20);
    both(&world, "before", 5, before).await;
    // The caller's clock is ahead, and its hour is closed already.
    world
        .count("acct", 3, at(NOON) + TimeDelta::minutes(4))
        .await;
    world.report_all().await;
    assert!(
        world
            .reports("acct")
            .await
            .iter()
            .all(|one| one.billed_elsewhere)
    );
    let free = PutAccount::free("acct");
    world.client().put_account(free).await.unwrap();
    let reports = world.reports("acct").await;
    let of = |quantity: i64| {
        let found = reports.iter().find(|report| report.quantity == quantity);
        found.expect("a report")
    };
    assert!(of(5).billed_elsewhere);
    let free = of(3);
    assert_eq!(free.state, ReportState::NotBillable);
    assert!(!free.billed_elsewhere);
    assert_eq!(
        (free.stripe_customer.as_deref(), free.event_timestamp),
        (None, None)
    );
    let days = compared(&world).await;
    let counted: Vec<_> = days.iter().map(|day| day.counted).collect();
    assert_eq!(counted, [5]);
    world.finish().await;
}

async fn a_database_that_reports_does_not_become_a_shadow(mut world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world
        .count("acct", 5, crate::support::world::hours_ago(1))
        .await;
    world.report_all().await;
    world.stop().await;
    let mut config = world.config();
    config.stripe.reporting = usage_server::config::Reporting::Shadow;
    let refused = Server::start(config, world.clock.clone()).await.ended();
    let refused = refused.await.unwrap_err();
    assert!(
        matches!(&refused, ServeError::Config(why) if why.contains("REPORTING")),
        "{refused}"
    );
    world.start_server().await;
    world.finish().await;
}
