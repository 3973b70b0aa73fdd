//! Puts the parts of the service together, starts them, watches them and stops them in order.

mod access;
mod answers;
mod call_metrics;
mod call_places;
mod connect;
mod error;
mod first_key;
mod grpc_errors;
mod grpc_status;
mod listeners;
mod pages;
mod pools;
mod request_bodies;
mod requests;
mod services;
mod sockets;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use sea_orm::DbErr;
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    answers::MAX_ANSWER_BYTES,
    connect::{http_status, refusal},
    pages::PageLimit,
};
pub use self::{error::ServeError, listeners::Listeners};
use self::{
    services::{Services, size},
    sockets::{CALLERS_END_WITHIN, serve_sockets},
};
use crate::{
    authentication::Authenticator,
    clock::Clock,
    config::Config,
    domain::{SECOND_MS, billing_start::BillingStart},
    http::Http,
    ingest::{WriteBatcher, WriteBatcherOptions},
    metrics::{self, Exporter},
    readiness::Readiness,
    request_log::RequestLog,
    rpc::health_service::HealthRpc,
    store::{FileLock, SchemaError, Store},
    stripe::Stripe,
    tls::Tls,
    workers::{certificate_reload::CertificateReload, reporter::Reporter, runner::Runner},
};

/// When background jobs have to end, from the shutdown on: the timeout of one request to Stripe. Callers end meanwhile.
const JOBS_END_WITHIN: Duration = Duration::from_secs(20);

/// When those who watch runs have to end. Jobs end their streams.
const WATCHERS_END_WITHIN: Duration = Duration::from_secs(21);

/// When the connections to the database have to be closed, from the shutdown on: the time in which the service stops.
const DATABASE_CLOSES_WITHIN: Duration = Duration::from_secs(25);

/// The time that each has at least.
const SHORTEST_END: Duration = Duration::from_millis(500);

/// Serves until the shutdown. Then waits for open calls, commits their usage, and records the results of open requests
/// to Stripe.
///
/// # Errors
/// A wrong setting, a database that cannot be used, a socket that fails, or a task that ends before the shutdown.
pub async fn serve(
    listeners: Listeners,
    config: Config,
    clock: Clock,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    // Cancelled whenever the service ends, so that no job continues after a socket has failed.
    let ending = shutdown.child_token();
    #[cfg(feature = "planted-defects")]
    crate::planted_defects::warn();
    config.check().map_err(ServeError::Config)?;
    let stripe = connect_stripe(&config)?;
    let url = config.database.url().map_err(ServeError::Config)?;
    let tls = load_tls(&config)?;
    let clock = clock.following_database();
    // Held until the service has closed the database.
    let lock = Store::lock(&url).await?;
    let store = open(&url, &config, &clock, lock.as_ref()).await?;
    prepare(&store, lock.is_some(), &config).await?;
    let addresses = addresses(&listeners)?;
    first_key::check(&store, &config.access, &addresses, &config.tls).await?;
    let client_roles = config.tls.client_roles().map_err(ServeError::Config)?;
    let authenticator = Authenticator::new(store.clone(), clock.clone(), client_roles);
    let services = Services::new(&config, &clock, store.clone(), stripe, &ending)?;
    let (batcher, writers) = WriteBatcher::start(&store, &clock, batcher_options(&config, &store));
    let mut writers: FuturesUnordered<_> = writers.into_iter().collect();
    let readiness = Arc::new(Readiness::new(store.clone(), batcher.progress()));
    let health = HealthRpc {
        readiness: Arc::clone(&readiness),
        shutdown: ending.clone(),
    };
    let reporter = Arc::clone(&services.reporter);
    let rpc = services.rpc(batcher, &config, &clock, health, authenticator.clone());
    let http = Http {
        store: store.clone(),
        readiness,
        clock: clock.clone(),
        webhook_secrets: config.webhooks.secrets().map_err(ServeError::Config)?,
        webhook_stored: services.signals.webhook.clone(),
        requests: RequestLog::new(config.log.log_requests),
        authenticator,
        connections_of_address: config.connections_of_address(),
        trusted_proxies: config.addresses.trusted_proxies(),
        rates: services.rates.clone(),
    };
    let exporter = listeners.show_metrics().then(Exporter::of_process);
    let exporter = exporter
        .transpose()
        .map_err(|error| ServeError::Io(error.into()))?;
    metrics::settings(
        size(config.queue_increments),
        config.stripe.key().is_ok_and(|key| key.is_some()),
    );
    let mut runner = services
        .start_jobs(&config, &clock, exporter.clone(), &ending)
        .await?;
    if let Some(tls) = &tls {
        runner.start(CertificateReload::new(Arc::clone(tls)));
    }
    let http = (http, exporter);
    let ended_at = note_end(&ending);
    // Too large for a stack.
    let sockets = serve_sockets(listeners, &config, tls.as_ref(), rpc, http, &ending);
    let sockets = Box::pin(sockets);
    let result = serve_watched(sockets, &mut runner, &mut writers, &store, &ending).await;
    ending.cancel();
    let since = ended_at.await.unwrap_or_else(|_| Instant::now());
    finish_writing(&mut writers).await;
    end_jobs(&mut runner, &reporter, since).await;
    let is_lost = matches!(result, Err(ServeError::FileLost(_)));
    let closed = close(store, lock, is_lost, since).await;
    tracing::info!("stopped");
    // Why the service stopped comes first.
    result.and(closed)
}

