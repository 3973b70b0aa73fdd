//! Programs of their own, with an environment and an end.
#![allow(clippy::print_stdout, reason = "a program tells its parent")]

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use usage_client::{ErrorKind, Reason, UsageClient, proto::KeyRole};

use super::super::crate_page;
use super::{NEVER, quick, silent};
use crate::{
    operations::access::{access, create, first_admin, new_key},
    support::world::World,
};

/// Says what this binary does as a program of its own.
const PROGRAM: &str = "BEHAVIOUR_PROGRAM";

/// A program that uses the client and ends. As a test, without the variable, it does nothing.
#[test]
fn a_program_counts_and_ends() {
    let Ok(part) = env::var(PROGRAM) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = UsageClient::from_env().unwrap();
        if part == "key" {
            client.increment("acct").await.unwrap();
            let refused = client.get("acct").await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
            return println!("\n{client:?} {refused:?}");
        }
        let recorder = client.recorder(["tokens"]).interval(NEVER).start().unwrap();
        recorder.record(&part, "tokens", 12);
        if part == "limit" {
            let late = recorder.shutdown(Duration::from_millis(200)).await;
            return println!("\n{}", late.unwrap_err());
        }
        let work = async {
            println!("\nready");
            if part == "sigterm" {
                std::future::pending::<()>().await;
            }
        };
        let stats = crate_page::run(recorder, work).await.unwrap();
        println!("\ncounted {}", stats.counted.units);
    });
}

/// Starts the program, sends it SIGTERM once it says that it is ready if it waits for that, and returns how it ended.
async fn program(part: &'static str, variables: Vec<(&'static str, String)>) -> Output {
    // The name of the test without the name of the crate.
    let (_, module) = module_path!().split_once("::").unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", &format!("{module}::a_program_counts_and_ends")])
        .arg("--nocapture")
        .env(PROGRAM, part)
        .envs(variables)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let run = move || {
        let mut child = command.spawn().unwrap();
        let mut stdout = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if part == "sigterm" && line == "ready" {
                let kill = format!("kill -TERM {}", child.id());
                let sent = Command::new("sh").args(["-c", &kill]).status();
                assert!(sent.unwrap().success());
            }
            stdout.extend(line.into_bytes());
            stdout.push(b'\n');
        }
        let ended = child.wait_with_output().unwrap();
        Output { stdout, ..ended }
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn text(ended: &Output) -> String {
    let [out, err] = [&ended.stdout, &ended.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{} {out} {err}", ended.status)
}

pub(super) async fn recorder_flushes_at_exit(world: World) {
    for part in ["end", "sigterm"] {
        let server = vec![("USAGE_SERVER", world.endpoint().to_owned())];
        let ended = program(part, server).await;
        assert_eq!(ended.status.code(), Some(0), "{}", text(&ended));
        assert!(text(&ended).contains("counted 12"), "{}", text(&ended));
        assert_eq!(world.usage_of(part, "tokens").await.0, 12);
    }
    let (_listener, endpoint) = silent();
    let ended = program("limit", vec![("USAGE_SERVER", endpoint)]).await;
    let told = text(&ended);
    assert_eq!(ended.status.code(), Some(0), "{told}");
    assert!(
        told.contains("12 units of 1 calls are still pending after 200ms"),
        "{told}"
    );
    world.finish().await;
}

pub(super) async fn api_key_from_environment_and_file(world: World) {
    let endpoint = world.endpoint().to_owned();
    let (_, admin) = first_admin(&world).await;
    let mut admins = access(&world, Some(&admin)).await;
    let key = create(&mut admins, new_key("writer", KeyRole::Writer))
        .await
        .text;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("writer.key");
    std::fs::write(&file, format!("{key}\n")).unwrap();
    let keyless = quick(&endpoint).increment("acct").await.unwrap_err();
    assert_eq!(keyless.reason(), Some(&Reason::Unauthenticated));
    let builder = || UsageClient::builder(&endpoint);
    for given in [
        builder().api_key(&key),
        builder().api_key_file(&file).unwrap(),
    ] {
        assert!(!format!("{given:?}").contains(&key));
        given
            .connect_lazy()
            .unwrap()
            .increment("acct")
            .await
            .unwrap();
    }
    let named = |key: &str, file: &Path| {
        vec![
            ("USAGE_SERVER", endpoint.clone()),
            ("USAGE_API_KEY", key.to_owned()),
            ("USAGE_API_KEY_FILE", file.display().to_string()),
        ]
    };
    let nowhere = Path::new("/nowhere/usage.key");
    // A key itself comes before a file with one.
    for variables in [named("", &file), named(&key, nowhere)] {
        let ended = program("key", variables).await;
        assert_eq!(ended.status.code(), Some(0), "{}", text(&ended));
        assert!(text(&ended).contains("UsageClient"), "{}", text(&ended));
        assert!(!text(&ended).contains(&key), "it is printed");
    }
    let admin = builder().api_key(&admin).connect().await.unwrap();
    let usage = admin.get("acct").await.unwrap();
    assert_eq!(usage.meter("api_calls").unwrap().quantities.total, 4);
    let empty = folder.path().join("empty.key");
    std::fs::write(&empty, "\n").unwrap();
    for path in [&*empty, nowhere] {
        let error = builder().api_key_file(path).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
    let error = builder().api_key("not a key\n").connect_lazy().unwrap_err();
    assert!(!error.to_string().contains("not a key"), "{error}");
    world.finish().await;
}
