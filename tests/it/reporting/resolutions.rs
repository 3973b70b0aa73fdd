//! `ResolveReport`: a decision takes effect once, and is stored with its requester and reason. It is rejected for a
//! report that needs no decision.

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::Fault;
use usage_client::{
    Correct, ErrorKind, PutAccount, Reason, ReportState, ResolveAction, ResolveReport, UsageReport,
};

use crate::support::world::{World, hours_ago, on_both_engines};

const EVENTS: &str = "/v1/billing/meter_events";

on_both_engines!(
    a_rejected_report_is_retried_under_a_new_identifier,
    a_too_late_report_can_be_billed_in_the_current_period,
    a_written_off_report_is_never_billed,
    a_repeated_decision_returns_the_first_one,
    a_report_that_needs_no_decision_cannot_be_resolved,
    a_retried_report_that_is_too_old_is_too_late_again,
    a_correction_is_not_moved_below_zero,
    a_dry_decision_changes_nothing_and_its_etag_holds_until_the_report_changes,
    of_decisions_at_once_on_what_was_seen_one_takes_effect,
);

/// Creates an account with a report that Stripe rejected.
async fn rejected(world: &World) -> UsageReport {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(30)).await;
    let refuse = Fault::status(400).on_path(EVENTS);
    world.stripe().script(refuse).await.unwrap();
    world.report_all().await;
    world
        .wait_until_reports_are("acct", &[ReportState::Rejected])
        .await;
    only_report(world).await
}

async fn only_report(world: &World) -> UsageReport {
    let mut reports = world.reports("acct").await;
    assert_eq!(reports.len(), 1);
    reports.remove(0)
}

fn resolve(report: &UsageReport, action: ResolveAction) -> ResolveReport {
    ResolveReport::new(&report.account_id, &report.id, action, "checked by hand")
        .requested_by("ann")
}

async fn a_rejected_report_is_retried_under_a_new_identifier(world: World) {
    let before = rejected(&world).await;
    let retry = resolve(&before, ResolveAction::Retry);
    let resolved = world.client().resolve_report(retry).await.unwrap();
    assert!(!resolved.duplicate);
    assert_ne!(resolved.report.identifier, before.identifier);
    assert_eq!(
        (resolved.report.attempts, &resolved.report.last_error),
        (0, &None)
    );
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    let after = only_report(&world).await;
    assert_eq!(after.event_timestamp, before.event_timestamp);
    let [decision] = after.decisions.as_slice() else {
        panic!("{after:?}");
    };
    assert_eq!(decision.action, ResolveAction::Retry);
    assert_eq!(decision.from_state, ReportState::Rejected);
    assert_eq!(decision.reason, "checked by hand");
    let by = &decision.requested_by;
    assert!(by.starts_with("ann (no key, 127.0.0.1:"), "{by}");
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 5);
    world.finish().await;
}

async fn a_too_late_report_can_be_billed_in_the_current_period(world: World) {
    let before = rejected(&world).await;
    let now = DateTime::<Utc>::from_timestamp_millis(world.clock.now()).unwrap();
    let bill = resolve(&before, ResolveAction::BillInCurrentPeriod);
    world.client().resolve_report(bill).await.unwrap();
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    let after = only_report(&world).await;
    assert!(after.bill_at.unwrap() >= now - TimeDelta::seconds(1));
    let stamp = after.event_timestamp.unwrap();
    assert!(stamp >= now - TimeDelta::seconds(1), "{stamp} {now}");
    assert_eq!(
        after.window, before.window,
        "the time of the usage is unchanged"
    );
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 5);
    world.finish().await;
}

async fn a_written_off_report_is_never_billed(world: World) {
    let before = rejected(&world).await;
    let write_off = resolve(&before, ResolveAction::WriteOff);
    let resolved = world.client().resolve_report(write_off).await.unwrap();
    assert_eq!(resolved.report.state, ReportState::WrittenOff);
    assert_eq!(resolved.report.identifier, before.identifier);
    world.report_all().await;
    assert_eq!(only_report(&world).await.state, ReportState::WrittenOff);
    assert_eq!(world.usage("acct").await, (5, 0, 0, 5));
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 0);
    world.finish().await;
}

