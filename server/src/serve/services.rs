//! Builds the parts of the service: the dependencies of calls, and the background jobs. It starts only the jobs.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{access::AccessCheck, error::ServeError};
use crate::{
    authentication::Authenticator,
    clock::Clock,
    config::Config,
    doctor::RunningDoctor,
    domain::{DAY_MS, Millis, SECOND_MS, meter::Meters},
    ingest::WriteBatcher,
    metrics::Exporter,
    read_turns::ReadTurns,
    reconciliation::Reconciler,
    request_rates::RequestRates,
    rpc::{
        access_service::AccessRpc, account_deletion::MAX_EXPORTS, account_service::AccountRpc,
        auditor::Auditor, health_service::HealthRpc, operations_service::OperationsRpc,
        usage_service::UsageRpc,
    },
    send_load,
    shadow_comparison::ShadowComparison,
    sign_off::SignOffs,
    store::{Store, send_queue::Rules},
    stripe::Stripe,
    usage_of_all::UsageOfAll,
    workers::{
        account_check::AccountCheck,
        cleanup::Cleanup,
        clock_comparison::{ClockComparison, StripeClock},
        closing::{self, Closing},
        invoice_comparison::InvoiceComparison,
        invoice_watch::InvoiceWatch,
        period_end::PeriodEnd,
        record_archiving::RecordRetention,
        report_folding::{FoldOptions, ReportFolding},
        reporter::{self, BegunRun, Reporter},
        runner::Runner,
        schedule::Schedule,
        scheduler::ReportSchedule,
        send_event::Requests,
        sender::{Sender, SenderOptions},
        subscription_change::{
            self, BegunChange, SubscriptionChanges,
            unfinished::{self, UnfinishedChanges},
        },
        subscription_sync::{
            SubscriptionSync, poll::SubscriptionPoll, requested::RequestedSyncs,
            scheduled_cancels::ScheduledCancels, webhooks::WebhookSyncs,
        },
        uncompared_usage::UncomparedUsageCheck,
        upkeep::Upkeep,
        usage_watch::UsageWatch,
        verifier::Verifier,
        wake::Signals,
    },
};

/// The longest interval of a job that finds its work by reading the database.
const MAX_INTERVAL: Duration = Duration::from_secs(2);

/// Shared by calls and jobs.
pub(super) struct Services {
    pub(super) store: Store,
    pub(super) signals: Arc<Signals>,
    pub(super) reporter: Arc<Reporter>,
    pub(super) rates: RequestRates,
    meters: Arc<Meters>,
    reconciler: Arc<Reconciler>,
    /// Absent without a Stripe key, as is everything that needs Stripe.
    stripe: Option<Stripe>,
    sync: Option<SubscriptionSync>,
    changes: Option<Arc<SubscriptionChanges>>,
    begun_runs: mpsc::Receiver<BegunRun>,
    begun_changes: mpsc::Receiver<BegunChange>,
    schedule: Schedule,
    replica: String,
    shutdown: CancellationToken,
}

/// The services of gRPC, and who may call them.
pub(super) struct RpcServices {
    pub(super) usage: UsageRpc,
    pub(super) accounts: AccountRpc,
    pub(super) access: AccessRpc,
    pub(super) operations: OperationsRpc,
    pub(super) health: HealthRpc,
    pub(super) check: AccessCheck,
}

impl Services {
    pub(super) fn new(
        config: &Config,
        clock: &Clock,
        store: Store,
        stripe: Option<Stripe>,
        shutdown: &CancellationToken,
    ) -> Result<Self, ServeError> {
        let meters = Arc::new(config.meters.read().map_err(ServeError::Config)?);
        // Also without a Stripe key, so that a wrong setting is found at the start.
        let schedule = config.schedule.read().map_err(ServeError::Config)?;
        let signals = Arc::new(Signals::default());
        let replica = Uuid::now_v7().to_string();
        let (run_begun, begun_runs) = mpsc::channel(closing::MAX_BEGUN);
        let (change_begun, begun_changes) = mpsc::channel(unfinished::MAX_BEGUN);
        let reporter = Reporter::new(reporter::Deps {
            store: store.clone(),
            meters: Arc::clone(&meters),
            has_stripe: stripe.is_some(),
            replica: replica.clone(),
            begun: run_begun,
            signals: Arc::clone(&signals),
            shutdown: shutdown.clone(),
        });
        let reconciler = Reconciler::new(store.clone(), stripe.clone(), Arc::clone(&meters));
        let sync = stripe.clone().map(|stripe| {
            let meters = Arc::clone(&meters);
            let link_check_time = Duration::from_millis(config.stripe_link_check_ms);
            let slots = config.schedule.window_mins;
            SubscriptionSync::new(store.clone(), stripe, meters, slots, link_check_time)
        });
        // They change something at Stripe.
        let is_shadow = config.stripe.reporting.is_shadow();
        let changes = sync.clone().filter(|_| !is_shadow).map(|sync| {
            SubscriptionChanges::new(subscription_change::Deps {
                sync,
                clock: clock.clone(),
                wait_ms: secs_to_millis(config.change_wait_secs),
                replica: replica.clone(),
                begun: change_begun,
                signals: Arc::clone(&signals),
                shutdown: shutdown.clone(),
            })
        });
        Ok(Self {
            store,
            signals,
            reporter,
            rates: RequestRates::new(config.access.requests_per_sec),
            meters,
            reconciler: Arc::new(reconciler),
            stripe,
            sync,
            changes,
            begun_runs,
            begun_changes,
            schedule,
            replica,
            shutdown: shutdown.clone(),
        })
    }

