//! Looks for the host to use: at the start, and whenever a statement or a connection fails.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use sqlx::{Connection as _, postgres::PgConnection};
use tokio::{
    runtime::Handle,
    time::{sleep, timeout},
};

use super::{
    super::host_answer::{Answer, ask},
    Host, Hosts,
    choice::{Known, choose, refusal},
};
use crate::log_limit::LogLimit;

/// How long each host may take to connect and answer.
const HOST_LIMIT: Duration = Duration::from_secs(3);
/// How long a search goes on. The next failed statement or connection starts another one.
const SEARCH_LIMIT: Duration = Duration::from_secs(10);
/// The time between two rounds of a search, and between two searches.
const ROUND_INTERVAL: Duration = Duration::from_millis(500);

/// In an outage, one search after the other finds nothing.
static NOTHING_FOUND: LogLimit = LogLimit::new();

impl Hosts {
    /// Looks for the host to use, because one did not answer. Returns at once.
    pub(in crate::store) fn search(self: &Arc<Self>) {
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
                if let Err(why) = hosts.look().await
                    && let Some(unlogged) = NOTHING_FOUND.count()
                {
                    tracing::error!(%why, unlogged, "no host of the database can be used");
                }
                hosts.answered.send_replace(requests);
                sleep(ROUND_INTERVAL).await;
            }
        });
    }

    /// What the choice depends on besides the answers.
    fn known(&self) -> Known {
        let state = self.lock();
        Known {
            current: state.current,
            timeline: state.timeline,
            serves: self.serves,
        }
    }

    /// How many searches were requested, if one of them has not been made.
    fn take_requests(&self) -> Option<u64> {
        let mut state = self.lock();
        state.is_searching = state.requests > *self.answered.borrow();
        state.is_searching.then_some(state.requests)
    }

    /// Waits for the searches that were requested until now.
    pub(super) async fn wait_for_search(&self) {
        let requests = self.lock().requests;
        let mut answered = self.answered.subscribe();
        let answering = answered.wait_for(|answered| *answered >= requests);
        // The sender is not dropped meanwhile. After the limit, the server is asked what it is.
        drop(timeout(SEARCH_LIMIT, answering).await);
    }

    /// Asks all hosts, again and again for a while, until one can be used.
    pub(super) async fn look(&self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let answers =
                join_all(self.all.iter().map(|host| ask_host(host, self.is_bounced))).await;
            if let Some(found) = choose(&answers, self.known()) {
                self.use_host(found);
                return Ok(());
            }
            if begun.elapsed() >= SEARCH_LIMIT {
                let newest = self.known().timeline;
                let whys = self.all.iter().zip(answers).map(|(host, answer)| {
                    let why = answer.map_or_else(Some, |answer| refusal(answer, newest));
                    format!("{}: {}", host.url.name, why.unwrap_or_default())
                });
                return Err(whys.collect::<Vec<_>>().join("; "));
            }
            sleep(ROUND_INTERVAL).await;
        }
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
