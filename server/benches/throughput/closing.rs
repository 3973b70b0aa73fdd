//! How fast a run closes open reports of accounts that each have a customer of their own, and what increments lose
//! meanwhile. Stripe cannot be reached, so nothing is sent.

use std::time::{Duration, Instant};

use sea_orm::{ConnectionTrait as _, DatabaseConnection, Statement};
use tokio::time::timeout;
use usage_client::{ForceReport, UsageClient};

use crate::{
    background::{self, Background},
    load::{ACCOUNTS, Work},
    servers::Running,
    stored::{LINKED, linked_reports},
    support::engines::{Database, Engine},
};

/// Open reports, and with `--full`.
pub(crate) const REPORTS: u64 = 50_000;
pub(crate) const MANY_REPORTS: u64 = 1_000_000;
/// The longest time that closing may take.
const MAX_CLOSING: Duration = Duration::from_mins(5);
/// The time between two looks at the database.
const LOOK: Duration = Duration::from_millis(5);

/// What the row is called.
pub(crate) fn name(engine: Engine) -> String {
    format!("{} closing", engine.name())
}

/// Measures and prints it.
pub(crate) fn measure(engine: Engine, database: Database, duration: Duration, reports: u64) {
    let stored = linked_reports(&database, reports);
    let url = database.url.clone();
    // A port that refuses connections.
    let flags = [
        "--stripe-secret-key=sk_test_none".to_owned(),
        "--stripe-api-base=http://127.0.0.1:9".to_owned(),
        "--report-schedule=0 0 29 2 *".to_owned(),
    ];
    let server = Running::start_ours(database, &flags);
    let (alone, during, took, counted) = background::run(async {
        let db = sea_orm::Database::connect(&url)
            .await
            .expect("the database");
        let client = UsageClient::connect(server.endpoint())
            .await
            .expect("a connection");
        let counting = Background::start(server.endpoint(), Work::unary(128, ACCOUNTS), None).await;
        let alone = counting.rate(duration).await;
        let closing = async {
            let started = Instant::now();
            let run = client
                .force_report(ForceReport::all())
                .await
                .expect("a run");
            // It goes on without its caller.
            drop(run);
            while has_open(&db).await {
                tokio::time::sleep(LOOK).await;
            }
            started.elapsed()
        };
        let (during, took) = counting.rate_during(timeout(MAX_CLOSING, closing)).await;
        let took = took.expect("a run that closes within 5 minutes");
        db.close().await.expect("a clean end");
        (alone, during, took, counting.stop().await)
    });
    server.stop_and_verify(stored + counted);
    let per_sec = reports as f64 / took.as_secs_f64();
    println!(
        "{}: {reports} reports in {:.2} s, {per_sec:.0} a second; increments {alone:.0} a second before, {during:.0} meanwhile",
        name(engine),
        took.as_secs_f64(),
    );
    println!(
        "bench: {} reports={reports} per_sec={per_sec:.0} increments_alone={alone:.0} increments={during:.0} ratio={:.2}",
        name(engine),
        during / alone.max(1.0),
    );
}

async fn has_open(db: &DatabaseConnection) -> bool {
    let sql = format!(
        "SELECT account_id FROM open_reports WHERE account_id >= '{LINKED}' AND account_id < '{LINKED}z' LIMIT 1"
    );
    let statement = Statement::from_string(db.get_database_backend(), sql);
    db.query_one_raw(statement).await.expect("a row").is_some()
}
