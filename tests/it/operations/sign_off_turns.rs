//! The turns of `GetSignOff` and `ExportSignOff`. On `PostgreSQL`, where a test can make a read wait.

use sea_orm::{
    ConnectionTrait as _, DatabaseConnection, DatabaseTransaction, TransactionTrait as _,
};
use usage_client::{
    Error, ErrorKind, ExportSignOff, Reason, SignOffExport, UsageClient, proto::KeyRole,
};

use super::{
    access::{access, client, create, first_admin, new_key},
    sign_off::NOW,
    sign_off_calls::use_large_rows,
};
use crate::support::world::{World, at, on_postgres, within};

on_postgres!(
    a_key_has_four_places_and_gives_one_back_when_its_caller_leaves,
    an_export_goes_on_page_by_page_beside_months_that_are_shown,
);

const LOCK: &str = "LOCK TABLE folded_reports IN ACCESS EXCLUSIVE MODE";
/// Pages of sign-offs that wait for a lock.
const READS: &str = "pg_stat_activity WHERE datname = current_database() \
    AND wait_event_type = 'Lock' AND query LIKE '%next_of_usage_reports%'";
/// Locks that wait for another one.
const LOCKS: &str = "pg_stat_activity WHERE datname = current_database() \
    AND wait_event_type = 'Lock' AND query LIKE 'LOCK TABLE folded_reports%'";

/// A lock, and the connection that has it.
struct Lock {
    lock: DatabaseTransaction,
    database: DatabaseConnection,
}

impl Lock {
    async fn take(database: DatabaseConnection) -> Self {
        let lock = database.begin().await.unwrap();
        lock.execute_unprepared(LOCK).await.unwrap();
        Self { lock, database }
    }

    async fn release(self) {
        self.lock.rollback().await.unwrap();
        self.database.close().await.unwrap();
    }
}

async fn wait_for(world: &World, what: &str, rows: &str, number: i64) {
    world
        .wait_until(what, async || world.count_rows(rows).await == number)
        .await;
}

async fn export(client: &UsageClient) -> Result<SignOffExport, Error> {
    let wanted = ExportSignOff::csv("2027-03").open();
    client.export_sign_off(wanted).await
}

async fn a_key_has_four_places_and_gives_one_back_when_its_caller_leaves(mut world: World) {
    world.freeze(at(NOW)).await;
    let (_, admin) = first_admin(&world).await;
    let mut admins = access(&world, Some(&admin)).await;
    let mut readers = Vec::new();
    for name in ["finance", "audit"] {
        let key = create(&mut admins, new_key(name, KeyRole::Reader)).await;
        readers.push(client(world.endpoint(), &key.text).await);
    }
    let [finance, audit] = &readers[..] else {
        panic!("two readers");
    };
    let lock = Lock::take(world.connect_to_database().await).await;
    // Two of them read, and two wait for a turn.
    let reading = [
        export(finance).await.unwrap(),
        export(finance).await.unwrap(),
    ];
    wait_for(&world, "two reads", READS, 2).await;
    let waiting = [
        export(finance).await.unwrap(),
        export(finance).await.unwrap(),
    ];
    for refused in [
        export(finance).await.map(drop),
        finance.sign_off("2027-03").await.map(drop),
    ] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Overloaded, "{refused}");
        assert_eq!(refused.reason(), Some(&Reason::Overloaded));
        let text = refused.to_string();
        assert!(
            text.contains("4 sign-offs of a month with this key or certificate run or wait"),
            "{text}"
        );
    }
    let other = export(audit).await.unwrap();
    // No turn comes, and those who leave give their places back.
    drop(waiting);
    let mut again = Vec::new();
    within("two places", async {
        while again.len() < 2 {
            match export(finance).await {
                Ok(export) => again.push(export),
                Err(refused) => assert_eq!(refused.kind(), ErrorKind::Overloaded, "{refused}"),
            }
        }
    })
    .await;
    assert!(export(finance).await.is_err());
    assert_eq!(world.count_rows(READS).await, 2);
    lock.release().await;
    for mut export in reading.into_iter().chain(again).chain([other]) {
        while within("a part", export.next()).await.unwrap().is_some() {}
        assert_eq!(export.file().unwrap().rows, 1);
    }
    world.finish().await;
}

async fn an_export_goes_on_page_by_page_beside_months_that_are_shown(mut world: World) {
    world.freeze(at(NOW)).await;
    // Two pages, and the first one has more than a part.
    use_large_rows(&world).await;
    let first = Lock::take(world.connect_to_database().await).await;
    let shown = [0, 1].map(|_| {
        let client = world.client();
        tokio::spawn(async move { client.sign_off("2027-03").await })
    });
    wait_for(&world, "the first pages", READS, 2).await;
    let mut export = export(&world.client()).await.unwrap();
    // Each lock waits for the reads before it, and those after it wait for the lock.
    let second = tokio::spawn(Lock::take(world.connect_to_database().await));
    wait_for(&world, "a lock", LOCKS, 1).await;
    first.release().await;
    let second = second.await.unwrap();
    wait_for(&world, "the next pages", READS, 2).await;
    let third = tokio::spawn(Lock::take(world.connect_to_database().await));
    wait_for(&world, "a lock", LOCKS, 1).await;
    second.release().await;
    let third = third.await.unwrap();
    // One of the next pages was that of the export, although no month has been read to its end.
    let part = within("a part", export.next()).await.unwrap();
    assert!(part.is_some_and(|part| !part.is_empty()));
    assert!(shown.iter().all(|shown| !shown.is_finished()));
    third.release().await;
    for shown in shown {
        let shown = within("a month", shown).await.unwrap();
        assert!(shown.unwrap().closed);
    }
    while within("a part", export.next()).await.unwrap().is_some() {}
    world.finish().await;
}
