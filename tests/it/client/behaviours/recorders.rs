//! What a recorder tells its program, and how much it holds.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use usage_client::{ErrorKind, Reason, RefusedUsage};

use super::{NEVER, quick};
use crate::support::{
    reverse_proxy::ReverseProxy,
    world::{TIMEOUT, World, poll},
};

type Told = Arc<Mutex<Vec<RefusedUsage>>>;

fn told() -> (Told, impl Fn(RefusedUsage) + Send + Sync + 'static) {
    let told = Told::default();
    let hook = Arc::clone(&told);
    (told, move |usage| hook.lock().unwrap().push(usage))
}

pub(super) async fn refused_usage_is_told(world: World) {
    let (told, tell) = told();
    let client = world.client();
    let builder = client.recorder(["tokens"]).interval(NEVER);
    let recorder = builder.on_refused(tell).start().unwrap();
    recorder.record("acct", "tokens", 2);
    recorder.record("acct", "steps", 3);
    recorder.record("acct", "steps", 4);
    let stats = recorder.shutdown(TIMEOUT).await.unwrap();
    assert_eq!((stats.counted.units, stats.refused.units), (2, 7));
    assert!(!stats.is_complete());
    let told = std::mem::take(&mut *told.lock().unwrap());
    for one in &told {
        assert_eq!((&*one.account_id, &*one.meter), ("acct", "steps"));
        assert_eq!(one.reason, Some(Reason::UnknownMeter));
        assert!(one.why.contains("tokens"), "the meters there are: {one:?}");
    }
    let sums = told.iter().fold((0, 0), |(units, calls), one| {
        (units + one.units, calls + one.calls)
    });
    assert_eq!(sums, (7, 2));
    world.finish().await;
}

pub(super) async fn recorder_is_bounded(world: World) {
    let (told, tell) = told();
    // Nothing is answered, so nothing gives its place back.
    let front = ReverseProxy::start().await;
    let builder = quick(front.endpoint()).recorder(["tokens"]).capacity(2);
    let recorder = builder.on_refused(tell).start().unwrap();
    for account in ["a", "b", "c", "d"] {
        recorder.record(account, "tokens", 5);
    }
    let stats = recorder.stats();
    assert_eq!((stats.pending.units, stats.dropped.units), (10, 10));
    front.put_before(world.endpoint());
    let stats = recorder.flush(TIMEOUT).await.unwrap();
    assert_eq!((stats.counted.units, stats.dropped.units), (10, 10));
    let told = std::mem::take(&mut *told.lock().unwrap());
    let accounts: BTreeSet<&str> = told.iter().map(|one| &*one.account_id).collect();
    assert_eq!(accounts, BTreeSet::from(["c", "d"]));
    for one in &told {
        assert!(one.why.contains("the recorder is full"), "{one:?}");
        assert_eq!((one.units, &one.reason), (5, &None));
    }
    // What was counted has made room.
    recorder.record("c", "tokens", 5);
    let stats = recorder.shutdown(TIMEOUT).await.unwrap();
    assert_eq!((stats.counted.units, stats.dropped.units), (15, 10));
    assert_eq!(world.usage_of("c", "tokens").await.0, 5);
    world.finish().await;
}

pub(super) async fn wrong_meter_is_told_at_start(world: World) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let hook = Arc::clone(&told);
    let builder = world.client().recorder(["tokens", "", "steps"]);
    let builder = builder.on_wrong_meters(move |error| hook.lock().unwrap().push(error));
    let recorder = builder.start().unwrap();
    let error = poll("the wrong meter", async || told.lock().unwrap().pop()).await;
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let text = error.to_string();
    assert!(text.contains("\"steps\""), "{text}");
    assert!(text.contains("api_calls, tokens"), "{text}");
    assert!(recorder.shutdown(TIMEOUT).await.unwrap().is_complete());
    world.client().check_meters(["tokens", ""]).await.unwrap();
    world.finish().await;
}
