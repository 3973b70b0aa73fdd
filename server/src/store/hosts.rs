//! How connections to PostgreSQL are made, and to which of the hosts of the URL.
//!
//! The driver knows one host. So each pool connects to the host in use, and when connections fail, all hosts are asked
//! which of them takes writes. Among several, the one with the newest timeline does: a failover begins a new timeline, and
//! a server that it left behind must not be written to.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use sea_orm::{DbErr, RuntimeErr};
use sqlx::{
    ConnectOptions as _, Connection as _,
    postgres::{PgConnectOptions, PgConnection},
};
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    bounced::Bounced,
    connect::BOUNCED,
    driver_pool::{DriverPool, WeakPool},
    host_answer::{Answer, ask, ask_whether_read_only},
    host_list::{self, HostUrl},
};

/// How long each host may take to connect and answer.
const HOST_LIMIT: Duration = Duration::from_secs(3);
/// How long a search goes on. The next failed statement or connection starts another one.
const SEARCH_LIMIT: Duration = Duration::from_secs(10);
/// The time between two rounds of a search, and between two searches.
const ROUND_INTERVAL: Duration = Duration::from_millis(500);
/// Limits for locks and statements, and for the locks of a replica that crashed in a transaction. The others let
/// PostgreSQL drop the connections of a machine that is gone after about half a minute, so that they do not use up its
/// `max_connections`. For its own end, the driver has no such options.
const TIMEOUTS: [(&str, &str); 7] = [
    ("lock_timeout", "15s"),
    ("statement_timeout", "60s"),
    ("idle_in_transaction_session_timeout", "5s"),
    ("tcp_keepalives_idle", "15s"),
    ("tcp_keepalives_interval", "5s"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "30s"),
];
const READ_ONLY: &str = "the database is read only: a standby, or set so";
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
        options.application_name(name).options(TIMEOUTS)
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

    /// Looks for the host to use, because one did not answer. Returns at once.
    pub(super) fn search(self: &Arc<Self>) {
        // Without a runtime the process is ending.
        let (true, Ok(runtime)) = (self.are_several(), Handle::try_current()) else {
            return;
        };
        let mut state = self.lock();
        state.requests = state.requests.saturating_add(1);
        if std::mem::replace(&mut state.is_searching, true) {
            return;
        }
        drop(state);
        let hosts = Arc::clone(self);
        runtime.spawn(async move {
            while let Some(requests) = hosts.take_requests() {
                if let Err(why) = hosts.look().await {
                    tracing::error!(%why, "no host of the database can be used");
                }
                hosts.answered.send_replace(requests);
                sleep(ROUND_INTERVAL).await;
            }
        });
    }

    /// How many searches were requested, if one of them has not been made.
    fn take_requests(&self) -> Option<u64> {
        let mut state = self.lock();
        state.is_searching = state.requests > *self.answered.borrow();
        state.is_searching.then_some(state.requests)
    }

    /// Waits for the searches that were requested until now.
    async fn wait_for_search(&self) {
        let requests = self.lock().requests;
        let mut answered = self.answered.subscribe();
        let answering = answered.wait_for(|answered| *answered >= requests);
        // The sender is not dropped meanwhile. After the limit, the server is asked what it is.
        drop(timeout(SEARCH_LIMIT, answering).await);
    }

    /// Asks all hosts, again and again for a while, until one can be used.
    async fn look(&self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let answers =
                join_all(self.all.iter().map(|host| ask_host(host, self.is_bounced))).await;
            let current = self.lock().current;
            if let Some(found) = self.choose(&answers, current) {
                self.use_host(found);
                return Ok(());
            }
            if begun.elapsed() >= SEARCH_LIMIT {
                let whys = self.all.iter().zip(&answers).map(|(host, answer)| {
                    let why = answer.as_ref().err().map_or(READ_ONLY, String::as_str);
                    format!("{}: {why}", host.url.name)
                });
                return Err(whys.collect::<Vec<_>>().join("; "));
            }
            sleep(ROUND_INTERVAL).await;
        }
    }

    /// The host to use: one that takes writes, of the newest timeline, preferably the one in use, else the first. A command
    /// that only checks the database takes any.
    fn choose(&self, answers: &[Result<Answer, String>], current: usize) -> Option<(usize, u32)> {
        let seen = self.lock().timeline;
        let answered = answers.iter().enumerate();
        let answered = answered.filter_map(|(index, answer)| Some((index, *answer.as_ref().ok()?)));
        let usable = answered.filter(|(_, answer)| {
            !self.serves || (!answer.is_read_only && answer.timeline >= seen)
        });
        let best = usable.max_by_key(|(index, answer)| {
            let writes = !answer.is_read_only;
            (
                writes,
                answer.timeline,
                *index == current,
                usize::MAX.abs_diff(*index),
            )
        });
        best.map(|(index, answer)| (index, answer.timeline))
    }

    fn use_host(&self, (index, timeline): (usize, u32)) {
        let mut state = self.lock();
        state.timeline = state.timeline.max(timeline);
        if state.current == index {
            return;
        }
        state.current = index;
        state.changed_at = Some(Instant::now());
        let pools = state.pools.clone();
        drop(state);
        if let Some(host) = self.all.get(index) {
            tracing::warn!(host = %host.url.name, "another host of the database is in use");
        }
        for (pool, name) in pools {
            if let Some(pool) = pool.upgrade() {
                pool.set_connect_options(self.options(name));
            }
        }
    }

    /// Refuses a new connection to a server that must not be used: a standby, or a server that a failover left behind. It
    /// still answers reads, and they miss what was counted since.
    pub(super) async fn check(
        self: &Arc<Self>,
        connection: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        if !self.serves {
            return Ok(());
        }
        let why = if self.are_several() {
            // The server that the last connection was lost to may be back, or may not know that another one took over.
            self.wait_for_search().await;
            let answer = ask(connection).await?;
            let mut state = self.lock();
            state.timeline = state.timeline.max(answer.timeline);
            match answer {
                Answer {
                    is_read_only: true, ..
                } => READ_ONLY.to_owned(),
                Answer { timeline, .. } if timeline < state.timeline => format!(
                    "the server is of timeline {timeline}, and one of timeline {} was seen: a failover left it behind",
                    state.timeline
                ),
                Answer { .. } => return Ok(()),
            }
        } else if ask_whether_read_only(connection).await? {
            READ_ONLY.to_owned()
        } else {
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

async fn ask_host(host: &Host, is_bounced: bool) -> Result<Answer, String> {
    let options = host.options.clone();
    let options = if is_bounced {
        options.extra_float_digits(None)
    } else {
        options
    };
    let asking = Box::pin(async {
        let mut connection = PgConnection::connect_with(&options).await?;
        let answer = ask(&mut connection).await?;
        connection.close().await?;
        Ok::<_, sqlx::Error>(answer)
    });
    match timeout(HOST_LIMIT, asking).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", HOST_LIMIT.as_secs())),
    }
}

fn unusable(why: impl fmt::Display) -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(why.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(serves: bool) -> Hosts {
        let list = host_list::split("postgres://h0,h1,h2/db").unwrap();
        let hosts = list.hosts.into_iter().map(|url| {
            let options = url.url.parse().unwrap();
            Host { url, options }
        });
        Hosts {
            all: hosts.collect(),
            is_bounced: false,
            serves,
            state: Mutex::default(),
            answered: watch::Sender::default(),
        }
    }

    type Asked = Result<Answer, String>;

    const READS: Asked = Ok(Answer {
        is_read_only: true,
        timeline: 0,
    });
    const WRITES: Asked = Ok(Answer {
        is_read_only: false,
        timeline: 1,
    });
    const WRITES_AFTER_FAILOVER: Asked = Ok(Answer {
        is_read_only: false,
        timeline: 2,
    });

    fn silent() -> Result<Answer, String> {
        Err("no answer".to_owned())
    }

    #[test]
    fn the_first_host_that_takes_writes_is_used() {
        let hosts = hosts(true);
        assert_eq!(hosts.choose(&[READS, WRITES, WRITES], 0), Some((1, 1)));
        assert_eq!(hosts.choose(&[silent(), READS, WRITES], 0), Some((2, 1)));
        assert_eq!(hosts.choose(&[silent(), READS, READS], 0), None);
    }

    #[test]
    fn the_host_in_use_stays_while_it_can() {
        assert_eq!(
            hosts(true).choose(&[WRITES, WRITES, READS], 1),
            Some((1, 1))
        );
    }

    #[test]
    fn a_server_that_a_failover_left_behind_is_not_used() {
        let hosts = hosts(true);
        // It came back, and still takes writes.
        assert_eq!(
            hosts.choose(&[WRITES, WRITES_AFTER_FAILOVER, READS], 0),
            Some((1, 2))
        );
        hosts.use_host((1, 2));
        assert_eq!(hosts.choose(&[WRITES, silent(), READS], 1), None);
    }

    #[test]
    fn a_check_reads_a_standby_where_there_is_nothing_else() {
        let hosts = hosts(false);
        assert_eq!(hosts.choose(&[silent(), READS, READS], 0), Some((1, 0)));
        assert_eq!(hosts.choose(&[READS, WRITES, silent()], 0), Some((1, 1)));
    }

    #[test]
    fn a_search_shows_no_password() {
        let list = host_list::split("postgres://u:secret@h/db").unwrap();
        let options = list.hosts[0].url.parse().unwrap();
        let host = Host {
            url: list.hosts[0].clone(),
            options,
        };
        assert_eq!(format!("{host:?}"), "h");
    }
}
