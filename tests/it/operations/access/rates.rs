//! The requests a second of each key.

use usage_client::{ErrorKind, Increment, Reason, Retry, proto::KeyRole};

use super::{access, client, create, first_admin, new_key};
use crate::support::world::{World, on_both_engines};

on_both_engines!(
    each_key_has_its_own_limit_of_requests,
    the_limit_of_a_key_is_that_of_all_its_connections,
    a_client_that_retries_waits_and_counts_once,
);

/// Two keys of a server that takes this many requests a second of each.
async fn two_keys(world: &mut World, per_sec: u32) -> [String; 2] {
    let flag = format!("--requests-per-sec={per_sec}");
    world.reconfigure(&[&flag]).await;
    let (_, admin) = first_admin(world).await;
    let mut access = access(world, Some(&admin)).await;
    let busy = create(&mut access, new_key("busy", KeyRole::Writer)).await;
    let quiet = create(&mut access, new_key("quiet", KeyRole::Writer)).await;
    [busy.text, quiet.text]
}

async fn each_key_has_its_own_limit_of_requests(mut world: World) {
    let [busy, quiet] = two_keys(&mut world, 3).await;
    let busy = client(world.endpoint(), &busy).await;
    let calls = (0..20).map(|_| busy.increment("acct").into_future());
    let calls = futures_util::future::join_all(calls).await;
    let refused = calls.into_iter().find_map(Result::err).unwrap();
    assert_eq!(refused.kind(), ErrorKind::Overloaded);
    assert_eq!(refused.reason(), Some(&Reason::RateLimited));
    assert!(refused.retry_after().unwrap().as_millis() <= 1_000);
    assert!(!refused.may_have_taken_effect());
    assert!(
        refused.to_string().contains("more than 3 requests"),
        "{refused}"
    );
    let quiet = client(world.endpoint(), &quiet).await;
    quiet.increment("acct").await.unwrap();
    world.finish().await;
}

async fn the_limit_of_a_key_is_that_of_all_its_connections(mut world: World) {
    const PER_SEC: usize = 5;
    let [busy, _] = two_keys(&mut world, 5).await;
    let started = std::time::Instant::now();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(client(world.endpoint(), &busy).await);
    }
    let calls = clients
        .iter()
        .flat_map(|client| (0..10).map(|_| client.increment("acct").into_future()));
    let calls = futures_util::future::join_all(calls).await;
    let counted = calls.iter().filter(|call| call.is_ok()).count();
    let seconds = usize::try_from(started.elapsed().as_secs()).unwrap() + 1;
    assert!(
        (PER_SEC..=PER_SEC * (1 + seconds)).contains(&counted),
        "{counted} in {seconds} s"
    );
    let is_limited = |error: &usage_client::Error| error.reason() == Some(&Reason::RateLimited);
    assert!(
        calls
            .iter()
            .filter_map(|call| call.as_ref().err())
            .all(is_limited)
    );
    world.finish().await;
}

async fn a_client_that_retries_waits_and_counts_once(mut world: World) {
    const CALLS: usize = 25;
    let [busy, _] = two_keys(&mut world, 10).await;
    let busy = client(world.endpoint(), &busy).await;
    let busy = busy.with_retry(Retry::default());
    let calls = (0..CALLS).map(|_| busy.increment(Increment::new("acct")).into_future());
    for counted in futures_util::future::join_all(calls).await {
        assert!(!counted.unwrap().duplicate);
    }
    let counted = format!("open_reports WHERE quantity = {CALLS}");
    assert_eq!(world.count_rows(&counted).await, 1);
    world.finish().await;
}
