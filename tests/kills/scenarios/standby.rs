//! A standby takes over from a primary that crashes under load, behind an address that moves with it.

use futures_util::{StreamExt as _, stream};
use usage_client::UsageClient;

use crate::{
    callers::{Call, Calls},
    load::{Beside, Load},
    own_cluster::own_cluster,
    postgres::{Cluster, Durability},
    process::Process,
    relay::Relay,
    run::{Run, Told},
    service::Service,
    wait_until, within,
};

/// Acknowledged on each side of a failover.
const UNITS: i64 = 150;
/// The calls that are repeated at a time.
const REPEATED: usize = 64;

/// A primary, its standby, and the service on the one that the relay leads to.
struct Pair {
    primary: Cluster,
    standby: Cluster,
    relay: Relay,
    service: Service,
}

impl Pair {
    /// None where PostgreSQL is not installed.
    async fn start() -> Option<Self> {
        let primary = own_cluster(Durability::On)?;
        let url = primary.create_database().unwrap();
        let standby = primary.standby().expect("a standby");
        let relay = Relay::start(primary.address()).await;
        // The standby does not wait for its disk, and is not killed.
        let service = Service::new(relay.url(&url)).await.on_insecure_database();
        Some(Self {
            primary,
            standby,
            relay,
            service,
        })
    }

    /// The primary ends, and the standby takes its place.
    fn fail_over(&self, run: &Run) {
        self.primary.crash().expect("a crash");
        run.has_killed();
        self.standby.promote().expect("a promotion");
        self.relay.switch_to(self.standby.address());
    }
}

/// Nothing acknowledged is lost.
pub(crate) async fn synchronous(run: &Run) -> Told {
    let mut told = String::new();
    for _ in 0..run.times() {
        let pair = Pair::start().await?;
        pair.primary.make_synchronous().expect("a setting");
        let is_synchronous = || async { pair.primary.is_synchronous() };
        wait_until("a synchronous standby", is_synchronous).await;
        let server = pair.service.serve_first().await;
        let load = Load::start(&[&server], Beside::ReadsAndRuns);
        load.wait_for_more(UNITS).await;
        pair.fail_over(run);
        load.wait_for_more(UNITS).await;
        let (calls, of_pair) = load.stop().await;
        pair.service.check(&server, &calls).await;
        told = of_pair;
    }
    Some(told)
}

/// What the standby had not received is lost, and counted again only because callers repeat it. Its connection to the
/// primary ends some time before the primary does, as in a network that fails.
pub(crate) async fn asynchronous(run: &Run) -> Told {
    let mut told = Vec::new();
    for _ in 0..run.times() {
        let pair = Pair::start().await?;
        let server = pair.service.serve_first().await;
        // Reads and reports know of units that are lost afterwards.
        let load = Load::start(&[&server], Beside::Nothing);
        load.wait_for_more(UNITS).await;
        pair.standby.stop_following().expect("a setting");
        load.wait_for_more(UNITS).await;
        pair.fail_over(run);
        load.wait_for_more(UNITS).await;
        let (calls, _) = load.stop().await;
        let lost = lost_of(&calls, &server).await;
        calls.repeat(&server, "after repeats").await;
        let acknowledged = calls.acknowledged.len();
        told.push(format!("{lost} of {acknowledged} units were lost"));
    }
    Some(told.join(", "))
}

/// Repeats all calls. Those that count are those that were lost.
async fn lost_of(calls: &Calls, server: &Process) -> usize {
    let client = server.client();
    let all = calls.acknowledged.iter();
    let repeats = all.map(|call| is_duplicate(call, &client));
    let mut repeated = stream::iter(repeats).buffer_unordered(REPEATED);
    let mut lost = 0;
    while let Some(is_duplicate) = repeated.next().await {
        lost += usize::from(!is_duplicate);
    }
    lost
}

async fn is_duplicate(call: &Call, client: &UsageClient) -> bool {
    let repeated = within("a repeated call", call.send(client)).await;
    repeated.unwrap()
}
