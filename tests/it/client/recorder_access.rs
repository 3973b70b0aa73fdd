//! A recorder whose meters are wrong, and one whose key may not count everything.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use usage_client::{ErrorKind, RecorderBuilder, UsageClient, proto::KeyRole};

use crate::{
    operations::access::{
        access, create, create_key_with_meters, first_admin, limited_key, new_key,
    },
    support::{
        reverse_proxy::ReverseProxy,
        world::{TIMEOUT, World, on_both_engines, poll},
    },
};

on_both_engines!(
    wrong_meters_are_told_when_the_recorder_starts,
    meters_are_checked_when_the_server_answers,
    usage_that_the_key_may_not_count_is_sent_again_and_counted_once,
    usage_that_the_key_may_not_count_stays_in_the_spool_for_the_next_key,
);

type Told = Arc<Mutex<Vec<usage_client::Error>>>;

/// A recorder of some meters, and what it is told of them.
fn told_of_meters(builder: RecorderBuilder) -> (RecorderBuilder, Told) {
    let told = Told::default();
    let hook = Arc::clone(&told);
    let builder = builder.interval(Duration::from_millis(10));
    let builder = builder.on_wrong_meters(move |error| {
        hook.lock().unwrap().push(error);
        panic!("the program's own code fails");
    });
    (builder, told)
}

async fn wrong_meters_are_told_when_the_recorder_starts(world: World) {
    let client = world.client();
    let (right, nothing) = told_of_meters(client.recorder(["api_calls", "tokens", ""]));
    let right = right.start().unwrap();
    let (wrong, told) = told_of_meters(client.recorder(["tokens", "token"]));
    let wrong = wrong.start().unwrap();
    let error = poll("the wrong meter", async || told.lock().unwrap().pop()).await;
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("\"token\""), "{error}");
    // It goes on all the same.
    wrong.record("acct", "tokens", 3);
    assert!(wrong.shutdown(TIMEOUT).await.unwrap().is_complete());
    right.record("acct", "tokens", 4);
    assert!(right.shutdown(TIMEOUT).await.unwrap().is_complete());
    assert!(nothing.lock().unwrap().is_empty());
    assert!(told.lock().unwrap().is_empty(), "it is told once");
    world.finish().await;
}

async fn meters_are_checked_when_the_server_answers(world: World) {
    let front = ReverseProxy::start().await;
    let client = UsageClient::connect_lazy(front.endpoint()).unwrap();
    let client = client.with_timeout(Duration::from_secs(2));
    let (builder, told) = told_of_meters(client.recorder(["no_such_meter"]));
    let recorder = builder.start().unwrap();
    recorder.record("acct", "api_calls", 5);
    let late = recorder.flush(Duration::from_millis(500)).await;
    assert!(late.unwrap_err().is_retryable(), "no server answers");
    assert!(told.lock().unwrap().is_empty());
    front.put_before(world.endpoint());
    let error = poll("the wrong meter", async || told.lock().unwrap().pop()).await;
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(recorder.shutdown(TIMEOUT).await.unwrap().is_complete());
    world.finish().await;
}

/// A recorder with a key.
fn with_key(world: &World, key: &str, spool: Option<&Path>) -> RecorderBuilder {
    let client = UsageClient::builder(world.endpoint()).api_key(key);
    let client = client.connect_lazy().unwrap();
    let builder = client.recorder(["tokens"]);
    let builder = builder.interval(Duration::from_millis(10));
    match spool {
        Some(folder) => builder.spool(folder),
        None => builder,
    }
}

async fn usage_that_the_key_may_not_count_is_sent_again_and_counted_once(world: World) {
    let key = create_key_with_meters(&world, KeyRole::Writer, &["tokens"]).await;
    let recorder = with_key(&world, &key, None).start().unwrap();
    recorder.record("acct", "tokens", 3);
    recorder.record("acct", "api_calls", 4);
    world
        .wait_until("the allowed part", async || {
            recorder.stats().counted.units == 3
        })
        .await;
    let stats = recorder.stats();
    assert_eq!((stats.refused.units, stats.pending.units), (0, 4));
    // The key gets other limits.
    world
        .execute_sql("UPDATE api_keys SET scope = '{}' WHERE name = 'limited'")
        .await;
    let stats = recorder.shutdown(TIMEOUT).await.unwrap();
    assert!(stats.is_complete(), "{stats:?}");
    for (meter, quantity) in [("tokens", 3), ("api_calls", 4)] {
        let counted = format!("open_reports WHERE meter = '{meter}' AND quantity = {quantity}");
        assert_eq!(world.count_rows(&counted).await, 1, "{meter}");
    }
    world.finish().await;
}

async fn usage_that_the_key_may_not_count_stays_in_the_spool_for_the_next_key(world: World) {
    let (_, admin) = first_admin(&world).await;
    let mut access = access(&world, Some(&admin)).await;
    let limited = limited_key("w", KeyRole::Writer, &[], &["tokens"]);
    let limited = create(&mut access, limited).await.text;
    let other = create(&mut access, new_key("w", KeyRole::Writer))
        .await
        .text;
    let folder = tempfile::tempdir().unwrap();
    let recorder = with_key(&world, &limited, Some(folder.path()))
        .start()
        .unwrap();
    recorder.record("acct", "tokens", 3);
    recorder.record("acct", "api_calls", 4);
    world
        .wait_until("the allowed part", async || {
            recorder.stats().counted.units == 3
        })
        .await;
    let late = recorder.shutdown(Duration::from_millis(200)).await;
    assert_eq!(late.unwrap_err().figures().unwrap().pending.units, 4);
    let recorder = with_key(&world, &other, Some(folder.path()))
        .start()
        .unwrap();
    assert_eq!(recorder.stats().recovered.units, 4);
    let stats = recorder.shutdown(TIMEOUT).await.unwrap();
    assert_eq!((stats.counted.units, stats.refused.units), (4, 0));
    for (meter, quantity) in [("tokens", 3), ("api_calls", 4)] {
        let counted = format!("open_reports WHERE meter = '{meter}' AND quantity = {quantity}");
        assert_eq!(world.count_rows(&counted).await, 1, "{meter}");
    }
    world.finish().await;
}
