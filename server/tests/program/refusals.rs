//! What the program says of a command line that is not complete, and of files and hosts that it cannot use.

use std::process::Output;

use tempfile::TempDir;

use crate::process::Process;

fn run(args: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Process::binary();
    command.envs(variables.iter().copied());
    let Output {
        status,
        stdout,
        stderr,
    } = command.args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn without_a_command_the_help_is_an_error() {
    for (args, command) in [
        (&[][..], "serve"),
        (&["keys"], "revoke"),
        (&["stripe"], "setup"),
        (&["archives"], "verify"),
    ] {
        let (code, out, error) = run(args, &[]);
        assert_eq!(code, Some(2), "{args:?}");
        assert_eq!(out, "", "{args:?}");
        assert!(error.contains("Usage: usage-server"), "{error}");
        assert!(error.contains(command), "{error}");
    }
}

#[test]
fn help_and_version_that_are_asked_for_are_a_success() {
    for args in [&["--help"][..], &["keys", "--help"], &["--version"]] {
        let (code, out, error) = run(args, &[]);
        assert_eq!(code, Some(0), "{args:?}");
        assert!(out.contains("usage-server"), "{out}");
        assert_eq!(error, "", "{args:?}");
    }
}

#[test]
fn what_is_missing_or_wrong_in_a_command_line_is_named() {
    for (args, words) in [
        (
            &["backup"][..],
            &["<FILE>", "Usage: usage-server backup"][..],
        ),
        (&["keys", "create"], &["--role <ROLE>", "--name <NAME>"]),
        (&["keys", "revoke"], &["<ID>"]),
        (&["serve", "--listen", "here"], &["'here'", "--listen"]),
        (&["serve", "--wirters=3"], &["'--wirters'", "--writers"]),
        (&["sevre"], &["'sevre'", "serve"]),
    ] {
        let (code, out, error) = run(args, &[]);
        assert_eq!(code, Some(2), "{args:?}: {error}");
        assert_eq!(out, "", "{args:?}");
        for word in words {
            assert!(error.contains(word), "{args:?}: {word}: {error}");
        }
        assert!(error.contains("--help"), "{error}");
    }
}

#[test]
fn a_wrong_variable_is_named() {
    let (code, _, error) = run(&["serve"], &[("WRITERS", "many")]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("'many'"), "{error}");
    assert!(error.contains("--writers"), "{error}");
}

#[test]
fn a_database_file_that_cannot_be_used_is_named() {
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("missing.db");
    let text = folder.path().join("text.db");
    std::fs::write(
        &text,
        "this is no database, and it is long enough to be read as one",
    )
    .unwrap();
    for (file, commands) in [
        (&missing, &["audit", "keys list", "migrate --check"][..]),
        (
            &text,
            &["migrate", "serve --listen=127.0.0.1:0 --http-listen=off"],
        ),
    ] {
        let url = format!("sqlite://{}", file.display());
        for command in commands {
            let args: Vec<&str> = command.split(' ').collect();
            let (code, _, error) = run(&args, &[("DATABASE_URL", &url), ("RUST_LOG", "off")]);
            assert_eq!(code, Some(1), "{command}: {error}");
            assert!(error.contains(file.to_str().unwrap()), "{command}: {error}");
        }
    }
    let nowhere = ("DATABASE_URL_FILE", "/nowhere/url");
    let (code, _, error) = run(&["migrate"], &[nowhere]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("/nowhere/url"), "{error}");
}

#[test]
fn a_host_that_cannot_be_reached_is_named_without_its_password() {
    let folder = TempDir::new().unwrap();
    let socket = format!(
        "postgres://user:Recognisable@localhost/usage?host={}",
        folder.path().display()
    );
    for (url, place) in [
        (
            "postgres://user:Recognisable@127.0.0.1:1/usage",
            "127.0.0.1:1",
        ),
        (
            "postgres://user:Recognisable@no-such-host.invalid/usage",
            "no-such-host.invalid:5432",
        ),
        (socket.as_str(), folder.path().to_str().unwrap()),
    ] {
        let (code, _, error) = run(&["audit"], &[("DATABASE_URL", url)]);
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains(place), "{error}");
        assert!(!error.contains("Recognisable"), "{error}");
    }
    let (code, _, error) = run(
        &["stripe", "setup", "--tier=inf=1"],
        &[
            ("STRIPE_SECRET_KEY", "sk_test_Recognisable"),
            ("STRIPE_API_BASE", "http://user:Recognisable@127.0.0.1:1"),
        ],
    );
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("127.0.0.1:1"), "{error}");
    assert!(!error.contains("Recognisable"), "{error}");
}
