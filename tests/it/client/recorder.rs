//! The client's recorder with a server that crashes, restarts and loses connections: its count equals the server's, and
//! nothing is counted twice.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tonic::Code;
use usage_client::{Recorder, RecorderBuilder, Retry, UsageClient};

use crate::support::{
    flaky_server::{Behavior, FlakyServer},
    reverse_proxy::ReverseProxy,
    world::{TIMEOUT, World, on_both_engines},
};

on_both_engines!(
    usage_recorded_by_many_threads_is_counted_once,
    usage_recorded_while_servers_crash_is_counted_once,
    usage_recorded_while_connections_break_is_counted_once,
    usage_sent_to_a_flaky_server_is_counted_once,
    a_full_recorder_counts_what_it_drops,
    dropped_usage_is_told_like_refused_usage,
    figures_are_there_when_the_time_is_over,
    a_refused_increment_does_not_affect_the_rest,
    dropping_the_last_handle_sends_everything,
    recorded_usage_of_one_second_is_one_increment,
);

/// A world behind a proxy, and a recorder with a short send interval.
async fn recording(
    world: &World,
    set_up: impl FnOnce(RecorderBuilder) -> RecorderBuilder,
) -> (ReverseProxy, Recorder) {
    let front = ReverseProxy::start().await;
    front.put_before(world.endpoint());
    let client = UsageClient::connect_lazy(front.endpoint()).unwrap();
    let client = client.with_timeout(Duration::from_secs(2));
    let builder = client
        .recorder(["api_calls", "tokens"])
        .interval(Duration::from_millis(10));
    let recorder = set_up(builder).start().unwrap();
    (front, recorder)
}

/// Asserts that the server counted exactly what the recorder's statistics state.
async fn assert_all_counted(world: &World, recorder: &Recorder, accounts: &[&str]) {
    let stats = recorder.flush(TIMEOUT).await.unwrap();
    assert_eq!(stats.counted, stats.recorded, "{stats:?}");
    assert!(stats.is_complete(), "{stats:?}");
    assert_eq!(stats.pending.calls, 0);
    let mut counted = 0;
    for account in accounts {
        counted += world.total_of_all_meters(account).await;
    }
    assert_eq!(u64::try_from(counted).unwrap(), stats.counted.units);
}

