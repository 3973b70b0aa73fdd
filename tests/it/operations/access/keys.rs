//! The life of keys: the first one, rotation, revocation, and a database that does not answer.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use fake_stripe::Fault;
use futures_util::future::join_all;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use usage_client::{
    ErrorKind, ForceReport, PutAccount, Reason,
    proto::{KeyRole, ListKeysRequest, RevokeKeyRequest},
};
use usage_server::{Listeners, ServeError, serve};

use super::{access, client, create, first_admin, limited_key, new_key, timestamp};
use crate::support::world::{Engine, World, hours_ago, on_both_engines, poll, within};

on_both_engines!(
    the_first_key_closes_the_service,
    the_first_key_is_an_admins,
    keys_rotate_without_a_refused_call,
    a_revoked_key_is_refused_on_every_replica,
    a_key_that_another_process_revokes_is_refused_within_five_seconds,
    after_the_last_key_is_revoked_calls_are_still_refused,
    after_the_last_key_has_expired_calls_are_still_refused,
    a_database_that_does_not_answer_is_neither_access_nor_a_wrong_key,
    a_flood_of_wrong_keys_does_not_disturb_counting,
    a_text_that_is_no_key_is_refused_without_the_database,
    the_first_key_of_another_replica_stops_admins_at_once,
    a_stream_ends_when_its_key_is_revoked,
    without_keys_the_service_listens_only_to_this_machine,
    keys_are_listed_with_their_use_and_without_secrets,
);

async fn the_first_key_closes_the_service(world: World) {
    world.client().increment("acct").await.unwrap();
    let (_, admin) = first_admin(&world).await;
    let refused = world.client().increment("acct").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unauthenticated);
    assert_eq!(refused.reason(), Some(&Reason::Unauthenticated));
    assert!(!refused.may_have_taken_effect() && !refused.is_retryable());
    let admin = client(world.endpoint(), &admin).await;
    admin.increment("acct").await.unwrap();
    assert_eq!(
        admin.get("acct").await.unwrap().meters[0].quantities.total,
        2
    );
    world.finish().await;
}

