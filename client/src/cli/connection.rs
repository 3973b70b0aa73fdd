//! The connection flags, shared by all commands.

use super::{
    exit::Failure,
    profile::{self, Servers},
};
use crate::UsageClient;
use clap::{ArgMatches, Args, parser::ValueSource};
use std::{
    fs,
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tonic::transport::Uri;

const DEFAULT_TIMEOUT_SECS: u64 = 10;
const MAX_TIMEOUT_SECS: u64 = 86_400;
const NOT_SENT: &str = "the API key of the profile is not sent to other servers than those of the profile; name both with --profile and --server to send it";

#[derive(Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct Connection {
    /// The profile in the configuration file, such as production; its values come before those of variables. Default: the
    /// profile default, if there is one
    #[arg(long, global = true, env = "USAGE_PROFILE", value_name = "NAME")]
    profile: Option<String>,
    /// The configuration file [default: usagectl/config.toml in `XDG_CONFIG_HOME` or ~/.config]
    #[arg(long, global = true, env = "USAGE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The server's address; calls are spread over several addresses separated by commas
    #[arg(
        long,
        global = true,
        env = "USAGE_SERVER",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:50051"
    )]
    server: Vec<String>,
    /// The deadline of a call including its retries, in seconds
    #[arg(
        long,
        global = true,
        env = "USAGE_TIMEOUT_SECS",
        value_name = "SECS",
        default_value_t = DEFAULT_TIMEOUT_SECS,
        value_parser = clap::value_parser!(u64).range(1..=MAX_TIMEOUT_SECS)
    )]
    timeout: u64,
    /// The API key, ub_...; other users of this machine can see it here: prefer the variable or a file
    #[arg(
        long,
        global = true,
        env = "USAGE_API_KEY",
        value_name = "KEY",
        hide_env_values = true
    )]
    api_key: Option<String>,
    /// A file with the API key
    #[arg(long, global = true, env = "USAGE_API_KEY_FILE", value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Trust only server certificates signed by this authority, a PEM file; for `https://`
    #[arg(long, global = true, env = "USAGE_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// The client certificate, a PEM file; for `https://`
    #[arg(
        long,
        global = true,
        env = "USAGE_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,
    /// The private key of the client certificate, a PEM file
    #[arg(
        long,
        global = true,
        env = "USAGE_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,
    /// The name in the servers' certificates, if it differs from their addresses
    #[arg(long, global = true, env = "USAGE_TLS_DOMAIN", value_name = "NAME")]
    tls_domain: Option<String>,
}

impl std::fmt::Debug for Connection {
    /// Leaves out the API key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("server", &self.server)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Where the values of the flags are from: a flag comes before a variable, whichever setting of the same purpose it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sources {
    server: Source,
    timeout: Source,
    api_key: Source,
    api_key_file: Source,
    tls_ca: Source,
    tls_identity: Source,
    tls_domain: Source,
    profile: Source,
}

/// Where a value is from. What is named in the command comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Unset,
    Variable,
    Flag,
}

impl Sources {
    pub(super) fn of(matches: &ArgMatches) -> Self {
        let source = |id: &str| match matches.value_source(id) {
            Some(ValueSource::CommandLine) => Source::Flag,
            Some(ValueSource::EnvVariable) => Source::Variable,
            _ => Source::Unset,
        };
        Self {
            server: source("server"),
            timeout: source("timeout"),
            api_key: source("api_key"),
            api_key_file: source("api_key_file"),
            tls_ca: source("tls_ca"),
            tls_identity: source("tls_cert"),
            tls_domain: source("tls_domain"),
            profile: source("profile"),
        }
    }

    /// Whether a value from there comes before that of the profile.
    fn is_own_first(self, source: Source) -> bool {
        match source {
            Source::Flag => true,
            Source::Variable => self.profile != Source::Flag,
            Source::Unset => false,
        }
    }

    /// The value to use: of a flag, of a profile that a flag names, of a variable, of another profile, or else the default.
    fn choose<T>(self, own: Option<T>, source: Source, of_profile: Option<T>) -> Option<T> {
        if self.is_own_first(source) {
            own
        } else {
            of_profile.or(own)
        }
    }
}

/// An API key, or the file that has it.
enum Key {
    Text(String),
    File(PathBuf),
}

impl Key {
    /// A key itself comes before a file with one.
    fn of(text: Option<String>, file: Option<PathBuf>) -> Option<Self> {
        let text = text.filter(|text| !text.is_empty());
        text.map(Self::Text).or(file.map(Self::File))
    }

    /// Its text.
    fn read(self) -> Result<String, Failure> {
        let path = match self {
            Self::Text(key) => return Ok(key),
            Self::File(path) => path,
        };
        let key = read(&path)?;
        if key.trim().is_empty() {
            return Err(Failure::file(&path, "the file has no API key"));
        }
        Ok(key)
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::file(path, error))
}