/// Prepares the database for this server, which may have it alone.
async fn prepare(store: &Store, is_alone: bool, config: &Config) -> Result<(), ServeError> {
    let failed = |error: crate::error::Error| ServeError::Io(Box::new(error));
    if is_alone {
        store.end_left_leases().await.map_err(failed)?;
    }
    if config.stripe.reporting.is_shadow() {
        begin_shadow(store).await?;
    } else if config.stripe.key().is_ok_and(|key| key.is_some()) {
        warn_without_moment(store).await?;
    }
    // From here on, the clock shows the database's time.
    store.shared_now().await.map_err(failed)?;
    Ok(())
}

/// Waits for the jobs and for those who watch their runs.
async fn end_jobs(runner: &mut Runner, reporter: &Reporter, since: Instant) {
    runner.stop(left(JOBS_END_WITHIN, since)).await;
    let watched = timeout(left(WATCHERS_END_WITHIN, since), reporter.finish()).await;
    if watched.is_err() {
        tracing::warn!("some watchers of report runs did not end in time");
    }
}

/// Where it listens for calls and for HTTP.
fn addresses(listeners: &Listeners) -> Result<Vec<SocketAddr>, ServeError> {
    let listeners = [Some(&listeners.grpc), listeners.http.as_ref()];
    let addresses = listeners.into_iter().flatten().map(TcpListener::local_addr);
    let addresses: Result<_, _> = addresses.collect();
    addresses.map_err(|error| ServeError::Io(Box::new(error)))
}

/// When the shutdown begins.
fn note_end(ending: &CancellationToken) -> JoinHandle<Instant> {
    let ending = ending.clone();
    tokio::spawn(async move {
        ending.cancelled().await;
        Instant::now()
    })
}

/// What is left of a time from the shutdown on.
fn left(limit: Duration, since: Instant) -> Duration {
    limit.saturating_sub(since.elapsed()).max(SHORTEST_END)
}

/// Closes the database, and then releases its lock.
async fn close(
    store: Store,
    lock: Option<FileLock>,
    is_lost: bool,
    since: Instant,
) -> Result<(), ServeError> {
    if store.is_overwritten() {
        // Closing the last connection would copy its log into contents that it does not belong to.
        std::mem::forget((store, lock));
        return Ok(());
    }
    if is_lost && let Err(error) = store.rescue_log().await {
        tracing::error!(%error, "the log of the lost database file could not be copied into the file");
    }
    if let Ok(closed) = timeout(left(DATABASE_CLOSES_WITHIN, since), store.close()).await {
        return closed.map_err(ServeError::from);
    }
    tracing::warn!("some database connections did not close in time");
    // An open connection may still write, so the lock is kept until the process ends.
    std::mem::forget(lock);
    Ok(())
}

/// Serves until the sockets end. A job or a writer that ends by itself is an error, after which callers may still
/// finish.
async fn serve_watched(
    sockets: impl Future<Output = Result<(), ServeError>>,
    runner: &mut Runner,
    writers: &mut FuturesUnordered<JoinHandle<()>>,
    store: &Store,
    ending: &CancellationToken,
) -> Result<(), ServeError> {
    tokio::pin!(sockets);
    let error = tokio::select! {
        served = &mut sockets => return served,
        job = runner.watch() => ServeError::Job(job),
        error = watch_writers(writers, ending) => error,
        why = store.file_lost() => ServeError::FileLost(why),
    };
    tracing::error!(%error, "the service stops");
    ending.cancel();
    if let Err(error) = sockets.await {
        tracing::error!(%error, "a socket failed while the service stopped");
    }
    Err(error)
}

/// Resolves when a writer ends while calls are still accepted.
async fn watch_writers(
    writers: &mut FuturesUnordered<JoinHandle<()>>,
    ending: &CancellationToken,
) -> ServeError {
    loop {
        match writers.next().await {
            Some(Err(error)) => return ServeError::Writer(format!("failed: {error}")),
            Some(Ok(())) if !ending.is_cancelled() => {
                return ServeError::Writer("ended".to_owned());
            }
            Some(Ok(())) => {}
            None => std::future::pending().await,
        }
    }
}

