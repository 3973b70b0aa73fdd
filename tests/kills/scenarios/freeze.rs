//! Servers that are stopped for longer than their leases, and go on as if no time had passed.

use std::time::{Duration, Instant};

use crate::{
    frozen::Frozen,
    load::{Beside, Load},
    own_cluster::own_cluster,
    postgres::Durability,
    run::{Run, Told},
    service::Service,
    wait_until,
};

/// A lease lasts 13 seconds (`LEASE` in `server/src/workers/lease.rs`), and no setting makes it shorter.
const FREEZE: Duration = Duration::from_secs(16);
const UNITS: i64 = 50;

/// One of two servers after the other, so that every second one has the lease of the sender. Stripe has accepted an event
/// whose answer waits for a server that does not go on: nothing is sent twice.
pub(crate) async fn beyond_leases(run: &Run) -> Told {
    let cluster = own_cluster(Durability::On)?;
    let service = Service::new(cluster.create_database().unwrap()).await;
    let servers = [service.serve_first().await, service.serve().await];
    let load = Load::start(&[&servers[0], &servers[1]], Beside::ReadsAndRuns);
    for number in 0..run.times() {
        load.wait_for_more(UNITS).await;
        let name = format!("answer-{number}");
        service.hold_next_answer(&name).await;
        let frozen = Frozen::stop(&servers[number % servers.len()]);
        let since = Instant::now();
        run.has_killed();
        let sent = service.sent().await;
        service.release_answer(&name).await;
        // The other one takes over what is not frozen with this one.
        load.wait_for_more(UNITS).await;
        wait_until("the other server to send", || async {
            since.elapsed() >= FREEZE && service.sent().await > sent
        })
        .await;
        drop(frozen);
        load.wait_for_more(UNITS).await;
    }
    let (calls, told) = load.stop().await;
    for server in &servers {
        server.wait_until_ready().await;
    }
    service.check(&servers[0], &calls).await;
    Some(told)
}