async fn the_first_key_is_an_admins(world: World) {
    let mut open = access(&world, None).await;
    for wrong in [
        new_key("w", KeyRole::Writer),
        limited_key("a", KeyRole::Admin, &["acct"], &[]),
        new_key("u", KeyRole::Unspecified),
        new_key(" ", KeyRole::Admin),
    ] {
        let refused = open.create_key(wrong).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    // None of them was stored.
    world.client().increment("acct").await.unwrap();
    world.finish().await;
}

async fn keys_rotate_without_a_refused_call(world: World) {
    let (_, admin) = first_admin(&world).await;
    let mut access = access(&world, Some(&admin)).await;
    let mut old = create(&mut access, new_key("backend", KeyRole::Writer)).await;
    for round in 0..5 {
        let new = create(&mut access, new_key("backend", KeyRole::Writer)).await;
        for text in [&old.text, &new.text] {
            client(world.endpoint(), text)
                .await
                .increment("acct")
                .await
                .unwrap();
        }
        let id = old.key.unwrap().id;
        access.revoke_key(RevokeKeyRequest { id }).await.unwrap();
        // On the server that revoked it, at once.
        let refused = client(world.endpoint(), &old.text)
            .await
            .increment("acct")
            .await;
        assert_eq!(
            refused.unwrap_err().kind(),
            ErrorKind::Unauthenticated,
            "{round}"
        );
        old = new;
    }
    world.finish().await;
}

async fn a_revoked_key_is_refused_on_every_replica(world: World) {
    let (_, admin) = first_admin(&world).await;
    let mut access = access(&world, Some(&admin)).await;
    let writer = create(&mut access, new_key("w", KeyRole::Writer)).await;
    let replica = match world.engine {
        Engine::Sqlite => None,
        Engine::Postgres => Some(world.replica().await),
    };
    let endpoint = replica
        .as_ref()
        .map_or(world.endpoint(), |replica| replica.endpoint());
    let caller = client(endpoint, &writer.text).await;
    // Also where the first key was created on another replica.
    poll("a key that is known", async || {
        caller.increment("acct").await.ok()
    })
    .await;
    let id = writer.key.unwrap().id;
    let revoke = || RevokeKeyRequest { id: id.clone() };
    let revoked = access.revoke_key(revoke()).await.unwrap().into_inner();
    assert!(!revoked.duplicate && revoked.key.unwrap().revoked_at.is_some());
    assert!(
        access
            .revoke_key(revoke())
            .await
            .unwrap()
            .into_inner()
            .duplicate
    );
    let refused = poll("the end of the key", async || {
        caller.increment("acct").await.err()
    });
    assert_eq!(refused.await.kind(), ErrorKind::Unauthenticated);
    if let Some(replica) = replica {
        replica.stop().await.unwrap();
    }
    world.finish().await;
}

/// Another replica, or the command beside the server: this one learns of it from the database alone.
async fn a_key_that_another_process_revokes_is_refused_within_five_seconds(world: World) {
    /// What the documentation states, from the end of the revocation to the begin of a call.
    const STATED: Duration = Duration::from_secs(5);
    const ROUNDS: usize = 3;
    let (_, admin) = first_admin(&world).await;
    let mut access = access(&world, Some(&admin)).await;
    for round in 0..ROUNDS {
        let created = create(&mut access, new_key("w", KeyRole::Writer)).await;
        let id = created.key.unwrap().id;
        let caller = client(world.endpoint(), &created.text).await;
        // The server read it at different times before.
        let begun = Instant::now();
        let age = Duration::from_secs(1) * u32::try_from(round).unwrap();
        world
            .wait_until("a key of some age", async || {
                caller.increment("acct").await.unwrap();
                begun.elapsed() >= age
            })
            .await;
        let now = world.clock.now();
        let revoke = format!("UPDATE api_keys SET revoked_at = {now} WHERE id = '{id}'");
        world.execute_sql(&revoke).await;
        let revoked = Instant::now();
        // It is used all the time, so what is known of it is always read again before it is too old.
        let last_call = loop {
            let call = Instant::now();
            match caller.increment("acct").await {
                Ok(_) => assert!(
                    call.duration_since(revoked) < STATED,
                    "a call was made {:?} after the revocation",
                    call.duration_since(revoked)
                ),
                Err(refused) => {
                    assert_eq!(refused.kind(), ErrorKind::Unauthenticated, "{refused}");
                    break call;
                }
            }
        };
        // From then on it stays refused.
        assert!(caller.increment("acct").await.is_err());
        let took = last_call.duration_since(revoked);
        eprintln!("revoked after {took:?}, in round {round}");
    }
    world.finish().await;
}

async fn after_the_last_key_is_revoked_calls_are_still_refused(mut world: World) {
    let (key, admin) = first_admin(&world).await;
    let mut own = access(&world, Some(&admin)).await;
    own.revoke_key(RevokeKeyRequest { id: key.id })
        .await
        .unwrap();
    for _ in 0..2 {
        let refused = world.client().increment("acct").await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unauthenticated);
        // Also after a restart.
        world.restart().await;
    }
    world.finish().await;
}

async fn after_the_last_key_has_expired_calls_are_still_refused(mut world: World) {
    let clock = world.set_time("2026-03-10T12:00:00Z").await;
    // The first one has no end.
    let (first, admin) = first_admin(&world).await;
    let mut keys = access(&world, Some(&admin)).await;
    let mut expires = new_key("last", KeyRole::Admin);
    expires.expires_at = Some(timestamp(clock.now() + 60_000));
    let last = create(&mut keys, expires).await.text;
    let revoke = RevokeKeyRequest { id: first.id };
    keys.revoke_key(revoke).await.unwrap();
    let with_key = client(world.endpoint(), &last).await;
    with_key.increment("acct").await.unwrap();
    clock.advance(60_000);
    for _ in 0..2 {
        let with_key = client(world.endpoint(), &last).await;
        for caller in [with_key, world.client()] {
            let refused = caller.increment("acct").await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unauthenticated, "{refused}");
        }
        for key in [None, Some(last.as_str())] {
            let mut keys = access(&world, key).await;
            let refused = keys.create_key(new_key("other", KeyRole::Admin)).await;
            assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
        }
        // Also after a restart.
        world.restart().await;
    }
    world.finish().await;
}

