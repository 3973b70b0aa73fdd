//! How connections to PostgreSQL are made, and to which of the hosts of the URL.
//!
//! The driver knows one host. So each pool connects to the host in use, and when connections fail, all hosts are asked
//! which of them takes writes. Among several, the one with the newest timeline does: a failover begins a new timeline, and
//! a server that it left behind must not be written to.

mod choice;
mod search;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use sea_orm::{DbErr, RuntimeErr};
use sqlx::{
    ConnectOptions as _,
    postgres::{PgConnectOptions, PgConnection},
};
use tokio::sync::watch;

use self::choice::refusal;
use super::{
    bounced::Bounced,
    connect::BOUNCED,
    driver_pool::{DriverPool, WeakPool},
    host_answer::{ask, ask_whether_read_only},
    host_list::{self, HostUrl},
};

/// Limits for locks and statements, and for the locks of a replica that crashed in a transaction. Transactions are written for
/// the level `read committed`, whatever is the default of the database: what they read after they got a lock must be what
/// others committed before it. The others let
/// PostgreSQL drop the connections of a machine that is gone after about half a minute, so that they do not use up its
/// `max_connections`. For its own end, the driver has no such options.
const SETTINGS: [(&str, &str); 8] = [
    ("lock_timeout", "15s"),
    ("statement_timeout", "60s"),
    ("idle_in_transaction_session_timeout", "5s"),
    ("default_transaction_isolation", "read committed"),
    ("tcp_keepalives_idle", "15s"),
    ("tcp_keepalives_interval", "5s"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "30s"),
];

/// The hosts of a URL, and the one in use.
#[derive(Debug)]
pub(super) struct Hosts {
    all: Vec<Host>,
    /// Whether PgBouncer is between.
    is_bounced: bool,
    /// Whether read-only hosts are refused.
    serves: bool,
    state: Mutex<State>,
    /// How many of the requests a search has answered. New connections wait for it.
    answered: watch::Sender<u64>,
}

struct Host {
    url: HostUrl,
    options: PgConnectOptions,
}

#[derive(Debug, Default)]
struct State {
    /// The index of the host in use.
    current: usize,
    /// When another host came into use. Connections from before are closed.
    changed_at: Option<Instant>,
    /// The newest timeline that was seen. Zero where it is not known.
    timeline: u32,
    /// The pools to point at another host, with the name of each.
    pools: Vec<(WeakPool, &'static str)>,
    is_searching: bool,
    /// How many searches were requested.
    requests: u64,
}

impl fmt::Debug for Host {
    /// The options contain the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url.name)
    }
}

impl Hosts {
    /// Reads the URL, and where it has several hosts, finds the one to use.
    ///
    /// # Errors
    /// The URL is wrong, or none of several hosts can be used.
    pub(super) async fn find(url: &str, serves: bool) -> Result<Arc<Self>, DbErr> {
        let list = host_list::split(url).map_err(unusable)?;
        let mut hosts = Vec::new();
        for url in list.hosts {
            let options = url.url.parse().map_err(unusable)?;
            hosts.push(Host { url, options });
        }
        let hosts = Arc::new(Self {
            all: hosts,
            is_bounced: list.is_bounced,
            serves,
            state: Mutex::default(),
            answered: watch::Sender::default(),
        });
        if hosts.are_several() {
            // Large, and seldom needed.
            Box::pin(hosts.look()).await.map_err(unusable)?;
        }
        Ok(hosts)
    }

    /// A URL of one host, for what only needs one that can be read.
    pub(super) fn any_url(&self) -> &str {
        self.all.first().map_or("", |host| &host.url.url)
    }

    /// How to connect to the host in use, under the name of a pool.
    pub(super) fn options(&self, name: &'static str) -> PgConnectOptions {
        let current = self.lock().current;
        let options = self.all.get(current).map(|host| host.options.clone());
        let options = options.unwrap_or_default().disable_statement_logging();
        if self.is_bounced {
            // It knows neither these options nor the statements of a session.
            return options
                .application_name(BOUNCED)
                .extra_float_digits(None)
                .statement_cache_capacity(0);
        }
        options.application_name(name).options(SETTINGS)
    }

