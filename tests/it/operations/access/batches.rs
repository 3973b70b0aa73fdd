//! Whose the key of a batch is, and what becomes of the items that a limited key may not count.

use futures_util::future::join_all;
use usage_client::{
    Batch, BatchOutcome, ErrorKind, Increment, IncrementResult, Reason, UsageClient,
    proto::{KeyRole, RevokeKeyRequest},
};

use super::{Access, access, client, create, first_admin, limited_key, new_key};
use crate::support::world::{Engine, World, on_both_engines};

on_both_engines!(
    no_caller_takes_the_batch_key_of_another,
    a_batch_is_recognised_after_the_rotation_of_its_callers_key,
    a_batch_is_recognised_after_the_first_key,
    denied_items_are_counted_once_by_a_later_key_of_the_caller,
    denied_items_are_counted_once_by_calls_at_the_same_time,
    an_item_that_was_refused_and_not_denied_stays_refused,
);

async fn admin_access(world: &World) -> (Access, UsageClient) {
    let (_, admin) = first_admin(world).await;
    let access = access(world, Some(&admin)).await;
    (access, client(world.endpoint(), &admin).await)
}

async fn writer(world: &World, access: &mut Access, name: &str) -> UsageClient {
    let key = create(access, new_key(name, KeyRole::Writer)).await.text;
    client(world.endpoint(), &key).await
}

async fn limited(world: &World, access: &mut Access, name: &str, accounts: &[&str]) -> UsageClient {
    let key = limited_key(name, KeyRole::Writer, accounts, &[]);
    client(world.endpoint(), &create(access, key).await.text).await
}

/// One unit of each account.
fn batch(accounts: &[&str]) -> Batch {
    let items = accounts.iter().map(|account| Increment::new(*account));
    items.collect::<Batch>().key("batch")
}

async fn send(client: &UsageClient, batch: Batch) -> BatchOutcome {
    client.increment_batch(batch).await.unwrap()
}

/// Each result as a letter: counted, duplicate, denied, refused otherwise.
fn letters(outcome: &BatchOutcome) -> String {
    let letter = |result: &IncrementResult| match result {
        IncrementResult::Counted => 'C',
        IncrementResult::Duplicate => 'D',
        IncrementResult::Refused {
            reason: Reason::PermissionDenied,
            ..
        } => '-',
        _ => 'R',
    };
    outcome.results.iter().map(letter).collect()
}

async fn usage(admin: &UsageClient, account: &str) -> i64 {
    admin.get(account).await.unwrap().meters[0].quantities.total
}

async fn no_caller_takes_the_batch_key_of_another(world: World) {
    let (mut access, admin) = admin_access(&world).await;
    let other = limited(&world, &mut access, "other", &["theirs"]).await;
    let own = writer(&world, &mut access, "backend").await;
    // With the same contents, and with others: whoever comes first.
    let first = send(&other, batch(&["own", "own"])).await;
    assert_eq!((first.duplicate, letters(&first)), (false, "--".to_owned()));
    let counted = send(&own, batch(&["own", "own"])).await;
    assert_eq!(
        (counted.duplicate, letters(&counted)),
        (false, "CC".to_owned())
    );
    let theirs = Batch::new().push("theirs").key("key-2");
    assert!(!send(&other, theirs).await.duplicate);
    let more = Batch::new()
        .push(Increment::new("own").quantity(5))
        .key("key-2");
    assert!(!send(&own, more.clone()).await.duplicate);
    assert!(send(&own, more).await.duplicate);
    // It is theirs still.
    let reused = Batch::new().push("own").push("own").key("key-2");
    let error = own.increment_batch(reused).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::KeyReused);
    assert_eq!(usage(&admin, "own").await, 7);
    assert_eq!(usage(&admin, "theirs").await, 1);
    assert_eq!(world.count_rows("batch_keys").await, 4);
    world.finish().await;
}

async fn a_batch_is_recognised_after_the_rotation_of_its_callers_key(world: World) {
    let (mut access, admin) = admin_access(&world).await;
    let old = create(&mut access, new_key("backend", KeyRole::Writer)).await;
    let replica = match world.engine {
        Engine::Sqlite => None,
        Engine::Postgres => Some(world.replica().await),
    };
    let endpoint = replica
        .as_ref()
        .map_or(world.endpoint(), |it| it.endpoint());
    let first = send(&client(world.endpoint(), &old.text).await, batch(&["acct"])).await;
    let new = create(&mut access, new_key("backend", KeyRole::Writer)).await;
    let id = old.key.unwrap().id;
    access.revoke_key(RevokeKeyRequest { id }).await.unwrap();
    let rotated = client(endpoint, &new.text).await;
    for _ in 0..2 {
        let again = send(&rotated, batch(&["acct"])).await;
        assert!(again.duplicate);
        assert_eq!(again.results, first.results);
    }
    assert_eq!(usage(&admin, "acct").await, 1);
    if let Some(replica) = replica {
        replica.stop().await.unwrap();
    }
    world.finish().await;
}

