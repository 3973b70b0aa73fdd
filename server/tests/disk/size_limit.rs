//! A limit for the size of files, such as systemd's `LimitFSIZE`. The kernel ends a process that exceeds it, unless the
//! process handles the signal; then it is a disk that is full.

use std::process::Command;

use crate::{
    callers::Callers,
    disk::{Disk, url},
    process::Process,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_for_the_size_of_files_is_a_full_disk() {
    let disk = Disk::new();
    // In blocks of 512 bytes: less than the log grows to.
    let limited = r#"ulimit -S -f 2048; exec "$0" "$@""#;
    let mut command = Command::new("sh");
    Process::clean(&mut command);
    command
        .args(["-c", limited, env!("CARGO_BIN_EXE_usage-server")])
        .env("DATABASE_URL", url(&disk.database()));
    let process = Process::start(command, &[]).await;
    let callers = Callers::start(&process.client());
    callers.wait_for_more(1).await;
    process.wait_until_not_ready().await;
    callers.wait_for_refusals(1).await;
    let lifted = Command::new("prlimit")
        .args([
            format!("--pid={}", process.id()),
            "--fsize=unlimited".to_owned(),
        ])
        .output()
        .expect("prlimit, from util-linux");
    assert!(lifted.status.success(), "{lifted:?}");
    process.wait_until_ready().await;
    callers.wait_for_more(20).await;
    disk.check_files(&callers.kill(process).await).await;
}
