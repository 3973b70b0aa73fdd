//! `usage-server health`: one word and an exit code.

use std::{net::TcpListener, time::Instant};

use sea_orm::{ConnectionTrait as _, Database};
use tempfile::TempDir;

use crate::{
    connections::{http_address, start},
    process::{Process, wait_until},
};

/// Asks a socket. Returns the exit code, the output and the notes.
fn health(address: &str, flags: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Process::binary();
    command
        .arg("health")
        .args(flags)
        .env("HTTP_LISTEN", address);
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, notes) = (text(output.stdout), text(output.stderr));
    (output.status.code(), out, notes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_a_word_and_an_exit_code() {
    let folder = TempDir::new().unwrap();
    let process = start(&folder).await;
    let address = http_address(&process).await;
    process.wait_until_ready().await;
    // The rest of the time limit is for a busy machine.
    let patient = ["--timeout=60"];
    let answered = |word: &str, code| (Some(code), format!("{word}\n"), String::new());
    assert_eq!(health(&address, &patient), answered("ready", 0));
    let live = ["--timeout=60", "--live"];
    assert_eq!(health(&address, &live), answered("live", 0));
    let url = format!("sqlite://{}", folder.path().join("usage.db").display());
    let database = Database::connect(url).await.unwrap();
    // What is written to see whether the database can be.
    database
        .execute_unprepared("DROP TABLE leases")
        .await
        .unwrap();
    wait_until("an unready server", || async {
        health(&address, &patient) == answered("unready", 1)
    })
    .await;
    assert_eq!(health(&address, &live), answered("live", 0));
    process.kill();
    let (code, word, why) = health(&address, &[]);
    assert_eq!((code, word.as_str()), (Some(1), "unreachable\n"));
    assert!(
        why.starts_with(&format!("{address} (HTTP_LISTEN): ")),
        "{why}"
    );
}

#[test]
fn health_waits_for_a_limited_time() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let begun = Instant::now();
    let (code, word, why) = health(&address, &[]);
    assert_eq!((code, word.as_str()), (Some(1), "unreachable\n"));
    assert!(why.contains("no answer within 2 s"), "{why}");
    // And the start of a process, on a busy machine.
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
    let (code, _, why) = health("off", &[]);
    assert_eq!(code, Some(1));
    assert!(why.contains("set METRICS_LISTEN"), "{why}");
}
