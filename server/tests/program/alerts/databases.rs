//! The database does not respond, is slow, and has lost a table.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use sea_orm::{ConnectOptions, ConnectionTrait as _, Database};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};
use usage_client::{Batch, ErrorKind, Increment};

use super::{
    history::History,
    scrape::Scrape,
    service::{Service, command, poll, scrape, scrape_when, stripe},
};
use crate::{
    connections::http_address,
    own_cluster::own_cluster,
    postgres::Durability,
    process::{Process, TIMEOUT, within},
};

/// Forwards connections while it is open. When it closes, it breaks them.
struct Gate {
    address: SocketAddr,
    is_open: watch::Sender<bool>,
}

impl Gate {
    async fn open(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_open = watch::Sender::new(true);
        let watched = is_open.subscribe();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut watched = watched.clone();
                if !*watched.borrow() {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(upstream).await else {
                        return;
                    };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        () = closed(&mut watched) => {}
                    }
                });
            }
        });
        Self { address, is_open }
    }
}

async fn closed(is_open: &mut watch::Receiver<bool>) {
    let _ = is_open.wait_for(|is_open| !is_open).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_gone() {
    let Some(cluster) = own_cluster(Durability::Off) else {
        return;
    };
    let url = cluster.create_database().unwrap();
    let gate = Gate::open(cluster.address()).await;
    let (_, name) = url.rsplit_once('/').unwrap();
    let url = format!("postgres://usage@{}/{name}", gate.address);
    let (stripe, _) = stripe().await;
    let process = Process::start(
        command(&url, Some(&stripe)),
        &["--metrics-listen=127.0.0.1:0".to_owned()],
    )
    .await;
    http_address(&process).await;
    let lease = r#"usage_lease_held{task="sender"}"#;
    let client = process.client();
    client.increment("acct").await.unwrap();
    let before = scrape_when(&process, "a lease", |scrape| scrape.get(lease) == 1.0).await;
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);

    gate.is_open.send_replace(false);
    for _ in 0..5 {
        let error = within("an answer", client.increment("acct").into_future()).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    let first = scrape(&process).await;
    let watched = "usage_watch_last_success_timestamp_seconds";
    // A lease ends by itself within 13 s.
    let during = poll(&process, "no lease", |scrape| scrape.get(lease) == 0.0).await;
    assert!(during.age(watched) > 2.0);
    assert_eq!(during.get(watched), first.get(watched));
    let refused = r#"usage_calls_refused_total{reason="DATABASE_UNAVAILABLE"}"#;
    assert_eq!(during.get(refused), 5.0);
    let unavailable =
        r#"usage_calls_total{method="usage.v1.UsageService/Increment",code="UNAVAILABLE"}"#;
    assert_eq!(during.get(unavailable), 5.0);
    history.stalled_phase(
        60,
        &[("a", Some(&during))],
        &[watched],
        &["UsageCallsUnavailable", "UsageFiguresOld"],
    );

    gate.is_open.send_replace(true);
    process.wait_until_ready().await;
    let after = scrape_when(&process, "a lease", |scrape| scrape.get(lease) == 1.0).await;
    for _ in 0..3 {
        client.increment("acct").await.unwrap();
    }
    let after_too = scrape(&process).await;
    assert_eq!(after_too.get(unavailable), 5.0);
    history.catch_up(&[("a", Some(&after))]);
    history.phase(60, &[("a", Some(&after_too))], &[]);
    history.check();
    process.kill();
}

/// Another program keeps SQLite's write lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_fills_and_a_commit_that_waits() {
    // As much as one caller with a key may have in it.
    const FILLS: usize = 1_900;
    let service = Service::start(&[("QUEUE_INCREMENTS", "2500")]).await;
    let client = service.process.client();
    client.increment("acct").await.unwrap();
    let before = service.scrape_fresh().await;
    assert_eq!(before.get("usage_waiting_increments_limit"), 2_500.0);
    assert_eq!(before.get("usage_waiting_increments"), 0.0);
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);

    let mut options = ConnectOptions::new(&service.url);
    options.max_connections(1).min_connections(1);
    let other = Database::connect(options).await.unwrap();
    other.execute_unprepared("BEGIN IMMEDIATE").await.unwrap();
    let locked = Instant::now();
    let batch = |len: usize| {
        let add = |batch: Batch, nth| batch.push(Increment::new(format!("acct-{nth}")));
        (0..len).fold(Batch::new(), add)
    };
    let batches: FuturesUnordered<_> = [FILLS / 2, FILLS / 2]
        .map(|len| {
            let (client, batch) = (client.clone(), batch(len));
            tokio::spawn(async move { client.increment_batch(batch).await })
        })
        .into_iter()
        .collect();
    let full = |scrape: &Scrape| scrape.get("usage_waiting_increments") >= 1_900.0;
    let filled = service.scrape_at_once_when("a queue", full).await;
    for _ in 0..5 {
        let refused = client.increment_batch(batch(1_000)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Overloaded);
    }
    let during = service.scrape().await;
    assert_eq!(
        filled.get("usage_waiting_increments"),
        during.get("usage_waiting_increments")
    );
    let refused = r#"usage_calls_refused_total{reason="OVERLOADED"}"#;
    assert_eq!(during.get(refused), 5.0);
    history.phase(
        60,
        &[("a", Some(&during))],
        &["UsageCallsUnavailable", "UsageQueueNearlyFull"],
    );
    // More than the second of the rule.
    let second = |_: &Scrape| locked.elapsed() > Duration::from_millis(1_500);
    service.scrape_at_once_when("a second", second).await;
    other.execute_unprepared("ROLLBACK").await.unwrap();
    other.close().await.unwrap();
    let counted: Vec<_> = within("the batches", batches.collect()).await;
    for batch in counted {
        batch.unwrap().unwrap();
    }
    let slow = service.scrape().await;
    assert_eq!(slow.get("usage_waiting_increments"), 0.0);
    let counted = r#"usage_increments_total{outcome="counted"}"#;
    assert_eq!(slow.get(counted), 1.0 + FILLS as f64);
    let fast = slow.get("usage_commit_seconds_bucket{le=\"1\"}");
    assert!(slow.get("usage_commit_seconds_count") > fast);
    history.phase(60, &[("a", Some(&slow))], &["UsageCommitsSlow"]);
    for _ in 0..200 {
        client.increment("acct").await.unwrap();
    }
    let after = service.scrape().await;
    history.phase(60, &[("a", Some(&after))], &[]);
    history.check();
    service.process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_end_with_a_defect() {
    let service = Service::start(&[]).await;
    let before = service.scrape_fresh().await;
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);
    service
        .sql("ALTER TABLE audit_entries RENAME TO lost")
        .await;
    let client = service.process.client();
    let entries = || client.list_audit_entries(usage_client::ListAuditEntries::new());
    for _ in 0..3 {
        assert_eq!(entries().await.unwrap_err().kind(), ErrorKind::Internal);
    }
    let during = service.scrape().await;
    let method = "usage.v1.AccessService/ListAuditEntries";
    let internal = format!("usage_calls_total{{method=\"{method}\",code=\"INTERNAL\"}}");
    assert_eq!(during.get(&internal), 3.0);
    history.phase(60, &[("a", Some(&during))], &["UsageErrors"]);
    service
        .sql("ALTER TABLE lost RENAME TO audit_entries")
        .await;
    entries().await.unwrap();
    let after = service.scrape_fresh().await;
    assert_eq!(after.get(&internal), 3.0);
    history.phase(60, &[("a", Some(&after))], &[]);
    history.check();
    service.process.kill();
}

