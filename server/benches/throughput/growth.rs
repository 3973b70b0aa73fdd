//! How much slower increments are beside many stored keys and reports, how long a start takes there, and what a key needs.

use std::time::Instant;

use usage_client::{Get, UsageClient};

use crate::{
    background,
    load::{ACCOUNTS, Keys, Load, MANY_ACCOUNTS, Measured, Work},
    servers::Running,
    stored,
    support::engines::{Database, Engine},
};

/// Keys that are stored before, unless the command line says otherwise. There is a report for five of them.
pub(crate) const KEYS: u64 = 50_000_000;
const KEYS_OF_REPORT: u64 = 5;
/// The closed reports of an account.
const REPORTS_OF_ACCOUNT: u64 = 10;

/// What is measured on an empty database, and beside what is stored.
const WORKS: [Work; 5] = [
    Work::unary(128, ACCOUNTS),
    Work::unary(128, 1),
    Work::unary(128, MANY_ACCOUNTS),
    Work::unary(1, ACCOUNTS),
    Work::keyed(Keys::Ordered, ACCOUNTS),
];

/// What the rows are called.
pub(crate) fn name(engine: Engine) -> String {
    format!("{} growth", engine.name())
}

/// Measures and prints all rows. The measurement on an empty database is that of the other rows.
pub(crate) fn measure(
    engine: Engine,
    database: Database,
    keys: u64,
    on_empty: impl Fn(Work) -> Measured,
    load: impl Fn(Work) -> Load,
) {
    let reports = keys / KEYS_OF_REPORT;
    let empty = WORKS.map(|work| (work, on_empty(work)));
    let filling = Instant::now();
    let bytes = stored::keys(&database, keys);
    let mut counted = stored::history(&database, reports / REPORTS_OF_ACCOUNT);
    counted += stored::open_reports(&database, MANY_ACCOUNTS);
    stored::vacuum(&database);
    eprintln!("stored in {:.0} s", filling.elapsed().as_secs_f64());
    let starting = Instant::now();
    let server = Running::start_ours(database, &[]);
    background::run(async {
        let client = UsageClient::connect(server.endpoint()).await;
        let client = client.expect("a connection");
        client.get(Get::account("account-0")).await.expect("usage");
    });
    let start = starting.elapsed().as_millis();
    let bytes_a_key = bytes as f64 / keys as f64;
    println!(
        "{}: beside {keys} keys and {reports} reports; a start takes {start} ms, a key {bytes_a_key:.0} bytes",
        name(engine)
    );
    println!(
        "bench: {} keys={keys} reports={reports} start_ms={start} bytes_a_key={bytes_a_key:.0}",
        name(engine)
    );
    for (work, empty) in empty {
        let beside = load(work).run(server.endpoint());
        counted += beside.acknowledged;
        println!(
            "bench: {}-{} empty={} ours={} ratio={:.2}",
            name(engine),
            work.name(),
            empty.per_sec,
            beside.per_sec,
            beside.per_sec as f64 / empty.per_sec.max(1) as f64
        );
    }
    server.stop_and_verify(counted);
}
