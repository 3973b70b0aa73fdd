//! Who may call the service.

use std::path::PathBuf;

use clap::Args;

use super::number::within;

/// Who may call the service. API keys are in the database.
#[derive(Args, Clone, Debug)]
pub struct AccessConfig {
    /// Serve all who reach a `LISTEN` that is not of this machine, although there is no API key. Whoever does so may cancel
    /// subscriptions and write usage off.
    #[arg(long, env = "INSECURE")]
    pub insecure: bool,

    /// A file with an API key, from `usage-server keys generate`. If the database never had a key, it becomes an admin's; only
    /// its hash is stored. Otherwise the file is not read.
    #[arg(long, env = "BOOTSTRAP_ADMIN_KEY_FILE")]
    pub bootstrap_admin_key_file: Option<PathBuf>,

    /// The requests a second of one API key, or of one client certificate with a role, on one replica; as many may be made
    /// at once. More get `RESOURCE_EXHAUSTED`. A batch is one request. 0 is no limit.
    #[arg(long, env = "REQUESTS_PER_SEC", default_value_t = 10_000, value_parser = within::<u32>(0..=1_000_000))]
    pub requests_per_sec: u32,
}
