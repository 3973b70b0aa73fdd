//! Increments that are found by their keys.

use chrono::TimeDelta;
use usage_client::{
    Batch, DeleteAccount, ErrorKind, FindIncrement, Increment, PutAccount, Reason, ReportState,
};

use super::{END, TEXT_KEY, UUID_KEY, begin, count_keyed, find};
use crate::support::world::{World, at, billing::BASIC, hours_ago, on_both_engines};

on_both_engines!(
    a_key_names_its_report_in_every_state,
    late_usage_of_a_window_is_in_its_own_report,
    keys_of_items_of_a_batch_are_found,
    an_increment_that_was_divided_names_the_other_reports,
    a_key_that_was_not_counted_is_not_found,
    a_key_that_is_no_longer_kept_is_not_found,
    an_increment_of_a_deleted_account_is_not_found,
    what_cannot_be_a_key_is_refused,
);

async fn a_key_names_its_report_in_every_state(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    let now = world.now();
    count_keyed(&world, UUID_KEY, 7, now).await;
    let found = find(&world, UUID_KEY).await.unwrap();
    assert_eq!(found.increment.key, UUID_KEY);
    assert_eq!(found.increment.meter, "api_calls");
    assert_eq!(found.increment.quantity, 7);
    assert_eq!(found.increment.timestamp, Some(now));
    assert_eq!(found.increment.counted_at, now);
    assert!(found.divided_with.is_empty());
    let report = found.report.unwrap();
    assert_eq!(report.state, ReportState::Open);
    assert!(report.window.start <= now && now < report.window.end);
    let [line] = found.lines.as_slice() else {
        panic!("{:?}", found.lines);
    };
    assert_eq!((&*line.price, &*line.meter), (BASIC, "api_calls"));
    assert_eq!(line.stripe_customer, "cus_acct");
    assert_eq!(line.period.end, at(END));
    assert_eq!(
        (line.reported, line.invoiced, line.difference),
        (0, None, None)
    );
    assert!(line.reports.is_empty());

    world.report_all().await;
    world.wait_until_sent("acct").await;
    let sent = find(&world, UUID_KEY).await.unwrap();
    let closed = sent.report.unwrap();
    assert_eq!(closed.id, report.id);
    assert_eq!(closed.stripe_customer.as_deref(), Some("cus_acct"));
    // Its event at Stripe.
    let events = world.meter_events("cus_acct").await;
    let [event] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!(event.identifier, closed.identifier);
    assert_eq!(
        Some(event.timestamp),
        closed.event_timestamp.map(|at| at.timestamp())
    );
    assert_eq!(sent.lines[0].reported, 7);
    world.finish().await;
}

async fn late_usage_of_a_window_is_in_its_own_report(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    let used = world.now();
    count_keyed(&world, UUID_KEY, 7, used).await;
    world.report_all().await;
    world.wait_until_sent("acct").await;
    world.move_clocks(used + TimeDelta::hours(3)).await;
    count_keyed(&world, TEXT_KEY, 2, used).await;
    let (first, late) = (find(&world, UUID_KEY).await, find(&world, TEXT_KEY).await);
    let (first, late) = (first.unwrap(), late.unwrap());
    assert_eq!(late.increment.timestamp, Some(used));
    assert_eq!(late.increment.counted_at, world.now());
    let (first, late) = (first.report.unwrap(), late.report.unwrap());
    assert_eq!(first.window, late.window);
    assert_ne!(first.id, late.id);
    assert_eq!((first.quantity, late.quantity), (7, 2));
    assert_eq!(late.state, ReportState::Open);
    world.finish().await;
}

async fn keys_of_items_of_a_batch_are_found(world: World) {
    let item = |key: &str, quantity| Increment::new("acct").key(key).quantity(quantity);
    let batch = Batch::new()
        .push(item(TEXT_KEY, 3))
        .push(item("other", 4).meter("tokens"))
        .key("of the batch");
    world.client().increment_batch(batch).await.unwrap();
    let found = find(&world, TEXT_KEY).await.unwrap();
    assert_eq!(found.increment.quantity, 3);
    assert_eq!(found.increment.timestamp, None);
    assert!(found.lines.is_empty(), "the account has no billing period");
    // printf 'acct\0order-7' | sha256sum
    assert_eq!(found.increment.key.len(), 36);
    assert_ne!(found.increment.key, TEXT_KEY);
    let again = find(&world, &found.increment.key).await.unwrap();
    assert_eq!(again, found, "the stored form of a key names it too");
    let of_meter = |meter| FindIncrement::new("acct", "other").meter(meter);
    let tokens = world.client().find_increment(of_meter("tokens")).await;
    assert_eq!(tokens.unwrap().report.unwrap().meter, "tokens");
    let error = world.client().find_increment(of_meter("api_calls")).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(find(&world, "of the batch").await.is_err());
    world.finish().await;
}

