//! Files of the recorder's spool that are cut, changed, exchanged, copied, huge, of another version or of another name: what can
//! be read is counted exactly once, and what cannot stays in the folder under a name that says so.
//!
//! The files of `corpus/spool/` cannot be read.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use usage_client::{Recorder, RecorderStats, UsageClient};
use uuid::Uuid;

use super::{Budget, texts};
use crate::support::{
    random::Random,
    reverse_proxy::ReverseProxy,
    world::{TIMEOUT, World, on_sqlite},
};

on_sqlite!(a_spooled_file_is_counted_once_or_set_aside);

/// Batches in a spool, each of one account.
const FILES: usize = 6;
const QUANTITY: i64 = 7;
/// Larger than any file that is read. The disk does not store it.
const HUGE: u64 = 1 << 28;

/// What becomes of a spool's files.
#[derive(Debug, Default)]
struct Expected {
    /// The accounts that are counted.
    counted: Vec<String>,
    /// How often they are counted or found to be counted before.
    answered: usize,
    /// Files that are renamed because they cannot be read.
    damaged: usize,
    /// Files that stay as they are.
    left: usize,
}

async fn a_spooled_file_is_counted_once_or_set_aside(world: World) {
    let folder = tempfile::tempdir().unwrap();
    let files = super::corpus("spool");
    for (_, bytes) in &files {
        fs::write(folder.path().join(new_name()), bytes).unwrap();
    }
    let stats = send(&world, folder.path()).await;
    assert_eq!(stats.recovered.calls, 0, "{files:?}");
    assert_eq!(count(folder.path(), "damaged"), files.len(), "{files:?}");
    assert_eq!(count(folder.path(), "batch"), 0, "{files:?}");
    let mut budget = Budget::new("spool files", 4).at_most(40);
    while let Some(mut random) = budget.next() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = format!("c{}", budget.cases);
        let accounts: Vec<String> = (0..FILES).map(|nth| format!("{prefix}-{nth}")).collect();
        leave(folder.path(), &accounts).await;
        let expected = damage(&mut random, folder.path(), &accounts);
        let place = format!("{}: {expected:?}", budget.place());
        let stats = send(&world, folder.path()).await;
        let units = QUANTITY * i64::try_from(expected.answered).unwrap();
        let units = u64::try_from(units).unwrap();
        assert_eq!(stats.counted.units, units, "{place}: {stats:?}");
        check(&world, folder.path(), (&accounts, &expected), &place).await;
        // Another start finds nothing to send.
        let stats = send(&world, folder.path()).await;
        assert_eq!(stats.recovered.calls, 0, "{place}: {stats:?}");
        check(&world, folder.path(), (&accounts, &expected), &place).await;
    }
    budget.end();
    world.finish().await;
}

async fn check(
    world: &World,
    folder: &Path,
    (accounts, expected): (&[String], &Expected),
    place: &str,
) {
    for account in accounts {
        let is_counted = expected.counted.contains(account);
        let quantity = if is_counted { QUANTITY } else { 0 };
        let total = world.total_of_all_meters(account).await;
        assert_eq!(total, quantity, "{place}: {account}");
    }
    assert_eq!(count(folder, "damaged"), expected.damaged, "{place}");
    assert_eq!(count(folder, "batch"), expected.left, "{place}");
}

fn recorder(endpoint: &str, folder: &Path) -> Recorder {
    let client = UsageClient::connect_lazy(endpoint).unwrap();
    let client = client.with_timeout(Duration::from_secs(20));
    let builder = client.recorder(["api_calls"]).spool(folder);
    builder.interval(Duration::from_hours(1)).start().unwrap()
}

/// Leaves a batch of each account in a folder, with a recorder that has no server.
async fn leave(folder: &Path, accounts: &[String]) {
    let front = ReverseProxy::start().await;
    let left = recorder(front.endpoint(), folder);
    for account in accounts {
        left.record(account, "api_calls", QUANTITY);
        left.persist().await.unwrap();
    }
    left.shutdown(Duration::ZERO).await.unwrap_err();
    assert_eq!(count(folder, "batch"), accounts.len());
}

/// Sends what is in a folder.
async fn send(world: &World, folder: &Path) -> RecorderStats {
    let next = recorder(world.endpoint(), folder);
    next.shutdown(TIMEOUT).await.unwrap()
}

/// Does something to each file.
fn damage(random: &mut Random, folder: &Path, accounts: &[String]) -> Expected {
    let mut expected = Expected::default();
    let mut whole: Option<(PathBuf, Vec<u8>)> = None;
    for path in files(folder, "batch") {
        let bytes = fs::read(&path).unwrap();
        let has = |account: &&String| {
            let mut windows = bytes.windows(account.len());
            windows.any(|window| window == account.as_bytes())
        };
        let account = accounts.iter().find(has).unwrap();
        match random.below(6) {
            0 | 1 => {
                let unreadable = unreadable(random, &bytes);
                fs::write(&path, unreadable).unwrap();
                expected.damaged += 1;
            }
            2 => {
                let file = fs::File::options().write(true).open(&path).unwrap();
                file.set_len(HUGE).unwrap();
                expected.damaged += 1;
            }
            3 => {
                let name = random.pick(&["left.batch", "1.batch", "a copy.batch"]);
                // Another one may have the name.
                let to = folder.join(format!("{account} {name}"));
                fs::rename(&path, to).unwrap();
                expected.left += 1;
            }
            4 => {
                fs::write(folder.join(new_name()), &bytes).unwrap();
                expected.counted.push(account.clone());
                expected.answered += 2;
            }
            _ => {
                expected.counted.push(account.clone());
                expected.answered += 1;
                // Two whole ones change places.
                if let Some((other, contents)) = whole.take() {
                    fs::write(&other, &bytes).unwrap();
                    fs::write(&path, contents).unwrap();
                } else {
                    whole = Some((path, bytes));
                }
            }
        }
    }
    expected
}

/// Contents that no recorder wrote.
fn unreadable(random: &mut Random, bytes: &[u8]) -> Vec<u8> {
    let place = usize::try_from(random.below(i64::try_from(bytes.len()).unwrap())).unwrap();
    let mut changed = bytes.to_vec();
    match random.below(7) {
        0 => changed.truncate(place),
        1 => changed[place] ^= 1 << random.below(8),
        2 => changed[7] = b'2',
        3 => changed.extend_from_slice(bytes),
        4 => changed.reverse(),
        5 => changed = texts::bytes(random, 400),
        _ => {
            // Parts change places.
            changed.rotate_left(place);
            if changed == bytes {
                changed.clear();
            }
        }
    }
    changed
}

fn new_name() -> String {
    format!("{}.batch", Uuid::now_v7())
}

/// The files of a folder with this extension, in the order of their names.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).unwrap();
    let paths = all.map(|file| file.unwrap().path());
    let mut found: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    found.sort_unstable();
    found
}

fn count(folder: &Path, extension: &str) -> usize {
    files(folder, extension).len()
}
