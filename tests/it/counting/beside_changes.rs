//! Counting beside many changes of accounts: it does not wait for all of them, and their number is limited.

use sea_orm::{
    ConnectionTrait as _, DatabaseTransaction, SqliteTransactionMode, TransactionOptions,
    TransactionTrait as _,
};
use tokio::task::JoinSet;
use tonic::{Code, Status, transport::Channel};
use usage_client::proto::{
    FreeBilling, IncrementRequest, PutAccountRequest, account_service_client::AccountServiceClient,
    put_account_request, usage_service_client::UsageServiceClient,
};

use crate::support::world::{Engine, World, on_both_engines};

on_both_engines!(
    an_increment_waits_for_few_of_many_account_changes,
    account_changes_past_their_limit_are_refused,
);

/// The limit of the server.
const MAX_CHANGES: usize = 256;
/// The advisory lock of `PostgreSQL` that a change of boundaries takes.
const BOUNDARY_LOCK: i64 = 0x5553_4147_0001;

async fn an_increment_waits_for_few_of_many_account_changes(world: World) {
    let reason = "a distributed table has no triggers";
    let Some(world) = world.unless_distributed(reason).await else {
        return;
    };
    record_changes_before_first_increment(&world).await;
    let mut changes = BlockedChanges::start(&world, MAX_CHANGES + 1).await;
    let refused = changes.answers.join_next().await.unwrap().unwrap();
    refused.unwrap_err();
    let mut increments = UsageServiceClient::new(changes.channel.clone());
    let request = IncrementRequest {
        account_id: "other".to_owned(),
        idempotency_key: "k".to_owned(),
        ..IncrementRequest::default()
    };
    let mut increment = Box::pin(increments.increment(request));
    // One connection: the server has the increment when it answers the change that was sent after it.
    let refused = tokio::select! {
        biased;
        answer = &mut increment => panic!("the increment did not wait: {answer:?}"),
        refused = put_account(changes.channel.clone(), MAX_CHANGES + 1) => refused.unwrap_err(),
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let mut answers = changes.unblock().await;
    increment.await.unwrap();
    answers.shutdown().await;
    let before = world.count_rows("before_first_increment").await;
    assert!(before <= 2, "{before} changes were made before it");
    world.finish().await;
}

async fn account_changes_past_their_limit_are_refused(world: World) {
    let more = 10;
    let mut changes = BlockedChanges::start(&world, MAX_CHANGES + more).await;
    for _ in 0..more {
        let refused = changes.answers.join_next().await.unwrap().unwrap();
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert!(refused.message().contains("256 changes"), "{refused}");
    }
    changes.answers.shutdown().await;
    changes.unblock().await;
    world.finish().await;
}

/// Keeps, in a table of the test's, the accounts that had been changed when the first report was opened.
async fn record_changes_before_first_increment(world: &World) {
    let table = "CREATE TABLE before_first_increment (account_id TEXT)";
    let copy = "INSERT INTO before_first_increment SELECT account_id FROM account_links";
    world.execute_sql(table).await;
    match world.engine {
        Engine::Sqlite => {
            let trigger = "CREATE TRIGGER opened AFTER INSERT ON open_reports";
            world
                .execute_sql(&format!("{trigger} BEGIN {copy}; END"))
                .await;
        }
        Engine::Postgres => {
            let body = format!("BEGIN {copy}; RETURN NULL; END");
            let function = "CREATE FUNCTION keep_changes() RETURNS trigger LANGUAGE plpgsql";
            world
                .execute_sql(&format!("{function} AS $${body}$$"))
                .await;
            let trigger = "CREATE TRIGGER opened AFTER INSERT ON open_reports";
            world
                .execute_sql(&format!("{trigger} EXECUTE FUNCTION keep_changes()"))
                .await;
        }
    }
}

/// Account changes that a transaction of the test's keeps waiting.
struct BlockedChanges {
    blocking: DatabaseTransaction,
    channel: Channel,
    answers: JoinSet<Result<(), Status>>,
}

impl BlockedChanges {
    /// Sends `number` changes, of an account each.
    async fn start(world: &World, number: usize) -> Self {
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
        let channel = world.grpc_channel().await;
        let answers = (0..number).map(|change| put_account(channel.clone(), change));
        Self {
            blocking,
            answers: answers.collect(),
            channel,
        }
    }

    /// Lets the changes run.
    async fn unblock(self) -> JoinSet<Result<(), Status>> {
        self.blocking.rollback().await.unwrap();
        self.answers
    }
}

async fn put_account(channel: Channel, change: usize) -> Result<(), Status> {
    let request = PutAccountRequest {
        account_id: format!("acct-{change}"),
        billing: Some(put_account_request::Billing::Free(FreeBilling::default())),
        ..PutAccountRequest::default()
    };
    let mut accounts = AccountServiceClient::new(channel);
    accounts.put_account(request).await.map(|_| ())
}
