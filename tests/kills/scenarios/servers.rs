//! Servers that end with SIGKILL, at any moment of a commit or of a report.

use tempfile::TempDir;

use crate::{
    load::{Beside, Load},
    own_cluster::own_cluster,
    postgres::Durability,
    run::{Run, Told},
    service::Service,
};

/// Units that are acknowledged between two kills, at most.
const UNITS: i64 = 60;

/// The only server of a SQLite file on the disk.
pub(crate) async fn of_a_file(run: &Run) -> Told {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("usage.db");
    let service = Service::new(format!("sqlite://{}", file.display())).await;
    Some(kill_in_turn(run, &service, 1).await)
}

/// Two servers on PostgreSQL.
pub(crate) async fn of_a_cluster(run: &Run) -> Told {
    let cluster = own_cluster(Durability::On)?;
    let service = Service::new(cluster.create_database().unwrap()).await;
    Some(kill_in_turn(run, &service, 2).await)
}

/// Kills one server after the other, and starts another one in its place.
async fn kill_in_turn(run: &Run, service: &Service, count: usize) -> String {
    let mut random = run.random();
    let mut servers = vec![service.serve_first().await];
    while servers.len() < count {
        servers.push(service.serve().await);
    }
    let all: Vec<_> = servers.iter().collect();
    let load = Load::start(&all, Beside::ReadsAndRuns);
    for kill in 0..run.times() {
        if random.one_in(2) {
            service.delay_answers(&mut random).await;
        }
        load.wait_for_more(random.below(UNITS)).await;
        let place = kill % count;
        servers.remove(place).kill();
        run.has_killed();
        let started = service.serve().await;
        load.replace(place, &started);
        servers.insert(place, started);
    }
    load.wait_for_more(UNITS).await;
    let (calls, told) = load.stop().await;
    service.check(&servers[0], &calls).await;
    told
}
