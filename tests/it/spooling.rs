//! The client's recorder with a spool: what is in it outlives the process, and is counted once.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use usage_client::{Get, Recorder, UsageClient};

use crate::{
    front::Front,
    random::Random,
    world::{PATIENCE, World, on_both_engines},
};

on_both_engines!(
    what_is_spooled_outlives_kills_and_is_counted_once,
    what_does_not_fit_into_the_spool_stays_in_memory,
    what_others_record_meanwhile_fails_nobody,
    a_spool_serves_one_recorder_at_a_time,
);

/// How often a process is killed.
const KILLS: u64 = 25;
/// What a process records before it sees to it that this is kept.
const A_CHUNK: i64 = 7;
/// Tells this binary, started once more, to record: where to, under which prefix, and in which folder.
const CHILD: &str = "RECORDING_CHILD";

fn recorder(endpoint: &str, folder: &Path) -> Recorder {
    let client = UsageClient::connect_lazy(endpoint).unwrap();
    let builder = client.with_timeout(Duration::from_secs(2)).recorder();
    let builder = builder.interval(Duration::from_millis(10)).batch_size(3);
    builder.spool(folder).start().unwrap()
}

/// The life of a process that is killed some time; as a test of its own it does nothing.
#[test]
fn a_process_that_records_until_it_is_killed() {
    let Ok(told) = std::env::var(CHILD) else {
        return;
    };
    let told: Vec<&str> = told.split('|').collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let recorder = recorder(told[0], Path::new(told[2]));
        for chunk in 0..10_000 {
            let account = format!("{}-{chunk}", told[1]);
            for _ in 0..A_CHUNK {
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
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "spooling::a_process_that_records_until_it_is_killed",
            "--nocapture",
        ])
        .env(CHILD, format!("{endpoint}|{prefix}|{}", folder.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    (child, lines)
}

/// Lets a process record until it has kept so many chunks, and kills it; answers how many it has kept.
fn record_and_kill(endpoint: &str, prefix: &str, folder: &Path, chunks: i64) -> i64 {
    let (mut child, lines) = start_child(endpoint, prefix, folder);
    let mut kept = 0;
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

async fn total(world: &World, account: &str) -> i64 {
    let shown = world.client().get(Get::account(account)).await.unwrap();
    let meters = shown.meters.iter();
    meters.map(|meter| meter.quantities.total).sum()
}

async fn what_is_spooled_outlives_kills_and_is_counted_once(mut world: World) {
    let folder = tempfile::tempdir().unwrap();
    let front = Front::start().await;
    front.put_before(world.endpoint());
    let mut random = Random(11);
    let mut kept = Vec::new();
    for kill in 0..KILLS {
        let (endpoint, path) = (front.endpoint().to_owned(), folder.path().to_owned());
        let chunks = 1 + random.below(12);
        let prefix = format!("p{kill}");
        if kill % 5 == 4 {
            world.crash();
        }
        let recording =
            tokio::task::spawn_blocking(move || record_and_kill(&endpoint, &prefix, &path, chunks));
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
    let stats = last.flush(PATIENCE).await.unwrap();
    assert_eq!(stats.counted, stats.recovered, "{stats:?}");
    for (kill, kept) in kept.into_iter().enumerate() {
        for chunk in 0..kept {
            let account = format!("p{kill}-{chunk}");
            assert_eq!(total(&world, &account).await, A_CHUNK, "{account}");
        }
        // What was not said to be kept may have been.
        let next = total(&world, &format!("p{kill}-{kept}")).await;
        assert!((0..=A_CHUNK).contains(&next), "{next}");
        let beyond = total(&world, &format!("p{kill}-{}", kept + 1)).await;
        assert_eq!(beyond, 0);
    }
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 1, "only the lock is left");
    world.finish().await;
}

async fn what_does_not_fit_into_the_spool_stays_in_memory(world: World) {
    let folder = tempfile::tempdir().unwrap();
    let front = Front::start().await;
    let client = UsageClient::connect_lazy(front.endpoint()).unwrap();
    let recorder = client
        .recorder()
        .spool(folder.path())
        .spool_limit(200)
        .capacity(2)
        // Only `persist` takes anything.
        .interval(Duration::from_hours(1))
        .start()
        .unwrap();
    recorder.record("a", "api_calls", 1);
    recorder.persist().await.unwrap();
    recorder.record("b", "api_calls", 2);
    recorder.record("c", "api_calls", 3);
    let full = recorder.persist().await.unwrap_err();
    assert_eq!(full.violations()[0].field, "spool");
    recorder.record("d", "api_calls", 4);
    assert_eq!(recorder.stats().dropped.units, 4);
    front.put_before(world.endpoint());
    let stats = recorder.shutdown(PATIENCE).await.unwrap();
    assert_eq!((stats.counted.units, stats.dropped.units), (6, 4));
    assert_eq!(total(&world, "c").await, 3);
    world.finish().await;
}

async fn what_others_record_meanwhile_fails_nobody(world: World) {
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
    let stats = recorder.shutdown(PATIENCE).await.unwrap();
    assert_eq!(stats.counted, stats.recorded);
    assert_eq!(world.usage("acct").await.0, 20);
    world.finish().await;
}

async fn a_spool_serves_one_recorder_at_a_time(world: World) {
    let folder = tempfile::tempdir().unwrap();
    let first = recorder(world.endpoint(), folder.path());
    let client = UsageClient::connect_lazy(world.endpoint()).unwrap();
    let refused = client.recorder().spool(folder.path()).start().unwrap_err();
    assert!(refused.to_string().contains("in use"), "{refused}");
    first.record("acct", "api_calls", 2);
    first.shutdown(PATIENCE).await.unwrap();
    // It is free once nothing of the first one is under way any more.
    let is_free = async || client.recorder().spool(folder.path()).start().is_ok();
    world.until("a free spool", is_free).await;
    assert_eq!(total(&world, "acct").await, 2);
    world.finish().await;
}
