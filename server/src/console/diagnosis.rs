//! What `doctor` finds, for the first page: remembered for some seconds, because it asks Stripe, and everyone who opens the
//! console sees the first page.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use usage_proto::v1::{DoctorRequest, DoctorResponse};

use super::{calls::Failure, visitor::Visitor};

/// How long it is shown again.
const YOUNG: Duration = Duration::from_secs(15);
/// How long the first page waits for it.
const WAIT_LIMIT: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Diagnosis(Mutex<Option<(Instant, DoctorResponse)>>);

impl Diagnosis {
    /// What was found; none if it takes longer than a page waits. It goes on, and the next page shows it.
    ///
    /// # Errors
    /// The visitor may not see it, or it fails.
    pub(super) async fn read(
        self: &Arc<Self>,
        visitor: &Visitor,
    ) -> Result<Option<DoctorResponse>, Failure> {
        // As the call itself checks it.
        let may_see = visitor.caller.check_everything().is_ok();
        if may_see && let Some(young) = self.young() {
            return Ok(Some(young));
        }
        let (diagnosis, calls) = (Arc::clone(self), visitor.calls.clone());
        let asking = tokio::spawn(async move {
            let found = calls.doctor(DoctorRequest {}).await?;
            *diagnosis.lock() = Some((Instant::now(), found.clone()));
            Ok(found)
        });
        match tokio::time::timeout(WAIT_LIMIT, asking).await {
            Ok(Ok(found)) => found.map(Some),
            // It panicked, which is in the log, or takes long.
            Ok(Err(_)) | Err(_) => Ok(None),
        }
    }

    fn young(&self) -> Option<DoctorResponse> {
        let kept = self.lock();
        let (at, found) = kept.as_ref()?;
        (at.elapsed() < YOUNG).then(|| found.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Instant, DoctorResponse)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
