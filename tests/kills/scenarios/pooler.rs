//! A PgBouncer that pools transactions, killed under load and started again.

use crate::{
    load::{Beside, Load},
    own_cluster::own_cluster,
    pgbouncer::PgBouncer,
    postgres::Durability,
    relay::Relay,
    run::{Run, Told},
    service::Service,
};

/// Its connections to the database: fewer than the server opens.
const CONNECTIONS: u32 = 6;
const UNITS: i64 = 60;

/// The server goes on by itself.
pub(crate) async fn is_killed(run: &Run) -> Told {
    let cluster = own_cluster(Durability::On)?;
    let mut bouncer = PgBouncer::start_if_installed(cluster.address(), CONNECTIONS)?;
    let url = cluster.create_database().unwrap();
    let relay = Relay::start(bouncer.address()).await;
    let url = format!("{}?pgbouncer=true", relay.url(&url));
    let service = Service::new(url).await;
    let server = service.serve_first().await;
    let load = Load::start(&[&server], Beside::ReadsAndRuns);
    let mut random = run.random();
    for _ in 0..run.times() {
        if random.one_in(2) {
            service.delay_answers(&mut random).await;
        }
        load.wait_for_more(1 + random.below(UNITS)).await;
        bouncer.kill().expect("a kill");
        run.has_killed();
        bouncer = PgBouncer::start_if_installed(cluster.address(), CONNECTIONS)?;
        // Its port is another one.
        relay.switch_to(bouncer.address());
        load.wait_for_more(1).await;
    }
    load.wait_for_more(UNITS).await;
    let (calls, told) = load.stop().await;
    server.wait_until_ready().await;
    service.check(&server, &calls).await;
    Some(told)
}