    /// The gRPC services.
    pub(super) fn rpc(
        &self,
        batcher: WriteBatcher,
        config: &Config,
        clock: &Clock,
        health: HealthRpc,
        authenticator: Authenticator,
    ) -> RpcServices {
        let auditor = Auditor::new(self.store.clone());
        let usage = UsageRpc {
            store: self.store.clone(),
            batcher: Arc::new(batcher),
            reporter: Arc::clone(&self.reporter),
            reconciler: Arc::clone(&self.reconciler),
            meters: Arc::clone(&self.meters),
            slots: config.schedule.window_mins,
            clock: clock.clone(),
            auditor: auditor.clone(),
            authenticator: authenticator.clone(),
            usage_of_all: UsageOfAll::new(
                self.store.clone(),
                Arc::clone(&self.meters),
                config.schedule.window_mins,
            ),
            explanations: ReadTurns::of("explanations of invoices"),
        };
        let accounts = AccountRpc {
            store: self.store.clone(),
            subscription_sync: self.sync.clone(),
            subscription_changes: self.changes.clone(),
            slots: config.schedule.window_mins,
            clock: clock.clone(),
            auditor: auditor.clone(),
            shutdown: self.shutdown.clone(),
            exports: Arc::new(Semaphore::new(MAX_EXPORTS)),
        };
        let access = AccessRpc {
            store: self.store.clone(),
            authenticator: authenticator.clone(),
            auditor: auditor.clone(),
        };
        let readiness = Arc::clone(&health.readiness);
        let doctor = RunningDoctor::new(config, self.store.clone(), readiness, clock.clone());
        let operations = OperationsRpc {
            store: self.store.clone(),
            doctor: Arc::new(doctor),
            shadow: Arc::new(self.shadow_comparison()),
            sign_offs: SignOffs::new(self.store.clone(), clock.clone(), self.shutdown.clone()),
            authenticator: authenticator.clone(),
            auditor: auditor.clone(),
        };
        RpcServices {
            usage,
            accounts,
            access,
            operations,
            health,
            check: AccessCheck {
                authenticator,
                auditor,
                rates: self.rates.clone(),
            },
        }
    }

    fn shadow_comparison(&self) -> ShadowComparison {
        let (stripe, meters) = (self.stripe.clone(), Arc::clone(&self.meters));
        ShadowComparison::new(self.store.clone(), stripe, meters)
    }

    fn usage_watch(&self, config: &Config) -> UsageWatch {
        UsageWatch::new(
            self.store.clone(),
            self.stripe.clone(),
            self.schedule.clone(),
            metrics_interval(config),
        )
    }

    /// Starts the background jobs, and waits until a report run that is due already has begun.
    pub(super) async fn start_jobs(
        self,
        config: &Config,
        clock: &Clock,
        exporter: Option<Exporter>,
        shutdown: &CancellationToken,
    ) -> Result<Runner, ServeError> {
        let mut runner = Runner::new(self.store.clone(), self.replica.clone(), shutdown.clone());
        runner.start(Upkeep::new(self.store.clone(), exporter));
        let interval = job_interval(config);
        let comparison = ClockComparison::new(
            self.store.clone(),
            clock.clone(),
            self.stripe
                .clone()
                .and_then(|stripe| stripe_clock(config, stripe)),
            interval,
        );
        // Before anything depends on the time.
        let _ = runner.start(comparison).await;
        runner.start(self.usage_watch(config));
        start_retention(&mut runner, &self.store, config, clock);
        let (Some(stripe), Some(sync)) = (self.stripe, self.sync) else {
            return Ok(runner);
        };
        let (store, reporter, signals) = (self.store, self.reporter, self.signals);
        let events_per_sec = sending_rate(&store, &self.schedule, config, clock).await?;
        // Before anything asks Stripe.
        let check = AccountCheck::new(store.clone(), stripe.clone(), interval, signals.clone());
        let _ = runner.start(check).await;
        runner.start(Closing::new(
            store.clone(),
            Arc::clone(&signals),
            self.begun_runs,
            interval,
            shutdown.clone(),
        ));
        // Nothing is sent in shadow mode. Whatever would be is refused by `stripe` too.
        if !config.stripe.reporting.is_shadow() {
            let requests = Requests {
                store: store.clone(),
                stripe: stripe.clone(),
                meters: Arc::clone(&self.meters),
                retry_ms: config.stripe_retry_ms,
            };
            let options = sender_options(config, events_per_sec);
            runner.start(Sender::new(requests, &options, Arc::clone(&signals)));
        }
        runner.start(PeriodEnd::new(
            store.clone(),
            Arc::clone(&reporter),
            interval,
        ));
        if let Some(changes) = self.changes {
            runner.start(UnfinishedChanges::new(
                changes,
                self.begun_changes,
                interval,
            ));
        }
        start_comparisons(&mut runner, &store, &stripe, config, shutdown);
        start_syncs(&mut runner, sync, &reporter, &signals, config, shutdown);
        runner.start(Verifier::new(
            store,
            stripe,
            self.meters,
            signals,
            shutdown.clone(),
        ));
        let schedule = ReportSchedule::start(reporter, self.schedule)
            .await
            .map_err(|error| ServeError::Io(Box::new(error)))?;
        // A job that ends before its first check is reported by the runner.
        let _ = runner.start(schedule).await;
        Ok(runner)
    }
}

