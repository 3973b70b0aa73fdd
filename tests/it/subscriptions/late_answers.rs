//! Answers of Stripe that come late: what was read before something newer was applied changes nothing any more.

use chrono::TimeDelta;
use fake_stripe::Fault;
use usage_client::{ChangePlan, PutAccount};

use crate::support::world::{
    TIMEOUT, World, at,
    billing::{BASIC, PRO},
    on_both_engines,
};

on_both_engines!(
    what_was_read_before_a_change_is_not_applied_after_it,
    an_account_is_put_with_what_was_read_before_a_change,
    an_invoice_that_was_read_as_a_draft_stays_final,
);

const START: &str = "2027-03-10T13:12:34Z";
const END: &str = "2027-04-10T13:12:34Z";
const NOW: &str = "2027-03-20T08:30:10Z";

/// Holds back the answer to the next request that reads from a path.
async fn hold_answer(world: &World, name: &str, path: &str) {
    let hold = Fault::block_until_released(name).after_executing();
    let hold = hold.on_method("GET").on_path(path);
    world.stripe().script(hold).await.unwrap();
}

async fn wait_until_held(world: &World, name: &str) {
    let stripe = world.stripe();
    stripe.wait_for_blocked(name, 1, TIMEOUT).await.unwrap();
}

async fn change_plan(world: &World) {
    let client = world.client();
    let change = client.change_plan(ChangePlan::new("acct", PRO));
    let changed = world.while_clock_moves(change).await.unwrap();
    assert!(changed.change.is_some());
}

/// The new item's period is the whole rest of the month, and its usage is charged.
async fn assert_charged_until_the_end(world: &World) {
    let known = world.subscription("acct").await.unwrap();
    let new = known.periods.iter().find(|period| period.price == PRO);
    assert_eq!(new.expect("a period").period.end, at(END), "{known:#?}");
    world.count("acct", 6, world.now()).await;
    world.advance_to(at(END), TimeDelta::days(7)).await;
    world.advance_past_draft(at(END)).await;
    world.assert_invoiced(&[4, 6]).await;
    assert_eq!(world.stripe().discarded_usage().await.unwrap(), []);
}

async fn what_was_read_before_a_change_is_not_applied_after_it(mut world: World) {
    world.start_subscribed(at(NOW), &[BASIC], at(START)).await;
    world.count("acct", 4, at(NOW)).await;
    world.wait_until_idle().await;
    hold_answer(&world, "late", "/v1/subscriptions").await;
    // The next poll.
    world
        .move_clocks(world.now() + TimeDelta::seconds(11))
        .await;
    wait_until_held(&world, "late").await;
    change_plan(&world).await;
    world.stripe().release("late").await.unwrap();
    // Only one poll runs at a time.
    world
        .move_clocks(world.now() + TimeDelta::seconds(11))
        .await;
    world.wait_until_idle().await;
    assert_charged_until_the_end(&world).await;
    world.finish().await;
}

async fn an_account_is_put_with_what_was_read_before_a_change(mut world: World) {
    world.start_subscribed(at(NOW), &[BASIC], at(START)).await;
    world.count("acct", 4, at(NOW)).await;
    world.wait_until_idle().await;
    hold_answer(&world, "late", "/v1/subscriptions").await;
    let client = world.client();
    let put = PutAccount::stripe("acct", "cus_acct").bill_from(at(START) + TimeDelta::days(1));
    let put = tokio::spawn(async move { client.put_account(put).await });
    wait_until_held(&world, "late").await;
    change_plan(&world).await;
    world.stripe().release("late").await.unwrap();
    put.await.unwrap().unwrap();
    assert_charged_until_the_end(&world).await;
    world.finish().await;
}

async fn an_invoice_that_was_read_as_a_draft_stays_final(mut world: World) {
    let near = at(END) - TimeDelta::minutes(10);
    world.start_subscribed(near, &[BASIC], at(START)).await;
    world.wait_until_idle().await;
    hold_answer(&world, "late", "/v1/invoices").await;
    world.move_clocks(at(END) + TimeDelta::minutes(2)).await;
    wait_until_held(&world, "late").await;
    let drafts = "billing_periods WHERE invoice_state = 'draft'";
    let finals = "billing_periods WHERE invoice_state = 'final'";
    world.move_clocks(at(END) + TimeDelta::minutes(90)).await;
    world.receive_webhooks().await;
    let form = [("metadata[seen]", "again")];
    world
        .call_stripe("POST", "/v1/subscriptions/sub_acct", &form)
        .await;
    world
        .wait_until("the final invoice", async || {
            world.count_rows(finals).await == 1
        })
        .await;
    let pending = "webhook_events WHERE handled_at IS NULL";
    world
        .wait_until("the webhook to be handled", async || {
            world.count_rows(pending).await == 0
        })
        .await;
    // The poll with the late answer ends, and the next one begins.
    hold_answer(&world, "next", "/v1/subscriptions").await;
    world.stripe().release("late").await.unwrap();
    wait_until_held(&world, "next").await;
    let states = (
        world.count_rows(drafts).await,
        world.count_rows(finals).await,
    );
    assert_eq!(states, (0, 1), "drafts and final ones");
    world.stripe().release("next").await.unwrap();
    world.finish().await;
}