/// The log of SQLite is large, because something keeps it from being copied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_sqlite_that_grows() {
    const LARGE: u64 = 300 * 1024 * 1024;
    let service = Service::start(&[]).await;
    let before = service.scrape_fresh().await;
    let size = before.get("usage_sqlite_log_bytes");
    let mut history = History::new();
    history.phase(60, &[("a", Some(&before))], &[]);
    assert!(size < 64.0 * 1024.0 * 1024.0, "{size}");
    let file = format!("{}-wal", service.url.trim_start_matches("sqlite://"));
    // A hole, which takes no room.
    let log = std::fs::File::options().write(true).open(&file).unwrap();
    let begun = Instant::now();
    log.set_len(LARGE).unwrap();
    let during = service
        .scrape_when("a large log", |scrape| {
            scrape.get("usage_sqlite_log_bytes") == LARGE as f64
        })
        .await;
    assert!(during.get("usage_database_bytes") >= LARGE as f64);
    history.phase(60, &[("a", Some(&during))], &["UsageLogGrows"]);
    // A checkpoint that nothing is in the way of.
    let after = loop {
        service.sql("PRAGMA wal_checkpoint(TRUNCATE)").await;
        let scrape = service.scrape_fresh().await;
        if scrape.get("usage_sqlite_log_bytes") < 64.0 * 1024.0 * 1024.0 {
            break scrape;
        }
        assert!(begun.elapsed() < TIMEOUT, "it stays large");
    };
    history.phase(60, &[("a", Some(&after))], &[]);
    history.check();
    service.process.kill();
}
