//! Counting beside many changes of accounts: it does not wait for all of them, and their number is limited.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sea_orm::{
    ConnectionTrait as _, SqliteTransactionMode, TransactionOptions, TransactionTrait as _,
};
use tokio::task::JoinSet;
use tonic::Code;
use usage_client::{
    Increment, PutAccount,
    proto::{
        FreeBilling, PutAccountRequest, account_service_client::AccountServiceClient,
        put_account_request,
    },
};

use crate::support::world::{Engine, World, on_both_engines};

on_both_engines!(
    an_increment_waits_for_few_of_many_account_changes,
    account_changes_past_their_limit_are_refused,
);

/// As many as may wait, without reaching the limit.
const CHANGES: usize = 200;
/// Changes that end while one increment is counted: far fewer than all, and more than on a busy machine.
const FEW: usize = 60;
/// The limit of the server.
const MAX_CHANGES: usize = 256;
/// The advisory lock of `PostgreSQL` that a change of boundaries takes.
const BOUNDARY_LOCK: i64 = 0x5553_4147_0001;

async fn an_increment_waits_for_few_of_many_account_changes(world: World) {
    let ended = Arc::new(AtomicUsize::new(0));
    let mut changes = JoinSet::new();
    for number in 0..CHANGES {
        let (client, ended) = (world.client(), Arc::clone(&ended));
        changes.spawn(async move {
            let account = PutAccount::free(format!("acct-{number}"));
            client.put_account(account).await.unwrap();
            ended.fetch_add(1, Ordering::Relaxed);
        });
    }
    world
        .wait_until("the first change", async || {
            ended.load(Ordering::Relaxed) > 0
        })
        .await;
    let before = ended.load(Ordering::Relaxed);
    let increment = Increment::new("other").key("k");
    world.client().increment(increment).await.unwrap();
    let meanwhile = ended.load(Ordering::Relaxed) - before;
    assert!(meanwhile < FEW, "{meanwhile} changes ended before it");
    while let Some(change) = changes.join_next().await {
        change.unwrap();
    }
    world.finish().await;
}

async fn account_changes_past_their_limit_are_refused(world: World) {
    let database = world.connect_to_database().await;
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    let blocking = database.begin_with_options(options).await.unwrap();
    if world.engine == Engine::Postgres {
        let lock = format!("SELECT pg_advisory_xact_lock({BOUNDARY_LOCK})");
        blocking.execute_unprepared(&lock).await.unwrap();
    }
    let client = AccountServiceClient::new(world.grpc_channel().await);
    let mut changes = JoinSet::new();
    let more = 10;
    for number in 0..MAX_CHANGES + more {
        let mut client = client.clone();
        let request = PutAccountRequest {
            account_id: format!("acct-{number}"),
            billing: Some(put_account_request::Billing::Free(FreeBilling::default())),
            ..PutAccountRequest::default()
        };
        changes.spawn(async move { client.put_account(request).await });
    }
    for _ in 0..more {
        let refused = changes.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert!(refused.message().contains("256 changes"), "{refused}");
    }
    let another = tokio::time::timeout(Duration::from_millis(1), changes.join_next()).await;
    assert!(another.is_err(), "the others wait");
    changes.shutdown().await;
    blocking.rollback().await.unwrap();
    world.finish().await;
}
