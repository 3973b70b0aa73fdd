//! Profiles: servers with their keys, by name, in a file of the user's.

use super::exit::Failure;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// The profile that is used if none is named.
const DEFAULT: &str = "default";
/// Where the file is, in the folder of the user's configuration.
const FILE: &str = "usagectl/config.toml";

/// The contents of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    profiles: BTreeMap<String, Profile>,
}

/// What the flags of the connection have otherwise.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Profile {
    pub(super) server: Option<Servers>,
    /// In seconds.
    pub(super) timeout: Option<u64>,
    pub(super) api_key: Option<String>,
    pub(super) api_key_file: Option<PathBuf>,
    pub(super) tls_ca: Option<PathBuf>,
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
    pub(super) tls_domain: Option<String>,
}

/// One address, or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Servers {
    One(String),
    Several(Vec<String>),
}

impl fmt::Debug for Profile {
    /// Leaves out the API key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile")
            .field("server", &self.server)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl Servers {
    pub(super) fn into_list(self) -> Vec<String> {
        match self {
            Self::One(server) => vec![server],
            Self::Several(servers) => servers,
        }
    }
}

/// Reads the profile with a name, or the default one if there is any. A file that is named must exist.
pub(super) fn read(file: Option<PathBuf>, name: Option<&str>) -> Result<Profile, Failure> {
    let is_named = file.is_some() || name.is_some();
    let Some(path) = file.or_else(default_file) else {
        return match name {
            None => Ok(Profile::default()),
            Some(name) => Err(Failure::Local(format!(
                "the profile {name:?} cannot be read: neither XDG_CONFIG_HOME nor HOME is set; name the file with --config"
            ))),
        };
    };
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_named => {
            return Ok(Profile::default());
        }
        text => text.map_err(|error| Failure::file(&path, error))?,
    };
    let config: Config = toml::from_str(&text).map_err(|error| {
        // Only what is wrong: the line may have a key.
        let line = error.span().map(|span| line_of(&text, span.start));
        let at = line.map_or_else(String::new, |line| format!("line {line}: "));
        let why = without_values(error.message());
        Failure::file(&path, format!("{at}{why}"))
    })?;
    let has_key = config.profiles.values().any(|one| one.api_key.is_some());
    if has_key {
        check_private(&path)?;
    }
    let wanted = name.unwrap_or(DEFAULT);
    match config.profiles.get(wanted) {
        Some(profile) => Ok(profile.clone()),
        None if name.is_none() => Ok(Profile::default()),
        None => {
            let known: Vec<&str> = config.profiles.keys().map(String::as_str).collect();
            let known = if known.is_empty() {
                "it has none".to_owned()
            } else {
                format!("it has {}", known.join(", "))
            };
            let why = format!("there is no profile {wanted:?}; {known}");
            Err(Failure::file(&path, why))
        }
    }
}

/// What is wrong, without a text that has the place of something else: it may be a key.
fn without_values(message: &str) -> String {
    match message.rsplit_once(", expected ") {
        Some((wrong, expected)) if wrong.contains('"') => {
            format!("a text is in the place of {expected}")
        }
        _ => message.to_owned(),
    }
}

fn line_of(text: &str, at: usize) -> usize {
    let before = text.get(..at).unwrap_or_default();
    before.matches('\n').count().saturating_add(1)
}

/// By the rules of XDG: in `XDG_CONFIG_HOME`, if it is an absolute path, else in `~/.config`.
fn default_file() -> Option<PathBuf> {
    let variable = |name: &str| {
        let value = std::env::var_os(name).map(PathBuf::from);
        value.filter(|path| path.is_absolute())
    };
    let folder = variable("XDG_CONFIG_HOME");
    let folder = folder.or_else(|| variable("HOME").map(|home| home.join(".config")));
    Some(folder?.join(FILE))
}

/// A key is for one user's eyes.
#[cfg(unix)]
fn check_private(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    const OTHERS: u32 = 0o077;
    let found = fs::metadata(path).map_err(|error| Failure::file(path, error))?;
    let mode = found.permissions().mode();
    if mode & OTHERS == 0 {
        return Ok(());
    }
    let shown = path.display();
    Err(Failure::Local(format!(
        "{shown}: it has an API key, and others can read it (mode {:o}); run `chmod 600 {shown}`",
        mode & 0o777
    )))
}

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "as on Unix")]
fn check_private(_: &Path) -> Result<(), Failure> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "usage_0123456789abcdef_secret";

    /// Reads a text as the file. Fails if an error shows the key, or does not name the file.
    fn check(text: &str) -> Option<Profile> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        fs::write(&file, text).unwrap();
        match read(Some(file), None) {
            Ok(profile) => Some(profile),
            Err(failure) => {
                let message = failure.message().unwrap();
                assert!(message.contains("config.toml"), "{message}");
                assert!(!message.contains(KEY), "{message}");
                None
            }
        }
    }

    #[test]
    fn a_key_in_a_wrong_place_is_not_shown() {
        for line in [
            "timeout = KEY",
            "timeout = [KEY]",
            "other = KEY",
            "server = { a = KEY }",
        ] {
            let line = line.replace("KEY", &format!("\"{KEY}\""));
            let text = format!("[profiles.default]\n{line}\n");
            assert!(check(&text).is_none(), "{text}");
        }
        let broken = format!("[profiles.default]\napi_key = \"{KEY}\n");
        assert!(check(&broken).is_none());
        let of_others = format!("profiles = \"{KEY}\"\n");
        assert!(check(&of_others).is_none());
        let whole = "[profiles.default]\nserver = \"http://127.0.0.1:1\"\n";
        assert!(check(whole).unwrap().server.is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_file_is_read_or_refused(
            text in prop_oneof![".{0,200}", "(\\[?profiles[.a]*\\]?\n?|timeout = ?[-0-9e.]*\n|server = [\\[\"a,]*\n){0,6}"],
        ) {
            check(&text);
        }
    }
}
