//! The service with the flags of a benchmark.

use clap::{CommandFactory as _, FromArgMatches as _, Parser, builder::Resettable};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use usage_server::{
    Listeners,
    clock::Clock,
    config::Config,
    serve,
    store::{Store, ledger_check::LedgerTotals},
};

use super::engines::Database;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

/// The settings of a service with these flags; all others have their defaults.
pub(crate) fn config(database: &Database, flags: &[String]) -> Config {
    let given = ["usage-server", "--database-url", &database.url];
    let flags = flags.iter().map(String::as_str);
    // The environment may configure a real service: ignore it.
    let command = Flags::command().mut_args(|arg| arg.env(Resettable::Reset));
    command
        .try_get_matches_from(given.into_iter().chain(flags))
        .and_then(|matches| Flags::from_arg_matches(&matches))
        .expect("valid flags")
        .config
}

/// Serves on bound sockets until the shutdown.
pub(crate) async fn run(listeners: Listeners, config: Config, shutdown: CancellationToken) {
    serve(listeners, config, Clock::system(), shutdown)
        .await
        .expect("a service that runs");
}

/// What the database of a stopped server contains.
pub(crate) async fn ledger_totals(database: &Database) -> LedgerTotals {
    let store = Store::open(&database.url, 1).await.expect("the database");
    let totals = store.ledger_totals().await.expect("the ledger check");
    store.close().await.expect("a clean end");
    totals
}

/// Migrates an empty database and distributes its tables.
pub(crate) fn distribute(database: &Database) {
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let store = Store::open(&database.url, 1).await.expect("the database");
        store.migrate().await.expect("the schema");
        let distributed = store.distribute(None).await;
        distributed.expect("a distributed database");
        store.close().await.expect("a clean end");
    });
}
