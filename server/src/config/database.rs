//! The settings of the database.

use std::path::PathBuf;

use clap::Args;
use url::Url;

use super::{
    number::within,
    secret::{self, Secret},
};
use crate::store::host_list;

/// Shorter passwords are not looked for in texts.
const MIN_SECRET_BYTES: usize = 8;

/// The database when none is set.
const DEFAULT_URL: &str = "sqlite://usage.db";

/// The database.
#[derive(Args, Clone, Debug)]
pub struct DatabaseConfig {
    /// The database: `sqlite://FILE`, or `postgres://USER:PASSWORD@HOST/NAME`, also with several hosts, as HOST1:5432,HOST2:5432.
    /// Default: `sqlite://usage.db`.
    // A secret, because it can contain a password.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<Secret>,
    /// A file with the URL of the database, instead of `DATABASE_URL`.
    #[arg(long, env = "DATABASE_URL_FILE", value_name = "FILE")]
    pub database_url_file: Option<PathBuf>,
    /// Connections to PostgreSQL, 5 to 1,000. SQLite ignores it.
    #[arg(long, env = "DATABASE_CONNECTIONS", default_value_t = 16, value_parser = within::<u32>(5..=1_000))]
    pub database_connections: u32,
    /// PgBouncer is between this and PostgreSQL, and pools transactions: nothing of a session is used.
    #[arg(long, env = "PGBOUNCER")]
    pub pgbouncer: bool,
    /// Accept a PostgreSQL that runs with `fsync` or `full_page_writes` off: a power cut can then lose acknowledged usage.
    #[arg(long, env = "INSECURE_DURABILITY")]
    pub insecure_durability: bool,
}

impl DatabaseConfig {
    /// The URL. It may contain a password: the error does not repeat it, and the command line parser, which repeats a
    /// refused value, does not check it.
    ///
    /// # Errors
    /// One sentence that says what is wrong.
    pub fn url(&self) -> Result<String, String> {
        let (url, file) = (self.database_url.as_ref(), &self.database_url_file);
        let url = secret::read("DATABASE_URL", url, file.as_deref())?;
        let url = url.as_ref().map_or(DEFAULT_URL, Secret::expose);
        check(url)?;
        if !self.pgbouncer {
            return Ok(url.to_owned());
        }
        if url.starts_with("sqlite:") {
            return Err("PGBOUNCER is set, and DATABASE_URL is a SQLite file".to_owned());
        }
        Ok(host_list::bounced(url))
    }

    /// The URL, if it has a password, and the password as it is written in it and as it is meant.
    pub(super) fn secrets(&self) -> Vec<String> {
        let Some(url) = self.url().ok().filter(|url| !url.starts_with("sqlite:")) else {
            return Vec::new();
        };
        let Ok(parsed) = Url::parse(&url) else {
            // It cannot be connected to, and may contain anything.
            return vec![url];
        };
        let mut secrets: Vec<String> = parsed
            .query_pairs()
            .filter(|(name, _)| name == "password")
            .map(|(_, value)| value.into_owned())
            .collect();
        if let Some(password) = parsed.password() {
            // As the value of a parameter, which is decoded by the same rules.
            let value = password.replace('+', "%2B").replace('&', "%26");
            let parameter = format!("password={value}");
            let mut decoded = url::form_urlencoded::parse(parameter.as_bytes());
            secrets.extend(decoded.next().map(|(_, value)| value.into_owned()));
            secrets.push(password.to_owned());
        }
        // To replace a short one would change other words, and so show it.
        secrets.retain(|secret| secret.len() >= MIN_SECRET_BYTES);
        secrets.push(url);
        secrets
    }
}

fn check(url: &str) -> Result<(), String> {
    let lower = url.to_ascii_lowercase();
    if lower.contains(":memory:") || lower.contains("%3amemory") || lower.contains("mode=memory") {
        return Err("DATABASE_URL is an in-memory database, which would lose acknowledged usage; use a file".to_owned());
    }
    ["sqlite://", "postgres://", "postgresql://"]
        .iter()
        .filter_map(|scheme| url.strip_prefix(scheme))
        .any(|rest| !rest.is_empty())
        .then_some(())
        .ok_or_else(|| {
            "DATABASE_URL must start with sqlite:// or postgres:// and name a database".to_owned()
        })?;
    if !url.starts_with("sqlite:") {
        host_list::split(url)?;
    }
    Ok(())
}
