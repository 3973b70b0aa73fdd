//! Who may call the service.

use std::path::PathBuf;

use clap::Args;

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
}
