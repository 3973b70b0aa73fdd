//! What counting loses while accounts are linked at a pace: each link is a boundary of its account.

use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use usage_client::{PutAccount, UsageClient};

use crate::{
    background::{self, Background},
    load::{Work, account},
    servers::Running,
    support::engines::{Database, Engine},
};

/// Active accounts.
const ACCOUNTS: u64 = 100_000;
/// The time between two links: 100 a second.
const PACE: Duration = Duration::from_millis(10);

/// What the row is called.
pub(crate) fn name(engine: Engine) -> String {
    format!("{} boundary-changes", engine.name())
}

/// Measures and prints it.
pub(crate) fn measure(engine: Engine, database: Database, duration: Duration) {
    let server = Running::start_ours(database, &[]);
    let (alone, during, links, counted) = background::run(async {
        let client = UsageClient::connect(server.endpoint())
            .await
            .expect("a connection");
        let counting = Background::start(server.endpoint(), Work::unary(128, ACCOUNTS), None).await;
        let before = counting.rate(duration).await;
        let (during, links) = counting.rate_during(link(&client, duration)).await;
        // What is compared with is measured on both sides, because the database grows.
        let after = counting.rate(duration).await;
        let alone = before.midpoint(after);
        (alone, during, links, counting.stop().await)
    });
    server.stop_and_verify(counted);
    let ratio = during / alone.max(1.0);
    println!(
        "{}: {alone:.0} increments a second, {during:.0} beside {links:.0} links a second",
        name(engine)
    );
    println!(
        "bench: {} links={links:.0} increments_alone={alone:.0} increments={during:.0} ratio={ratio:.2}",
        name(engine)
    );
}

/// Links one account after the other. Returns how many a second.
async fn link(client: &UsageClient, duration: Duration) -> f64 {
    let mut ticks = tokio::time::interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let started = Instant::now();
    let mut links = 0_u64;
    while started.elapsed() < duration {
        ticks.tick().await;
        let free = PutAccount::free(account(links % ACCOUNTS));
        client.put_account(free).await.expect("a link");
        links += 1;
    }
    links as f64 / started.elapsed().as_secs_f64()
}
