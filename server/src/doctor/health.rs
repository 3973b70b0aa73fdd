//! Whether the service can count, by the rule of `/health/ready`: where that says "unready", this is bad, and says why.

use super::finding::Finding;
use crate::{
    readiness::{Answer, Readiness, can_write},
    store::Store,
};

const CHECK: &str = "health";

/// Of a server, which also knows whether it commits what waits.
pub(super) async fn check_server(readiness: &Readiness) -> Finding {
    finding(readiness.check().await, "the server can count")
}

/// Of a database, which is not changed. A server that counts under load in a SQLite file writes one group after the other,
/// and SQLite gives turns to whoever asks first: another process may get none for seconds, although nothing is wrong.
pub(super) async fn check_database(store: &Store) -> Finding {
    let log_before = store.log_written_at();
    let written = can_write(store.try_write()).await;
    if matches!(written, Err((_, None))) && store.log_written_at() != log_before {
        return Finding::warn(
            CHECK,
            "another process writes to the database without a pause, and this one got no turn",
            "ask its server whether it counts: `usage-server health`, or `usage-server doctor --server URL`",
        );
    }
    let written = written.map_err(|(why, cause)| {
        tracing::warn!(why, cause, "the database was tried");
        why
    });
    finding(written, "the database can be written")
}

fn finding(answer: Answer, fine: &str) -> Finding {
    match answer {
        Ok(()) => Finding::ok(CHECK, fine),
        Err(why) => Finding::bad(
            CHECK,
            format!("nothing can be counted: {why}"),
            "check that the database runs, that its disk is not full, and that the role may write; the log has the error",
        ),
    }
}
