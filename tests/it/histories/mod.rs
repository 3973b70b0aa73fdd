//! Histories of calls that several callers make on one account at the same time, at several replicas, checked against what is
//! promised in the section "Order" of `server/docs/guarantees.md`.
//!
//! Each history is short, so that the checker can try every order. It prints its seed; `HISTORIES_SEED` repeats the calls of
//! the first one, as far as two runs can be the same, and `HISTORIES` sets the number of histories.

mod checker;
mod contention;
mod model;
mod recorder;

use std::{env, sync::Arc};

use futures_util::future::join_all;
use usage_client::{Retry, UsageClient};

use self::{
    checker::{Explained, Operation, check},
    model::Call,
    recorder::{Caller, History},
};
use crate::support::{
    postgres::cluster,
    postgres_proxy::PostgresProxy,
    random::Random,
    world::{Engine, Server, TIMEOUT, World, hours_ago, on_both_engines, on_postgres, within},
};

on_both_engines!(calls_at_the_same_time_have_one_order);
on_postgres!(calls_have_one_order_if_answers_of_the_database_are_lost);

const SEED: &str = "HISTORIES_SEED";
const NUMBER: &str = "HISTORIES";
/// How many histories one test makes, unless the environment says another number.
const DEFAULT_NUMBER: u64 = 12;
const MAX_NUMBER: u64 = 100_000;
/// How many of them are made at a time, so that groups of increments have several accounts.
const AT_ONCE: u64 = 3;
/// The callers of one account, and the calls of each. With the links that changes answer, and with what is read at the end, it is
/// less than the checker can have.
const CALLERS: usize = 6;
const CALLS: usize = 7;

/// Where callers call: the address of a server, and the proxy before its database.
struct Place {
    url: String,
    proxy: Option<Arc<PostgresProxy>>,
}

impl Place {
    fn of(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            proxy: None,
        }
    }

    /// A caller with a connection of its own, which repeats nothing by itself.
    async fn caller(&self, random: Random, history: &Arc<History>) -> Caller {
        let client = within("connecting", UsageClient::connect(self.url.clone())).await;
        let client = client.expect("a connection");
        let client = client.with_timeout(TIMEOUT).with_retry(Retry::never());
        Caller::new(client, self.proxy.clone(), random, history)
    }
}

async fn calls_at_the_same_time_have_one_order(world: World) {
    let mut places = vec![Place::of(world.endpoint())];
    let mut replicas = Vec::new();
    if world.engine == Engine::Postgres {
        for _ in 0..2 {
            let replica = started(world.replica().await).await;
            places.push(Place::of(replica.endpoint()));
            replicas.push(replica);
        }
    }
    make_histories(&world, &places).await;
    for replica in replicas {
        replica.stop().await.unwrap();
    }
    world.finish().await;
}

async fn calls_have_one_order_if_answers_of_the_database_are_lost(world: World) {
    let cluster = cluster().expect("PostgreSQL");
    let proxy = Arc::new(PostgresProxy::start(cluster.address()).expect("a proxy"));
    let mut config = world.config();
    config.database.database_url = Some(proxy.url(&world.database_url).into());
    let behind = started(Server::start(config, world.clock.clone()).await).await;
    let replica = started(world.replica().await).await;
    let places = [
        Place::of(world.endpoint()),
        Place::of(replica.endpoint()),
        Place {
            url: behind.endpoint().to_owned(),
            proxy: Some(Arc::clone(&proxy)),
        },
    ];
    make_histories(&world, &places).await;
    assert!(proxy.commits_lost() > 0, "no fault");
    replica.stop().await.unwrap();
    behind.stop().await.unwrap();
    world.finish().await;
}

/// A server that answers.
async fn started(server: Server) -> Server {
    drop(server.client().await);
    server
}

async fn make_histories(world: &World, places: &[Place]) {
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number(SEED).unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    let histories = number(NUMBER)
        .unwrap_or(DEFAULT_NUMBER)
        .clamp(1, MAX_NUMBER);
    let seeds: Vec<u64> = (0..histories).map(|n| seed.wrapping_add(n)).collect();
    for some in seeds.chunks(usize::try_from(AT_ONCE).unwrap()) {
        let made = some.iter().map(|seed| make_history(world, places, *seed));
        for (seed, history) in some.iter().zip(join_all(made).await) {
            if let Err(fault) = check(&history) {
                let explained = Explained(&history, &fault);
                panic!("{SEED}={seed} {NUMBER}=1\n{explained}");
            }
        }
    }
}

async fn make_history(world: &World, places: &[Place], seed: u64) -> Vec<Operation> {
    eprintln!("{SEED}={seed}");
    let account = format!("acct_{seed}");
    let get = world.recent(&account);
    let history = Arc::new(History::new(account, hours_ago(2), get));
    let customers: Vec<String> = (0..3).filter_map(|n| history.customer(n)).collect();
    let customers: Vec<&str> = customers.iter().map(String::as_str).collect();
    world.create_customers(&customers).await;
    let mut random = Random(seed);
    let mut callers = Vec::new();
    for number in 0..CALLERS {
        let place = &places[number % places.len()];
        let caller = place.caller(Random(random.next()), &history).await;
        callers.push(tokio::spawn(caller.run(CALLS)));
    }
    for caller in callers {
        within("the calls of a history", caller)
            .await
            .expect("calls");
    }
    // What was answered is there at the end.
    let mut last = places[0].caller(random, &history).await;
    for call in [Call::Get, Call::GetAccount] {
        last.call(call).await;
    }
    history.operations()
}