async fn a_database_that_does_not_answer_is_neither_access_nor_a_wrong_key(world: World) {
    let (_, admin) = first_admin(&world).await;
    let mut access = access(&world, Some(&admin)).await;
    let writer = create(&mut access, new_key("w", KeyRole::Writer))
        .await
        .text;
    let reader = create(&mut access, new_key("r", KeyRole::Reader))
        .await
        .text;
    let known = client(world.endpoint(), &writer).await;
    let unknown = client(world.endpoint(), &reader).await;
    known.increment("acct").await.unwrap();
    world
        .execute_sql("ALTER TABLE api_keys RENAME TO api_keys_away")
        .await;
    let failed = unknown.get("acct").await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Unavailable, "{failed}");
    assert_eq!(failed.reason(), Some(&Reason::DatabaseUnavailable));
    assert!(failed.is_retryable());
    // The known key is allowed for some seconds, and then it is not known.
    let failed = poll("a key that is too old", async || {
        known.increment("acct").await.err()
    });
    let failed = failed.await;
    assert_eq!(failed.kind(), ErrorKind::Unavailable, "{failed}");
    world
        .execute_sql("ALTER TABLE api_keys_away RENAME TO api_keys")
        .await;
    known.increment("acct").await.unwrap();
    unknown.get("acct").await.unwrap();
    world.finish().await;
}

async fn a_flood_of_wrong_keys_does_not_disturb_counting(world: World) {
    /// Unknown ids wait for the next reading of all, of which there are four a second.
    const ROUNDS: usize = 6;
    let (_, admin) = first_admin(&world).await;
    let mut access = access(&world, Some(&admin)).await;
    let writer = create(&mut access, new_key("w", KeyRole::Writer))
        .await
        .text;
    let counting = client(world.endpoint(), &writer).await;
    counting.increment("acct").await.unwrap();
    let flood = (0..200 * ROUNDS).map(|number| {
        let key = format!("ub_{number:016x}_{}", &writer[20..]);
        let endpoint = world.endpoint();
        async move {
            let wrong = client(endpoint, &key).await;
            wrong.increment("acct").await.unwrap_err()
        }
    });
    let started = Instant::now();
    let flood = async {
        let mut seen = Vec::new();
        let all: Vec<_> = flood.collect();
        let mut all = all.into_iter().peekable();
        while all.peek().is_some() {
            seen.extend(join_all(all.by_ref().take(200)).await);
        }
        seen
    };
    let counted = async {
        for _ in 0..50 {
            counting.increment("acct").await.unwrap();
        }
        // A new key is found meanwhile, as one of a server that has just started is.
        let new = create(&mut access, new_key("new", KeyRole::Writer)).await;
        let new = client(world.endpoint(), &new.text).await;
        new.increment("acct").await.unwrap();
    };
    let (seen, ()) = within("a flood", async { tokio::join!(flood, counted) }).await;
    let is_unknown = |error: &usage_client::Error| error.kind() == ErrorKind::Unauthenticated;
    assert!(seen.iter().all(is_unknown), "{seen:?}");
    // Each round waited for one reading, and none for a query of each key.
    assert!(started.elapsed() >= Duration::from_millis(250) * (6 - 1));
    let admin = client(world.endpoint(), &admin).await;
    assert_eq!(
        admin.get("acct").await.unwrap().meters[0].quantities.total,
        52
    );
    world.finish().await;
}

async fn a_text_that_is_no_key_is_refused_without_the_database(world: World) {
    let (_, admin) = first_admin(&world).await;
    let known = client(world.endpoint(), &admin).await;
    known.get("acct").await.unwrap();
    world
        .execute_sql("ALTER TABLE api_keys RENAME TO api_keys_away")
        .await;
    for text in ["s3cret", "ub_", &admin[..83], &admin.to_uppercase()] {
        let wrong = client(world.endpoint(), text).await;
        let refused = wrong.get("acct").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unauthenticated, "{text}");
    }
    let like_a_key = client(world.endpoint(), &format!("ub_{:016x}_{}", 7, &admin[20..])).await;
    let unread = like_a_key.get("acct").await.unwrap_err();
    assert_eq!(unread.kind(), ErrorKind::Unavailable);
    world
        .execute_sql("ALTER TABLE api_keys_away RENAME TO api_keys")
        .await;
    let refused = like_a_key.get("acct").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unauthenticated);
    world.finish().await;
}

/// What a server knows of keys may be seconds old. Admins' calls do not rely on it.
async fn the_first_key_of_another_replica_stops_admins_at_once(world: World) {
    let open = || PutAccount::free("acct");
    world.client().put_account(open()).await.unwrap();
    // As the command does beside the server.
    let (id, hash, now) = ("00000000000000aa", "0".repeat(64), world.clock.now());
    world
        .execute_sql(&format!(
            "INSERT INTO api_keys (id, name, role, scope, secret_hash, created_at) \
             VALUES ('{id}', 'first', 'admin', '{{}}', '{hash}', {now})"
        ))
        .await;
    let refused = world.client().put_account(open()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unauthenticated);
    let refused = world.client().increment("acct").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unauthenticated, "it knows now");
    world.finish().await;
}