/// Waits until all accepted usage is committed: without callers, the writers commit their queues and end.
async fn finish_writing(writers: &mut FuturesUnordered<JoinHandle<()>>) {
    let written = async {
        while let Some(writer) = writers.next().await {
            if let Err(error) = writer {
                tracing::error!(%error, "a task that commits increments failed");
            }
        }
    };
    if timeout(CALLERS_END_WITHIN, written).await.is_err() {
        tracing::warn!("some callers kept their connections; their calls are not answered");
    }
}

fn batcher_options(config: &Config, store: &Store) -> WriteBatcherOptions {
    WriteBatcherOptions {
        writers: if store.has_parallel_writers() {
            size(config.writers)
        } else {
            1
        },
        queue: size(config.queue_increments),
        slots: config.schedule.window_mins,
    }
}

async fn open(
    url: &str,
    config: &Config,
    clock: &Clock,
    lock: Option<&FileLock>,
) -> Result<Store, ServeError> {
    let database = &config.database;
    let store = Store::open_to_serve(url, database.database_connections, config.writers)
        .await?
        .with_clock(clock.clone());
    let insecure = store.insecure_settings().await?;
    if !insecure.is_empty() && !database.insecure_durability {
        return Err(ServeError::InsecureDurability(insecure.join(" and ")));
    }
    // A worker of Citus has only shards: a migration would create other tables there.
    let citus = store.citus().await?;
    if citus.is_some_and(|citus| !citus.is_coordinator) {
        return Err(ServeError::Worker);
    }
    if config.no_migrate {
        match store.check_schema().await {
            Err(SchemaError::Older(pending)) => return Err(ServeError::NotMigrated(pending)),
            checked => checked.map_err(DbErr::from)?,
        }
    } else {
        store.migrate().await?;
    }
    if let Some(lock) = lock {
        store.mark_file(lock).await?;
    }
    let store = store.with_current_shards().await?;
    for fault in store
        .citus_faults(config.database.database_connections)
        .await?
    {
        tracing::warn!("Citus: {fault}");
    }
    Ok(store)
}

fn load_tls(config: &Config) -> Result<Option<Arc<Tls>>, ServeError> {
    let Some(files) = config.tls.files().map_err(ServeError::Config)? else {
        return Ok(None);
    };
    let tls = Tls::load(files).map_err(ServeError::Config)?;
    if tls.expires_at() <= Clock::system().now().div_euclid(SECOND_MS) {
        tracing::error!(
            "the certificate in TLS_CERT_FILE has expired: clients refuse it; replace it, a restart is not needed"
        );
    }
    let is_past = |at: i64| at <= Clock::system().now().div_euclid(SECOND_MS);
    if tls.lists_expire_at().is_some_and(is_past) {
        tracing::error!(
            "a list in TLS_CLIENT_CRL_FILE is out of date: certificates that were revoked since are accepted; replace it, a restart is not needed"
        );
    }
    Ok(Some(Arc::new(tls)))
}

/// Makes the database one in which another integration bills, until a moment is named.
async fn begin_shadow(store: &Store) -> Result<(), ServeError> {
    let begun = store.begin_shadow().await;
    if !begun.map_err(|error| ServeError::Io(Box::new(error)))? {
        return Err(ServeError::Config(
            "REPORTING is shadow, and this database has closed reports to send already; use a database that was never used with REPORTING=on".to_owned(),
        ));
    }
    tracing::warn!("REPORTING is shadow: Stripe is only read, and nothing is sent");
    Ok(())
}

/// Says that nothing is sent where another integration bills and no moment is named from which this service does: by
/// mistake, or because a backup from before that was restored.
async fn warn_without_moment(store: &Store) -> Result<(), ServeError> {
    let start = store.billing_start().await;
    let start = start.map_err(|error| ServeError::Io(Box::new(error)))?;
    if start == BillingStart::NotNamed {
        tracing::error!(
            "REPORTING is on, and nothing is sent: another integration bills by this database, and no moment is named from which this service does; name it with `usagectl shadow switch`, or with `usage-server restore --bill-from` if a backup from before it was named was restored"
        );
    }
    Ok(())
}

fn connect_stripe(config: &Config) -> Result<Option<Stripe>, ServeError> {
    let Some(key) = config.stripe.key().map_err(ServeError::Config)? else {
        tracing::warn!(
            "STRIPE_SECRET_KEY is not set: usage is counted and shown, and not reported"
        );
        return Ok(None);
    };
    let stripe = Stripe::new(&key, &config.stripe);
    stripe.map(Some).map_err(ServeError::Config)
}