/// The highest rate of meter events. Logs whether it suffices.
async fn sending_rate(
    store: &Store,
    schedule: &Schedule,
    config: &Config,
    clock: &Clock,
) -> Result<u32, ServeError> {
    let key = config.stripe.key().map_err(ServeError::Config)?;
    let rate = config.sending.events_per_sec(key.as_deref());
    let reporting = (schedule, config.schedule.window_mins);
    send_load::warn_if_too_slow(store, reporting, rate, clock.now()).await;
    Ok(rate)
}

/// Starts the jobs that compare usage with invoices.
fn start_comparisons(
    runner: &mut Runner,
    store: &Store,
    stripe: &Stripe,
    config: &Config,
    shutdown: &CancellationToken,
) {
    runner.start(InvoiceComparison::new(
        store.clone(),
        stripe.clone(),
        job_interval(config),
        shutdown.clone(),
    ));
    runner.start(InvoiceWatch::new(store.clone(), metrics_interval(config)));
    runner.start(UncomparedUsageCheck::new(store.clone()));
}

/// Starts the jobs that sync subscriptions.
fn start_syncs(
    runner: &mut Runner,
    sync: SubscriptionSync,
    reporter: &Arc<Reporter>,
    signals: &Arc<Signals>,
    config: &Config,
    shutdown: &CancellationToken,
) {
    let interval = job_interval(config);
    runner.start(WebhookSyncs::new(
        sync.clone(),
        Arc::clone(reporter),
        Arc::clone(signals),
        interval,
    ));
    runner.start(RequestedSyncs::new(
        sync.clone(),
        Arc::clone(signals),
        interval,
    ));
    runner.start(ScheduledCancels::new(sync.clone(), interval));
    runner.start(SubscriptionPoll::new(
        sync,
        secs_to_millis(config.sync_interval_secs),
        interval,
        shutdown.clone(),
    ));
}

fn sender_options(config: &Config, events_per_sec: u32) -> SenderOptions {
    SenderOptions {
        rules: Rules {
            slots: config.schedule.window_mins,
            late_usage: config.late_usage,
        },
        events_per_sec,
        concurrency: size(config.stripe_concurrency),
    }
}

/// Without a folder for archives, nothing is folded.
fn fold_options(config: &Config) -> Option<FoldOptions> {
    Some(FoldOptions {
        folder: config.archive.archive_dir.clone()?,
        age_ms: config.archive.fold_after_days.saturating_mul(DAY_MS),
    })
}

/// Without a folder for archives, nothing is deleted.
fn record_retention(config: &Config) -> Option<RecordRetention> {
    Some(RecordRetention {
        folder: config.archive.archive_dir.clone()?,
        audit_ms: config.archive.audit_days.saturating_mul(DAY_MS),
        runs_ms: config.archive.run_days.saturating_mul(DAY_MS),
    })
}

fn stripe_clock(config: &Config, stripe: Stripe) -> Option<StripeClock> {
    let every = secs_to_millis(config.clock_check_secs);
    (every > 0).then_some(StripeClock { stripe, every })
}

fn job_interval(config: &Config) -> Duration {
    let retry = Duration::from_millis(u64::try_from(config.stripe_retry_ms).unwrap_or(1_000));
    retry.min(MAX_INTERVAL)
}

fn metrics_interval(config: &Config) -> Duration {
    Duration::from_secs(config.metrics_interval_secs.into())
}

fn secs_to_millis(secs: u32) -> Millis {
    Millis::from(secs).saturating_mul(SECOND_MS)
}

/// A setting as a size.
pub(super) fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Starts what removes old rows.
fn start_retention(runner: &mut Runner, store: &Store, config: &Config, clock: &Clock) {
    let records = record_retention(config);
    runner.start(Cleanup::new(store.clone(), clock.clone(), records));
    if let Some(options) = fold_options(config) {
        runner.start(ReportFolding::new(store.clone(), clock.clone(), options));
    }
}
