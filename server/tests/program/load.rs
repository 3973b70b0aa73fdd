//! Callers that count until the server ends, and what they know then.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use tokio::task::JoinSet;
use usage_client::{Increment, Retry};

use crate::process::{Process, wait_until, within};

const CALLERS: usize = 16;

/// Asks a process to end.
pub(crate) fn terminate(process: &Process) {
    let id = process.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &id]).status();
    assert!(sent.expect("kill").success());
}

/// Callers that count until the server ends.
pub(crate) struct Load {
    acknowledged: Arc<AtomicI64>,
    callers: JoinSet<Increment>,
}

impl Load {
    /// Counts for the account `acct`. The name begins the keys of its increments.
    pub(crate) fn start(process: &Process, name: &'static str) -> Self {
        let acknowledged = Arc::<AtomicI64>::default();
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let (client, acknowledged) = (process.client(), Arc::clone(&acknowledged));
            callers.spawn(async move {
                let mut nth = 0_u64;
                loop {
                    nth += 1;
                    let increment = Increment::new("acct").key(format!("{name}-{caller}-{nth}"));
                    if client.increment(increment.clone()).await.is_err() {
                        return increment;
                    }
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self {
            acknowledged,
            callers,
        }
    }

    pub(crate) async fn wait_for(&self, units: i64) {
        wait_until("acknowledged units", || async {
            self.acknowledged.load(Ordering::Relaxed) >= units
        })
        .await;
    }

    /// Waits for the ends of all callers. Returns the acknowledged units, and the increments that were not acknowledged.
    pub(crate) async fn ended(mut self) -> (i64, Vec<Increment>) {
        let mut unanswered = Vec::new();
        while let Some(caller) = within("the callers", self.callers.join_next()).await {
            unanswered.push(caller.unwrap());
        }
        (self.acknowledged.load(Ordering::Relaxed), unanswered)
    }
}

/// Repeats what was not acknowledged, and compares all that is counted.
pub(crate) async fn assert_counted(process: &Process, load: Load) {
    let (acknowledged, unanswered) = load.ended().await;
    assert!(
        process.total("acct").await >= acknowledged,
        "a unit is lost"
    );
    let repeated = i64::try_from(unanswered.len()).unwrap();
    let client = process.client().with_retry(Retry::default());
    for increment in unanswered {
        client.increment(increment).await.unwrap();
    }
    assert_eq!(process.total("acct").await, acknowledged + repeated);
}
