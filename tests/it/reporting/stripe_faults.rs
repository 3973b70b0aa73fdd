//! Faults of Stripe: despite any fault, each unit reaches Stripe once, and other reports are not delayed.

use std::{collections::BTreeSet, time::Duration};

use chrono::TimeDelta;
use fake_stripe::{Fault, FaultKind, ScriptedError};
use usage_client::{ForceReport, ReportState};

use crate::support::{
    reverse_proxy::ReverseProxy,
    world::{TIMEOUT, World, hours_ago, on_both_engines},
};

const EVENTS: &str = "/v1/billing/meter_events";

on_both_engines!(
    each_unit_reaches_stripe_once_despite_any_fault,
    each_attempt_has_a_new_request_key_and_the_same_identifier,
    a_report_of_a_deleted_customer_waits_for_a_decision,
    a_refused_report_keeps_stripes_message_and_does_not_delay_others,
    a_wrong_stripe_url_rejects_no_report,
    a_refusal_after_a_lost_response_is_not_final,
    a_hanging_call_does_not_delay_other_customers,
    a_crash_during_hanging_calls_resends_the_same_events,
    usage_is_not_in_doubt_while_stripe_cannot_be_reached,
);

/// A world with one linked account and 5 units of usage in it.
pub(super) async fn five_units(world: &World, account: &str) {
    world
        .link_to_new_customer(account, &format!("cus_{account}"))
        .await;
    world.count(account, 5, hours_ago(1)).await;
}

async fn each_unit_reaches_stripe_once_despite_any_fault(world: World) {
    let lock_timeout = Fault::status(429).with_error("lock_timeout", "This object is in use.");
    let faults = [
        ("e500", Fault::status(500).times(3), 4),
        ("e500late", Fault::status(500).after_executing(), 2),
        ("e503", Fault::status(503), 2),
        ("e429", Fault::status(429).times(2), 3),
        ("e409", Fault::status(409), 2),
        ("e408", Fault::status(408), 2),
        ("lock", lock_timeout.times(2), 3),
        ("slow", Fault::delay(Duration::from_millis(50)), 1),
        ("drop", Fault::drop_connection().times(2), 3),
        ("lost", Fault::accept_then_drop(), 2),
        ("lost2", Fault::accept_then_drop().times(2), 3),
        ("half", Fault::undecodable(), 2),
        ("html", Fault::undecodable_error(), 2),
    ];
    for (name, fault, _) in &faults {
        five_units(&world, name).await;
        let fault = fault.clone().on_customer(&format!("cus_{name}"));
        world.stripe().script(fault).await.unwrap();
    }
    let run = world
        .client()
        .force_report(ForceReport::all())
        .await
        .unwrap();
    drop(run);
    for (name, _, attempts) in &faults {
        world
            .wait_until_reports_are(name, &[ReportState::Accepted])
            .await;
        let report = world.reports(name).await.pop().unwrap();
        assert_eq!(
            (report.attempts, &report.last_error),
            (*attempts, &None),
            "{name}"
        );
        let events = world.meter_events(&format!("cus_{name}")).await;
        assert_eq!(events.len(), 1, "{name}");
        assert_eq!(
            (events[0].value, &events[0].identifier),
            (5, &report.identifier),
            "{name}"
        );
    }
    let stats = world.stripe().stats().await.unwrap();
    assert_eq!(
        stats.duplicates_refused, 5,
        "the ones that were carried out and not answered"
    );
    assert_eq!(stats.max_in_flight_per_customer_meter, 1);
    world.finish().await;
}

async fn each_attempt_has_a_new_request_key_and_the_same_identifier(world: World) {
    five_units(&world, "acct").await;
    // Stripe would replay the 500 of a repeated key for a day.
    let fault = Fault::status(500)
        .on_path(EVENTS)
        .after_executing()
        .times(2);
    world.stripe().script(fault).await.unwrap();
    world.report_all().await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    let attempts = world.attempts_for("cus_acct").await;
    let keys: BTreeSet<_> = attempts
        .iter()
        .map(|call| call.idempotency_key.clone().unwrap())
        .collect();
    let identifiers: BTreeSet<_> = attempts
        .iter()
        .map(|call| call.identifier.clone().unwrap())
        .collect();
    assert_eq!((attempts.len(), keys.len(), identifiers.len()), (3, 3, 1));
    assert_eq!(world.stripe().stats().await.unwrap().replayed, 0);
    world.finish().await;
}

