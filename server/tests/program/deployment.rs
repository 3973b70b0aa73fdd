//! The files in `server/deploy`: each variable is a setting, and the ports of one file are those of the others.

use std::{collections::BTreeSet, fs, path::Path};

use crate::{process::Process, settings::variables};

/// Of the images, not of the service.
const OTHERS: [&str; 3] = ["POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD_FILE"];

fn deploy_file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(name);
    fs::read_to_string(path).unwrap()
}

/// Words of capitals, digits and underscores, with an underscore, that a file gives a value.
fn variables_of(text: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_uppercase() || c == '_';
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let mut rest = line;
        while let Some(start) = rest.find(is_name) {
            let word = &rest[start..];
            let end = word.find(|c| !is_name(c)).unwrap_or(word.len());
            let (name, after) = word.split_at(end);
            if name.len() > 5 && after.starts_with(['=', ':', ',']) {
                found.insert(name);
            }
            rest = after;
        }
    }
    found
}

#[test]
fn each_variable_of_a_deployment_is_a_setting() {
    let known = variables();
    for (file, at_least) in [
        ("systemd/environment", 8),
        ("docker/Dockerfile", 4),
        ("docker/compose.yaml", 5),
        ("kubernetes/usage-billing.yaml", 5),
    ] {
        let text = deploy_file(file);
        let names = variables_of(&text);
        assert!(names.len() >= at_least, "{file}: {names:?}");
        for name in names {
            let is_known = known.iter().any(|setting| setting == name) || OTHERS.contains(&name);
            assert!(is_known, "{file} sets {name}, which is no setting");
        }
    }
}

/// The words of a list in brackets, without quotes.
fn listed(text: &str, before: &str) -> Vec<String> {
    let (_, rest) = text.split_once(before).unwrap();
    let (list, _) = rest.split_once(']').unwrap();
    let words = list.split(',').map(|word| word.trim().trim_matches('"'));
    words.map(str::to_owned).collect()
}

#[test]
fn the_health_check_of_the_image_is_a_command_of_the_binary() {
    let image = deploy_file("docker/Dockerfile");
    let entry = listed(&image, "ENTRYPOINT [");
    let (_, check) = image.split_once("HEALTHCHECK ").unwrap();
    let check = listed(check, "CMD [");
    assert_eq!(check[..1], entry);
    let compose = listed(&deploy_file("docker/compose.yaml"), "test: [CMD, /usr");
    assert_eq!(format!("/usr{}", compose[0]), check[0]);
    assert_eq!(compose[1..], check[1..]);
    // With the image's settings it asks the socket that needs neither a key nor a certificate; nothing answers there.
    let mut command = Process::binary();
    command.args(&check[1..]).env("METRICS_LISTEN", "0.0.0.0:1");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"unreachable\n");
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(why.starts_with("127.0.0.1:1 (METRICS_LISTEN): "), "{why}");
}

#[test]
fn the_ports_of_the_image_are_those_that_others_use() {
    let image = deploy_file("docker/Dockerfile");
    let exposed = image.lines().find_map(|line| line.strip_prefix("EXPOSE "));
    let exposed: Vec<&str> = exposed.unwrap().split(' ').collect();
    assert_eq!(exposed.len(), 3);
    for port in exposed {
        assert!(
            image.contains(&format!("_LISTEN=0.0.0.0:{port}"))
                || image.contains(&format!(" LISTEN=0.0.0.0:{port}"))
        );
        let published = format!("127.0.0.1:{port}:{port}");
        assert!(deploy_file("docker/compose.yaml").contains(&published));
        let container = format!("containerPort: {port}}}");
        assert!(deploy_file("kubernetes/usage-billing.yaml").contains(&container));
    }
}
