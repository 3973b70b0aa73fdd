//! Keys that are limited to accounts or meters.

use usage_client::{
    Batch, BatchOutcome, ErrorKind, ForceReport, Increment, IncrementResult, ListReports,
    PutAccount, Reason,
    proto::{KeyRole, KeyScope},
};

use super::{access, client, create, first_admin, limited_key, new_key};
use crate::support::world::{World, on_both_engines};

on_both_engines!(
    a_limited_writer_counts_only_its_accounts_and_meters,
    a_batch_counts_the_items_that_the_key_allows,
    a_repeated_batch_shows_a_limited_key_nothing_of_others,
    a_limited_reader_sees_only_its_accounts_and_meters,
    a_prefix_is_a_limit,
    a_limited_admin_changes_only_its_accounts,
    a_limited_admin_watches_only_runs_of_its_accounts,
);

/// Why each item of a batch was refused.
fn reasons(outcome: BatchOutcome) -> Vec<Option<Reason>> {
    let results = outcome.results.into_iter();
    let reasons = results.map(|result| match result {
        IncrementResult::Refused { reason, .. } => Some(reason),
        _ => None,
    });
    reasons.collect()
}

async fn a_limited_writer_counts_only_its_accounts_and_meters(world: World) {
    let (_, admin) = first_admin(&world).await;
    let mut admin_access = access(&world, Some(&admin)).await;
    let request = limited_key("w", KeyRole::Writer, &["own"], &["tokens"]);
    let key = create(&mut admin_access, request).await.text;
    let writer = client(world.endpoint(), &key).await;
    writer
        .increment("own")
        .meter("tokens")
        .quantity(5)
        .await
        .unwrap();
    for (account, meter) in [
        ("other", "tokens"),
        ("own", "api_calls"),
        // The default meter is another one.
        ("own", ""),
        // It is not told which meters there are.
        ("own", "no_meter"),
        ("no account!", "tokens"),
    ] {
        let denied = writer.increment(account).meter(meter).await.unwrap_err();
        assert_eq!(
            denied.kind(),
            ErrorKind::PermissionDenied,
            "{account} {meter}: {denied}"
        );
        assert_eq!(denied.reason(), Some(&Reason::PermissionDenied));
        assert!(!denied.may_have_taken_effect());
    }
    let admin = client(world.endpoint(), &admin).await;
    let usage = admin.get("own").meter("tokens").await.unwrap();
    assert_eq!(usage.meters[0].quantities.total, 5);
    assert_eq!(
        admin.get("other").await.unwrap().meters[0].quantities.total,
        0
    );
    world.finish().await;
}

async fn a_batch_counts_the_items_that_the_key_allows(world: World) {
    let (_, admin) = first_admin(&world).await;
    let mut admin_access = access(&world, Some(&admin)).await;
    let request = limited_key("w", KeyRole::Writer, &["own"], &[]);
    let key = create(&mut admin_access, request).await.text;
    let writer = client(world.endpoint(), &key).await;
    let batch: Batch = ["own", "other", "own"]
        .into_iter()
        .map(Increment::new)
        .collect();
    let outcome = writer.increment_batch(batch).await.unwrap();
    assert_eq!(
        reasons(outcome),
        [None, Some(Reason::PermissionDenied), None]
    );
    let admin = client(world.endpoint(), &admin).await;
    for (account, total) in [("own", 2), ("other", 0)] {
        let usage = admin.get(account).await.unwrap();
        assert_eq!(usage.meters[0].quantities.total, total, "{account}");
    }
    world.finish().await;
}

async fn a_repeated_batch_shows_a_limited_key_nothing_of_others(world: World) {
    let (_, admin) = first_admin(&world).await;
    let mut admin_access = access(&world, Some(&admin)).await;
    let request = limited_key("w", KeyRole::Writer, &["own"], &[]);
    let key = create(&mut admin_access, request).await.text;
    // A key of the same name is the same caller.
    let all = create(&mut admin_access, new_key("w", KeyRole::Writer)).await;
    let (writer, all) = (
        client(world.endpoint(), &key).await,
        client(world.endpoint(), &all.text).await,
    );
    let batch = || {
        let items = ["own", "other"].into_iter();
        let items = items.map(|account| Increment::new(account).key(account));
        items.collect::<Batch>().key("batch")
    };
    let first = all.increment_batch(batch()).await.unwrap();
    assert_eq!(reasons(first), [None, None]);
    let again = writer.increment_batch(batch()).await.unwrap();
    assert!(again.duplicate);
    assert_eq!(reasons(again), [None, Some(Reason::PermissionDenied)]);
    world.finish().await;
}

