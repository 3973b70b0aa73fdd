//! A file system of some megabytes with the database on it, which is filled under load and emptied again.

use crate::{
    load::{Beside, Load},
    run::{Run, Told},
    service::Service,
    small_disk::SmallDisk,
};

/// Far above what all units of a run take.
const MEGABYTES: u32 = 192;
const UNITS: i64 = 100;

/// The server says that it cannot count, and counts again by itself. Where a file system cannot be mounted, which needs
/// root, it is skipped; in CI that fails.
pub(crate) async fn fills(run: &Run) -> Told {
    let disk = SmallDisk::mount(MEGABYTES)?;
    let file = disk.path().join("usage.db");
    let service = Service::new(format!("sqlite://{}", file.display())).await;
    let server = service.serve_first().await;
    let load = Load::start(&[&server], Beside::ReadsAndRuns);
    for _ in 0..run.times() {
        load.wait_for_more(UNITS).await;
        disk.fill();
        run.has_killed();
        // The log is copied into the file and used again while that needs no space.
        server.wait_until_not_ready().await;
        load.wait_for_repeats(1).await;
        disk.free();
        server.wait_until_ready().await;
    }
    load.wait_for_more(UNITS).await;
    let (calls, told) = load.stop().await;
    service.check(&server, &calls).await;
    // A server that starts now finds the same.
    server.kill();
    let server = service.serve().await;
    service.check(&server, &calls).await;
    server.kill();
    Some(told)
}
