//! `doctor` and `reconcile` of a running server: with a reader's key, and without the database or the Stripe key.

use std::{fs, net::TcpListener, process::Output};

use fake_stripe::{FakeStripe, Settings};
use tempfile::TempDir;

use crate::process::{HTTP, Process};

/// A server with a key of a reader, and the commands that ask it.
struct Asked {
    process: Process,
    folder: TempDir,
    _stripe: FakeStripe,
}

impl Asked {
    async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let stripe = FakeStripe::start(Settings::default()).await.unwrap();
        let command = |args: &[&str]| {
            let url = format!("sqlite://{}", folder.path().join("usage.db").display());
            let mut command = Process::binary();
            command
                .env("DATABASE_URL", url)
                .env("STRIPE_SECRET_KEY", stripe.secret_key())
                .env("STRIPE_API_BASE", stripe.base_url())
                .env("REPORT_SCHEDULE", "0 7 * * *")
                .args(args);
            command
        };
        for args in [&["migrate"][..], &["stripe", "setup", "--tier=inf=1"]] {
            let output = command(args).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{args:?}: {error}");
        }
        for role in ["admin", "reader", "writer"] {
            let args = ["keys", "create", "--role", role, "--name", role];
            let created = command(&args).output().unwrap();
            assert!(created.status.success());
            fs::write(folder.path().join(role), created.stdout).unwrap();
        }
        let process = Process::start(command(&[]), &[HTTP.to_owned()]).await;
        Self {
            process,
            folder,
            _stripe: stripe,
        }
    }

    /// Asks the server. The environment has a database that cannot be used.
    fn run(&self, key: Option<&str>, args: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Process::binary();
        command.env("DATABASE_URL", "sqlite:///nowhere/usage.db");
        if let Some(key) = key {
            command.env("USAGE_API_KEY_FILE", self.folder.path().join(key));
        }
        let server = format!("--server={}", self.process.endpoint());
        let output = command.args(args).arg(server).output().unwrap();
        let Output {
            status,
            stdout,
            stderr,
        } = output;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code(), text(stdout), text(stderr))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_ask_a_running_server_with_a_readers_key() {
    let asked = Asked::start().await;
    let (code, out, error) = asked.run(Some("reader"), &["doctor"]);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{out}");
    for words in ["ok    health", "T07:00:00", "ok    database", " 0 bad, "] {
        let out = format!(" {out}");
        assert!(out.replace('\n', " ").contains(words), "{words}: {out}");
    }
    let (code, out, _) = asked.run(Some("reader"), &["doctor", "--settings", "--json"]);
    assert_eq!(code, Some(0), "{out}");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["settings"]["REPORT_SCHEDULE"], "0 7 * * *");
    assert_eq!(json["settings"]["STRIPE_SECRET_KEY"], "(set)");
    assert!(json["findings"].as_array().unwrap().len() > 10, "{json}");
    let (code, out, error) = asked.run(Some("reader"), &["reconcile"]);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("0 rows, 0 with a difference"), "{out}");
    asked.process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_say_which_key_a_server_needs() {
    let asked = Asked::start().await;
    for command in ["doctor", "reconcile"] {
        for key in [None, Some("writer")] {
            let (code, out, error) = asked.run(key, &[command]);
            assert_eq!((code, out.as_str()), (Some(1), ""), "{command}: {error}");
            assert!(error.contains("USAGE_API_KEY_FILE"), "{error}");
            assert!(error.contains(asked.process.endpoint()), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
    asked.process.kill();
}

#[test]
fn a_server_that_cannot_be_reached_is_named() {
    for (server, words) in [
        (
            "http://127.0.0.1:1",
            "http://127.0.0.1:1: the server cannot be reached",
        ),
        ("ftp://host", "ftp://host: must start with http://"),
        ("https://127.0.0.1:1", "cannot be reached"),
    ] {
        let mut command = Process::binary();
        let output = command.args(["doctor", "--server", server]).output();
        let output = output.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(words), "{error}");
    }
    let output = Process::binary().args(["doctor", "--settings"]).output();
    let error = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(error.contains("--server <URL>"), "{error}");
}

#[test]
fn a_server_that_accepts_and_is_silent_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("https://{}", silent.local_addr().unwrap());
    let mut command = Process::binary();
    let output = command.args(["doctor", "--server", &server]).output();
    let output = output.unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    let words = format!("{server}: the server cannot be reached: it did not answer within 5 s");
    assert!(error.contains(&words), "{error}");
}

#[test]
fn a_key_in_plain_text_to_another_machine_is_told_once() {
    const WARNING: &str = "warning: the API key is sent unencrypted to ";
    const KEY: &str = "ub_0123456789abcdef_secret";
    for (server, key, lines) in [
        ("http://usage.invalid:50051", Some(KEY), 1),
        ("usage.invalid:50051", Some(KEY), 1),
        ("http://usage.invalid:50051", None, 0),
        ("https://usage.invalid:50051", Some(KEY), 0),
        ("http://127.0.0.1:9", Some(KEY), 0),
    ] {
        for name in ["doctor", "reconcile"] {
            let mut command = Process::binary();
            command.args([name, "--server", server]);
            command.envs(key.map(|key| ("USAGE_API_KEY", key)));
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{server}");
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(error.matches(WARNING).count(), lines, "{server}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
