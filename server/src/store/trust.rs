//! Which connections of the pools may be used again.
//!
//! A connection is dropped after a BEGIN, COMMIT or ROLLBACK that did not end as asked, after an error of its disk or
//! server, and while it is in a transaction without an owner. After a failed COMMIT the driver can go on to count a
//! transaction that the database has ended. Every later one would be a savepoint inside of it: acknowledged, visible on
//! that connection, and gone with it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{
    Connection, Database,
    pool::{PoolConnectionMetadata, PoolOptions},
};
use tokio::time::timeout;

/// How often errors of statements renew all connections at most: with a full disk every statement fails.
const RENEW_INTERVAL: Duration = Duration::from_millis(200);
/// How long a connection may take to respond: one that died silently never does.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Decides for all pools of a store which connections are used again.
#[derive(Debug, Default)]
pub(super) struct Trust {
    /// Connections that were opened earlier are dropped.
    opened_after: Mutex<Option<Instant>>,
}

impl Trust {
    /// Has every connection that is open now dropped instead of used again.
    pub(super) fn renew(&self) {
        *self.lock() = Some(Instant::now());
    }

    /// Renews when it is dropped, unless it is cleared: a BEGIN, COMMIT or ROLLBACK whose caller went away leaves a
    /// connection in a state that the driver does not know.
    pub(super) fn doubt(&self) -> Doubt<'_> {
        Doubt(Some(self))
    }

    /// The same after an error of a statement, but not too often.
    pub(super) fn renew_after_error(&self) {
        let mut opened_after = self.lock();
        if opened_after.is_none_or(|last| last.elapsed() >= RENEW_INTERVAL) {
            *opened_after = Some(Instant::now());
        }
    }

    /// Has a pool check each connection before and after it is used. `may_hang_up`: whether there is a server, which can
    /// have closed it meanwhile.
    pub(super) fn guard<DB: Database>(
        self: &Arc<Self>,
        pool: PoolOptions<DB>,
        may_hang_up: bool,
    ) -> PoolOptions<DB> {
        let (before, after) = (Arc::clone(self), Arc::clone(self));
        pool.test_before_acquire(false)
            .before_acquire(move |connection, found| {
                let (trust, opened) = (Arc::clone(&before), opened_at(&found));
                Box::pin(async move {
                    if !trust.is_new_enough(opened) || connection.is_in_transaction() {
                        return Ok(false);
                    }
                    let is_alive = !may_hang_up || responds(connection).await;
                    if !is_alive {
                        // The others died with it, and each would be waited for.
                        trust.renew_after_error();
                    }
                    Ok(is_alive)
                })
            })
            .after_release(move |connection, found| {
                let (trust, opened) = (Arc::clone(&after), opened_at(&found));
                Box::pin(async move {
                    // The response also means that a ROLLBACK has been sent that a dropped transaction left behind.
                    let responds = responds(connection).await;
                    Ok(responds && trust.is_new_enough(opened) && !connection.is_in_transaction())
                })
            })
    }

    fn is_new_enough(&self, opened: Option<Instant>) -> bool {
        let opened_after = *self.lock();
        opened_after.is_none_or(|moment| opened.is_some_and(|opened| opened > moment))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.opened_after
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn opened_at(connection: &PoolConnectionMetadata) -> Option<Instant> {
    Instant::now().checked_sub(connection.age)
}

/// Doubt about the connections that are open now.
#[derive(Debug)]
pub(super) struct Doubt<'a>(Option<&'a Trust>);

impl Doubt<'_> {
    /// Clears it, unless what it was about failed.
    pub(super) fn clear_unless(mut self, has_failed: bool) {
        if !has_failed {
            self.0 = None;
        }
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if let Some(trust) = self.0 {
            trust.renew();
        }
    }
}

async fn responds<C: Connection>(connection: &mut C) -> bool {
    matches!(timeout(PING_TIMEOUT, connection.ping()).await, Ok(Ok(())))
}
