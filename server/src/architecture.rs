//! Rules of `docs/architecture.md` that the sources can be read for.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The files and folders that may name `tonic::Status`: those of the services, and those that call services.
const NAME_STATUS: [&str; 7] = [
    "rpc",
    "serve",
    "serve.rs",
    "error",
    "error.rs",
    "console/calls.rs",
    "commands/remote.rs",
];

/// Each other file of this crate, by its path in `src/`, without the lines that are comments only.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut found) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let lines = text.lines();
                let code = lines.filter(|line| !line.trim_start().starts_with("//"));
                let name = path.strip_prefix(&root).unwrap().to_owned();
                let code: Vec<&str> = code.collect();
                if name != Path::new("architecture.rs") {
                    found.push((name, code.join("\n")));
                }
            }
        }
    }
    assert!(found.len() > 100, "{}", found.len());
    found
}

/// Whether code names `tonic::Status`, by its path or in a `use`.
fn names_status(code: &str) -> bool {
    code.split("tonic::").skip(1).any(|named| {
        let in_use = named.split(';').next().unwrap_or_default();
        let named = if named.starts_with('{') {
            in_use
        } else {
            named
        };
        let mut words = named.split(|one: char| !one.is_alphanumeric() && one != '_');
        if named.starts_with('{') {
            words.any(|word| word == "Status")
        } else {
            words.next() == Some("Status")
        }
    })
}

#[test]
fn status_is_named_by_its_path_or_in_a_use() {
    assert!(names_status("fn a() -> tonic::Status {"));
    assert!(names_status("use tonic::{\n    Code,\n    Status,\n};"));
    assert!(!names_status("use tonic::{Code, Request};\nStatus::new()"));
    assert!(!names_status("use tonic::Code;\nuse http::Status;"));
}

#[test]
fn only_services_and_those_who_call_them_name_their_status() {
    let wrong: Vec<_> = sources()
        .into_iter()
        .filter(|(path, code)| {
            let may = NAME_STATUS.iter().any(|part| path.starts_with(part));
            !may && names_status(code)
        })
        .map(|(path, _)| path)
        .collect();
    assert_eq!(wrong, Vec::<PathBuf>::new());
}

#[test]
fn the_console_calls_services_in_one_file() {
    let named: Vec<_> = sources()
        .into_iter()
        .filter(|(path, code)| path.starts_with("console") && code.contains("tonic"))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(named, [PathBuf::from("console/calls.rs")]);
}

/// The modules of this crate that code names.
fn named_modules(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for named in code.split("crate::").skip(1) {
        let in_use = named.split(';').next().unwrap_or_default();
        let Some(list) = in_use.strip_prefix('{') else {
            found.extend(
                named
                    .split(|one: char| !one.is_alphanumeric() && one != '_')
                    .next(),
            );
            continue;
        };
        let (mut depth, mut start) = (0_u32, 0);
        for (at, one) in list.char_indices() {
            match one {
                '{' => depth = depth.saturating_add(1),
                '}' if depth > 0 => depth = depth.saturating_sub(1),
                ',' | '}' if depth == 0 => {
                    let part = list.get(start..at).unwrap_or_default().trim();
                    found.extend(part.split("::").next().filter(|name| !name.is_empty()));
                    start = at.saturating_add(1);
                }
                _ => {}
            }
        }
    }
    found
}

#[test]
fn modules_are_found_in_paths_and_lists() {
    let code = "use crate::domain::window;\nuse crate::{\n    domain::{a, b},\n    store::Store,\n};\ncrate::error::Error";
    assert_eq!(named_modules(code), ["domain", "domain", "store", "error"]);
}

#[test]
fn the_domain_imports_no_sibling() {
    let mut named = 0;
    for (path, code) in sources() {
        if path.starts_with("domain") {
            for module in named_modules(&code) {
                named += 1;
                let may = ["domain", "planted_defects"].contains(&module);
                assert!(may, "{} imports {module}", path.display());
            }
        }
    }
    assert!(named > 10, "{named}");
}