async fn a_batch_is_recognised_after_the_first_key(world: World) {
    let mixed = || batch(&["acct", "not an account"]);
    let first = send(&world.client(), mixed()).await;
    assert_eq!((first.duplicate, letters(&first)), (false, "CR".to_owned()));
    let (mut access, admin) = admin_access(&world).await;
    let backend = writer(&world, &mut access, "backend").await;
    for _ in 0..2 {
        let again = send(&backend, mixed()).await;
        assert!(again.duplicate);
        assert_eq!(again.results, first.results);
    }
    // What was sent without a key takes no key from those who have one.
    let other = writer(&world, &mut access, "other").await;
    assert!(!send(&other, batch(&["acct"])).await.duplicate);
    assert_eq!(usage(&admin, "acct").await, 2);
    world.finish().await;
}

async fn denied_items_are_counted_once_by_a_later_key_of_the_caller(mut world: World) {
    let (_, root) = first_admin(&world).await;
    let mut access = access(&world, Some(&root)).await;
    let admin = client(world.endpoint(), &root).await;
    let narrow = limited(&world, &mut access, "backend", &["a"]).await;
    let wider = limited(&world, &mut access, "backend", &["a", "b"]).await;
    let unlimited = create(&mut access, new_key("backend", KeyRole::Writer)).await;
    let all = client(world.endpoint(), &unlimited.text).await;
    let items = || batch(&["a", "b", "c", "not an account"]);
    for (nth, (client, expected)) in [
        (&narrow, "C---"),
        (&narrow, "C---"),
        (&wider, "CC--"),
        (&narrow, "C---"),
        (&all, "CCCR"),
        (&all, "CCCR"),
        (&wider, "CC--"),
    ]
    .into_iter()
    .enumerate()
    {
        let outcome = send(client, items()).await;
        assert_eq!(letters(&outcome), expected, "call {nth}");
        assert_eq!(outcome.duplicate, nth > 0, "call {nth}");
    }
    for account in ["a", "b", "c"] {
        assert_eq!(usage(&admin, account).await, 1, "{account}");
    }
    // All were denied, and the server started again meanwhile.
    let denied = || batch(&["c", "c"]).key("denied");
    assert_eq!(letters(&send(&narrow, denied()).await), "--");
    world.restart().await;
    let admin = client(world.endpoint(), &root).await;
    let all = client(world.endpoint(), &unlimited.text).await;
    let again = send(&all, denied()).await;
    assert_eq!((again.duplicate, letters(&again)), (true, "CC".to_owned()));
    assert_eq!(letters(&send(&all, denied()).await), "CC");
    assert_eq!(usage(&admin, "c").await, 3);
    world.finish().await;
}

async fn denied_items_are_counted_once_by_calls_at_the_same_time(world: World) {
    const ROUNDS: usize = 10;
    let (mut access, admin) = admin_access(&world).await;
    let narrow = limited(&world, &mut access, "backend", &["a"]).await;
    let other = limited(&world, &mut access, "backend", &["b"]).await;
    let all = writer(&world, &mut access, "backend").await;
    for round in 0..ROUNDS {
        let items = || batch(&["a", "b", "c"]).key(format!("round-{round}"));
        let clients = [&narrow, &other, &all, &narrow, &all, &other, &all];
        let calls = clients.iter().map(|client| send(client, items()));
        let outcomes = join_all(calls).await;
        let seen: Vec<String> = outcomes.iter().map(letters).collect();
        let expected = ["C--", "-C-", "CCC", "C--", "CCC", "-C-", "CCC"];
        assert_eq!(seen, expected, "round {round}");
        let first = outcomes.iter().filter(|outcome| !outcome.duplicate);
        assert_eq!(first.count(), 1, "round {round}");
    }
    for account in ["a", "b", "c"] {
        assert_eq!(
            usage(&admin, account).await,
            i64::try_from(ROUNDS).unwrap(),
            "{account}"
        );
    }
    world.finish().await;
}

async fn an_item_that_was_refused_and_not_denied_stays_refused(world: World) {
    let (mut access, admin) = admin_access(&world).await;
    let narrow = limited(&world, &mut access, "backend", &["a"]).await;
    let all = writer(&world, &mut access, "backend").await;
    let keyed = |key: &str, quantity| Increment::new("a").key(key).quantity(quantity);
    all.increment(keyed("used", 5)).await.unwrap();
    let items = || {
        Batch::new()
            .push(keyed("used", 6))
            .push(keyed("used", 5))
            .push(Increment::new("b").key("of b"))
            .push(Increment::new("b").key("of b"))
            .key("batch")
    };
    assert_eq!(letters(&send(&narrow, items()).await), "RD--");
    all.increment(Increment::new("b").key("of b"))
        .await
        .unwrap();
    // The key of the item still counts once.
    assert_eq!(letters(&send(&all, items()).await), "RDDD");
    assert_eq!((usage(&admin, "a").await, usage(&admin, "b").await), (5, 1));
    world.finish().await;
}
