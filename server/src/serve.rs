//! Starts the parts of the service, joins them and stops them in order.

use std::{sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::Notify};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Server, TcpIncoming};
use tower_http::catch_panic::CatchPanicLayer;
use usage_proto::v1::{
    FILE_DESCRIPTOR_SET, account_service_server::AccountServiceServer,
    usage_service_server::UsageServiceServer,
};

use crate::{
    clock::Clock,
    config::Config,
    domain::{Millis, SECOND_MS, meter::Meters},
    error::Error,
    http::{self, Http},
    ingest::{WriteBatcher, WriteBatcherOptions, Writers},
    metrics::Exporter,
    reconciliation::Reconciler,
    rpc::{account_service::AccountRpc, usage_service::UsageRpc},
    store::{Store, send::Rules},
    stripe::Stripe,
    workers::reporter::{Reporter, ReporterOptions},
    workers::subscription::{Deps, SubscriptionOptions, Subscriptions},
    workers::verifier::Verifier,
};

/// How long a loop with nothing to do waits at most before it looks again.
const LONGEST_IDLE: Duration = Duration::from_secs(2);

/// The largest message that is taken: a batch of 1,000 increments with the longest fields.
const MAX_MESSAGE_BYTES: usize = 2 * 1024 * 1024;
/// How long callers may take to end once the service stops, and then what they sent to be committed.
const CALLERS_END_WITHIN: Duration = Duration::from_secs(5);
/// How long requests to Stripe may take to end after that: as long as one may take.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// How often a silent connection is asked whether anybody is there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Why the service did not start or ended, in one line.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A setting is wrong.
    #[error("{0}")]
    Config(String),
    /// The database is not to be had.
    #[error("the database cannot be used: {0}")]
    Database(sea_orm::DbErr),
    /// The database lacks migrations, and they are not to be run here.
    #[error(
        "the database lacks {0} migrations; run `usage-server migrate`, or start without --no-migrate"
    )]
    NotMigrated(usize),
    /// The socket or the scheduler failed.
    #[error("the service cannot run: {0}")]
    Io(Box<dyn std::error::Error + Send + Sync>),
}

impl From<sea_orm::DbErr> for ServeError {
    fn from(error: sea_orm::DbErr) -> Self {
        Self::Database(error)
    }
}

/// The sockets that the service is given: whoever starts it owns them, so a test can bind port 0.
#[derive(Debug)]
pub struct Listeners {
    /// Where gRPC is served.
    pub grpc: TcpListener,
    /// Where webhooks, health and metrics are served over HTTP, if they are.
    pub http: Option<TcpListener>,
}

/// Serves on its listeners until the shutdown, then lets callers finish, commits what they sent and records
/// what Stripe still answers.
///
/// # Errors
/// A wrong setting, a database that cannot be used, or a socket that fails.
pub async fn serve(
    listeners: Listeners,
    config: Config,
    clock: Clock,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    // Ends with the service, however it ends: nothing works on when the socket has failed.
    let ending = shutdown.child_token();
    let parts = Services::assemble(&config, &clock, &ending).await?;
    let (ledger, writers) =
        WriteBatcher::start(&parts.store, &clock, batcher_options(&config, &parts.store));
    let result = match parts.reporter.start_ticking().await {
        Ok(()) => {
            parts.start();
            let (usage, accounts) = parts.rpc(ledger, &config, &clock);
            let http = Http {
                store: parts.store.clone(),
                clock,
                webhook_secrets: config.webhook_secrets().map_err(ServeError::Config)?,
                webhook_stored: Arc::clone(&parts.webhook_stored),
            };
            // Whichever of the two sockets fails ends the service.
            tokio::try_join!(
                serve_rpc(listeners.grpc, &config, usage, accounts, &ending),
                serve_http(listeners.http, http, &ending),
            )
            .map(|((), ())| ())
        }
        Err(error) => Err(ServeError::Io(Box::new(error))),
    };
    ending.cancel();
    finish(writers, &parts).await;
    parts.store.close().await?;
    tracing::info!("stopped");
    result
}

