//! Whether the service can count: what `/health/ready`, the gRPC health service and the doctor answer.

use std::time::Duration;

use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::{error::Result, ingest::Progress, store::Store};

/// How long a commit may fail while calls wait for it.
const STALLED_AFTER: Duration = Duration::from_secs(15);
/// How long the database may take to write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one answer is repeated, because each costs a write.
const ANSWER_KEPT: Duration = Duration::from_secs(2);

/// Checks the database and the writers.
#[derive(Debug)]
pub(crate) struct Readiness {
    store: Store,
    progress: Progress,
    last: Mutex<Option<(Instant, Answer)>>,
}

/// Why the service is not ready, in words for an operator.
pub(crate) type Answer = std::result::Result<(), &'static str>;

impl Readiness {
    pub(crate) fn new(store: Store, progress: Progress) -> Self {
        Self {
            store,
            progress,
            last: Mutex::default(),
        }
    }

    /// The increments that are queued or being committed.
    pub(crate) fn waiting_increments(&self) -> usize {
        self.progress.waiting_increments()
    }

    /// Whether the service can count now, or could less than two seconds ago.
    pub(crate) async fn check(&self) -> Answer {
        let mut last = self.last.lock().await;
        if let Some((at, answer)) = *last
            && at.elapsed() < ANSWER_KEPT
        {
            return answer;
        }
        let (answer, cause) = match self.ask().await {
            Ok(()) => (Ok(()), None),
            Err((why, cause)) => (Err(why), cause),
        };
        // Each change is logged once, however often it is asked for.
        let before = last.map(|(_, answer)| answer);
        match answer {
            Err(why) if before != Some(answer) => tracing::warn!(why, cause, "not ready"),
            Ok(()) if matches!(before, Some(Err(_))) => tracing::info!("ready again"),
            _ => {}
        }
        *last = Some((Instant::now(), answer));
        answer
    }

    /// Why the service is not ready, and what lies behind it.
    async fn ask(&self) -> Result<(), (&'static str, Option<String>)> {
        if self.progress.stalled_for() > STALLED_AFTER {
            let why = "nothing was committed for 15 seconds while calls wait";
            return Err((why, None));
        }
        can_write(self.store.check_write()).await
    }
}

/// Whether a write succeeds in time: the rule of `/health/ready` and of the doctor. If not, why, and what lies behind it.
pub(crate) async fn can_write(
    write: impl Future<Output = Result<()>>,
) -> Result<(), (&'static str, Option<String>)> {
    match timeout(WRITE_TIMEOUT, write).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(("the database cannot be written", Some(error.cause()))),
        Err(_) => Err(("the database did not respond in time", None)),
    }
}
