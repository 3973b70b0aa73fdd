//! Deleting an account: what refuses it, what is left, and that nothing is counted under the id any more.

mod export;
mod races;
mod traces;
pub(crate) mod unfinished;

use chrono::TimeDelta;
use usage_client::{
    Batch, Correct, DeleteAccount, DeletedAccount, DeletionObstacleKind, Error, ForceReport, Get,
    Increment, IncrementResult, PutAccount, Reason, ReportState, UsageClient,
};

use crate::support::world::{World, at, billing::BASIC, hours_ago, on_both_engines};

on_both_engines!(
    an_account_with_usage_that_is_not_billed_is_not_deleted,
    an_account_whose_period_goes_on_is_not_deleted,
    nothing_is_counted_or_linked_under_the_id_of_a_deleted_account,
    an_id_is_free_again_after_36_days,
    a_deletion_needs_an_account_and_ends_once,
);

pub(super) const DAY: TimeDelta = TimeDelta::days(1);

async fn delete(client: &UsageClient, account: &str) -> Result<DeletedAccount, Error> {
    client.delete_account(DeleteAccount::new(account)).await
}

async fn preview(world: &World, account: &str) -> DeletedAccount {
    let call = DeleteAccount::new(account).dry_run();
    world.client().delete_account(call).await.unwrap()
}

fn kinds(preview: &DeletedAccount) -> Vec<DeletionObstacleKind> {
    let mut kinds: Vec<_> = preview.obstacles.iter().map(|one| one.kind).collect();
    kinds.dedup();
    kinds
}

fn assert_reason<T: std::fmt::Debug>(result: Result<T, Error>, reason: &Reason) -> Error {
    let error = result.unwrap_err();
    assert_eq!(error.reason(), Some(reason), "{error}");
    error
}

/// Counts usage of a free account, and closes its reports: nothing is left to be billed.
async fn finished(world: &World, account: &str, quantity: i64) {
    let put = PutAccount::free(account);
    world.client().put_account(put).await.unwrap();
    world.count(account, quantity, hours_ago(2)).await;
    world.report_all().await;
    world
        .wait_until_reports_are(account, &[ReportState::NotBillable])
        .await;
}

async fn an_account_with_usage_that_is_not_billed_is_not_deleted(world: World) {
    use DeletionObstacleKind::Report;
    let client = world.client();
    world.count("acct", 5, hours_ago(2)).await;
    let open = preview(&world, "acct").await;
    assert_eq!(kinds(&open), [Report], "{open:?}");
    assert!(open.obstacles[0].message.contains("is open"), "{open:?}");
    assert_eq!(open.rows, [("open_reports".to_owned(), 1)]);
    let refused = assert_reason(delete(&client, "acct").await, &Reason::AccountNotDeletable);
    let report = open.obstacles[0].id.clone().unwrap();
    assert!(refused.to_string().contains(&report), "{refused}");
    // Closed, and without a customer.
    world.report_all().await;
    let closed = preview(&world, "acct").await;
    assert_eq!(kinds(&closed), [Report]);
    assert!(
        closed.obstacles[0].message.contains("no_customer"),
        "{closed:?}"
    );
    assert_reason(delete(&client, "acct").await, &Reason::AccountNotDeletable);
    // Nothing was changed: it still counts.
    world.count("acct", 2, hours_ago(2)).await;
    assert_eq!(world.usage("acct").await.0, 7);
    // Free, it is never billed.
    client.put_account(PutAccount::free("acct")).await.unwrap();
    world.report_all().await;
    world
        .wait_until_reports_are("acct", &[ReportState::NotBillable])
        .await;
    let done = delete(&client, "acct").await.unwrap();
    assert!(done.token.is_some() && !done.duplicate, "{done:?}");
    world.finish().await;
}

async fn an_account_whose_period_goes_on_is_not_deleted(mut world: World) {
    use DeletionObstacleKind::{BillingPeriod, Subscription};
    let now = at("2027-03-20T08:30:10Z");
    world
        .start_subscribed(now, &[BASIC], at("2027-03-10T13:12:34Z"))
        .await;
    let refused = preview(&world, "acct").await;
    assert_eq!(
        kinds(&refused),
        [BillingPeriod, Subscription],
        "{refused:?}"
    );
    assert!(
        refused.obstacles[0]
            .message
            .contains("2027-04-10T13:12:34Z")
    );
    let error = assert_reason(
        delete(&world.client(), "acct").await,
        &Reason::AccountNotDeletable,
    );
    assert!(
        error.to_string().contains("cancel the subscription"),
        "{error}"
    );
    assert_eq!(world.count_rows("deleted_accounts").await, 0);
    world.finish().await;
}

