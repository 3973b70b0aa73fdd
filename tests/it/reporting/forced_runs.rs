//! `ForceReport`: an admin starts a run, watches it and may disconnect.

use chrono::TimeDelta;
use fake_stripe::Fault;
use usage_client::{
    Error, ErrorKind, ForceReport, PutAccount, ReportEvent, ReportRun, ReportState, ReportSummary,
};
use usage_proto::v1::{ForceReportRequest, usage_service_client::UsageServiceClient};

use crate::support::{
    refused_retries::{allow_retries, wait_for_a_refused_retry},
    world::{TIMEOUT, World, hours_ago, on_both_engines, on_postgres, within},
};

/// The endpoint of meter events. Other requests to Stripe are not affected by faults.
const EVENTS: &str = "/v1/billing/meter_events";

on_both_engines!(
    a_run_continues_when_its_caller_disconnects,
    an_unknown_run_is_not_found,
    a_wrong_scope_is_refused_with_the_field_that_was_sent,
    a_run_of_some_accounts_does_not_report_the_others,
    a_dry_report_lists_what_it_would_send_and_changes_nothing,
    a_dry_report_of_accounts_lists_their_open_and_unsent_reports,
    a_concurrent_run_waits_for_reports_closed_by_the_first,
    a_run_retries_reports_in_backoff_and_waits_for_them,
    a_server_without_a_stripe_key_counts_and_reports_nothing,
    a_repeated_key_watches_the_run_that_it_started,
    a_run_says_that_what_waits_for_a_retry_still_waits,
);

on_postgres!(
    a_run_can_be_watched_from_another_replica,
    concurrent_runs_on_two_replicas_send_nothing_twice,
);

async fn force(world: &World, scope: ForceReport) -> ReportRun {
    world.client().force_report(scope).await.unwrap()
}

async fn summary(run: ReportRun) -> ReportSummary {
    within("a summary", run.summary()).await.unwrap()
}

async fn a_run_continues_when_its_caller_disconnects(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(1)).await;
    world
        .stripe()
        .script(Fault::block_until_released("gate").on_path(EVENTS))
        .await
        .unwrap();
    let mut run = force(&world, ForceReport::all()).await;
    let id = run.run_id().unwrap().to_owned();
    let first = run.next().await.unwrap();
    assert_eq!(
        first,
        Some(ReportEvent::Started {
            run_id: Some(id.clone()),
            not_retried: None,
        })
    );
    drop(run);
    world
        .stripe()
        .wait_for_blocked("gate", 1, TIMEOUT)
        .await
        .unwrap();
    world.stripe().release("gate").await.unwrap();
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    let report = world.reports("acct").await.pop().unwrap();
    assert_eq!(report.run_id, Some(id));
    world.finish().await;
}

async fn a_run_can_be_watched_from_another_replica(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(1)).await;
    world
        .stripe()
        .script(Fault::block_until_released("gate").on_path(EVENTS))
        .await
        .unwrap();
    let run = force(&world, ForceReport::all()).await;
    let id = run.run_id().unwrap().to_owned();
    drop(run);
    let replica = world.replica().await;
    let here = force(&world, ForceReport::watch(&id)).await;
    let there = replica
        .client()
        .await
        .force_report(ForceReport::watch(&id))
        .await
        .unwrap();
    assert_eq!((here.run_id(), there.run_id()), (Some(&*id), Some(&*id)));
    world
        .stripe()
        .wait_for_blocked("gate", 1, TIMEOUT)
        .await
        .unwrap();
    world.stripe().release("gate").await.unwrap();
    for watched in [here, there] {
        let summary = summary(watched).await;
        assert_eq!(summary.run_id.as_deref(), Some(&*id));
        assert_eq!(
            (summary.accepted.reports, summary.accepted.quantity),
            (1, 5)
        );
    }
    let long_after = summary(force(&world, ForceReport::watch(&id)).await).await;
    assert_eq!(long_after.accepted.quantity, 5);
    replica.stop().await.unwrap();
    world.finish().await;
}

async fn an_unknown_run_is_not_found(world: World) {
    for id in ["01890000-0000-7000-8000-000000000000", "no id at all"] {
        let error = world
            .client()
            .force_report(ForceReport::watch(id))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        // Quoted once.
        let text = format!("report run \"{id}\" not found");
        assert_eq!(error.status().unwrap().message(), text);
    }
    world.finish().await;
}

