//! What audit entries say of what an action changed: before and after, of actions at Stripe too.

use chrono::TimeDelta;
use serde_json::Value;
use usage_client::{
    AbortSubscriptionChange, CancelSubscription, ChangePlan, Correct, PutAccount,
    proto::{AuditEntry, AuditOutcome, ListAuditEntriesRequest},
};

use super::{access, client, entries, first_admin};
use crate::support::world::{
    Engine, World, at,
    billing::{BASIC, PRO},
    on_both_engines,
};

on_both_engines!(
    a_plan_change_shows_the_prices_and_a_cancel_the_end,
    a_repeated_correction_shows_what_was_entered_before,
    what_is_committed_is_done_although_something_fails_afterwards,
);

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The last entry.
async fn last(world: &World, key: &str) -> AuditEntry {
    let mut access = access(world, Some(key)).await;
    let all = ListAuditEntriesRequest::default();
    entries(&mut access, all).await.pop().unwrap()
}

async fn a_plan_change_shows_the_prices_and_a_cancel_the_end(mut world: World) {
    let end = at("2027-04-10T13:12:34Z");
    world
        .start_subscribed(
            end - TimeDelta::days(2),
            &[BASIC],
            at("2027-03-10T13:12:34Z"),
        )
        .await;
    let (_, root) = first_admin(&world).await;
    let admin = client(world.endpoint(), &root).await;
    let changed = admin.change_plan(ChangePlan::new("acct", PRO));
    world.while_clock_moves(changed).await.unwrap();
    let entry = last(&world, &root).await;
    assert_eq!(entry.outcome(), AuditOutcome::Done);
    assert_eq!(json(&entry.before)["prices"], serde_json::json!([BASIC]));
    assert_eq!(json(&entry.after)["change"]["step"], "done");

    let cancel = CancelSubscription::at_period_end("acct");
    admin.cancel_subscription(cancel).await.unwrap();
    let entry = last(&world, &root).await;
    let (before, after) = (json(&entry.before), json(&entry.after));
    assert_eq!(entry.action, "CancelSubscription");
    assert!(before["cancel_at"].is_null(), "{before}");
    assert_eq!(before["prices"], serde_json::json!([PRO]));
    assert_eq!(after["cancel_at"], "2027-04-10T13:12:34Z");
    // Nothing is being changed.
    admin
        .abort_subscription_change(AbortSubscriptionChange::new("acct"))
        .await
        .unwrap_err();
    let entry = last(&world, &root).await;
    assert_eq!((entry.outcome(), &*entry.after), (AuditOutcome::Failed, ""));
    world.finish().await;
}

async fn a_repeated_correction_shows_what_was_entered_before(world: World) {
    let (_, root) = first_admin(&world).await;
    let admin = client(world.endpoint(), &root).await;
    let correct = || Correct::new("acct", 7, "a gift").key("once");
    admin.correct(correct()).await.unwrap();
    let first = last(&world, &root).await;
    assert_eq!(first.before, "");
    assert_eq!(json(&first.after)["quantity"], 7);
    assert!(admin.correct(correct()).await.unwrap().duplicate);
    let again = last(&world, &root).await;
    assert_eq!((&again.before, &*again.after), (&first.after, ""));
    world.finish().await;
}

/// Makes every change of a stored subscription fail, but not its insertion.
async fn refuse_updates(world: &World) {
    let trigger = "CREATE TRIGGER refuse BEFORE UPDATE ON subscriptions";
    match world.engine {
        Engine::Sqlite => {
            let body = "BEGIN SELECT RAISE(ABORT, 'refused'); END";
            world.execute_sql(&format!("{trigger} {body}")).await;
        }
        Engine::Postgres => {
            let function = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$";
            world.execute_sql(function).await;
            let body = "FOR EACH ROW EXECUTE FUNCTION refuse()";
            world.execute_sql(&format!("{trigger} {body}")).await;
        }
    }
}

async fn what_is_committed_is_done_although_something_fails_afterwards(mut world: World) {
    world.with_prices_at(at("2027-03-20T08:30:10Z")).await;
    world
        .subscribe("acct", &[BASIC], at("2027-03-10T13:12:34Z"))
        .await;
    let (_, root) = first_admin(&world).await;
    let admin = client(world.endpoint(), &root).await;
    refuse_updates(&world).await;
    let put = || PutAccount::stripe("acct", "cus_acct").subscription("sub_acct");
    admin.put_account(put()).await.unwrap_err();
    let entry = last(&world, &root).await;
    assert_eq!(entry.outcome(), AuditOutcome::Done, "{entry:?}");
    assert_eq!(json(&entry.after)["customer"], "cus_acct");
    assert!(
        entry.message.contains("following its subscription failed"),
        "{entry:?}"
    );
    assert_eq!(world.count_rows("account_links").await, 1);
    world
        .execute_sql(match world.engine {
            Engine::Sqlite => "DROP TRIGGER refuse",
            Engine::Postgres => "DROP TRIGGER refuse ON subscriptions",
        })
        .await;
    admin.put_account(put()).await.unwrap();
    let entry = last(&world, &root).await;
    assert_eq!((entry.outcome(), &*entry.message), (AuditOutcome::Done, ""));
    assert_eq!(json(&entry.before)["customer"], "cus_acct");
    world.finish().await;
}
