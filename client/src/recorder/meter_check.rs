//! Asks the server, when a recorder starts, whether it counts the meters of the program. Recording does not wait for it.

use crate::{Error, ErrorKind, UsageClient};
use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// The pause before the server is asked again, if it did not answer.
const MIN_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// What is called if a meter is not counted.
#[derive(Clone, Default)]
pub(super) struct OnWrongMeters(Option<Arc<dyn Fn(Error) + Send + Sync>>);

impl fmt::Debug for OnWrongMeters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Some" } else { "None" })
    }
}

impl OnWrongMeters {
    pub(super) fn new(tell: impl Fn(Error) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    /// Tells it. A panic of the program's code stops nothing here.
    fn tell(&self, error: Error) {
        let Some(tell) = &self.0 else { return };
        if catch_unwind(AssertUnwindSafe(|| tell(error))).is_err() {
            tracing::error!("the code that is called with wrong meters panicked");
        }
    }
}

/// Asks until there is an answer, or until the recorder is gone.
pub(super) async fn run(
    client: UsageClient,
    meters: Vec<String>,
    wrong: OnWrongMeters,
    gone: CancellationToken,
) {
    let mut pause = MIN_BACKOFF;
    let asking = async {
        while let Err(error) = client.check_meters(&meters).await {
            if error.kind() == ErrorKind::Invalid {
                tracing::error!(%error, "usage of this program will be rejected");
                return wrong.tell(error);
            }
            if !may_be_answered_later(&error) {
                tracing::error!(%error, "the server does not say which meters it counts");
                return;
            }
            if pause == MIN_BACKOFF {
                tracing::warn!(%error, "the meters of this program are not checked yet; the server is asked again");
            }
            let asked = error.retry_after().unwrap_or_default().min(MAX_BACKOFF);
            tokio::time::sleep(pause.max(asked)).await;
            pause = pause.saturating_mul(2).min(MAX_BACKOFF);
        }
    };
    tokio::select! {
        () = asking => {}
        () = gone.cancelled() => {}
    }
}

/// Also with a key that is not valid yet: a proxy or a restored database can refuse it for a time.
fn may_be_answered_later(error: &Error) -> bool {
    error.is_retryable()
        || matches!(
            error.kind(),
            ErrorKind::Unauthenticated | ErrorKind::PermissionDenied
        )
}