async fn a_wrong_scope_is_refused_with_the_field_that_was_sent(world: World) {
    let mut usage = UsageServiceClient::new(world.grpc_channel().await);
    let wrong = |account_ids: &[&str], all, run_id: &str, dry_run| ForceReportRequest {
        account_ids: account_ids.iter().map(|&id| id.to_owned()).collect(),
        all,
        run_id: run_id.to_owned(),
        dry_run,
        ..ForceReportRequest::default()
    };
    for (request, field, named) in [
        (
            wrong(&["a", "no good"], false, "", false),
            "account_ids",
            "account_ids \"no good\"",
        ),
        (wrong(&["a"], true, "", false), "all", "account_ids and all"),
        (wrong(&[], true, "x", false), "run_id", "all and run_id"),
        (wrong(&[], false, "", false), "account_ids", "missing"),
        (wrong(&[], false, "x", true), "dry_run", "run_id"),
    ] {
        let refused = Error::from(usage.force_report(request).await.unwrap_err());
        let [violation] = refused.violations() else {
            panic!("{refused}")
        };
        assert_eq!(violation.field, field, "{refused}");
        assert!(violation.description.contains(named), "{refused}");
    }
    world.finish().await;
}

async fn a_run_of_some_accounts_does_not_report_the_others(world: World) {
    for account in ["a", "b", "c"] {
        world
            .link_to_new_customer(account, &format!("cus_{account}"))
            .await;
        world.count(account, 2, hours_ago(1)).await;
    }
    let some = summary(force(&world, ForceReport::accounts(["a", "c"])).await).await;
    assert_eq!((some.closed.reports, some.accepted.quantity), (2, 4));
    assert_eq!(world.reports("b").await[0].state, ReportState::Open);
    let empty = summary(force(&world, ForceReport::accounts(["never-seen"])).await).await;
    assert_eq!(empty.closed.reports, 0);
    world.finish().await;
}

async fn a_dry_report_lists_what_it_would_send_and_changes_nothing(world: World) {
    world.link_to_new_customer("paying", "cus_paying").await;
    world
        .client()
        .put_account(PutAccount::free("free"))
        .await
        .unwrap();
    for account in ["paying", "free", "no_customer"] {
        world.count(account, 7, hours_ago(1)).await;
        world.count(account, 1, hours_ago(2)).await;
    }
    let before = world.reports("paying").await;
    let mut run = force(&world, ForceReport::all().dry_run()).await;
    assert_eq!(run.run_id(), None);
    let (mut previewed, mut foretold) = (Vec::new(), ReportSummary::default());
    while let Some(event) = run.next().await.unwrap() {
        match event {
            ReportEvent::Preview(reports) => previewed.extend(reports),
            ReportEvent::Summary(summary) => foretold = summary,
            _ => {}
        }
    }
    assert!(previewed.iter().all(|report| report.account_id == "paying"));
    assert_eq!(
        previewed.iter().map(|report| report.quantity).sum::<i64>(),
        8
    );
    let mut of_one_account = force(&world, ForceReport::accounts(["paying"]).dry_run()).await;
    let mut previewed = 0;
    while let Some(event) = of_one_account.next().await.unwrap() {
        if let ReportEvent::Preview(reports) = event {
            previewed += reports.iter().map(|report| report.quantity).sum::<i64>();
        }
    }
    assert_eq!(previewed, 8);
    assert_eq!(world.reports("paying").await, before);
    assert_eq!(world.all_attempts().await.len(), 0);
    let done = world.report_all().await;
    foretold.run_id.clone_from(&done.run_id);
    assert_eq!(foretold, done);
    world.finish().await;
}

async fn a_dry_report_of_accounts_lists_their_open_and_unsent_reports(world: World) {
    for account in ["acct", "other"] {
        let customer = format!("cus_{account}");
        world.link_to_new_customer(account, &customer).await;
        world.count(account, 5, hours_ago(2)).await;
    }
    let gate = Fault::block_until_released("gate")
        .on_path(EVENTS)
        .on_customer("cus_acct");
    world.stripe().script(gate).await.unwrap();
    drop(force(&world, ForceReport::all()).await);
    world
        .wait_until_reports_are("acct", &[ReportState::Sending])
        .await;
    for account in ["acct", "other"] {
        world.count(account, 2, hours_ago(1)).await;
    }
    let mut run = force(&world, ForceReport::accounts(["acct"]).dry_run()).await;
    let mut previewed = Vec::new();
    while let Some(event) = run.next().await.unwrap() {
        if let ReportEvent::Preview(reports) = event {
            previewed.extend(reports);
        }
    }
    let previewed: Vec<_> = previewed
        .iter()
        .map(|report| (&*report.account_id, report.quantity))
        .collect();
    assert_eq!(previewed, [("acct", 5), ("acct", 2)]);
    world.stripe().release("gate").await.unwrap();
    world.finish().await;
}

