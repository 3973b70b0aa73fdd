//! A PgBouncer that pools transactions, killed under load and started again.

use std::net::SocketAddr;

use crate::{
    load::{Beside, Load},
    own_cluster::own_cluster,
    pgbouncer::PgBouncer,
    postgres::{Durability, StartError},
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
    let mut bouncer = start(cluster.address())?;
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
        bouncer = start(cluster.address())?;
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

/// None where PgBouncer is not installed, after a line that says so; in CI that fails.
fn start(server: SocketAddr) -> Option<PgBouncer> {
    match PgBouncer::start(server, CONNECTIONS) {
        Ok(bouncer) => Some(bouncer),
        Err(StartError::Unavailable(missing)) => {
            let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
            assert!(!is_ci, "{missing}");
            eprintln!("SKIPPED: {missing}");
            None
        }
        Err(StartError::Failed(error)) => panic!("PgBouncer does not start: {error}"),
    }
}
