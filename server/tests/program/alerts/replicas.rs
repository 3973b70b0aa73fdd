//! Two replicas on one PostgreSQL: who has the leases, and what the rules make of both.

use std::collections::BTreeSet;

use super::{
    history::History,
    scrape::Scrape,
    service::{command, scrape, scrape_when, stripe},
};
use crate::{
    connections::http_address,
    own_cluster::own_cluster,
    postgres::Durability,
    process::{HTTP, Process, wait_until},
};

const SENDER: &str = r#"usage_lease_held{task="sender"}"#;

/// The jobs that need a lease.
fn jobs(scrape: &Scrape) -> BTreeSet<&str> {
    let samples = scrape.samples.iter();
    samples
        .filter(|sample| sample.name() == "usage_lease_held")
        .map(|sample| sample.series.as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_ends() {
    let Some(cluster) = own_cluster(Durability::Off) else {
        return;
    };
    let url = cluster.create_database().unwrap();
    let (stripe, _) = stripe().await;
    let start = async || {
        let process = Process::start(command(&url, Some(&stripe)), &[HTTP.to_owned()]).await;
        http_address(&process).await;
        process
    };
    let first = start().await;
    // Every job has its series before its first turn.
    let known = scrape(&first).await;
    let jobs = jobs(&known);
    for task in ["sender", "report schedule", "verification", "cleanup"] {
        assert!(
            jobs.contains(&*format!("usage_lease_held{{task=\"{task}\"}}")),
            "{jobs:?}"
        );
    }
    let sum = |scrape: &Scrape| scrape.sum("usage_lease_held", "");
    let all = jobs.len() as f64;
    scrape_when(&first, "all leases", |scrape| sum(scrape) == all).await;
    let second = start().await;
    let b = scrape_when(&second, "figures", |_| true).await;
    let a = scrape_when(&first, "figures", |_| true).await;
    assert_eq!((a.get(SENDER), b.get(SENDER)), (1.0, 0.0));
    assert_eq!((sum(&a), sum(&b)), (all, 0.0));
    let limit = "usage_stripe_events_per_second_limit";
    assert_eq!((a.get(limit), b.get(limit)), (20.0, 0.0));
    let ran = r#"usage_job_last_run_timestamp_seconds{task="report schedule"}"#;
    assert_eq!(a.get(ran), b.get(ran));
    assert!(a.get(ran) > 0.0);
    let mut history = History::new();
    history.phase(60, &[("a", Some(&a)), ("b", Some(&b))], &[]);

    first.kill();
    // Within the 13 s of a lease.
    wait_until("all leases", || async {
        sum(&scrape(&second).await) == all
    })
    .await;
    let alone = scrape_when(&second, "figures", |_| true).await;
    assert_eq!(alone.get(limit), 20.0);
    history.phase(
        60,
        &[("a", None), ("b", Some(&alone))],
        &["UsageServerDown"],
    );
    let first = start().await;
    let again = scrape_when(&first, "figures", |_| true).await;
    assert_eq!(again.get(SENDER), 0.0);
    history.phase(60, &[("a", Some(&again)), ("b", Some(&alone))], &[]);
    history.check();
    first.kill();
    second.kill();
}
