//! Whether servers use a database that a command is about to change.

use std::time::Duration;

use sea_orm::DbErr;
use tokio::time::{Instant, sleep};

use crate::store::Store;

/// How long PostgreSQL may show the connections of a server that was stopped.
const STOPPED_WITHIN: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Why the database cannot be changed, if servers count in it.
pub(super) async fn find_running(store: &Store) -> Result<Option<String>, DbErr> {
    let begun = Instant::now();
    loop {
        let connections = store.counting_connections().await?;
        if connections == 0 {
            return Ok(None);
        }
        if begun.elapsed() >= STOPPED_WITHIN {
            return Ok(Some(format!(
                "servers count in the database over {connections} connections; stop every server first"
            )));
        }
        sleep(POLL_INTERVAL).await;
    }
}