impl Connection {
    /// Creates the client; it connects with its first call. Warns if the key would be sent unencrypted.
    pub(super) fn client(
        self,
        sources: Sources,
        err: &mut (dyn Write + Send),
    ) -> Result<UsageClient, Failure> {
        let profile = profile::read(self.config, self.profile.as_deref())?;
        let of_profile = profile.server.map(Servers::into_list);
        // A key is for the servers of its profile. It is sent to others only if a flag names the profile beside them.
        let has_other_servers = sources.profile != Source::Flag
            && sources.is_own_first(sources.server)
            && of_profile
                .as_ref()
                .is_some_and(|known| self.server.iter().any(|server| !known.contains(server)));
        let servers = sources.choose(Some(self.server), sources.server, of_profile);
        let servers = servers.unwrap_or_default();
        let timeout = sources.choose(Some(self.timeout), sources.timeout, profile.timeout);
        let timeout = timeout.unwrap_or(DEFAULT_TIMEOUT_SECS);
        if !(1..=MAX_TIMEOUT_SECS).contains(&timeout) {
            return Err(Failure::arguments(format!(
                "the timeout of the profile is {timeout}; it must be 1 to {MAX_TIMEOUT_SECS} seconds"
            )));
        }
        let mut all = servers.iter();
        let first = all.next().cloned().unwrap_or_default();
        let mut builder = UsageClient::builder(first).timeout(Duration::from_secs(timeout));
        for server in all {
            builder = builder.endpoint(server);
        }
        let of_profile = Key::of(profile.api_key, profile.api_key_file);
        let own = (self.api_key, self.api_key_file);
        let key = if has_other_servers {
            let own = choose_key(sources, own, None);
            if own.is_none() && of_profile.is_some() {
                writeln!(err, "{NOT_SENT}")?;
            }
            own
        } else {
            choose_key(sources, own, of_profile)
        };
        if let Some(key) = key.map(Key::read).transpose()? {
            for server in servers.iter().filter(|server| is_exposed(server)) {
                writeln!(
                    err,
                    "warning: the API key is sent unencrypted to {server}; use https://"
                )?;
            }
            builder = builder.api_key(key.trim());
        }
        if let Some(path) = sources.choose(self.tls_ca, sources.tls_ca, profile.tls_ca) {
            builder = builder.ca_certificate(read(&path)?);
        }
        let own = self.tls_cert.zip(self.tls_key);
        let of_profile = match (profile.tls_cert, profile.tls_key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                return Err(Failure::arguments(
                    "the profile has one of tls_cert and tls_key; it needs both",
                ));
            }
        };
        let identity = sources.choose(own, sources.tls_identity, of_profile);
        if let Some((certificate, key)) = identity {
            builder = builder.client_certificate(read(&certificate)?, read(&key)?);
        }
        let domain = sources.choose(self.tls_domain, sources.tls_domain, profile.tls_domain);
        if let Some(name) = domain {
            builder = builder.domain_name(name);
        }
        Ok(builder.connect_lazy()?)
    }
}

/// The key to use: a flag comes before a variable, also if one is a key and the other a file.
fn choose_key(
    sources: Sources,
    (text, file): (Option<String>, Option<PathBuf>),
    of_profile: Option<Key>,
) -> Option<Key> {
    let of = |wanted: Source| {
        let text = text.clone().filter(|_| sources.api_key == wanted);
        let file = file.clone().filter(|_| sources.api_key_file == wanted);
        Key::of(text, file)
    };
    let (flag, variable) = (of(Source::Flag), of(Source::Variable));
    if sources.profile == Source::Flag {
        flag.or(of_profile).or(variable)
    } else {
        flag.or(variable).or(of_profile)
    }
}

/// Whether an address is of another machine, and without TLS.
fn is_exposed(server: &str) -> bool {
    let address = if server.contains("://") {
        server.to_owned()
    } else {
        format!("http://{server}")
    };
    // What is no address is refused when the client is made.
    let Ok(uri) = address.parse::<Uri>() else {
        return false;
    };
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback());
    uri.scheme_str() == Some("http") && !is_loopback
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_text_to_another_machine_is_exposed() {
        for address in [
            "http://usage.internal:50051",
            "usage.internal:50051",
            "http://10.0.0.1:1",
            "http://[2001:db8::1]:1",
        ] {
            assert!(is_exposed(address), "{address}");
        }
        for address in [
            "https://usage.internal",
            "http://127.0.0.1:50051",
            "http://127.9.9.9",
            "http://[::1]:50051",
            "localhost:50051",
            "not an address",
        ] {
            assert!(!is_exposed(address), "{address}");
        }
    }

    fn sources(profile: Source, api_key: Source, api_key_file: Source) -> Sources {
        Sources {
            server: Source::Unset,
            timeout: Source::Unset,
            api_key,
            api_key_file,
            tls_ca: Source::Unset,
            tls_identity: Source::Unset,
            tls_domain: Source::Unset,
            profile,
        }
    }

    #[test]
    fn a_flag_comes_before_a_variable_of_the_other_kind() {
        use Source::{Flag, Unset, Variable};
        let chosen = |profile, text, file, of_profile: bool| {
            let own = (
                (text != Unset).then(|| "key".to_owned()),
                (file != Unset).then(|| PathBuf::from("file")),
            );
            let of_profile = of_profile.then(|| Key::Text("profile".to_owned()));
            match choose_key(sources(profile, text, file), own, of_profile) {
                Some(Key::Text(text)) => text,
                Some(Key::File(path)) => path.display().to_string(),
                None => "none".to_owned(),
            }
        };
        assert_eq!(chosen(Unset, Unset, Unset, false), "none");
        assert_eq!(chosen(Unset, Variable, Flag, false), "file");
        assert_eq!(chosen(Unset, Flag, Variable, false), "key");
        assert_eq!(chosen(Unset, Variable, Variable, false), "key");
        assert_eq!(chosen(Unset, Variable, Unset, true), "key");
        assert_eq!(chosen(Flag, Variable, Unset, true), "profile");
        assert_eq!(chosen(Flag, Unset, Flag, true), "file");
        assert_eq!(chosen(Variable, Unset, Unset, true), "profile");
    }
}