async fn usage_recorded_by_many_threads_is_counted_once(world: World) {
    let (_front, recorder) = recording(&world, |builder| builder.batch_size(7)).await;
    let threads = (0..8).map(|thread: usize| {
        let recorder = recorder.clone();
        tokio::task::spawn_blocking(move || {
            for number in 0..5_000_i64 {
                let account = ["a", "b", "c"][(thread + usize::try_from(number).unwrap()) % 3];
                let meter = if number % 2 == 0 {
                    "api_calls"
                } else {
                    "tokens"
                };
                recorder.record(account, meter, 1 + number % 5);
            }
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.await.unwrap();
    }
    assert_all_counted(&world, &recorder, &["a", "b", "c"]).await;
    assert_eq!(recorder.stats().recorded.calls, 40_000);
    world.finish().await;
}

async fn usage_recorded_while_servers_crash_is_counted_once(mut world: World) {
    let (front, recorder) = recording(&world, |builder| builder.batch_size(3)).await;
    for round in 0..6_i64 {
        for number in 0..50_i64 {
            recorder.record(&format!("acct-{}", number % 10), "api_calls", 1 + round);
            tokio::task::yield_now().await;
        }
        world.crash();
        front.break_connections();
        for number in 0..50_i64 {
            recorder.record(&format!("acct-{}", number % 10), "api_calls", 1 + round);
        }
        world.start_server().await;
        front.put_before(world.endpoint());
    }
    let accounts: Vec<String> = (0..10).map(|number| format!("acct-{number}")).collect();
    let accounts: Vec<&str> = accounts.iter().map(String::as_str).collect();
    assert_all_counted(&world, &recorder, &accounts).await;
    world.finish().await;
}

async fn usage_recorded_while_connections_break_is_counted_once(world: World) {
    let (front, recorder) = recording(&world, |builder| builder.batch_size(2)).await;
    for round in 0..40_i64 {
        for number in 0..25_i64 {
            recorder.record(&format!("acct-{}", number % 5), "tokens", 1 + round);
            tokio::task::yield_now().await;
        }
        front.break_connections();
    }
    let accounts = ["acct-0", "acct-1", "acct-2", "acct-3", "acct-4"];
    assert_all_counted(&world, &recorder, &accounts).await;
    world.finish().await;
}

async fn usage_sent_to_a_flaky_server_is_counted_once(world: World) {
    let each = [
        Behavior::Overloaded,
        Behavior::Refuses(Code::Unavailable),
        Behavior::LosesResponse(Code::Unavailable),
        Behavior::RespondsTooLate,
        Behavior::Normal,
        Behavior::LosesResponse(Code::Internal),
        Behavior::Refuses(Code::Unknown),
        Behavior::Refuses(Code::Unauthenticated),
        Behavior::LosesResponse(Code::ResourceExhausted),
        Behavior::LosesResponse(Code::DeadlineExceeded),
    ];
    let flaky = FlakyServer::start(world.endpoint(), [each, each].concat()).await;
    let client = UsageClient::connect_lazy(flaky.endpoint()).unwrap();
    let client = client
        .with_timeout(Duration::from_millis(500))
        .with_retry(Retry::default().backoff(Duration::from_millis(1), Duration::from_millis(5)));
    let builder = client
        .recorder(["api_calls", "tokens"])
        .interval(Duration::from_millis(10));
    let recorder = builder.batch_size(2).start().unwrap();
    let names: Vec<String> = (0..10).map(|number| format!("acct-{number}")).collect();
    let mut accounts: Vec<&str> = names.iter().map(String::as_str).collect();
    for (number, account) in accounts.iter().cycle().take(500).enumerate() {
        recorder.record(account, "api_calls", 1 + i64::try_from(number % 7).unwrap());
        tokio::task::yield_now().await;
    }
    assert_all_counted(&world, &recorder, &accounts).await;
    // The remaining behaviors apply to usage of one more account.
    accounts.push("late");
    while flaky.behaviors_left() > 0 {
        recorder.record("late", "api_calls", 1);
        assert_all_counted(&world, &recorder, &accounts).await;
    }
    world.finish().await;
}

async fn a_full_recorder_counts_what_it_drops(world: World) {
    let front = ReverseProxy::start().await;
    let client = UsageClient::connect_lazy(front.endpoint()).unwrap();
    let recorder = client
        .recorder(["api_calls", "tokens"])
        .capacity(3)
        .start()
        .unwrap();
    for account in ["a", "b", "c", "d", "e"] {
        recorder.record(account, "api_calls", 10);
    }
    recorder.record("a", "api_calls", 0);
    recorder.record("a", "api_calls", -7);
    // A name that is too long for the server uses no memory either.
    recorder.record(&"x".repeat(129), "api_calls", 1);
    recorder.record("a", &"x".repeat(129), 1);
    recorder.record("", "api_calls", 1);
    let stats = recorder.stats();
    assert_eq!(stats.recorded.calls, 10);
    assert_eq!((stats.dropped.calls, stats.dropped.units), (7, 23));
    assert_eq!((stats.pending.calls, stats.pending.units), (3, 30));
    let late = recorder.flush(Duration::from_millis(50)).await;
    assert!(late.unwrap_err().is_retryable(), "no server answers");
    front.put_before(world.endpoint());
    let stats = recorder.flush(TIMEOUT).await.unwrap();
    assert_eq!((stats.counted.calls, stats.counted.units), (3, 30));
    recorder.record("d", "api_calls", 5);
    let stats = recorder.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(stats.counted.units, 35, "there is space again");
    assert_eq!(world.total_of_all_meters("d").await, 5);
    world.finish().await;
}

async fn a_refused_increment_does_not_affect_the_rest(world: World) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let (_front, recorder) = recording(&world, |builder| {
        builder.on_refused(move |usage| {
            tell.lock().unwrap().push(usage);
            panic!("the program's own code fails");
        })
    })
    .await;
    recorder.record("acct", "api_calls", 4);
    recorder.record("acct", "no_such_meter", 3);
    recorder.record("not an account", "api_calls", 2);
    let stats = recorder.flush(TIMEOUT).await.unwrap();
    assert_eq!((stats.counted.calls, stats.counted.units), (1, 4));
    assert_eq!((stats.refused.calls, stats.refused.units), (2, 5));
    assert!(!stats.is_complete());
    let mut told = std::mem::take(&mut *told.lock().unwrap());
    told.sort_by_key(|usage| usage.units);
    let [account, meter] = told.as_slice() else {
        panic!("{told:?}");
    };
    assert_eq!(
        (&*account.account_id, account.units, account.calls),
        ("not an account", 2, 1)
    );
    assert!(account.why.contains("account_id"), "{account:?}");
    assert_eq!((&*meter.meter, meter.units), ("no_such_meter", 3));
    assert!(meter.why.contains("known meters"), "{meter:?}");
    assert_eq!(stats.pending.calls, 0);
    assert_eq!(world.total_of_all_meters("acct").await, 4);
    world.finish().await;
}

async fn dropping_the_last_handle_sends_everything(world: World) {
    let (_front, recorder) =
        recording(&world, |builder| builder.interval(Duration::from_hours(1))).await;
    let other = recorder.clone();
    recorder.record("acct", "api_calls", 4);
    drop(recorder);
    other.record("acct", "api_calls", 5);
    drop(other);
    world
        .wait_until("all of it", async || {
            world.total_of_all_meters("acct").await == 9
        })
        .await;
    world.finish().await;
}

async fn recorded_usage_of_one_second_is_one_increment(world: World) {
    let (_front, recorder) =
        recording(&world, |builder| builder.interval(Duration::from_hours(1))).await;
    for _ in 0..1_000 {
        recorder.record("acct", "api_calls", 2);
    }
    assert_all_counted(&world, &recorder, &["acct"]).await;
    // The thousand calls took at most a few seconds, and usage of each second is one increment.
    let increments = world.count_rows("commits WHERE increments > 5").await;
    assert_eq!(increments, 0);
    assert_eq!(recorder.stats().counted.calls, 1_000);
    world.finish().await;
}

async fn dropped_usage_is_told_like_refused_usage(world: World) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let hook = Arc::clone(&told);
    // Nothing is answered, so nothing gives its place back.
    let front = ReverseProxy::start().await;
    let client = UsageClient::connect_lazy(front.endpoint()).unwrap();
    let builder = client.recorder(["api_calls", "tokens"]).capacity(1);
    let builder = builder.on_refused(move |usage| hook.lock().unwrap().push(usage));
    let recorder = builder.start().unwrap();
    recorder.record("kept", "api_calls", 1);
    recorder.record("full", "api_calls", 2);
    recorder.record("full", "api_calls", 3);
    recorder.record("wrong", "api_calls", -4);
    front.put_before(world.endpoint());
    let stats = recorder.flush(TIMEOUT).await.unwrap();
    assert_eq!((stats.counted.units, stats.dropped.calls), (1, 3));
    let told = std::mem::take(&mut *told.lock().unwrap());
    // One account may be told in parts.
    let of = |account: &str, why: &str| {
        let own = told.iter().filter(|one| one.account_id == account);
        own.fold((0, 0), |(units, calls), one| {
            assert!(one.why.starts_with("dropped: "), "{one:?}");
            assert!(one.why.contains(why), "{one:?}");
            (units + one.units, calls + one.calls)
        })
    };
    assert_eq!(of("full", "the recorder is full"), (5, 2));
    assert_eq!(of("wrong", "outside the limits"), (0, 1));
    assert_eq!(of("kept", ""), (0, 0));
    world.finish().await;
}

async fn figures_are_there_when_the_time_is_over(mut world: World) {
    let (front, recorder) = recording(&world, |builder| builder).await;
    recorder.record("acct", "api_calls", 5);
    let counted = recorder.flush(TIMEOUT).await.unwrap();
    assert!(counted.is_complete());
    front.break_connections();
    front.put_before("http://127.0.0.1:1");
    recorder.record("acct", "api_calls", 7);
    let short = Duration::from_millis(200);
    let flushed = recorder.flush(short).await.unwrap_err();
    let figures = flushed.figures().expect("figures");
    assert_eq!((figures.counted.units, figures.pending.units), (5, 7));
    let ended = recorder.shutdown(short).await.unwrap_err();
    let figures = ended.figures().expect("figures");
    assert_eq!((figures.counted.units, figures.pending.units), (5, 7));
    assert!(ended.to_string().contains("7 units of 1 calls"), "{ended}");
    // Another error has none.
    let refused = world.client().increment("").await.unwrap_err();
    assert_eq!(refused.figures(), None);
    world.crash();
}
