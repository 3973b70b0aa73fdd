//! Connect's own client for TypeScript, in Node.

use std::{fs, io::Write as _, process::Command};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use usage_proto::v1::FILE_DESCRIPTOR_SET;

use crate::support::world::{World, hours_ago, on_both_engines, within};

on_both_engines!(the_official_client_is_served);

/// The variable that names a folder with Connect's packages of npm, as `.ci/run` makes it.
const MODULES: &str = "CONNECT_MODULES";
/// Connect with JSON and protobuf and gRPC-Web, each over HTTP/1.1 and HTTP/2; and GET.
const TRANSPORTS: usize = 7;

/// The folder. Without it, prints that the test is skipped; in CI it fails.
fn modules() -> Option<String> {
    let modules = std::env::var(MODULES).ok();
    if modules.is_none() {
        let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        let missing = format!("{MODULES} names no folder with Connect's packages of npm");
        assert!(!is_ci, "{missing}");
        // Not captured by the test runner: a skipped test must not look like a passed one.
        writeln!(std::io::stderr(), "SKIPPED: {missing}").expect("standard error");
    }
    modules
}

async fn the_official_client_is_served(world: World) {
    let Some(modules) = modules() else {
        world.finish().await;
        return;
    };
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(1)).await;
    let folder = tempfile::tempdir().unwrap();
    let descriptors = folder.path().join("descriptors.bin");
    let mut set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    // The types of details.
    let details = FileDescriptorSet::decode(tonic_types::pb::FILE_DESCRIPTOR_SET).unwrap();
    for file in details.file {
        if !set.file.iter().any(|known| known.name() == file.name()) {
            set.file.push(file);
        }
    }
    fs::write(&descriptors, set.encode_to_vec()).unwrap();
    let script = format!("{}/tests/connect_client.mjs", env!("CARGO_MANIFEST_DIR"));
    let mut node = Command::new("node");
    node.arg(script).arg(world.http_url()).arg(modules);
    node.arg(&descriptors);
    let running = tokio::task::spawn_blocking(move || node.output());
    let output = within("the client", running)
        .await
        .unwrap()
        .expect("a Node that starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches(": ok").count(), TRANSPORTS, "{text}");
    world.finish().await;
}
