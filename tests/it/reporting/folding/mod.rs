//! Old finished reports are archived and folded, and every figure stays what it was.

mod archives;
mod explained;
mod limits;
mod of_all;
mod records;
mod sign_off;
mod totals;

use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use tempfile::TempDir;
use usage_client::PutAccount;
use usage_server::{
    commands::archives::{VerifyCommand, verify},
    store::{Store, ledger_check::LedgerTotals},
};

use crate::support::world::{World, at, within};

/// When usage is counted.
const COUNTED: &str = "2027-03-10T05:00:00Z";
/// Reports are folded from this age on.
const AGE: TimeDelta = TimeDelta::days(60);

/// Folds reports after 60 days, in a new folder.
async fn fold_in_a_folder(world: &mut World) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let flag = format!("--archive-dir={}", folder.path().display());
    world
        .reconfigure(&[&flag, "--fold-after-days=60", "--window-mins=15"])
        .await;
    folder
}

/// A world at the time at which usage is counted, with a free account, whose reports are not billable.
async fn begin(world: &mut World) -> TempDir {
    let folder = fold_in_a_folder(world).await;
    world.freeze(at(COUNTED)).await;
    let free = PutAccount::free("free");
    world.client().put_account(free).await.unwrap();
    folder
}

/// Counts usage, not before its time, and closes it.
async fn use_and_close(world: &World, quantity: i64, at: DateTime<Utc>) {
    world.move_clocks(world.now().max(at)).await;
    world.count("free", quantity, at).await;
    world.report_all().await;
}

/// Lets time pass without a server, and then an hour: after a long pause nothing is folded before. Without Stripe, which
/// would have months to bill.
async fn let_pass(world: &mut World, time: TimeDelta) {
    world.stop().await;
    world.reconfigure(&["--stripe-secret-key"]).await;
    world.stop().await;
    world.move_clocks(world.now() + time).await;
    world.start_server().await;
    fold_again(world).await;
}

/// Lets another hour pass, and waits until the job has run.
async fn fold_again(world: &World) {
    world.wait_until_job_ran("report folding").await;
    world.move_clocks(world.now() + TimeDelta::hours(1)).await;
    wait_until_folded(world).await;
}

async fn wait_until_folded(world: &World) {
    let now = world.clock.now();
    let ran = format!("leases WHERE name = 'report folding' AND last_run_at >= {now}");
    world
        .wait_until("folding", async || world.count_rows(&ran).await == 1)
        .await;
}

/// Restarts the server with Stripe.
async fn with_stripe(world: &mut World) {
    let flag = format!("--stripe-secret-key={}", world.stripe_address().1);
    world.reconfigure(&[&flag]).await;
}

async fn ledger(world: &World) -> LedgerTotals {
    let store = Store::open(&world.database_url, 4).await.unwrap();
    let totals = store.ledger_totals().await.unwrap();
    store.close().await.unwrap();
    totals
}

/// Runs `usage-server archives verify`. Returns whether all is well, and what it printed.
async fn verified(world: &World, folder: &Path) -> (bool, String) {
    let command = VerifyCommand {
        database: world.config().database,
        archive_dir: folder.to_owned(),
    };
    let mut printed = Vec::new();
    let is_well = within("a verification", verify(&command, &mut printed)).await;
    (is_well.unwrap(), String::from_utf8(printed).unwrap())
}

/// The files of a folder, in the order of their names.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort_unstable();
    files
}

fn name_of(file: &Path) -> String {
    file.file_name().unwrap().to_string_lossy().into_owned()
}

/// The lines of an archive after the first one.
fn lines(file: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(file).unwrap();
    let lines = text.lines().skip(1);
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}
