//! Whether servers use a database that a command is about to change.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{error::Result, store::Store};

/// How long PostgreSQL may show the connections of a server that was stopped.
const STOPPED_WITHIN: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Why the database cannot be changed, if servers count in it.
pub(super) async fn find_running(store: &Store) -> Result<Option<String>> {
    let begun = Instant::now();
    loop {
        let Some(servers) = store.find_servers().await? else {
            return Ok(None);
        };
        if begun.elapsed() >= STOPPED_WITHIN {
            return Ok(Some(format!(
                "servers use the database: they {servers}; stop every server first"
            )));
        }
        sleep(POLL_INTERVAL).await;
    }
}