async fn concurrent_runs_on_two_replicas_send_nothing_twice(world: World) {
    let replica = world.replica().await;
    let other = replica.client().await;
    let accounts: Vec<String> = (0..20).map(|number| format!("acct-{number}")).collect();
    for account in &accounts {
        world
            .link_to_new_customer(account, &format!("cus_{account}"))
            .await;
    }
    // Half of the calls fail, so that runs retry what the sender is sending.
    let faults = Fault::status(500).on_path(EVENTS).times(60);
    world.stripe().script(faults).await.unwrap();
    for round in 0..6 {
        for account in &accounts {
            world.count(account, 1, hours_ago(1 + round)).await;
        }
        let runs = [world.client(), other.clone(), world.client(), other.clone()];
        futures_util::future::join_all(runs.map(async |client| {
            let run = client.force_report(ForceReport::all()).await.unwrap();
            summary(run).await;
        }))
        .await;
    }
    for account in &accounts {
        world
            .wait_until_reports_are(account, &[ReportState::Accepted])
            .await;
        assert_eq!(
            world
                .stripe_total(&format!("cus_{account}"), "api_calls")
                .await,
            6
        );
    }
    let stats = world.stripe().stats().await.unwrap();
    assert_eq!((stats.events, stats.duplicates_refused), (120, 0));
    assert_eq!(stats.max_in_flight_per_customer_meter, 1);
    replica.stop().await.unwrap();
    world.finish().await;
}

async fn a_concurrent_run_waits_for_reports_closed_by_the_first(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(2)).await;
    world
        .stripe()
        .script(Fault::block_until_released("gate").on_path(EVENTS))
        .await
        .unwrap();
    let first = force(&world, ForceReport::all()).await;
    world
        .stripe()
        .wait_for_blocked("gate", 1, TIMEOUT)
        .await
        .unwrap();
    world.count("acct", 2, hours_ago(1)).await;
    let mut second = force(&world, ForceReport::all()).await;
    let progress = loop {
        if let Some(ReportEvent::Progress(progress)) = second.next().await.unwrap()
            && progress.closing_finished
        {
            break progress;
        }
    };
    assert_eq!(
        (progress.closed, progress.done, progress.in_earlier_runs),
        (1, 0, 1),
        "{:#?}",
        world.reports("acct").await
    );
    world.stripe().release("gate").await.unwrap();
    let second = summary(second).await;
    assert_eq!((second.closed.quantity, second.accepted.quantity), (2, 2));
    assert_eq!(
        world.usage("acct").await,
        (7, 7, 0, 0),
        "a run ends when everything was sent once"
    );
    assert_eq!(summary(first).await.accepted.quantity, 5);
    world.finish().await;
}

async fn a_run_retries_reports_in_backoff_and_waits_for_them(mut world: World) {
    // Without a run, retries are a minute later, which is longer than a test waits.
    world.reconfigure(&["--stripe-retry-ms=60000"]).await;
    for account in ["a", "b"] {
        world
            .link_to_new_customer(account, &format!("cus_{account}"))
            .await;
        world.count(account, 5, hours_ago(1)).await;
    }
    world
        .stripe()
        .script(Fault::status(500).on_path(EVENTS).times(2))
        .await
        .unwrap();
    let failed = world.report_all().await;
    assert_eq!(
        (failed.accepted.reports, failed.retried_later.quantity),
        (0, 10)
    );
    let waiting = world.reports("a").await.pop().unwrap();
    assert_eq!(waiting.state, ReportState::Sending);
    assert!(waiting.last_error.unwrap().contains("500"));

    let next = summary(force(&world, ForceReport::accounts(["a"])).await).await;
    assert_eq!(next.closed.reports, 0);
    assert_eq!(world.usage("a").await, (5, 5, 0, 0));
    assert_eq!(world.usage("b").await, (5, 0, 5, 0), "not in its scope");
    let again = force(&world, ForceReport::watch(failed.run_id.unwrap())).await;
    let again = summary(again).await;
    assert_eq!(
        (again.accepted.quantity, again.retried_later.quantity),
        (5, 5)
    );
    // The same call again retries what was in backoff since, though the run is the same.
    let broken = Fault::status(500).on_path(EVENTS).times(1);
    world.stripe().script(broken).await.unwrap();
    let of_b = ForceReport::accounts(["b"]).key("0192f0c1-2b3c-7d4e-8f50-123456789abd");
    let failed = summary(force(&world, of_b.clone()).await).await;
    assert_eq!(world.usage("b").await, (5, 0, 5, 0));
    let same = summary(force(&world, of_b).await).await;
    assert_eq!(same.run_id, failed.run_id);
    assert_eq!(world.usage("b").await, (5, 5, 0, 0));
    world.finish().await;
}