async fn a_stream_ends_when_its_key_is_revoked(world: World) {
    const EVENTS: &str = "/v1/billing/meter_events";
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(1)).await;
    let gate = Fault::block_until_released("gate").on_path(EVENTS);
    world.stripe().script(gate).await.unwrap();
    let (_, admin) = first_admin(&world).await;
    let mut access = access(&world, Some(&admin)).await;
    let watching = create(&mut access, new_key("watching", KeyRole::Admin)).await;
    let client_of = async |text: &str| client(world.endpoint(), text).await;
    let watcher = client_of(&watching.text).await;
    let run = watcher.force_report(ForceReport::all()).await.unwrap();
    let id = run.run_id().unwrap().to_owned();
    let other = client_of(&admin).await;
    let stays = other.force_report(ForceReport::watch(&id)).await.unwrap();
    let revoke = RevokeKeyRequest {
        id: watching.key.unwrap().id,
    };
    access.revoke_key(revoke).await.unwrap();
    let ended = within("the end of the stream", run.summary()).await;
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Unauthenticated);
    // The run goes on, and whoever may watch it sees its end.
    world.stripe().release("gate").await.unwrap();
    let summary = within("the end of the run", stays.summary()).await.unwrap();
    assert_eq!(summary.accepted.quantity, 5);
    world.finish().await;
}

async fn without_keys_the_service_listens_only_to_this_machine(mut world: World) {
    world.stop().await;
    let bind = async |is_open: bool| {
        let address = if is_open {
            Ipv4Addr::UNSPECIFIED
        } else {
            Ipv4Addr::LOCALHOST
        };
        TcpListener::bind((address, 0)).await.unwrap()
    };
    let attempt = async |world: &World, insecure: bool, (grpc, http): (bool, bool)| {
        let mut config = world.config();
        config.access.insecure = insecure;
        let (grpc, http) = (bind(grpc).await, bind(http).await);
        let stop = CancellationToken::new();
        // Boxed because it is too large for the stack of a test.
        let serving = Box::pin(serve(
            Listeners {
                grpc,
                http: Some(http),
                webhooks: None,
                metrics: None,
            },
            config,
            world.clock.clone(),
            stop.clone(),
        ));
        // One that may serve ends at once.
        stop.cancel();
        within("the end", serving).await
    };
    for open in [(true, false), (false, true)] {
        let refused = attempt(&world, false, open).await.unwrap_err();
        assert!(matches!(refused, ServeError::OpenToAll(_)), "{refused}");
        assert!(
            refused.to_string().contains("usage-server keys create"),
            "{refused}"
        );
        attempt(&world, true, open).await.unwrap();
    }
    attempt(&world, false, (false, false)).await.unwrap();
    world.start_server().await;
    first_admin(&world).await;
    world.stop().await;
    attempt(&world, false, (true, true)).await.unwrap();
    world.finish().await;
}

async fn keys_are_listed_with_their_use_and_without_secrets(world: World) {
    let (root, admin) = first_admin(&world).await;
    let mut access = access(&world, Some(&admin)).await;
    let limited = limited_key("limited", KeyRole::Writer, &["b", "a", "b"], &["tokens"]);
    let created = create(&mut access, limited).await;
    let mut keys = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListKeysRequest {
            page_size: 1,
            page_token,
        };
        let page = access.list_keys(request).await.unwrap().into_inner();
        keys.extend(page.keys);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    keys.sort_by_key(|key| key.name.clone());
    let [limited, listed_root] = &keys[..] else {
        panic!("{keys:?}")
    };
    assert_eq!(Some(limited), created.key.as_ref());
    assert_eq!(limited.scope.as_ref().unwrap().accounts, ["a", "b"]);
    assert_eq!(
        (&listed_root.id, listed_root.role()),
        (&root.id, KeyRole::Admin)
    );
    let used = poll("the recorded use", async || {
        let page = access.clone().list_keys(ListKeysRequest::default()).await;
        let keys = page.unwrap().into_inner().keys;
        keys.into_iter().find(|key| key.last_used_at.is_some())
    });
    assert_eq!(used.await.id, root.id);
    // Neither the text of a key nor its secret is anywhere.
    assert!(!format!("{created:?}").contains(&created.text[20..]));
    let secret = &admin[20..];
    let with_secret = format!("api_keys WHERE secret_hash = '{secret}' OR scope LIKE '%{secret}%'");
    assert_eq!(world.count_rows(&with_secret).await, 0);
    world.finish().await;
}
