//! The limit of requests of each key, in the real program.

use std::process::Stdio;

use futures_util::future::join_all;
use tempfile::TempDir;
use usage_client::{Reason, Retry, UsageClient};

use crate::process::{Process, TIMEOUT, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_limited_and_others_are_not() {
    const CALLS: usize = 50;
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite://{}", folder.path().join("usage.db").display());
    let command = |args: &[&str]| {
        let mut command = Process::binary();
        command.env("DATABASE_URL", &url).args(args);
        command
    };
    let done = |args: &[&str]| {
        let output = command(args).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    done(&["migrate"]);
    let key = |role: &str, name: &str| done(&["keys", "create", "--role", role, "--name", name]);
    key("admin", "admin");
    let [busy, quiet] = ["busy", "quiet"].map(|name| key("writer", name));
    let mut serve = command(&[]);
    serve.env("REQUESTS_PER_SEC", "5");
    let process = Process::start(serve, &[]).await;
    let client = |key: &str| {
        let builder = UsageClient::builder(process.endpoint()).api_key(key.trim());
        let client = builder.connect_lazy().unwrap();
        client.with_retry(Retry::never()).with_timeout(TIMEOUT)
    };
    let (busy, quiet) = (client(&busy), client(&quiet));
    let calls = (0..CALLS).map(|_| busy.increment("acct").into_future());
    let calls = within("the calls", join_all(calls)).await;
    let refused: Vec<_> = calls
        .iter()
        .filter_map(|call| call.as_ref().err())
        .collect();
    assert!(!refused.is_empty() && refused.len() < CALLS, "{refused:?}");
    for error in refused {
        assert_eq!(error.reason(), Some(&Reason::RateLimited), "{error}");
        assert!(error.retry_after().is_some());
    }
    within(
        "a call of the other key",
        quiet.increment("acct").into_future(),
    )
    .await
    .unwrap();
    process.kill();
}