/// What works in the background, and what it shares.
struct Services {
    store: Store,
    meters: Arc<Meters>,
    reporter: Arc<Reporter>,
    reconciler: Arc<Reconciler>,
    /// Absent, as is the verifier, without a Stripe key.
    subscriptions: Option<Arc<Subscriptions>>,
    verifier: Option<Arc<Verifier>>,
    /// A webhook that was stored wakes the job that reads from Stripe what it is about.
    webhook_stored: Arc<Notify>,
}

impl Services {
    async fn assemble(
        config: &Config,
        clock: &Clock,
        ending: &CancellationToken,
    ) -> Result<Self, ServeError> {
        let meters = Arc::new(config.meters.read().map_err(ServeError::Config)?);
        let schedule = config.schedule.read().map_err(ServeError::Config)?;
        let stripe = connect_stripe(config)?;
        let store = open(config).await?;
        let reporter_options = ReporterOptions {
            meters: Arc::clone(&meters),
            rules: Rules {
                slots: config.window_mins,
                late_usage: config.late_usage,
            },
            schedule,
            events_per_sec: config.stripe_events_per_sec,
            concurrency: size(config.stripe_concurrency),
            retry_ms: config.stripe_retry_ms,
            idle: idle(config),
        };
        let (closed, webhook_stored) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        // For whoever hears from Stripe that events were dropped.
        let verify_now = Arc::new(Notify::new());
        let reporter = Reporter::new(
            store.clone(),
            clock.clone(),
            stripe.clone(),
            reporter_options,
            Arc::clone(&closed),
            ending.clone(),
        );
        let reconciler = Reconciler::new(store.clone(), stripe.clone(), Arc::clone(&meters));
        let reconciler = Arc::new(reconciler);
        let verifier = stripe.clone().map(|stripe| {
            let (store, clock, meters) = (store.clone(), clock.clone(), Arc::clone(&meters));
            let wake = Arc::clone(&verify_now);
            Verifier::new(store, clock, stripe, meters, wake, ending.clone())
        });
        let subscriptions = stripe.map(|stripe| {
            let around = Deps {
                store: store.clone(),
                clock: clock.clone(),
                stripe,
                reporter: Arc::clone(&reporter),
                wake: Arc::clone(&webhook_stored),
                verify_now,
                closed,
                shutdown: ending.clone(),
            };
            Subscriptions::new(around, subscription_options(config, &meters))
        });
        Ok(Self {
            store,
            meters,
            reporter,
            reconciler,
            subscriptions,
            verifier,
            webhook_stored,
        })
    }

    fn start(&self) {
        self.reporter.start_sending();
        self.reporter.start_watching_periods();
        if let Some(subscriptions) = &self.subscriptions {
            subscriptions.start();
        }
        if let Some(verifier) = &self.verifier {
            verifier.start();
        }
    }

    fn rpc(&self, ledger: WriteBatcher, config: &Config, clock: &Clock) -> (UsageRpc, AccountRpc) {
        let usage = UsageRpc {
            store: self.store.clone(),
            ledger: Arc::new(ledger),
            reporter: Arc::clone(&self.reporter),
            reconciler: Arc::clone(&self.reconciler),
            meters: Arc::clone(&self.meters),
            slots: config.window_mins,
            clock: clock.clone(),
        };
        let accounts = AccountRpc {
            store: self.store.clone(),
            subscriptions: self.subscriptions.clone(),
            slots: config.window_mins,
            clock: clock.clone(),
        };
        (usage, accounts)
    }

    /// Waits for what is under way; whatever takes too long is taken up at the next start.
    async fn finish(&self) {
        let ended = async {
            self.reporter.finish().await;
            if let Some(subscriptions) = &self.subscriptions {
                subscriptions.finish().await;
            }
            if let Some(verifier) = &self.verifier {
                verifier.finish().await;
            }
        };
        if tokio::time::timeout(STOP_WITHIN, ended).await.is_err() {
            tracing::warn!("some work was still under way; it is taken up again at the next start");
        }
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
        slots: config.window_mins,
    }
}

fn idle(config: &Config) -> Duration {
    let retry = Duration::from_millis(u64::try_from(config.stripe_retry_ms).unwrap_or(1_000));
    retry.min(LONGEST_IDLE)
}