async fn a_limited_reader_sees_only_its_accounts_and_meters(world: World) {
    for account in ["own", "other"] {
        world.client().increment(account).await.unwrap();
    }
    let (_, admin) = first_admin(&world).await;
    let mut admin_access = access(&world, Some(&admin)).await;
    let of_account = limited_key("r", KeyRole::Reader, &["own"], &[]);
    let of_meter = limited_key("m", KeyRole::Reader, &[], &["api_calls"]);
    let of_account = create(&mut admin_access, of_account).await.text;
    let of_meter = create(&mut admin_access, of_meter).await.text;
    let of_account = client(world.endpoint(), &of_account).await;
    let of_meter = client(world.endpoint(), &of_meter).await;
    assert_eq!(of_account.get("own").await.unwrap().meters.len(), 2);
    of_account
        .list_reports(ListReports::new().account("own"))
        .await
        .unwrap();
    of_meter.get("other").meter("api_calls").await.unwrap();
    let denied = [
        of_account.get("other").await.map(drop),
        of_account.list_reports(ListReports::new()).await.map(drop),
        of_meter.get("other").await.map(drop),
        of_meter.get("other").meter("tokens").await.map(drop),
        of_meter
            .list_reports(ListReports::new().account("own"))
            .await
            .map(drop),
    ];
    for denied in denied {
        assert_eq!(denied.unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
    world.finish().await;
}

async fn a_prefix_is_a_limit(world: World) {
    let (_, admin) = first_admin(&world).await;
    let mut admin_access = access(&world, Some(&admin)).await;
    let mut request = new_key("team", KeyRole::Writer);
    request.scope = Some(KeyScope {
        account_prefixes: vec!["team:".to_owned()],
        ..KeyScope::default()
    });
    let key = create(&mut admin_access, request).await.text;
    let writer = client(world.endpoint(), &key).await;
    writer.increment("team:1").await.unwrap();
    let denied = writer.increment("teamwork").await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    world.finish().await;
}

async fn a_limited_admin_changes_only_its_accounts(world: World) {
    let (_, admin) = first_admin(&world).await;
    let mut admin_access = access(&world, Some(&admin)).await;
    let request = limited_key("a", KeyRole::Admin, &["own"], &[]);
    let key = create(&mut admin_access, request).await.text;
    let limited = client(world.endpoint(), &key).await;
    limited.put_account(PutAccount::free("own")).await.unwrap();
    let own = limited.force_report(ForceReport::accounts(["own"])).await;
    own.unwrap().summary().await.unwrap();
    let denied = [
        limited
            .put_account(PutAccount::free("other"))
            .await
            .map(drop),
        limited
            .put_account(PutAccount::free("other").validate_only())
            .await
            .map(drop),
        limited
            .force_report(ForceReport::accounts(["own", "other"]))
            .await
            .map(drop),
        limited.force_report(ForceReport::all()).await.map(drop),
    ];
    for denied in denied {
        assert_eq!(denied.unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
    world.finish().await;
}

async fn a_limited_admin_watches_only_runs_of_its_accounts(world: World) {
    let (_, admin) = first_admin(&world).await;
    let mut admin_access = access(&world, Some(&admin)).await;
    let request = limited_key("a", KeyRole::Admin, &["own", "too"], &[]);
    let key = create(&mut admin_access, request).await.text;
    let limited = client(world.endpoint(), &key).await;
    let unlimited = client(world.endpoint(), &admin).await;
    let begin = async |of: ForceReport| {
        let run = unlimited.force_report(of).await.unwrap();
        run.summary().await.unwrap().run_id.unwrap()
    };
    for of in [&["own"][..], &["own", "too"]] {
        let id = begin(ForceReport::accounts(of.iter().copied())).await;
        let watched = limited.force_report(ForceReport::watch(&id)).await.unwrap();
        let summary = watched.summary().await.unwrap();
        assert_eq!(summary.run_id.as_deref(), Some(&*id));
    }
    let others = [
        begin(ForceReport::accounts(["other"])).await,
        begin(ForceReport::accounts(["own", "other"])).await,
        begin(ForceReport::all()).await,
        uuid::Uuid::now_v7().to_string(),
        "no id at all".to_owned(),
    ];
    let mut answers = Vec::new();
    for id in &others {
        let watch = limited.force_report(ForceReport::watch(id)).await;
        let denied = watch.map(drop).unwrap_err();
        assert_eq!(denied.kind(), ErrorKind::PermissionDenied, "{id}");
        answers.push(denied.status().unwrap().message().to_owned());
    }
    answers.dedup();
    assert_eq!(
        answers.len(),
        1,
        "nothing says which run exists: {answers:?}"
    );
    world.finish().await;
}