    /// How transactions begin through PgBouncer, if it is between.
    pub(super) fn bounced(&self) -> Option<Bounced> {
        self.is_bounced.then_some(Bounced {
            writes: self.serves,
        })
    }

    /// Points the pool at another host whenever one comes into use.
    pub(super) fn follow(&self, pool: &DriverPool, name: &'static str) {
        if self.are_several() {
            let mut state = self.lock();
            state.pools.retain(|(pool, _)| pool.upgrade().is_some());
            state.pools.push((pool.downgrade(), name));
        }
    }

    /// Whether a connection that was opened then is to a host that is not in use any more.
    pub(super) fn is_former(&self, opened: Option<Instant>) -> bool {
        let changed_at = self.lock().changed_at;
        changed_at.is_some_and(|changed| opened.is_none_or(|opened| opened <= changed))
    }

    fn use_host(&self, (index, timeline): (usize, u32)) {
        let mut state = self.lock();
        state.timeline = state.timeline.max(timeline);
        let is_other = state.current != index;
        if is_other {
            state.current = index;
            state.changed_at = Some(Instant::now());
        }
        let pools = state.pools.clone();
        drop(state);
        if is_other && let Some(host) = self.all.get(index) {
            tracing::warn!(host = %host.url.name, "another host of the database is in use");
        }
        // Also if it was in use: a pool that was replaced during the change may have begun with the former one.
        for (pool, name) in pools {
            if let Some(pool) = pool.upgrade() {
                pool.set_connect_options(self.options(name));
            }
        }
    }

    /// Refuses a new connection to a server that must not be used: a standby, or a server that a failover left behind.
    pub(super) async fn check(
        self: &Arc<Self>,
        connection: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        if !self.serves {
            return Ok(());
        }
        let (answer, newest_timeline) = if self.are_several() {
            // The server that the last connection was lost to may be back, or may not know that another one took over.
            self.wait_for_search().await;
            let answer = ask(connection).await?;
            let mut state = self.lock();
            state.timeline = state.timeline.max(answer.timeline);
            (answer, state.timeline)
        } else {
            (ask_whether_read_only(connection).await?, 0)
        };
        let Some(why) = refusal(answer, newest_timeline) else {
            return Ok(());
        };
        self.search();
        Err(sqlx::Error::Protocol(why))
    }

    fn are_several(&self) -> bool {
        self.all.len() > 1
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unusable(why: impl fmt::Display) -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(why.to_string()))
}

#[cfg(test)]
mod tests {
    use sea_orm::{ConnectOptions, Database};

    use super::*;

    fn hosts(url: &str) -> Hosts {
        let list = host_list::split(url).unwrap();
        let hosts = list.hosts.into_iter().map(|url| {
            let options = url.url.parse().unwrap();
            Host { url, options }
        });
        Hosts {
            all: hosts.collect(),
            is_bounced: false,
            serves: true,
            state: Mutex::default(),
            answered: watch::Sender::default(),
        }
    }

    /// The host that a pool makes its next connection to.
    fn host_of(pool: &DriverPool) -> String {
        let pool = pool.current();
        let options = pool.get_postgres_connection_pool().connect_options();
        options.get_host().to_owned()
    }

    #[tokio::test]
    async fn each_search_points_every_pool_at_the_host_in_use() {
        let hosts = hosts("postgres://h0,h1/db");
        let mut options = ConnectOptions::new("postgres://h0/db");
        options.connect_lazy(true);
        let pool = DriverPool::new(Database::connect(options).await.unwrap(), None);
        hosts.follow(&pool, "test");
        hosts.use_host((1, 1));
        assert_eq!(host_of(&pool), "h1");
        // As one that took its place and was made a moment before the change.
        pool.set_connect_options(hosts.all[0].options.clone());
        assert_eq!(host_of(&pool), "h0");
        hosts.use_host((1, 1));
        assert_eq!(host_of(&pool), "h1");
    }

    #[test]
    fn a_host_shows_no_password() {
        let hosts = hosts("postgres://u:secret@h/db");
        assert_eq!(format!("{:?}", hosts.all[0]), "h");
    }
}
