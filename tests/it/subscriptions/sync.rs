//! The sync of subscriptions: changes made at Stripe are read by polling, or sooner after a webhook.

use chrono::TimeDelta;
use fake_stripe::Fault;
use fake_stripe::WebhookOptions;
use usage_client::{PutAccount, ReportState};

use crate::support::world::{
    TIMEOUT, World, at,
    billing::{BASIC, PRO, SEATS, TOKENS},
    on_both_engines,
};

on_both_engines!(
    a_webhook_wakes_the_sync_before_its_interval,
    a_created_invoice_flushes_its_account,
    repeated_and_reordered_webhooks_change_nothing,
    a_report_straddling_a_plan_change_at_stripe_goes_to_the_earlier_period,
    a_cancel_at_stripe_leaves_what_follows_uncharged,
    a_deleted_customer_is_not_billed_again,
    a_customer_that_stripe_does_not_answer_for_does_not_delay_others,
    a_customer_whose_calls_hang_delays_neither_others_nor_jobs,
    an_account_made_free_and_linked_again_is_billed_by_each_link,
    free_time_is_not_billed_by_a_later_link_without_a_date,
    two_meters_are_billed_each_by_its_own_item,
);

const START: &str = "2027-03-10T13:12:34Z";
const END: &str = "2027-04-10T13:12:34Z";

async fn a_webhook_wakes_the_sync_before_its_interval(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world.with_prices_at(now).await;
    world.subscribe("acct", &[BASIC], at(START)).await;
    world.reconfigure(&["--sync-interval-secs=900"]).await;
    world.receive_webhooks().await;
    world.link_to_subscription("acct").await;
    world
        .call_stripe("DELETE", "/v1/subscriptions/sub_acct", &[])
        .await;
    // The clocks are stopped, so only the webhook can have caused the sync.
    let known = world
        .wait_until_subscription("acct", |known| known.ended_at.is_some())
        .await;
    assert_eq!(known.status, "canceled");
    world
        .wait_until("the webhooks are handled", async || {
            world
                .count_rows("webhook_events WHERE handled_at IS NULL")
                .await
                == 0
        })
        .await;
    world.finish().await;
}

async fn a_created_invoice_flushes_its_account(mut world: World) {
    world.with_prices_at(at(END) - TimeDelta::hours(1)).await;
    world.subscribe("acct", &[BASIC], at(START)).await;
    world.receive_webhooks().await;
    world.link_to_subscription("acct").await;
    world.count("acct", 5, world.now()).await;
    world.move_clocks(at(END) + TimeDelta::seconds(20)).await;
    // Long before the service's clock closes it, five minutes after the end.
    world
        .wait_until("the account is flushed", async || {
            world.stripe_total("cus_acct", "api_calls").await == 5
        })
        .await;
    world.finish().await;
}

async fn repeated_and_reordered_webhooks_change_nothing(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world.with_prices_at(now).await;
    world.receive_webhooks().await;
    let switches = WebhookOptions {
        on_demand: true,
        copies: 2,
        newest_first: true,
        delay_ms: 0,
    };
    world.stripe().set_webhook_options(&switches).await.unwrap();
    world.subscribe("acct", &[BASIC], at(START)).await;
    world.link_to_subscription("acct").await;
    world.count("acct", 3, now).await;
    world
        .call_stripe(
            "POST",
            "/v1/subscriptions/sub_acct",
            &[("cancel_at_period_end", "true")],
        )
        .await;
    world
        .call_stripe(
            "POST",
            "/v1/subscriptions/sub_acct",
            &[("cancel_at_period_end", "false")],
        )
        .await;
    assert!(world.stripe().deliver_webhooks().await.unwrap() >= 4);
    world
        .advance_to(now + TimeDelta::minutes(1), TimeDelta::seconds(30))
        .await;
    let known = world.subscription("acct").await.unwrap();
    assert_eq!((known.status.as_str(), known.cancel_at), ("active", None));
    world.advance_to(at(END), TimeDelta::days(7)).await;
    world.advance_past_draft(at(END)).await;
    world.assert_invoiced(&[3]).await;
    world.finish().await;
}