async fn a_report_of_a_deleted_customer_waits_for_a_decision(world: World) {
    five_units(&world, "gone").await;
    five_units(&world, "here").await;
    world.stripe().delete_customer("cus_gone").await.unwrap();
    let summary = world.report_all().await;
    assert_eq!(
        (summary.rejected.quantity, summary.accepted.quantity),
        (5, 5)
    );
    let report = world.reports("gone").await.pop().unwrap();
    assert_eq!(
        (report.state, report.reported),
        (ReportState::CustomerDeleted, false)
    );
    assert!(report.last_error.unwrap().contains("No such customer"));
    assert_eq!(world.usage("gone").await, (5, 0, 5, 0));
    world.report_all().await;
    assert_eq!(
        world.attempts_for("cus_gone").await.len(),
        1,
        "nothing is sent again by itself"
    );
    world.finish().await;
}

async fn a_refused_report_keeps_stripes_message_and_does_not_delay_others(world: World) {
    five_units(&world, "a").await;
    world.count("a", 2, hours_ago(2)).await;
    five_units(&world, "b").await;
    let words = Fault::status(400).with_error("meter_event_invalid_value", "The value is odd.");
    world
        .stripe()
        .script(words.on_customer("cus_a"))
        .await
        .unwrap();
    let summary = world.report_all().await;
    assert_eq!((summary.rejected.reports, summary.accepted.reports), (1, 2));
    let reports = world.reports("a").await;
    let rejected = reports
        .iter()
        .find(|report| report.state == ReportState::Rejected)
        .unwrap();
    let error = rejected.last_error.as_ref().unwrap();
    assert!(
        error.contains("meter_event_invalid_value") && error.contains("The value is odd."),
        "{error}"
    );
    let later = world.report_all().await;
    assert_eq!((later.closed.reports, later.rejected.reports), (0, 0));
    assert_eq!(world.attempts_for("cus_a").await.len(), 2);
    world.finish().await;
}

async fn a_wrong_stripe_url_rejects_no_report(world: World) {
    five_units(&world, "acct").await;
    let error = ScriptedError {
        kind: Some("invalid_request_error".to_owned()),
        message: Some("Unrecognized request URL (POST: /v1/billing/meter_events).".to_owned()),
        ..ScriptedError::default()
    };
    let fault = Fault::new(FaultKind::Status { status: 404, error }).on_path(EVENTS);
    world.stripe().script(fault.times(2)).await.unwrap();
    world.report_all().await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 5);
    world.finish().await;
}

async fn a_refusal_after_a_lost_response_is_not_final(world: World) {
    five_units(&world, "acct").await;
    // Stripe has the event. The rejection of the second attempt does not apply to the first one.
    world
        .stripe()
        .script(Fault::accept_then_drop().on_path(EVENTS))
        .await
        .unwrap();
    world
        .stripe()
        .script(Fault::status(400).on_path(EVENTS))
        .await
        .unwrap();
    world.report_all().await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    assert_eq!(world.attempts_for("cus_acct").await.len(), 3);
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 5);
    world.finish().await;
}

async fn a_hanging_call_does_not_delay_other_customers(world: World) {
    for account in ["a", "b", "c"] {
        five_units(&world, account).await;
        world.count(account, 2, hours_ago(2)).await;
    }
    world
        .stripe()
        .script(Fault::block_until_released("gate").on_customer("cus_b"))
        .await
        .unwrap();
    let run = world
        .client()
        .force_report(ForceReport::all())
        .await
        .unwrap();
    world
        .stripe()
        .wait_for_blocked("gate", 1, TIMEOUT)
        .await
        .unwrap();
    for account in ["a", "c"] {
        world
            .wait_until_reports_are(account, &[ReportState::Accepted])
            .await;
    }
    assert_eq!(
        world.attempts_for("cus_b").await.len(),
        1,
        "the next of a customer waits its turn"
    );
    world.stripe().release("gate").await.unwrap();
    assert_eq!(run.summary().await.unwrap().accepted.quantity, 21);
    world.finish().await;
}

