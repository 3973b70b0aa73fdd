//! Runs transactions again that PostgreSQL undid because of others.
//!
//! Only transactions that callers wait for need it: a group commit has its own way, in `ingest`, and jobs run again.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use sea_orm::DbErr;
use tokio::time::Instant;

use crate::{
    database_error::is_undone, error::Error, log_limit::LogLimit, request_context::is_caller_gone,
};

/// How long all attempts of a transaction may take together. Another one is begun only if it fits, should it take as long as the
/// longest one before: what waited for a lock as long as a connection may wait does not keep the connection for twice as long.
const RETRY_LIMIT: Duration = Duration::from_secs(20);
const MIN_BACKOFF: Duration = Duration::from_millis(5);
const MAX_BACKOFF: Duration = Duration::from_millis(500);

static UNDONE: LogLimit = LogLimit::new();

/// An error that may say that the database undid a transaction.
pub(super) trait MayBeUndone {
    /// What the database says, if it undid the transaction because of others.
    fn undone(&self) -> Option<&DbErr>;
}

impl MayBeUndone for DbErr {
    fn undone(&self) -> Option<&DbErr> {
        Some(self).filter(|error| is_undone(error))
    }
}

impl MayBeUndone for Error {
    fn undone(&self) -> Option<&DbErr> {
        match self {
            Self::DatabaseUnavailable(error) => error.undone(),
            _ => None,
        }
    }
}

/// Runs a transaction, and runs it again while the database undoes it for a serialization failure, a deadlock or a lock
/// that it did not get in time, and its caller waits for it. It must be one transaction at most: an earlier one would be run twice.
///
/// # Errors
/// Those of the last attempt.
pub(super) async fn retried<T, E, F>(transaction: impl Fn() -> F) -> Result<T, E>
where
    E: MayBeUndone,
    F: Future<Output = Result<T, E>>,
{
    let started = Instant::now();
    let mut longest = Duration::ZERO;
    let mut waits = None;
    loop {
        let begun = Instant::now();
        // Large: it would be on the stack of each caller.
        let error = match Box::pin(transaction()).await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let Some(cause) = error.undone() else {
            return Err(error);
        };
        longest = longest.max(begun.elapsed());
        let wait = waits
            .get_or_insert_with(backoff)
            .next()
            .unwrap_or(MAX_BACKOFF);
        let expected = started
            .elapsed()
            .saturating_add(wait)
            .saturating_add(longest);
        if expected > RETRY_LIMIT || is_caller_gone() {
            return Err(error);
        }
        if let Some(unlogged) = UNDONE.count() {
            tracing::warn!(error = %cause, unlogged, "the database undid a transaction because of others: it is run again");
        }
        tokio::time::sleep(wait).await;
        if is_caller_gone() {
            return Err(error);
        }
    }
}

fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(MIN_BACKOFF)
        .with_max_delay(MAX_BACKOFF)
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, fs, path::Path};

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::request_context::until_gone;

    /// Functions with a transaction that is not run again at once.
    const OTHERS: [&str; 30] = [
        // Of jobs, which are run again; `end_customer` also of a call that syncs, which the job does later.
        "roll_up_commits",
        "set_step",
        "forget_deletions",
        "record_comparison",
        "delay_comparison",
        "record_uncompared",
        "insert_run_of_job",
        "mark_sending",
        "give_up_other_meters",
        "fold_reports",
        "record_look_up",
        "set_send_by_of_shard",
        "record_results",
        "end_due_subscriptions",
        "end_customer",
        "touch_subscriptions",
        "record_invoices",
        "give_up_on_invoice",
        "record_verification",
        "decide_link_start",
        // Of counting, which has a limit of its own.
        "confirm_commits",
        // Of commands and of the start, which say what failed.
        "begin_shadow",
        "restore_billing_start",
        "begin_restore",
        "close_restored_page",
        "resume_sending",
        "set_already_sent",
        "adopt_account",
        "end_left_leases",
        // It shows whether the database can be written.
        "try_write",
    ];
    /// Files about connections themselves.
    const BELOW: [&str; 5] = [
        "connection.rs",
        "distribution.rs",
        "driver_pool.rs",
        "mod.rs",
        "schema.rs",
    ];

    #[tokio::test]
    async fn other_errors_end_at_once() {
        let attempts = Cell::new(0);
        let failing = || async {
            attempts.set(attempts.get() + 1);
            Err::<(), _>(Error::from(DbErr::Custom("a defect".to_owned())))
        };
        retried(failing).await.unwrap_err();
        assert_eq!(attempts.get(), 1);
    }

    /// The database undid it.
    #[derive(Debug)]
    struct Undone(DbErr);

    impl MayBeUndone for Undone {
        fn undone(&self) -> Option<&DbErr> {
            Some(&self.0)
        }
    }

    /// Runs what takes so long each time, and is undone. Returns the number of attempts, and how long all took.
    async fn undone_after(each: Duration) -> (u32, Duration) {
        let (attempts, started) = (Cell::new(0), Instant::now());
        let undone = || async {
            attempts.set(attempts.get() + 1);
            tokio::time::sleep(each).await;
            Err::<(), _>(Undone(DbErr::Custom("undone".to_owned())))
        };
        retried(undone).await.unwrap_err();
        (attempts.get(), started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn all_attempts_have_one_limit() {
        for (secs, at_least) in [(1, 10), (3, 5), (15, 1), (60, 1)] {
            let each = Duration::from_secs(secs);
            let (attempts, took) = undone_after(each).await;
            assert!(attempts >= at_least, "{attempts} of {secs} s");
            let limit = RETRY_LIMIT.max(each) + Duration::from_millis(500);
            assert!(took <= limit, "{attempts} of {secs} s took {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_run_again_for_a_caller_that_is_gone() {
        let each = Duration::from_secs(2);
        let gone = CancellationToken::new();
        let (leaving, running) = (
            async {
                tokio::time::sleep(Duration::from_secs(3)).await;
                gone.cancel();
            },
            until_gone(gone.clone(), undone_after(each)),
        );
        let ((), (attempts, _)) = tokio::join!(leaving, running);
        // The second one had begun, and went on to its end.
        assert_eq!(attempts, 2);
        let (attempts, _) = until_gone(gone, undone_after(each)).await;
        assert_eq!(attempts, 1);
    }

    #[test]
    fn every_transaction_is_run_again_or_has_a_reason() {
        let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
        let mut found = Vec::new();
        find(&store, &store, &mut found);
        let others = found.iter().filter(|name| !name.ends_with("_once"));
        let mut others: Vec<&str> = others.map(String::as_str).collect();
        others.sort_unstable();
        others.dedup();
        let mut known = OTHERS.to_vec();
        known.sort_unstable();
        assert_eq!(others, known);
    }

    /// The functions that begin a transaction that writes, as the sources of a folder show.
    fn find(store: &Path, folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                find(store, &path, found);
                continue;
            }
            let file = path.strip_prefix(store).unwrap().to_str().unwrap();
            if BELOW.contains(&file) || file.ends_with("tests.rs") {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let mut function = "";
            // Unit tests are at the end of a file.
            for line in text.lines().take_while(|line| *line != "mod tests {") {
                if let Some((_, after)) = line.split_once("fn ")
                    && !line.trim_start().starts_with("//")
                {
                    let end = after.find(['(', '<']).unwrap_or(after.len());
                    function = &after[..end];
                }
                let begins = [
                    "",
                    "_within_boundaries",
                    "_moving_boundaries",
                    "_requested_change",
                ];
                if begins
                    .iter()
                    .any(|how| line.contains(&format!(".begin{how}()")))
                {
                    found.push(function.to_owned());
                }
            }
        }
    }
}