async fn a_repeated_decision_returns_the_first_one(world: World) {
    let before = rejected(&world).await;
    let client = world.client();
    let (replica, elsewhere) = world.second_client().await;
    let calls = (0..8).map(|n| {
        let client = if n % 2 == 0 {
            client.clone()
        } else {
            elsewhere.clone()
        };
        let write_off = resolve(&before, ResolveAction::WriteOff);
        async move { client.resolve_report(write_off).await.unwrap() }
    });
    let answers = futures_util::future::join_all(calls).await;
    let made = answers.iter().filter(|answer| !answer.duplicate).count();
    assert_eq!(made, 1);
    assert_eq!(only_report(&world).await.decisions.len(), 1);
    let retry = resolve(&before, ResolveAction::Retry);
    let refused = client.resolve_report(retry).await.unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::NotResolvable));
    assert!(
        refused
            .to_string()
            .contains("written_off, as decided by write_off"),
        "{refused}"
    );
    if let Some(replica) = replica {
        replica.stop().await.unwrap();
    }
    world.finish().await;
}

async fn a_report_that_needs_no_decision_cannot_be_resolved(world: World) {
    let client = world.client();
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(3)).await;
    let open = only_report(&world).await;
    for action in [
        ResolveAction::Retry,
        ResolveAction::BillInCurrentPeriod,
        ResolveAction::WriteOff,
    ] {
        let refused = client
            .resolve_report(resolve(&open, action))
            .await
            .unwrap_err();
        assert_eq!(refused.reason(), Some(&Reason::NotResolvable));
        assert!(refused.to_string().contains("is open"), "{refused}");
    }
    world.report_all().await;
    let retry = resolve(&open, ResolveAction::Retry);
    let refused = client.resolve_report(retry).await.unwrap_err();
    assert!(refused.to_string().contains("is accepted"), "{refused}");
    for id in ["0190a5b2-0000-7000-8000-000000000000", "nonsense"] {
        let unknown = ResolveReport::new("acct", id, ResolveAction::Retry, "why");
        let refused = client.resolve_report(unknown).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotFound);
        assert_eq!(refused.reason(), Some(&Reason::ReportNotFound));
        let text = format!("usage report \"{id}\" not found");
        assert_eq!(refused.status().unwrap().message(), text);
    }
    for (wrong, field) in [
        (
            ResolveReport::new(&open.account_id, &open.id, ResolveAction::Retry, ""),
            "reason",
        ),
        (
            ResolveReport::new(&open.account_id, &open.id, ResolveAction::Retry, "   "),
            "reason",
        ),
        (
            ResolveReport::new(
                &open.account_id,
                &open.id,
                ResolveAction::Unrecognised(9),
                "why",
            ),
            "action",
        ),
        (
            resolve(&open, ResolveAction::Retry).requested_by("x".repeat(129)),
            "requested_by",
        ),
    ] {
        let refused = client.resolve_report(wrong).await.unwrap_err();
        assert_eq!(refused.violations()[0].field, field);
    }
    assert_eq!(world.count_rows("report_decisions").await, 0);
    world.finish().await;
}

async fn a_retried_report_that_is_too_old_is_too_late_again(mut world: World) {
    let now = hours_ago(2);
    world
        .stripe()
        .create_subscribed_customer("cus_acct")
        .await
        .unwrap();
    let link = PutAccount::stripe("acct", "cus_acct").bill_from(now - TimeDelta::days(34));
    world.client().put_account(link).await.unwrap();
    world.freeze(now).await;
    world.count("acct", 5, now - TimeDelta::days(32)).await;
    world.move_clocks(now + TimeDelta::days(4)).await;
    world.report_all().await;
    world
        .wait_until_reports_are("acct", &[ReportState::TooLate])
        .await;
    let missed = only_report(&world).await;
    let retry = resolve(&missed, ResolveAction::Retry);
    world.client().resolve_report(retry).await.unwrap();
    world
        .wait_until_reports_are("acct", &[ReportState::TooLate])
        .await;
    assert_eq!(world.attempts_for("cus_acct").await.len(), 0);
    let bill = resolve(&missed, ResolveAction::BillInCurrentPeriod);
    world.client().resolve_report(bill).await.unwrap();
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    assert_eq!(only_report(&world).await.decisions.len(), 2);
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 5);
    world.finish().await;
}

