//! The client's recorder with a spool: spooled usage survives the process and is counted once.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::DateTime;
use usage_client::{ErrorKind, Recorder, UsageClient};
use usage_server::clock::Clock;

use crate::support::{
    random::Random,
    reverse_proxy::ReverseProxy,
    world::{TIMEOUT, World, on_both_engines},
};

on_both_engines!(
    spooled_usage_survives_kills_and_is_counted_once,
    usage_that_overflows_the_spool_stays_in_memory,
    concurrent_recording_does_not_fail_a_flush,
    a_spool_serves_one_recorder_at_a_time,
    spooled_usage_waits_for_the_next_start_when_the_server_is_down,
    a_damaged_spool_file_does_not_affect_the_rest,
    refused_usage_is_kept_and_can_be_sent_again,
    a_fast_client_clock_loses_no_usage,
);

/// The number of kills.
const KILLS: u64 = 25;
/// The usage that a process records before each sync of the spool.
const CHUNK_SIZE: i64 = 7;
/// The variable that makes this binary record as a child process: endpoint, prefix of accounts, and folder of the
/// spool.
const CHILD: &str = "RECORDING_CHILD";

fn recorder(endpoint: &str, folder: &Path) -> Recorder {
    let client = UsageClient::connect_lazy(endpoint).unwrap();
    let builder = client
        .with_timeout(Duration::from_secs(2))
        .recorder(["api_calls"]);
    let builder = builder.interval(Duration::from_millis(10)).batch_size(3);
    builder.spool(folder).start().unwrap()
}

/// The child process that is killed. As a test, without the variable, it does nothing.
#[test]
fn a_child_process_records_until_it_is_killed() {
    let Ok(told) = std::env::var(CHILD) else {
        return;
    };
    let told: Vec<&str> = told.split('|').collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let recorder = recorder(told[0], Path::new(told[2]));
        for chunk in 0..10_000 {
            let account = format!("{}-{chunk}", told[1]);
            for _ in 0..CHUNK_SIZE {
                recorder.record(&account, "api_calls", 1);
            }
            recorder.persist().await.unwrap();
            let mut out = std::io::stdout().lock();
            writeln!(out, "{chunk}").unwrap();
            out.flush().unwrap();
        }
    });
}

