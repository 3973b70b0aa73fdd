//! Decides which connections of the pools are used again.
//!
//! A connection is closed after a BEGIN, COMMIT or ROLLBACK that failed or was cancelled, after an error of its disk or
//! server, and if it returns to the pool with an open transaction. The reason: after a failed COMMIT, the driver may
//! believe that the transaction is still open although the database has ended it. It would then begin every later
//! transaction as a savepoint. Such a transaction is acknowledged but never committed, and lost with the connection.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{
    Connection, Database,
    pool::{PoolConnectionMetadata, PoolOptions},
};
use tokio::time::timeout;

use super::hosts::Hosts;
use crate::planted_defects::{Defect, planted};

/// The shortest time between two renewals after failed statements. With a full disk, every statement fails.
const RENEW_INTERVAL: Duration = Duration::from_millis(200);
/// How long after a statement or transaction was given up each connection is asked whether it responds before it is used
/// again.
const DOUBT: Duration = Duration::from_secs(10);
/// A connection that was used so recently is not asked whether it responds: each question is a message to the server and
/// back, and the next statement would show it as well.
const RECENT: Duration = Duration::from_millis(100);
/// The response time after which a connection counts as dead.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The rule for all pools of a store.
#[derive(Debug, Default)]
pub(super) struct Trust {
    /// Connections that were opened before this time are closed.
    opened_after: Mutex<Option<Instant>>,
    /// When a statement or transaction was last given up before its end.
    given_up_at: Mutex<Option<Instant>>,
    /// Of PostgreSQL.
    hosts: Option<Arc<Hosts>>,
}

impl Trust {
    /// The rule for connections to PostgreSQL. When they fail, another host may have to be used.
    pub(super) fn of(hosts: Arc<Hosts>) -> Self {
        Self {
            hosts: Some(hosts),
            ..Self::default()
        }
    }

    /// The hosts of PostgreSQL.
    pub(super) fn hosts(&self) -> Option<&Arc<Hosts>> {
        self.hosts.as_ref()
    }

    /// Closes every connection that is open now, as soon as it is free.
    pub(super) fn renew(&self) {
        *self.lock() = Some(Instant::now());
        self.search_host();
    }

    /// Looks for another host, because this one does not answer.
    pub(super) fn search_host(&self) {
        if let Some(hosts) = &self.hosts {
            hosts.search();
        }
    }

    /// Watches a BEGIN, COMMIT or ROLLBACK. If it is cancelled, the driver does not know the state of its connection, so
    /// the connections are renewed.
    pub(super) fn watch(&self) -> Watch<'_> {
        Watch(Some(self))
    }

    /// Watches a statement or transaction. If it is given up before its end, its connection still has to finish it.
    pub(super) fn expect_end(self: &Arc<Self>) -> Unfinished {
        Unfinished(Some(Arc::clone(self)))
    }

    /// For a while, asks each connection whether it responds before it is used.
    pub(super) fn doubt(&self) {
        *lock(&self.given_up_at) = Some(Instant::now());
    }

    fn is_in_doubt(&self) -> bool {
        let given_up_at = *lock(&self.given_up_at);
        given_up_at.is_some_and(|moment| moment.elapsed() < DOUBT)
    }

    /// Renews the connections after a failed statement, at most once per interval.
    pub(super) fn renew_after_error(&self) {
        let mut opened_after = self.lock();
        if opened_after.is_none_or(|last| last.elapsed() >= RENEW_INTERVAL) {
            *opened_after = Some(Instant::now());
        }
        drop(opened_after);
        self.search_host();
    }

    /// Configures a pool to check each connection before and after use. `has_server` means that a server can close a
    /// connection at any time.
    pub(super) fn guard<DB: Database>(
        self: &Arc<Self>,
        pool: PoolOptions<DB>,
        has_server: bool,
    ) -> PoolOptions<DB> {
        let (before, after) = (Arc::clone(self), Arc::clone(self));
        pool.test_before_acquire(false)
            .before_acquire(move |connection, found| {
                let (trust, opened) = (Arc::clone(&before), opened_at(&found));
                Box::pin(async move {
                    if !trust.is_new_enough(opened) || is_in_transaction(connection) {
                        return Ok(false);
                    }
                    let is_trusted = found.idle_for < RECENT && !trust.is_in_doubt();
                    let is_alive = !has_server || is_trusted || responds(connection).await;
                    if !is_alive {
                        // The others are probably dead too, and each check takes until its timeout.
                        trust.renew_after_error();
                    }
                    Ok(is_alive)
                })
            })
            .after_release(move |connection, found| {
                let (trust, opened) = (Arc::clone(&after), opened_at(&found));
                Box::pin(async move {
                    // After the response, the ROLLBACK of a dropped transaction has also been executed.
                    let is_trusted = !trust.is_in_doubt() && !is_in_transaction(connection);
                    let has_ended = is_trusted || responds(connection).await;
                    if !has_ended {
                        trust.search_host();
                    }
                    Ok(has_ended && trust.is_new_enough(opened) && !is_in_transaction(connection))
                })
            })
    }

    fn is_new_enough(&self, opened: Option<Instant>) -> bool {
        if let Some(hosts) = &self.hosts
            && hosts.is_former(opened)
        {
            return false;
        }
        let opened_after = *self.lock();
        opened_after.is_none_or(|moment| opened.is_some_and(|opened| opened > moment))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        lock(&self.opened_after)
    }
}

fn lock(moment: &Mutex<Option<Instant>>) -> MutexGuard<'_, Option<Instant>> {
    moment.lock().unwrap_or_else(PoisonError::into_inner)
}

fn opened_at(connection: &PoolConnectionMetadata) -> Option<Instant> {
    Instant::now().checked_sub(connection.age)
}

/// Raises doubts about all connections when it is dropped, unless it has ended.
#[derive(Clone, Debug)]
pub(super) struct Unfinished(Option<Arc<Trust>>);

impl Unfinished {
    /// Of what cannot be given up.
    pub(super) fn nothing() -> Self {
        Self(None)
    }

    pub(super) fn end(&mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(trust) = &self.0 {
            trust.doubt();
        }
    }
}

/// Renews the connections when it is dropped, unless it was cleared.
#[derive(Debug)]
pub(super) struct Watch<'a>(Option<&'a Trust>);

impl Watch<'_> {
    /// Ends the watch; renews the connections if the statement failed.
    pub(super) fn end(mut self, has_failed: bool) {
        if !has_failed || planted(Defect::ConnectionReused) {
            self.0 = None;
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if let Some(trust) = self.0 {
            trust.renew();
        }
    }
}

fn is_in_transaction<C: Connection>(connection: &C) -> bool {
    connection.is_in_transaction() && !planted(Defect::ConnectionReused)
}

async fn responds<C: Connection>(connection: &mut C) -> bool {
    matches!(timeout(PING_TIMEOUT, connection.ping()).await, Ok(Ok(())))
}