async fn a_crash_during_hanging_calls_resends_the_same_events(mut world: World) {
    let hung = [
        ("before", Fault::block_until_released("before")),
        (
            "after",
            Fault::block_until_released("after").after_executing(),
        ),
        (
            "never",
            Fault::drop_connection().blocked_until_released("never"),
        ),
    ];
    for (name, fault) in &hung {
        five_units(&world, name).await;
        let fault = fault.clone().on_customer(&format!("cus_{name}"));
        world.stripe().script(fault).await.unwrap();
    }
    let run = world
        .client()
        .force_report(ForceReport::all())
        .await
        .unwrap();
    let id = run.run_id().unwrap().to_owned();
    for (name, _) in &hung {
        world
            .stripe()
            .wait_for_blocked(name, 1, TIMEOUT)
            .await
            .unwrap();
    }
    world.crash_and_restart().await;
    assert!(run.summary().await.is_err(), "its server is gone");
    for (name, _) in &hung {
        assert_eq!(world.reports(name).await[0].state, ReportState::Sending);
        world.stripe().release(name).await.unwrap();
    }
    let run = world
        .client()
        .force_report(ForceReport::watch(id))
        .await
        .unwrap();
    assert_eq!(run.summary().await.unwrap().closed.quantity, 15);
    for (name, _) in &hung {
        world
            .wait_until_reports_are(name, &[ReportState::Accepted])
            .await;
        let customer = format!("cus_{name}");
        assert_eq!(world.meter_events(&customer).await.len(), 1);
        assert_eq!(world.stripe_total(&customer, "api_calls").await, 5);
        let attempts = world.attempts_for(&customer).await;
        assert!(attempts.len() > 1);
        assert!(
            attempts
                .iter()
                .all(|call| call.identifier == attempts[0].identifier)
        );
    }
    world.finish().await;
}

async fn usage_is_not_in_doubt_while_stripe_cannot_be_reached(mut world: World) {
    let start = hours_ago(60);
    world.freeze(start).await;
    let (stripe, _) = world.stripe_address();
    let stripe = stripe.to_owned();
    let firewall = ReverseProxy::start().await;
    firewall.put_before(&stripe);
    let through = format!("--stripe-api-base={}", firewall.endpoint());
    world.reconfigure(&[&through]).await;
    world.link_to_new_customer("acct", "cus_acct").await;
    world.link_to_new_customer("other", "cus_other").await;
    world.count("acct", 1, start).await;
    world.report_all().await;
    world.wait_until_sent("acct").await;
    firewall.break_connections();
    drop(firewall);
    world.count("acct", 5, start).await;
    world.count("other", 3, start).await;
    // Without an answer for this long, a delivery check would have to decide.
    for hours in [0, 24, 48] {
        world.move_clocks(start + TimeDelta::hours(hours)).await;
        world.report_all().await;
        let reports = [world.reports("acct").await, world.reports("other").await].concat();
        let waiting: Vec<_> = reports.iter().filter(|one| one.quantity > 1).collect();
        assert_eq!(waiting.len(), 2);
        for report in waiting {
            assert_eq!(report.first_sent_at, None, "{report:?}");
            let error = report.last_error.clone().unwrap_or_default();
            assert!(error.contains("cannot be reached"), "{report:?}");
        }
    }
    world
        .reconfigure(&[&format!("--stripe-api-base={stripe}")])
        .await;
    world.report_all().await;
    world.wait_until_sent("acct").await;
    world.wait_until_sent("other").await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 6);
    assert_eq!(world.stripe_total("cus_other", "api_calls").await, 3);
    world.finish().await;
}