async fn a_report_straddling_a_plan_change_at_stripe_goes_to_the_earlier_period(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world
        .start_subscribed(now, &[BASIC, SEATS], at(START))
        .await;
    world.count("acct", 4, now - TimeDelta::hours(5)).await;
    world.report_all().await;
    world.wait_until_sent("acct").await;
    // Both are in one open report when the change in between becomes known, so it can no longer be split.
    world.count("acct", 20, now - TimeDelta::minutes(10)).await;
    world.move_clocks(now + TimeDelta::minutes(1)).await;
    world.stop().await;
    let subscriptions = world.stripe().subscriptions().await.unwrap();
    let old = subscriptions[0]
        .items
        .iter()
        .find(|item| item.price == BASIC)
        .unwrap();
    world
        .call_stripe(
            "POST",
            "/v1/subscriptions/sub_acct",
            &[
                ("items[0][id]", &old.id),
                ("items[0][deleted]", "true"),
                ("items[1][price]", PRO),
                ("proration_behavior", "always_invoice"),
            ],
        )
        .await;
    world.assert_invoiced(&[4]).await;
    // More usage is counted before the service syncs the change.
    world.stripe().script(no_subscriptions()).await.unwrap();
    world.start_server().await;
    world.move_clocks(now + TimeDelta::minutes(2)).await;
    world.count("acct", 6, world.now()).await;
    world.stripe().clear_faults().await.unwrap();
    world.move_clocks(now + TimeDelta::minutes(3)).await;
    world.wait_until_idle().await;
    let straddled: Vec<_> = world
        .reports("acct")
        .await
        .into_iter()
        .filter(|report| report.straddled)
        .collect();
    assert_eq!(straddled.len(), 1, "{straddled:#?}");
    world.count("acct", 100, world.now()).await;
    world.advance_to(at(END), TimeDelta::days(7)).await;
    world.advance_past_draft(at(END)).await;
    // The earlier period was invoiced immediately, so the whole report goes to the later one.
    world.assert_invoiced(&[4, 126]).await;
    assert_eq!(world.stripe().discarded_usage().await.unwrap(), []);
    world.finish().await;
}

async fn a_cancel_at_stripe_leaves_what_follows_uncharged(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world.start_subscribed(now, &[BASIC], at(START)).await;
    world.count("acct", 4, now - TimeDelta::hours(5)).await;
    world.report_all().await;
    world.wait_until_sent("acct").await;
    world.stop().await;
    world
        .call_stripe(
            "DELETE",
            "/v1/subscriptions/sub_acct",
            &[("invoice_now", "true")],
        )
        .await;
    world.move_clocks(now + TimeDelta::hours(3)).await;
    world.start_server().await;
    world.wait_until_idle().await;
    world.count("acct", 100, now + TimeDelta::hours(1)).await;
    world.report_all().await;
    world
        .wait_until("a decision", async || {
            let reports = world.reports("acct").await;
            let held = reports
                .iter()
                .filter(|one| one.state == ReportState::Uncharged);
            held.map(|one| one.quantity).sum::<i64>() == 100
        })
        .await;
    assert_eq!(world.usage("acct").await, (104, 4, 100, 0));
    world.assert_invoiced(&[4]).await;
    let again = world.link_to_subscription("acct").await;
    assert_eq!(
        again.subscription.unwrap().status,
        "canceled",
        "putting it again changes nothing"
    );
    assert_eq!(world.usage("acct").await, (104, 4, 100, 0));
    world.finish().await;
}

async fn a_deleted_customer_is_not_billed_again(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world.with_prices_at(now).await;
    world.subscribe("acct", &[BASIC], at(START)).await;
    world.receive_webhooks().await;
    world.link_to_subscription("acct").await;
    world.count("acct", 4, now - TimeDelta::minutes(1)).await;
    world
        .call_stripe("DELETE", "/v1/customers/cus_acct", &[])
        .await;
    world
        .wait_until_subscription("acct", |known| known.ended_at.is_some())
        .await;
    world.move_clocks(now + TimeDelta::hours(1)).await;
    world.count("acct", 7, world.now()).await;
    world.report_all().await;
    world
        .wait_until_reports_are("acct", &[ReportState::CustomerDeleted])
        .await;
    assert_eq!(
        world.usage("acct").await,
        (11, 0, 11, 0),
        "a person decides on what was not requested"
    );
    world.finish().await;
}

async fn a_customer_that_stripe_does_not_answer_for_does_not_delay_others(mut world: World) {
    world.with_prices_at(at("2027-03-20T08:30:10Z")).await;
    for name in ["bad", "good"] {
        world.subscribe(name, &[BASIC], at(START)).await;
        world.link_to_subscription(name).await;
    }
    world.receive_webhooks().await;
    let no_response = Fault::status(503)
        .on_method("GET")
        .on_path("/v1/subscriptions")
        .on_customer("cus_bad")
        .always();
    world.stripe().script(no_response).await.unwrap();
    for name in ["bad", "good"] {
        let path = format!("/v1/subscriptions/sub_{name}");
        world.call_stripe("DELETE", &path, &[]).await;
    }
    world
        .wait_until_subscription("good", |known| known.ended_at.is_some())
        .await;
    let bad = world.subscription("bad").await.unwrap();
    assert_eq!(bad.ended_at, None, "Stripe did not say");
    world.stripe().clear_faults().await.unwrap();
    world
        .wait_until_subscription("bad", |known| known.ended_at.is_some())
        .await;
    world.finish().await;
}