async fn an_increment_that_was_divided_names_the_other_reports(world: World) {
    const LARGEST: i64 = 1_000_000_000_000;
    let item = |number: i64| Increment::new("acct").key(format!("key-{number}"));
    let batch: Vec<Increment> = (0..1_000)
        .map(|number| item(number).quantity(LARGEST).timestamp(hours_ago(1)))
        .collect();
    world
        .client()
        .increment_batch(Batch::from(batch))
        .await
        .unwrap();
    let reports = world.reports("acct").await;
    let full = reports.iter().find(|report| report.closed_at.is_some());
    let full = full.unwrap();
    assert_eq!(full.quantity, 999_999_999_999_999);
    for key in ["key-0", "key-999"] {
        let found = find(&world, key).await.unwrap();
        assert_eq!(found.increment.quantity, LARGEST);
        let report = found.report.unwrap();
        assert_eq!((report.quantity, report.state), (1, ReportState::Open));
        assert_eq!(found.divided_with, std::slice::from_ref(&full.id));
    }
    // What is counted later is in one report.
    count_keyed(&world, TEXT_KEY, 5, hours_ago(1)).await;
    let later = find(&world, TEXT_KEY).await.unwrap();
    assert_eq!(later.report.unwrap().quantity, 6);
    world.finish().await;
}

async fn assert_not_found(world: &World, key: &str) {
    let error = find(world, key).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert_eq!(error.reason(), Some(&Reason::IncrementNotFound));
    let text = error.to_string();
    for part in [key, "acct", "kept for 36 days"] {
        assert!(text.contains(part), "{text}");
    }
}

async fn a_key_that_was_not_counted_is_not_found(world: World) {
    assert_not_found(&world, UUID_KEY).await;
    // A key belongs to its account.
    count_keyed(&world, UUID_KEY, 1, hours_ago(1)).await;
    let of_other = FindIncrement::new("other", UUID_KEY);
    let error = world.client().find_increment(of_other).await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::IncrementNotFound));
    // Another spelling is another key.
    assert_not_found(&world, &UUID_KEY.to_uppercase()).await;
    assert_not_found(&world, "' OR 1=1 --").await;
    world.finish().await;
}

async fn a_key_that_is_no_longer_kept_is_not_found(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    count_keyed(&world, UUID_KEY, 7, world.now()).await;
    let kept = "idempotency_keys WHERE account_id = 'acct'";
    assert_eq!(world.count_rows(kept).await, 1);
    world.wait_until_job_ran("cleanup").await;
    world.stop().await;
    world.move_clocks(world.now() + TimeDelta::days(37)).await;
    world.start_server().await;
    // After a long pause, nothing is deleted for an hour.
    world.move_clocks(world.now() + TimeDelta::hours(1)).await;
    world
        .wait_until("old keys to be deleted", async || {
            world.count_rows(kept).await == 0
        })
        .await;
    assert_not_found(&world, UUID_KEY).await;
    world.finish().await;
}

async fn an_increment_of_a_deleted_account_is_not_found(world: World) {
    let client = world.client();
    client.put_account(PutAccount::free("acct")).await.unwrap();
    count_keyed(&world, UUID_KEY, 7, hours_ago(2)).await;
    world.report_all().await;
    assert!(find(&world, UUID_KEY).await.is_ok());
    let deletion = DeleteAccount::new("acct");
    client.delete_account(deletion).await.unwrap();
    assert_not_found(&world, UUID_KEY).await;
    world.finish().await;
}

async fn what_cannot_be_a_key_is_refused(world: World) {
    let long = "k".repeat(256);
    for (account, key, meter, field, why) in [
        ("acct", "", "", "idempotency_key", "missing"),
        ("acct", &*long, "", "idempotency_key", "at most 255"),
        ("acct", "a\0b", "", "idempotency_key", "NUL"),
        ("a b", "key", "", "account_id", "a b"),
        ("", "key", "", "account_id", "account_id"),
        ("acct", "key", "no meter", "meter", "no meter"),
    ] {
        let call = FindIncrement::new(account, key).meter(meter);
        let error = world.client().find_increment(call).await.unwrap_err();
        assert_eq!(error.reason(), Some(&Reason::InvalidField), "{error}");
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(error.violations()[0].field, field);
    }
    world.finish().await;
}