fn start_child(endpoint: &str, prefix: &str, folder: &Path) -> (Child, BufReader<ChildStdout>) {
    // The name of the test without the name of the crate.
    let (_, module) = module_path!().split_once("::").unwrap();
    let test = format!("{module}::a_child_process_records_until_it_is_killed");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &test, "--nocapture"])
        .env(CHILD, format!("{endpoint}|{prefix}|{}", folder.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    (child, lines)
}

/// Lets a process record until it has synced the given number of chunks, and kills it. For zero chunks, kills it within
/// its first milliseconds. Returns how many chunks it has synced.
fn record_and_kill(
    endpoint: &str,
    prefix: &str,
    folder: &Path,
    chunks: i64,
    life: Duration,
) -> i64 {
    let (mut child, lines) = start_child(endpoint, prefix, folder);
    let (mut kept, begun) = (0, Instant::now());
    if chunks == 0 {
        while begun.elapsed() < life {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
    }
    for line in lines.lines() {
        if let Ok(chunk) = line.unwrap().parse::<i64>() {
            kept = chunk + 1;
            if kept == chunks {
                // SIGKILL.
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    assert!(kept >= chunks, "it died by itself after {kept} of {chunks}");
    kept
}

async fn spooled_usage_survives_kills_and_is_counted_once(mut world: World) {
    let folder = tempfile::tempdir().unwrap();
    let front = ReverseProxy::start().await;
    front.put_before(world.endpoint());
    let mut random = Random(11);
    let mut kept = Vec::new();
    for kill in 0..KILLS {
        let (endpoint, path) = (front.endpoint().to_owned(), folder.path().to_owned());
        // Some are killed while they open the files of others.
        let chunks = if kill % 4 == 3 {
            0
        } else {
            1 + random.below(12)
        };
        let life = Duration::from_micros(u64::try_from(random.below(60_000)).unwrap());
        let prefix = format!("p{kill}");
        if kill % 5 == 4 {
            world.crash();
        }
        let recording = tokio::task::spawn_blocking(move || {
            record_and_kill(&endpoint, &prefix, &path, chunks, life)
        });
        while !recording.is_finished() && kill % 3 == 1 {
            front.break_connections();
            tokio::task::yield_now().await;
        }
        kept.push(recording.await.unwrap());
        if kill % 5 == 4 {
            world.start_server().await;
            front.put_before(world.endpoint());
        }
    }
    let last = recorder(front.endpoint(), folder.path());
    let stats = last.flush(TIMEOUT).await.unwrap();
    assert_eq!(stats.counted, stats.recovered, "{stats:?}");
    for (kill, kept) in kept.into_iter().enumerate() {
        for chunk in 0..kept {
            let account = format!("p{kill}-{chunk}");
            assert_eq!(
                world.total_of_all_meters(&account).await,
                CHUNK_SIZE,
                "{account}"
            );
        }
        // A chunk without a confirmation may have been synced.
        let next = world.total_of_all_meters(&format!("p{kill}-{kept}")).await;
        assert!((0..=CHUNK_SIZE).contains(&next), "{next}");
        let beyond = world
            .total_of_all_meters(&format!("p{kill}-{}", kept + 1))
            .await;
        assert_eq!(beyond, 0);
    }
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 1, "only the lock is left");
    world.finish().await;
}

async fn usage_that_overflows_the_spool_stays_in_memory(world: World) {
    let folder = tempfile::tempdir().unwrap();
    let front = ReverseProxy::start().await;
    let client = UsageClient::connect_lazy(front.endpoint()).unwrap();
    let recorder = client
        .recorder(["api_calls"])
        .spool(folder.path())
        .spool_limit(5_000)
        .capacity(2)
        .interval(Duration::from_hours(1))
        .start()
        .unwrap();
    recorder.record("a", "api_calls", 1);
    recorder.persist().await.unwrap();
    recorder.record("b", "api_calls", 2);
    recorder.record("c", "api_calls", 3);
    let full = recorder.persist().await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Spool, "{full}");
    recorder.record("d", "api_calls", 4);
    assert_eq!(recorder.stats().dropped.units, 4);
    front.put_before(world.endpoint());
    let stats = recorder.flush(TIMEOUT).await.unwrap();
    assert_eq!((stats.counted.units, stats.dropped.units), (6, 4));
    assert_eq!(world.total_of_all_meters("c").await, 3);
    recorder.record("e", "api_calls", 5);
    recorder.persist().await.expect("there is space again");
    let stats = recorder.shutdown(TIMEOUT).await.unwrap();
    assert_eq!((stats.counted.units, stats.dropped.units), (11, 4));
    assert_eq!(world.total_of_all_meters("e").await, 5);
    world.finish().await;
}

async fn concurrent_recording_does_not_fail_a_flush(world: World) {
    let folder = tempfile::tempdir().unwrap();
    let recorder = recorder(world.endpoint(), folder.path());
    let enough = Arc::new(AtomicBool::new(false));
    let (other, told) = (recorder.clone(), Arc::clone(&enough));
    let recording = tokio::task::spawn_blocking(move || {
        while !told.load(Ordering::Relaxed) {
            other.record("other", "api_calls", 1);
        }
    });
    for _ in 0..20 {
        recorder.record("acct", "api_calls", 1);
        recorder.persist().await.unwrap();
    }
    enough.store(true, Ordering::Relaxed);
    recording.await.unwrap();
    let stats = recorder.shutdown(TIMEOUT).await.unwrap();
    assert_eq!(stats.counted, stats.recorded);
    assert_eq!(world.usage("acct").await.0, 20);
    world.finish().await;
}

async fn a_spool_serves_one_recorder_at_a_time(world: World) {
    let folder = tempfile::tempdir().unwrap();
    let first = recorder(world.endpoint(), folder.path());
    let client = UsageClient::connect_lazy(world.endpoint()).unwrap();
    let refused = client
        .recorder(["api_calls"])
        .spool(folder.path())
        .start()
        .unwrap_err();
    assert!(refused.to_string().contains("in use"), "{refused}");
    first.record("acct", "api_calls", 2);
    assert!(first.shutdown(TIMEOUT).await.unwrap().is_complete());
    // It is free as soon as the first recorder has ended.
    client
        .recorder(["api_calls"])
        .spool(folder.path())
        .start()
        .unwrap();
    assert_eq!(world.total_of_all_meters("acct").await, 2);
    world.finish().await;
}

/// The files of a folder with this extension.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir(folder).unwrap();
    let paths = all.map(|file| file.unwrap().path());
    let mut found: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    found.sort();
    found
}

/// Creates batches of an account in a folder, of seven units each, with a recorder that has no server.
async fn leave(folder: &Path, account: &str, batches: usize) {
    let front = ReverseProxy::start().await;
    let left = recorder(front.endpoint(), folder);
    for _ in 0..batches {
        left.record(account, "api_calls", 7);
        left.persist().await.unwrap();
    }
    let pending = left.shutdown(Duration::ZERO).await.unwrap_err();
    let units = 7 * batches;
    assert!(
        pending.to_string().contains(&format!("{units} units")),
        "{pending}"
    );
    assert_eq!(files(folder, "batch").len(), batches);
}

async fn spooled_usage_waits_for_the_next_start_when_the_server_is_down(world: World) {
    let folder = tempfile::tempdir().unwrap();
    leave(folder.path(), "acct", 3).await;
    let next = recorder(world.endpoint(), folder.path());
    let stats = next.shutdown(TIMEOUT).await.unwrap();
    assert_eq!((stats.recovered.calls, stats.counted.units), (3, 21));
    assert_eq!(world.total_of_all_meters("acct").await, 21);
    assert_eq!(files(folder.path(), "batch").len(), 0);
    world.finish().await;
}

async fn a_damaged_spool_file_does_not_affect_the_rest(world: World) {
    let folder = tempfile::tempdir().unwrap();
    leave(folder.path(), "acct", 4).await;
    let spooled = files(folder.path(), "batch");
    let torn = std::fs::read(&spooled[0]).unwrap();
    std::fs::write(&spooled[0], &torn[..torn.len() / 2]).unwrap();
    // A folder, which cannot be read as a file.
    std::fs::remove_file(&spooled[1]).unwrap();
    std::fs::create_dir(&spooled[1]).unwrap();
    let next = recorder(world.endpoint(), folder.path());
    let stats = next.shutdown(TIMEOUT).await.unwrap();
    assert_eq!((stats.recovered.units, stats.counted.units), (14, 14));
    assert_eq!(world.total_of_all_meters("acct").await, 14);
    assert_eq!(files(folder.path(), "damaged").len(), 1);
    assert_eq!(files(folder.path(), "batch"), [spooled[1].clone()]);
    world.finish().await;
}

async fn refused_usage_is_kept_and_can_be_sent_again(mut world: World) {
    let folder = tempfile::tempdir().unwrap();
    let first = recorder(world.endpoint(), folder.path());
    first.record("acct", "api_calls", 1);
    first.record("acct", "new_meter", 5);
    let stats = first.shutdown(TIMEOUT).await.unwrap();
    assert_eq!((stats.counted.units, stats.refused.units), (1, 5));
    let refused = files(folder.path(), "refused");
    assert_eq!(refused.len(), 1);

    world
        .reconfigure(&["--meters=api_calls:call,new_meter:thing"])
        .await;
    std::fs::rename(&refused[0], refused[0].with_extension("batch")).unwrap();
    let next = recorder(world.endpoint(), folder.path());
    let stats = next.shutdown(TIMEOUT).await.unwrap();
    assert_eq!((stats.recovered.units, stats.counted.units), (5, 5));
    assert_eq!(world.usage_of("acct", "new_meter").await.0, 5);
    world.finish().await;
}

async fn a_fast_client_clock_loses_no_usage(mut world: World) {
    let now = Clock::system().now();
    let at = |minutes: i64| DateTime::from_timestamp_millis(now - minutes * 60_000).unwrap();
    world.freeze(at(10)).await;
    let folder = tempfile::tempdir().unwrap();
    let spooled = recorder(world.endpoint(), folder.path());
    let client = UsageClient::connect_lazy(world.endpoint()).unwrap();
    let builder = client
        .recorder(["api_calls"])
        .interval(Duration::from_millis(10));
    let in_memory = builder.start().unwrap();
    for recorder in [&spooled, &in_memory] {
        recorder.record("acct", "api_calls", 3);
        recorder.record("acct", "no_such_meter", 1);
    }
    // The server received all of them, and rejected only those with an unknown meter.
    world
        .wait_until("an answer", async || {
            [&spooled, &in_memory]
                .iter()
                .all(|one| one.stats().refused.units == 1)
        })
        .await;
    for recorder in [&spooled, &in_memory] {
        assert_eq!(recorder.stats().pending.units, 3);
    }
    world.move_clocks(at(0)).await;
    for recorder in [spooled, in_memory] {
        let stats = recorder.shutdown(TIMEOUT).await.unwrap();
        assert_eq!((stats.counted.units, stats.pending.units), (3, 0));
    }
    assert_eq!(world.total_of_all_meters("acct").await, 6);
    world.finish().await;
}