async fn a_customer_whose_calls_hang_delays_neither_others_nor_jobs(mut world: World) {
    world.with_prices_at(at("2027-03-20T08:30:10Z")).await;
    world.reconfigure(&["--sync-interval-secs=900"]).await;
    for name in ["bad", "good", "late", "live"] {
        world.subscribe(name, &[BASIC], at(START)).await;
        world.link_to_subscription(name).await;
    }
    world.receive_webhooks().await;
    let hang = Fault::block_until_released("gate")
        .on_method("GET")
        .on_path("/v1/subscriptions")
        .on_customer("cus_bad")
        .always();
    world.stripe().script(hang).await.unwrap();
    let cancel = async |name: &str| {
        let path = format!("/v1/subscriptions/sub_{name}");
        world.call_stripe("DELETE", &path, &[]).await;
    };
    cancel("bad").await;
    world
        .stripe()
        .wait_for_blocked("gate", 1, TIMEOUT)
        .await
        .unwrap();
    // Webhooks that arrive while the sync of one customer hangs.
    for name in ["good", "late"] {
        cancel(name).await;
        world
            .wait_until_subscription(name, |known| known.ended_at.is_some())
            .await;
    }
    // Other jobs continue: a report is closed and sent.
    world.count("live", 5, at("2027-03-20T08:30:00Z")).await;
    assert_eq!(world.report_all().await.accepted.quantity, 5);
    world.stripe().clear_faults().await.unwrap();
    world.stripe().release("gate").await.unwrap();
    world
        .wait_until_subscription("bad", |known| known.ended_at.is_some())
        .await;
    world.finish().await;
}

async fn an_account_made_free_and_linked_again_is_billed_by_each_link(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world.start_subscribed(now, &[BASIC], at(START)).await;
    world.count("acct", 1, now).await;
    world
        .client()
        .put_account(PutAccount::free("acct"))
        .await
        .unwrap();
    let freed = now + TimeDelta::minutes(10);
    world.move_clocks(freed).await;
    world.count("acct", 10, freed).await;
    world.move_clocks(freed + TimeDelta::minutes(10)).await;
    let back = PutAccount::stripe("acct", "cus_acct").bill_from(world.now());
    world.client().put_account(back).await.unwrap();
    world.count("acct", 100, world.now()).await;
    world.advance_to(at(END), TimeDelta::days(7)).await;
    world.advance_past_draft(at(END)).await;
    world.assert_invoiced(&[101]).await;
    assert_eq!(world.usage("acct").await, (111, 101, 0, 10));
    world.finish().await;
}

async fn free_time_is_not_billed_by_a_later_link_without_a_date(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world.start_subscribed(now, &[BASIC], at(START)).await;
    world.count("acct", 1, now).await;
    let client = world.client();
    client.put_account(PutAccount::free("acct")).await.unwrap();
    let freed = now + TimeDelta::minutes(10);
    world.move_clocks(freed).await;
    world.count("acct", 10, freed).await;
    world.move_clocks(freed + TimeDelta::minutes(10)).await;
    // The period began before the free time.
    let linked = world.link_to_subscription("acct").await;
    assert_eq!(linked.valid_from, world.now());
    world.count("acct", 100, world.now()).await;
    // Linked to its subscription by name, which is another link, it was free all the same.
    let named = PutAccount::stripe("acct", "cus_acct").subscription("sub_acct");
    let named = client.put_account(named).await.unwrap().account;
    assert_eq!(named.valid_from, linked.valid_from);
    world.advance_to(at(END), TimeDelta::days(7)).await;
    world.advance_past_draft(at(END)).await;
    world.assert_invoiced(&[101]).await;
    assert_eq!(world.usage("acct").await, (111, 101, 0, 10));
    world.finish().await;
}

async fn two_meters_are_billed_each_by_its_own_item(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world.with_prices_at(now).await;
    world
        .subscribe("acct", &[BASIC, TOKENS, SEATS], at(START))
        .await;
    world.link_to_subscription("acct").await;
    world.count("acct", 3, now).await;
    world.count_of("acct", "tokens", 9_000, now).await;
    let known = world.subscription("acct").await.unwrap();
    let mut meters: Vec<&str> = known
        .periods
        .iter()
        .map(|period| period.meter.as_str())
        .collect();
    meters.sort_unstable();
    assert_eq!(meters, ["api_calls", "tokens"]);
    world.advance_to(at(END), TimeDelta::days(7)).await;
    world.advance_past_draft(at(END)).await;
    world.assert_invoiced(&[3]).await;
    assert_eq!(
        world.invoiced_quantities("cus_acct", "llm_tokens").await,
        [9_000]
    );
    world.finish().await;
}

/// Makes Stripe's lists of subscriptions fail.
fn no_subscriptions() -> Fault {
    Fault::status(503).on_path("/v1/subscriptions").always()
}
