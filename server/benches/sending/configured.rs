//! Whether many waiting reports are sent at the configured rate while five callers watch, and how much memory the server
//! has meanwhile, as a process of its own.

use std::time::Duration;

use fake_stripe::{FakeStripe, Settings};
use tokio::{runtime::Runtime, time::timeout};
use usage_client::UsageClient;

use crate::{
    cell::{per_sec, wait_for_events},
    support::{
        engines::{Database, Engine},
        process::{Memory, ServerProcess},
        service,
    },
    usage::{METER, Usage},
    watchers::Watchers,
};

/// Waiting reports, and with `--full`.
pub(crate) const REPORTS: u32 = 3_000;
pub(crate) const MANY_REPORTS: u32 = 200_000;
/// Meter events a second: the default with a key of live mode.
const RATE: u32 = 900;
/// What Stripe takes a second in live mode.
const STRIPE_RATE: u32 = 1_000;
const WATCHERS: usize = 5;
/// The longest time until everything is sent.
const MAX_SENDING: Duration = Duration::from_mins(10);

/// What the row is called.
pub(crate) fn name(engine: Engine) -> String {
    format!("{} configured-rate", engine.name())
}

/// Measures and prints it.
pub(crate) fn measure(engine: Engine, database: &Database, reports: u32) {
    if !ServerProcess::memory_is_known() {
        println!("{}: skipped, this system has no /proc", name(engine));
        return;
    }
    let runtime = Runtime::new().expect("a runtime");
    let (sent, idle, waiting, sending) = runtime.block_on(send(database, reports));
    let ratio = sent as f64 / f64::from(RATE);
    println!(
        "{}: {reports} reports, {WATCHERS} watchers: {sent} of {RATE} a second; {} MiB at first, {} MiB with all counted, \
         at most {} MiB from then on",
        name(engine),
        idle.resident / 1_024,
        waiting.resident / 1_024,
        sending.peak / 1_024,
    );
    println!(
        "bench: {} reports={reports} watchers={WATCHERS} per_sec={sent} configured={RATE} ratio={ratio:.2} idle_kib={} \
         counted_kib={} peak_kib={}",
        name(engine),
        idle.resident,
        waiting.resident,
        sending.peak,
    );
}

/// Sends everything. Returns the reports a second, and the memory at first, before the run, and when everything was sent.
async fn send(database: &Database, reports: u32) -> (u64, Memory, Memory, Memory) {
    let stripe = FakeStripe::start(Settings {
        events_per_sec: STRIPE_RATE,
        ..Settings::default()
    })
    .await
    .expect("a fake Stripe");
    let control = stripe.control();
    control.create_meter(METER).await.expect("a meter");
    let flags = [
        format!("--stripe-secret-key={}", stripe.secret_key()),
        format!("--stripe-api-base={}", stripe.base_url()),
        format!("--stripe-events-per-sec={RATE}"),
        // Only this run.
        "--report-schedule=0 0 29 2 *".to_owned(),
    ];
    let server = ServerProcess::start(database, &flags);
    let client = UsageClient::connect(server.endpoint()).await;
    let client = client.expect("a connection");
    let idle = server.memory();
    let usage = Usage::of(reports);
    usage.link(&client, &control).await;
    usage.count(&client).await;
    let waiting = server.memory();
    server.forget_peak();
    let run = async {
        let watchers = Watchers::start(&client, WATCHERS).await;
        wait_for_events(&control, usage.reports()).await;
        watchers.finish(&usage).await
    };
    timeout(MAX_SENDING, run)
        .await
        .expect("a run that is sent within 10 minutes");
    let sending = server.memory();
    let events = control.events().await.expect("the events");
    usage.assert_sent(&events, &control.totals().await.expect("the totals"));
    server.stop();
    stripe.stop().await;
    let totals = service::ledger_totals(database).await;
    assert!(totals.is_balanced(), "the ledger check fails: {totals:?}");
    assert_eq!(totals.committed, i128::from(usage.total()));
    (per_sec(&events), idle, waiting, sending)
}