async fn a_server_without_a_stripe_key_counts_and_reports_nothing(mut world: World) {
    world
        .reconfigure(&["--stripe-secret-key", "--report-schedule=0 * * * *"])
        .await;
    let now = hours_ago(3);
    world.freeze(now).await;
    world
        .client()
        .put_account(PutAccount::stripe("acct", "cus_acct"))
        .await
        .unwrap();
    world.count("acct", 5, now).await;
    let error = world
        .client()
        .force_report(ForceReport::all())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReportingDisabled);
    world.move_clocks(now + TimeDelta::hours(2)).await;
    world.restart().await;
    world.restart().await;
    let report = world.reports("acct").await.pop().unwrap();
    assert_eq!((report.state, report.period_end), (ReportState::Open, None));
    assert_eq!(world.usage("acct").await, (5, 0, 5, 0));
    assert_eq!(world.all_attempts().await.len(), 0);
    world.finish().await;
}

async fn a_run_says_that_what_waits_for_a_retry_still_waits(mut world: World) {
    wait_for_a_refused_retry(&mut world).await;
    let key = "0192f0c1-2b3c-7d4e-8f50-123456789abe";
    let same = || ForceReport::accounts(["acct"]).key(key);
    let begun = force(&world, same()).await;
    assert_eq!(begun.run_id(), Some(key));
    assert_eq!(begun.not_retried(), Some("internal error"));
    let ended = summary(begun).await;
    assert_eq!(ended.closed.reports, 0);
    assert_eq!(world.usage("acct").await, (5, 0, 5, 0));
    let told = "outcome = 'done' AND message LIKE 'reports that wait for a retry still wait: %'";
    let told = format!("audit_entries WHERE action = 'ForceReport' AND {told}");
    assert_eq!(world.count_rows(&told).await, 1);
    let watched = force(&world, ForceReport::watch(key)).await;
    assert_eq!(watched.not_retried(), None);
    drop(watched);
    allow_retries(&world).await;
    let again = force(&world, same()).await;
    assert_eq!(again.not_retried(), None);
    summary(again).await;
    assert_eq!(world.usage("acct").await, (5, 5, 0, 0));
    world.finish().await;
}

async fn a_repeated_key_watches_the_run_that_it_started(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(1)).await;
    let key = uuid::Uuid::now_v7().to_string();
    let one = || ForceReport::accounts(["acct"]).key(&key).reason("now");
    let (client, twin) = (world.client(), world.client());
    let (first, second) = tokio::join!(client.force_report(one()), twin.force_report(one()));
    for run in [first.unwrap(), second.unwrap(), force(&world, one()).await] {
        assert_eq!(run.run_id(), Some(key.as_str()));
        assert_eq!(summary(run).await.accepted.quantity, 5);
    }
    let runs = "report_runs WHERE requested_by LIKE 'no key%'";
    assert_eq!(world.count_rows(runs).await, 1);
    for (other, kind) in [
        (ForceReport::all().key(&key), ErrorKind::KeyReused),
        (ForceReport::all().key("once"), ErrorKind::Invalid),
        (
            ForceReport::all().reason("x".repeat(501)),
            ErrorKind::Invalid,
        ),
    ] {
        let refused = world.client().force_report(other).await.unwrap_err();
        assert_eq!(refused.kind(), kind, "{refused}");
    }
    assert_eq!(world.count_rows(runs).await, 1);
    world.finish().await;
}
