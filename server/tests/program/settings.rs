//! Settings as the program reads them: empty variables, files, and addresses in use.

use std::{fs, net::TcpListener, process::Command};

use tempfile::TempDir;

use crate::process::{HTTP, Process, within};

/// The names of all variables, from the help of the command.
pub(crate) fn variables() -> Vec<String> {
    let output = Process::binary()
        .args(["serve", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    // A long line is broken before the name.
    let names = help.split("[env:").skip(1);
    let names = names.filter_map(|rest| rest.split(['=', ']']).next());
    names.map(|name| name.trim().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_variables_count_as_unset() {
    let folder = TempDir::new().unwrap();
    let variables = variables();
    assert!(variables.len() > 30, "{variables:?}");
    for name in ["HTTP_LISTEN", "TLS_CERT_FILE", "NO_MIGRATE", "LOG_JSON"] {
        assert!(variables.iter().any(|known| known == name), "{name}");
    }
    let mut command = Process::binary();
    command.current_dir(folder.path());
    let file = folder.path().join("url");
    fs::write(&file, "sqlite://from-file.db\n").unwrap();
    let empty = variables.iter().filter(|name| *name != "DATABASE_URL_FILE");
    command.envs(empty.map(|name| (name, "")));
    command.env("DATABASE_URL_FILE", &file);
    // It sets `LOG_JSON` again, and an address for HTTP.
    let process = Process::start(command, &[HTTP.to_owned()]).await;
    within("a call", process.client().increment("acct").into_future())
        .await
        .unwrap();
    assert!(folder.path().join("from-file.db").exists());
    process.kill();
}

#[test]
fn odd_text_in_a_variable_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    // Where the text is taken, the address is refused.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for name in variables() {
        let flag = format!("--{}", name.to_lowercase().replace('_', "-"));
        let words = name.to_lowercase().replace('_', " ");
        for text in ["\u{202e}odd, text", "99999999999999999999"] {
            let mut command = Process::binary();
            command
                .current_dir(folder.path())
                .arg("serve")
                .env("LISTEN", &address)
                .env("HTTP_LISTEN", "off")
                .env(&name, text);
            let output = command.output().unwrap();
            let error = String::from_utf8(output.stderr).unwrap();
            let place = format!("{name}={text:?}: {:?} {error}", output.status);
            assert!(matches!(output.status.code(), Some(1 | 2)), "{place}");
            let is_taken = error.contains("cannot listen on");
            let is_named = [&name, &flag, &words]
                .iter()
                .any(|one| error.contains(*one))
                || (name == "METERS" && error.contains("meter"));
            assert!(is_taken || is_named, "{place}");
        }
    }
}

fn refusal(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
fn a_secret_that_is_set_twice_is_refused() {
    for name in [
        "DATABASE_URL",
        "STRIPE_SECRET_KEY",
        "STRIPE_WEBHOOK_SECRETS",
    ] {
        let mut command = Process::binary();
        command
            .args(["serve", "--listen=127.0.0.1:0", "--http-listen=off"])
            .env(name, "sqlite://unused.db")
            .env(format!("{name}_FILE"), "/nowhere");
        let error = refusal(&mut command);
        let words = format!("{name} and {name}_FILE are both set");
        assert!(error.contains(&words), "{error}");
    }
}

#[test]
fn an_address_in_use_names_its_setting() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for name in ["LISTEN", "HTTP_LISTEN", "WEBHOOK_LISTEN", "METRICS_LISTEN"] {
        let mut command = Process::binary();
        command
            .arg("serve")
            .env("LISTEN", "127.0.0.1:0")
            .env("HTTP_LISTEN", "off")
            .env(name, &address);
        let error = refusal(&mut command);
        let words = format!("cannot listen on {address} ({name}): another program");
        assert!(error.contains(&words), "{error}");
        assert_eq!(error.contains("or off"), name == "HTTP_LISTEN", "{error}");
    }
}
