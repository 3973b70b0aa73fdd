//! The files of a SQLite database after SIGKILL, as a power cut would have left them: what was synced is there, and the
//! rest is lost, cut off or overwritten.

use crate::{
    disk::Disk,
    faults::{DATABASE, LOG, Rule, SYNC},
    load::{Beside, Load},
    power_cut::Unsynced,
    run::{Run, Told},
    wait_until,
};

/// Units that are acknowledged before a kill, at most.
const UNITS: i64 = 200;
/// Syncs that pass before one hangs, at most.
const SYNCS: i64 = 8;

/// Each time another database, which is recorded from its beginning.
pub(crate) async fn after_kills(run: &Run) -> Told {
    let mut random = run.random();
    let mut units = 0;
    for number in 0..run.times() {
        let disk = Disk::new();
        let server = disk.start().await;
        let load = Load::start(&[&server], Beside::Nothing);
        load.wait_for_more(1 + random.below(UNITS)).await;
        if random.one_in(2) {
            // Killed while a sync waits, so that there is something to lose. A checkpoint writes to the database.
            let file = if random.one_in(4) { DATABASE } else { LOG };
            let skip = i32::try_from(random.below(SYNCS)).unwrap();
            disk.faults.set(&[Rule::hang(file, SYNC).after(skip)]);
            if file == LOG {
                wait_until("a sync that waits", || async { disk.faults.hits(0) > 0 }).await;
            }
        }
        let calls = load.kill(server).await;
        run.has_killed();
        units += calls.acknowledged.len();
        let all = [
            Unsynced::Torn(random.next()),
            Unsynced::Torn(random.next()),
            Unsynced::Lost,
        ];
        disk.check_images(&calls, &all[number % 2..]).await;
    }
    Some(format!("{units} units"))
}
