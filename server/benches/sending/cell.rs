//! One cell: a new database, a new fake Stripe and a new server; one run over all reports, with its watchers.

use std::time::Duration;

use fake_stripe::{Control, FakeStripe, Settings, StoredEvent};
use tokio::{net::TcpListener, runtime::Runtime, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use usage_client::UsageClient;
use usage_server::Listeners;

use crate::{
    support::{engines::Database, service},
    usage::{METER, Usage},
    watchers::Watchers,
};

/// A rate of meter events that this machine does not reach.
const UNLIMITED: u32 = 1_000_000;
/// The longest time that one cell sends.
const MAX_SENDING: Duration = Duration::from_mins(10);
/// The longest time of one request that waits for the fake Stripe's events.
const MAX_WAIT: Duration = Duration::from_secs(20);
/// The longest start, and the longest stop.
const MAX_START: Duration = Duration::from_secs(30);

/// What a cell measures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) reports: u32,
    pub(crate) watchers: usize,
}

/// The measurement of a cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Reports sent a second, between Stripe's first event and its last.
    pub(crate) per_sec: u64,
    /// How many times the watchers were told of progress, all together.
    pub(crate) updates: u64,
}

impl Cell {
    /// Measures once, on a database that was never used.
    pub(crate) fn measure(self, database: &Database) -> Measured {
        // Apart from the server, which is measured.
        let runtime = Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let stripe = FakeStripe::start(Settings {
                events_per_sec: UNLIMITED,
                ..Settings::default()
            })
            .await
            .expect("a fake Stripe");
            let control = stripe.control();
            control.create_meter(METER).await.expect("a meter");
            let server = Server::start(database, &stripe);
            let client = server.client().await;

            let usage = Usage::of(self.reports);
            usage.link(&client, &control).await;
            usage.count(&client).await;

            let sending = async {
                let watchers = Watchers::start(&client, self.watchers).await;
                wait_for_events(&control, usage.reports()).await;
                watchers.finish(&usage).await
            };
            let updates = timeout(MAX_SENDING, sending)
                .await
                .expect("a run that is sent within 10 minutes");
            let events = control.events().await.expect("the events");
            usage.assert_sent(&events, &control.totals().await.expect("the totals"));
            server.stop().await;
            stripe.stop().await;
            let totals = service::ledger_totals(database).await;
            assert!(totals.is_balanced(), "the ledger check fails: {totals:?}");
            assert_eq!(totals.committed, i128::from(usage.total()));
            Measured {
                per_sec: per_sec(&events),
                updates,
            }
        })
    }
}

pub(crate) async fn wait_for_events(control: &Control, reports: usize) {
    // The caller limits the time of all attempts.
    while let Err(error) = control.wait_for_events(reports, MAX_WAIT).await {
        let is_sending = matches!(error, fake_stripe::ControlError::TimedOut { .. });
        assert!(is_sending, "the fake Stripe fails: {error}");
    }
}

/// The rate between the receipts of the first and the last event: without the start of the run.
pub(crate) fn per_sec(events: &[StoredEvent]) -> u64 {
    let received = || events.iter().map(|event| event.received_at_ms);
    let first = received().min().expect("an event");
    let last = received().max().expect("an event");
    let millis = (last - first).max(1);
    ((events.len() - 1) as f64 * 1_000.0 / millis as f64).round() as u64
}

/// The service, in a runtime of its own.
struct Server {
    runtime: Runtime,
    endpoint: String,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl Server {
    fn start(database: &Database, stripe: &FakeStripe) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let flags = [
            format!("--stripe-secret-key={}", stripe.secret_key()),
            format!("--stripe-api-base={}", stripe.base_url()),
            // Only the run of this cell.
            "--report-schedule=0 0 29 2 *".to_owned(),
        ];
        let mut config = service::config(database, &flags);
        // As a flag it has a limit, which could hide what watching costs.
        config.sending.stripe_events_per_sec = Some(UNLIMITED);
        let runtime = Runtime::new().expect("a runtime");
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let serving = runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a socket");
            service::run(Listeners::grpc_only(listener), config, token).await;
        });
        Self {
            runtime,
            endpoint,
            shutdown,
            serving,
        }
    }

    async fn client(&self) -> UsageClient {
        timeout(MAX_START, UsageClient::connect(self.endpoint.clone()))
            .await
            .expect("a server that starts within 30 s")
            .expect("a connection")
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(MAX_START, self.serving)
            .await
            .expect("a server that stops within 30 s")
            .expect("no panic in the server");
        self.runtime.shutdown_background();
    }
}
