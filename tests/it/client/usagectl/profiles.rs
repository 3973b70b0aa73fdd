//! Profiles of the command line: a server and its key by name, in a file.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::{Ran, run_with_args};
use crate::{
    operations::access::first_admin,
    support::world::{World, on_sqlite},
};

on_sqlite!(
    a_profile_names_the_server_and_the_key,
    a_file_with_a_key_is_for_one_user,
    what_is_wrong_in_the_file_is_told_without_the_key,
    a_key_is_sent_to_the_servers_of_its_profile_alone,
);

/// Writes the file for one user.
fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Runs a command with the file, and nothing else that names a server.
async fn run(file: &Path, args: &[&str]) -> Ran {
    let file = file.to_str().unwrap();
    let fixed = ["usagectl", "--config", file];
    run_with_args(&[&fixed[..], args].concat()).await
}

async fn a_profile_names_the_server_and_the_key(world: World) {
    let (_, key) = first_admin(&world).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let key_file = folder.path().join("usage.key");
    write(&key_file, &key);
    let server = world.endpoint();
    let (key_path, wrong) = (key_file.display(), key.replace("ub_", "ub_f"));
    write(
        &file,
        &format!(
            "[profiles.default]\nserver = '{server}'\ntimeout = 20\napi_key_file = '{key_path}'\n\
             [profiles.direct]\nserver = ['{server}']\napi_key = '{key}'\n\
             [profiles.wrong]\nserver = '{server}'\napi_key = '{wrong}'\n\
             [profiles.away]\nserver = 'http://127.0.0.1:1'\ntimeout = 1\n"
        ),
    );
    let increment = ["increment", "acct"];
    for (flags, code) in [
        (&[][..], 0),
        (&["--profile", "direct"], 0),
        (&["--profile", "wrong"], 1),
        // A flag comes before the profile.
        (&["--profile", "wrong", "--api-key", &key], 0),
        (
            &[
                "--profile",
                "wrong",
                "--api-key-file",
                key_file.to_str().unwrap(),
            ],
            0,
        ),
        (&["--profile", "away"], 3),
        (
            &[
                "--profile",
                "away",
                "--server",
                server,
                "--timeout",
                "20",
                "--api-key",
                &key,
            ],
            0,
        ),
    ] {
        let ran = run(&file, &[flags, &increment].concat()).await;
        assert_eq!(ran.code, code, "{flags:?}: {}", ran.err);
        assert!(!ran.err.contains(&key), "{}", ran.err);
    }
    let ran = run(&file, &["--profile", "other", "increment", "acct"]).await;
    assert_eq!(ran.code, 1);
    let words = "no profile \"other\"; it has away, default, direct, wrong";
    assert!(ran.err.contains(words), "{}", ran.err);
    world.finish().await;
}

async fn a_file_with_a_key_is_for_one_user(world: World) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let server = world.endpoint();
    let text = format!("[profiles.default]\nserver = '{server}'\n");
    write(&file, &format!("{text}api_key = 'ub_recognisable'\n"));
    for (mode, is_refused) in [(0o600, false), (0o640, true), (0o604, true)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let ran = run(&file, &["increment", "acct"]).await;
        // Before the first key, any is accepted.
        assert_eq!(ran.code, u8::from(is_refused), "{mode:o}: {}", ran.err);
        assert_eq!(ran.err.contains("chmod 600"), is_refused, "{}", ran.err);
        assert!(!ran.err.contains("recognisable"), "{}", ran.err);
    }
    // Without a key, others may read it.
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(run(&file, &["increment", "acct"]).await.code, 0);
    world.finish().await;
}

async fn a_key_is_sent_to_the_servers_of_its_profile_alone(world: World) {
    let (_, key) = first_admin(&world).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let server = world.endpoint();
    let text =
        format!("[profiles.default]\nserver = ['{server}', '{server}']\napi_key = '{key}'\n");
    write(&file, &text);
    // The same server by another name.
    let other = format!("{server}/");
    for (flags, is_sent) in [
        (&[][..], true),
        (&["--server", server], true),
        (&["--server", &other], false),
        (&["--profile", "default", "--server", &other], true),
    ] {
        let ran = run(&file, &[flags, &["increment", "acct"]].concat()).await;
        assert_eq!(ran.code, u8::from(!is_sent), "{flags:?}: {}", ran.err);
        let words = "the API key of the profile is not sent";
        assert_eq!(ran.err.contains(words), !is_sent, "{}", ran.err);
    }
    // A key of its own is sent to it, without a word.
    let ran = ["--server", &other, "--api-key", &key, "increment", "acct"];
    let ran = run(&file, &ran).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    world.finish().await;
}

async fn what_is_wrong_in_the_file_is_told_without_the_key(world: World) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    for (text, words) in [
        ("[profiles.a]\napi_key = 'ub_recognisable\n", "line 2: "),
        ("[profiles.a]\napikey = 'ub_recognisable'\n", "apikey"),
        (
            "[profiles.a]\nserver = 5\napi_key = 'ub_recognisable'\n",
            "line ",
        ),
        (
            "[profiles.default]\ntimeout = 0\n",
            "the timeout of the profile is 0",
        ),
        (
            "[profiles.default]\ntls_cert = '/nowhere'\n",
            "it needs both",
        ),
    ] {
        write(&file, text);
        let ran = run(&file, &["increment", "acct"]).await;
        assert_ne!(ran.code, 0, "{text}");
        assert!(ran.err.contains(words), "{words}: {}", ran.err);
        assert!(!ran.err.contains("recognisable"), "{}", ran.err);
    }
    let missing = run(&folder.path().join("none.toml"), &["increment", "acct"]).await;
    assert_eq!(missing.code, 1);
    assert!(missing.err.contains("none.toml"), "{}", missing.err);
    world.finish().await;
}