async fn nothing_is_counted_or_linked_under_the_id_of_a_deleted_account(world: World) {
    let (replica, other) = world.second_client().await;
    let client = world.client();
    finished(&world, "acct", 5).await;
    // Both remember the account's boundaries.
    for (client, key) in [(&client, "k1"), (&other, "k2")] {
        let keyed = Increment::new("acct").key(key).timestamp(hours_ago(2));
        client.increment(keyed).await.unwrap();
    }
    world.report_all().await;
    let done = delete(&client, "acct").await.unwrap();
    let token = done.token.unwrap();
    let deleted_at = done.deleted_at.unwrap();
    assert_eq!(done.refused_until, Some(deleted_at + DAY * 36));
    for client in [&client, &other] {
        for id in ["acct", token.as_str()] {
            let one = client.increment(Increment::new(id)).await;
            let error = assert_reason(one, &Reason::AccountDeleted);
            assert!(!error.is_retryable() && !error.may_have_taken_effect());
            let put = client.put_account(PutAccount::free(id)).await;
            assert_reason(put, &Reason::AccountDeleted);
            let corrected = client.correct(Correct::new(id, 1, "a gift")).await;
            assert_reason(corrected, &Reason::AccountDeleted);
        }
        // A repeated key too: what it counted before is not asked for any more.
        let repeated = Increment::new("acct").key("k1").timestamp(hours_ago(2));
        assert_reason(client.increment(repeated).await, &Reason::AccountDeleted);
        // The other items of a batch count, with a key and without.
        let batch = || Batch::new().push("acct").push("other");
        for batch in [batch(), batch().without_key(), batch().dry_run()] {
            let outcome = client.increment_batch(batch).await.unwrap();
            let [
                IncrementResult::Refused { reason, .. },
                IncrementResult::Counted,
            ] = &outcome.results[..]
            else {
                panic!("{outcome:?}")
            };
            assert_eq!(*reason, Reason::AccountDeleted);
        }
    }
    assert_eq!(world.usage("other").await.0, 4);
    let run = client.force_report(ForceReport::accounts(["acct"])).await;
    assert_reason(run, &Reason::AccountDeleted);
    assert_reason(client.export_account("acct").await, &Reason::AccountDeleted);
    // Its usage is read under the token alone.
    assert_eq!(world.usage("acct").await, (0, 0, 0, 0));
    assert_eq!(world.usage(&token).await, (7, 0, 0, 7));
    let usage = client.get(Get::account(&token)).await.unwrap();
    assert_eq!(usage.account_id, token);
    if let Some(replica) = replica {
        replica.stop().await.unwrap();
    }
    world.finish().await;
}

async fn an_id_is_free_again_after_36_days(mut world: World) {
    world.freeze(hours_ago(0)).await;
    finished(&world, "acct", 5).await;
    let first = delete(&world.client(), "acct")
        .await
        .unwrap()
        .token
        .unwrap();
    world.wait_until_job_ran("cleanup").await;
    restart_after(&mut world, DAY * 35).await;
    let one = Increment::new("acct");
    assert_reason(
        world.client().increment(one.clone()).await,
        &Reason::AccountDeleted,
    );
    restart_after(&mut world, DAY * 2).await;
    // Cleanup waits for an hour after a long pause.
    world.clock.advance(TimeDelta::hours(1).num_milliseconds());
    world
        .wait_until("no digest", async || {
            world.count_rows("deleted_accounts").await == 0
        })
        .await;
    world.client().increment(one).await.unwrap();
    assert_eq!(world.usage("acct").await.0, 1);
    // So is what the digest was made with.
    assert_eq!(world.count_rows("deletion_salts").await, 0);
    let put = PutAccount::free("acct");
    world.client().put_account(put).await.unwrap();
    world.report_all().await;
    let second = delete(&world.client(), "acct")
        .await
        .unwrap()
        .token
        .unwrap();
    assert_ne!(first, second, "it cannot be found from the id");
    world.finish().await;
}

async fn restart_after(world: &mut World, pause: TimeDelta) {
    world.stop().await;
    world.move_clocks(world.now() + pause).await;
    world.start_server().await;
}

async fn a_deletion_needs_an_account_and_ends_once(world: World) {
    let client = world.client();
    let unknown = assert_reason(delete(&client, "unknown").await, &Reason::AccountNotFound);
    assert!(
        unknown.to_string().contains("nothing is stored"),
        "{unknown}"
    );
    let dry = client.delete_account(DeleteAccount::new("unknown").dry_run());
    assert_reason(dry.await, &Reason::AccountNotFound);
    assert_reason(
        client.export_account("unknown").await,
        &Reason::AccountNotFound,
    );
    assert_reason(delete(&client, "a b").await, &Reason::InvalidField);
    finished(&world, "acct", 5).await;
    let done = delete(&client, "acct").await.unwrap();
    let again = delete(&client, "acct").await.unwrap();
    assert!(again.duplicate && again.token.is_none(), "{again:?}");
    assert_eq!(again.deleted_at, done.deleted_at);
    assert!(again.rows.is_empty(), "{again:?}");
    let dry = preview(&world, "acct").await;
    assert!(dry.duplicate && dry.obstacles.is_empty(), "{dry:?}");
    let token = done.token.unwrap();
    assert_reason(delete(&client, &token).await, &Reason::InvalidField);
    assert_eq!(world.count_rows("deleted_accounts").await, 1);
    world.finish().await;
}
