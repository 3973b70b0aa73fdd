//! PostgreSQL that stops as a crash of its machine would stop it, and recovers from its log.

use crate::{
    load::{Beside, Load},
    own_cluster::own_cluster,
    postgres::Durability,
    run::{Run, Told},
    service::Service,
};

/// Units that are acknowledged between two stops, at most.
const UNITS: i64 = 100;

/// Two servers go on by themselves.
pub(crate) async fn stops(run: &Run) -> Told {
    let mut cluster = own_cluster(Durability::On)?;
    let service = Service::new(cluster.create_database().unwrap()).await;
    let servers = [service.serve_first().await, service.serve().await];
    let load = Load::start(&[&servers[0], &servers[1]], Beside::ReadsAndRuns);
    let mut random = run.random();
    for _ in 0..run.times() {
        if random.one_in(2) {
            service.delay_answers(&mut random).await;
        }
        load.wait_for_more(1 + random.below(UNITS)).await;
        cluster.crash().unwrap();
        run.has_killed();
        if random.one_in(3) {
            // Long enough that the servers notice.
            load.wait_for_repeats(1).await;
        }
        cluster.restart().unwrap();
        load.wait_for_more(1).await;
    }
    load.wait_for_more(UNITS).await;
    let (calls, told) = load.stop().await;
    for server in &servers {
        server.wait_until_ready().await;
    }
    service.check(&servers[0], &calls).await;
    Some(told)
}
