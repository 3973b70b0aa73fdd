//! No secret is in what the program prints, answers or writes, whatever fails.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use fake_stripe::{FakeStripe, Settings};
use tempfile::TempDir;

use crate::{
    connections::{exchange, http_address},
    process::{HTTP, Process, wait_until, within},
};

/// What each secret contains.
const MARK: &str = "Recognisable";
const KEY: &str = "sk_test_RecognisableKey";
const WEBHOOK_SECRET: &str = "whsec_RecognisableSecret";

/// Runs a command to its end.
fn run(command: &mut Command, args: &[&str]) -> Output {
    command.args(args).output().expect("a process")
}

#[track_caller]
fn assert_no_secret(what: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    assert!(!text.contains(MARK), "a secret is in {what}:\n{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_service_shows_no_secret() {
    let folder = TempDir::new().unwrap();
    let stripe = FakeStripe::start(Settings::default()).await.unwrap();
    let secret_file = folder.path().join("webhooks");
    fs::write(&secret_file, format!("{WEBHOOK_SECRET}\n")).unwrap();
    let mut command = Process::binary();
    command
        .env("DATABASE_URL", url(folder.path()))
        .env("RUST_LOG", "trace")
        // Stripe refuses it.
        .env("STRIPE_SECRET_KEY", KEY)
        .env("STRIPE_API_BASE", stripe.base_url())
        .env("STRIPE_WEBHOOK_SECRETS_FILE", &secret_file);
    let process = Process::start(command, &[HTTP.to_owned()]).await;
    let counted = within("a call", process.client().increment("acct").into_future()).await;
    counted.unwrap();
    let refused = process.client().increment("").await.unwrap_err();
    assert_no_secret("an error", refused.to_string().as_bytes());
    // The log names a failure of the key.
    wait_until("a refused key", || async {
        process.log().contains("Stripe")
    })
    .await;
    let address = http_address(&process).await;
    for request in [
        "GET /metrics HTTP/1.1\r\n",
        "GET /health/ready HTTP/1.1\r\n",
        "POST /webhooks/stripe HTTP/1.1\r\n",
        "POST /webhooks/stripe HTTP/1.1\r\nstripe-signature: t=1,v1=00\r\n",
    ] {
        let request =
            format!("{request}host: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let answer = exchange(&address, request.as_bytes()).await;
        assert!(!answer.is_empty());
        assert_no_secret(request.lines().next().unwrap(), &answer);
    }
    // The log is read by a thread of its own.
    wait_until("a refused webhook in the log", || async {
        process.log().contains("webhook refused")
    })
    .await;
    assert_no_secret("the log", process.log().as_bytes());
    process.kill();
    for entry in fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path != secret_file {
            assert_no_secret(&path.display().to_string(), &fs::read(&path).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_fails_shows_no_secret() {
    let stripe = FakeStripe::start(Settings::default()).await.unwrap();
    let passwords = [
        "postgres://user:RecognisablePassword@127.0.0.1:1/usage",
        "postgres://user:RecognisablePassword@127.0.0.1:port/usage",
        "postgres://user:Recognisable Password@[::1/usage",
        "postgres://user:RecognisablePassword@no-such-host.invalid/usage?sslmode=wrong",
        "postgres://127.0.0.1:1/usage?password=RecognisablePassword",
        "mysql://user:RecognisablePassword@127.0.0.1/usage",
        "RecognisablePassword",
    ];
    let mut running = Vec::new();
    for password in passwords {
        for args in [
            &["serve", "--listen=127.0.0.1:0", "--http-listen=off"][..],
            &["migrate"],
            &["doctor"],
            &["reconcile"],
            &["archives", "verify", "--archive-dir=/"],
        ] {
            let mut command = Process::binary();
            command
                .env("RUST_LOG", "debug")
                .env("DATABASE_URL", password)
                .env("STRIPE_SECRET_KEY", KEY)
                .env("STRIPE_API_BASE", stripe.base_url());
            command
                .args(args)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            // At once, because some wait for the database.
            running.push((args, command.spawn().expect("a process")));
        }
    }
    for (args, child) in running {
        let output = child.wait_with_output().unwrap();
        assert!(!output.status.success(), "{args:?}");
        assert!(
            !output.stderr.is_empty() || !output.stdout.is_empty(),
            "{args:?}"
        );
        assert_no_secret(&format!("{args:?}"), &output.stderr);
        assert_no_secret(&format!("{args:?}"), &output.stdout);
    }
}

#[test]
fn a_secret_that_is_refused_is_not_shown() {
    let folder = TempDir::new().unwrap();
    for (name, secret, words) in [
        (
            "STRIPE_SECRET_KEY",
            "pk_test_Recognisable",
            "publishable key",
        ),
        (
            "STRIPE_SECRET_KEY",
            "Recognisable",
            "must start with sk_ or rk_",
        ),
        (
            "STRIPE_WEBHOOK_SECRETS",
            "Recognisable",
            "must start with whsec_",
        ),
        (
            "STRIPE_WEBHOOK_SECRETS",
            "whsec_Recognisable,",
            "secret 2 of 2",
        ),
    ] {
        let file = folder.path().join("secret");
        fs::write(&file, secret).unwrap();
        for is_in_file in [false, true] {
            let mut command = Process::binary();
            command.env("DATABASE_URL", url(folder.path()));
            if is_in_file {
                command.env(format!("{name}_FILE"), &file);
            } else {
                command.env(name, secret);
            }
            let output = run(
                &mut command,
                &["serve", "--listen=127.0.0.1:0", "--http-listen=off"],
            );
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(error.contains(words), "{error}");
            assert_no_secret(name, &output.stderr);
        }
    }
}

/// The help names the variables and not what they contain.
#[test]
fn the_help_shows_no_secret() {
    let mut command = Process::binary();
    command
        .env(
            "DATABASE_URL",
            "postgres://user:RecognisablePassword@127.0.0.1/usage",
        )
        .env("STRIPE_SECRET_KEY", KEY)
        .env("STRIPE_WEBHOOK_SECRETS", WEBHOOK_SECRET);
    let output = run(&mut command, &["serve", "--help"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("STRIPE_SECRET_KEY"));
    assert_no_secret("the help", &output.stdout);
}

fn url(folder: &Path) -> String {
    format!("sqlite://{}", folder.join("usage.db").display())
}