fn subscription_options(config: &Config, meters: &Arc<Meters>) -> SubscriptionOptions {
    let millis = |secs: u32| Millis::from(secs).saturating_mul(SECOND_MS);
    SubscriptionOptions {
        meters: Arc::clone(meters),
        slots: config.window_mins,
        interval_ms: millis(config.sync_interval_secs),
        change_wait_ms: millis(config.change_wait_secs),
        idle: idle(config),
    }
}

/// Waits for what callers sent to be committed and for what Stripe still answers to be recorded.
async fn finish(writers: Writers, parts: &Services) {
    // The services are gone and with them the ledger: its writers commit what they hold and end.
    let written = async {
        for writer in writers {
            if let Err(error) = writer.await {
                tracing::error!(%error, "a ledger writer was lost");
            }
        }
    };
    if tokio::time::timeout(CALLERS_END_WITHIN, written)
        .await
        .is_err()
    {
        tracing::warn!("some callers kept their connections; their calls are not answered");
    }
    parts.finish().await;
}

async fn open(config: &Config) -> Result<Store, ServeError> {
    let database = &config.database;
    config.check().map_err(ServeError::Config)?;
    let store = Store::open(&database.database_url, database.database_connections).await?;
    if config.no_migrate {
        match store.pending_migrations().await? {
            0 => {}
            pending => return Err(ServeError::NotMigrated(pending)),
        }
    } else {
        store.migrate().await?;
    }
    Ok(store)
}

fn connect_stripe(config: &Config) -> Result<Option<Stripe>, ServeError> {
    let Some(key) = config.stripe.key().map_err(ServeError::Config)? else {
        tracing::warn!("no STRIPE_SECRET_KEY: usage is counted and shown, and nothing is reported");
        return Ok(None);
    };
    let stripe = Stripe::new(key, config.stripe.stripe_api_base.as_deref());
    stripe.map(Some).map_err(ServeError::Config)
}

async fn serve_http(
    listener: Option<TcpListener>,
    http: Http,
    ending: &CancellationToken,
) -> Result<(), ServeError> {
    let Some(listener) = listener else {
        if !http.webhook_secrets.is_empty() {
            tracing::warn!(
                "STRIPE_WEBHOOK_SECRETS is set and HTTP_LISTEN is not: no webhooks are taken"
            );
        }
        return Ok(());
    };
    let exporter = Exporter::of_process().map_err(|error| ServeError::Io(error.into()))?;
    let serving = http::serve(listener, http, exporter, ending.clone());
    tokio::select! {
        served = serving => served.map_err(|error| ServeError::Io(Box::new(error))),
        () = overdue(ending) => {
            tracing::warn!("some HTTP requests did not end in time; their connections are closed");
            Ok(())
        }
    }
}

/// The moment at which callers have had long enough to end.
async fn overdue(ending: &CancellationToken) {
    ending.cancelled().await;
    tokio::time::sleep(CALLERS_END_WITHIN).await;
}

async fn serve_rpc(
    listener: TcpListener,
    config: &Config,
    usage: UsageRpc,
    accounts: AccountRpc,
    ending: &CancellationToken,
) -> Result<(), ServeError> {
    let io = |error: Box<dyn std::error::Error + Send + Sync>| ServeError::Io(error);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<UsageServiceServer<UsageRpc>>().await;
    health
        .set_serving::<AccountServiceServer<AccountRpc>>()
        .await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| io(Box::new(error)))?;
    let address = listener.local_addr().map_err(|error| io(Box::new(error)))?;
    let router = Server::builder()
        .max_concurrent_streams(config.streams_per_connection)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .trace_fn(|request| tracing::info_span!("request", method = request.uri().path()))
        // A panic would otherwise break the caller's connection, with everything else that is on it.
        .layer(CatchPanicLayer::custom(panicked))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(UsageServiceServer::new(usage).max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(
            AccountServiceServer::new(accounts).max_decoding_message_size(MAX_MESSAGE_BYTES),
        );
    tracing::info!(%address, "serving");
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = router.serve_with_incoming_shutdown(incoming, ending.cancelled());
    tokio::select! {
        served = serving => served.map_err(|error| io(Box::new(error))),
        () = overdue(ending) => {
            tracing::warn!("some callers did not end in time; their connections are closed");
            Ok(())
        }
    }
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> ::http::Response<tonic::body::Body> {
    tracing::error!("a request handler panicked");
    tonic::Status::from(Error::Internal("a request handler panicked".into())).into_http()
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