async fn a_correction_is_not_moved_below_zero(world: World) {
    let client = world.client();
    world
        .stripe()
        .create_subscribed_customer("cus_acct")
        .await
        .unwrap();
    let edge = hours_ago(24);
    let periods = [
        (edge - TimeDelta::days(30), edge),
        (edge, edge + TimeDelta::days(30)),
    ];
    for (start, end) in periods {
        let link = PutAccount::stripe("acct", "cus_acct").bill_from(edge - TimeDelta::days(30));
        client
            .put_account(link.current_period(start, end))
            .await
            .unwrap();
    }
    world.count("acct", 100, edge - TimeDelta::hours(5)).await;
    world.count("acct", 10, edge + TimeDelta::hours(5)).await;
    world.report_all().await;
    world
        .stripe()
        .script(Fault::status(400).on_path(EVENTS))
        .await
        .unwrap();
    let take = Correct::new("acct", -50, "too much").timestamp(edge - TimeDelta::hours(4));
    let taken = client.correct(take).await.unwrap().report;
    let sent = [ReportState::Accepted, ReportState::Rejected];
    world.wait_until_reports_are("acct", &sent).await;
    let bill = resolve(&taken, ResolveAction::BillInCurrentPeriod);
    let refused = client.resolve_report(bill.clone()).await.unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::BelowZero));
    assert!(refused.to_string().contains("have 10"), "{refused}");
    world.count("acct", 40, edge + TimeDelta::hours(6)).await;
    client.resolve_report(bill).await.unwrap();
    world.report_all().await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 100);
    world.finish().await;
}

async fn a_dry_decision_changes_nothing_and_its_etag_holds_until_the_report_changes(world: World) {
    let before = rejected(&world).await;
    let client = world.client();
    let retry = resolve(&before, ResolveAction::Retry);
    let dry = client
        .resolve_report(retry.clone().dry_run())
        .await
        .unwrap();
    assert_eq!(dry.report.state, ReportState::Closed);
    assert_ne!(dry.report.identifier, before.identifier);
    assert_eq!(only_report(&world).await, before);
    assert_eq!(world.attempts_for("cus_acct").await.len(), 1);
    let refuse = Fault::status(400).on_path(EVENTS);
    world.stripe().script(refuse).await.unwrap();
    let seen = retry.clone().etag(&dry.etag);
    let done = client.resolve_report(seen).await.unwrap();
    assert_eq!((done.duplicate, &done.etag), (false, &dry.etag));
    crate::support::world::poll("the second refusal", async || {
        let report = only_report(&world).await;
        (report.state == ReportState::Rejected && report.attempts > 0).then_some(())
    })
    .await;
    for action in [ResolveAction::Retry, ResolveAction::WriteOff] {
        let stale = resolve(&before, action).etag(&dry.etag);
        let refused = client.resolve_report(stale).await.unwrap_err();
        assert_eq!(refused.reason(), Some(&Reason::EtagMismatch));
    }
    let again = client.resolve_report(retry.dry_run()).await.unwrap();
    let write_off = resolve(&before, ResolveAction::WriteOff).etag(&again.etag);
    let done = client.resolve_report(write_off).await.unwrap();
    assert_eq!(done.report.state, ReportState::WrittenOff);
    world.finish().await;
}

async fn of_decisions_at_once_on_what_was_seen_one_takes_effect(world: World) {
    let before = rejected(&world).await;
    let (replica, other) = world.second_client().await;
    let clients = [world.client(), other];
    let dry = resolve(&before, ResolveAction::WriteOff).dry_run();
    let etag = world.client().resolve_report(dry).await.unwrap().etag;
    let calls = clients.iter().cycle().take(6).enumerate();
    let calls = calls.map(|(number, client)| {
        let actions = [ResolveAction::WriteOff, ResolveAction::Retry];
        let action = actions[number / 2 % 2];
        client.resolve_report(resolve(&before, action).etag(&etag))
    });
    let mut made = 0;
    for answer in futures_util::future::join_all(calls).await {
        match answer {
            Ok(resolved) => made += i32::from(!resolved.duplicate),
            Err(refused) => {
                let reason = refused.reason();
                assert_eq!(reason, Some(&Reason::NotResolvable), "{refused}");
            }
        }
    }
    assert_eq!(made, 1);
    assert_eq!(only_report(&world).await.decisions.len(), 1);
    if let Some(replica) = replica {
        replica.stop().await.unwrap();
    }
    world.finish().await;
}
