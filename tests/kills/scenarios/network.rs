//! A network that fails between the service and PostgreSQL, in ways drawn from the seed.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    load::{Beside, Load},
    own_cluster::own_cluster,
    postgres::Durability,
    random::Random,
    relay::{LinkFault, Relay},
    run::{Run, Told},
    service::Service,
};

/// Units that are acknowledged after each fault.
const UNITS: i64 = 50;
/// The longest fault.
const LONGEST_MS: i64 = 3_000;

/// The server goes on by itself.
pub(crate) async fn fails(run: &Run) -> Told {
    let cluster = own_cluster(Durability::On)?;
    let url = cluster.create_database().unwrap();
    let relay = Relay::start(cluster.address()).await;
    let service = Service::new(relay.url(&url)).await;
    let server = service.serve_first().await;
    let load = Load::start(&[&server], Beside::ReadsAndRuns);
    let mut random = run.random();
    for _ in 0..run.times() {
        load.wait_for_more(UNITS).await;
        relay.set(drawn(&mut random));
        run.has_killed();
        // A fault is as long as it is drawn, whatever happens meanwhile.
        let length = u64::try_from(random.below(LONGEST_MS)).unwrap();
        sleep(Duration::from_millis(length)).await;
        relay.set(LinkFault::Nothing);
        load.wait_for_more(UNITS).await;
    }
    let (calls, told) = load.stop().await;
    server.wait_until_ready().await;
    service.check(&server, &calls).await;
    let met = relay.met();
    assert!(met > 0, "no fault met a connection");
    Some(format!("{told}, {met} times a fault met a connection"))
}

fn drawn(random: &mut Random) -> LinkFault {
    match random.below(4) {
        0 => LinkFault::Cut,
        1 => {
            let millis = u64::try_from(random.below(1_500)).unwrap();
            LinkFault::Delay(Duration::from_millis(millis))
        }
        2 => LinkFault::HalfClose,
        _ => LinkFault::Swallow,
    }
}
