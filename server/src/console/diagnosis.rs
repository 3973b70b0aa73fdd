//! What `doctor` finds, for the pages that show it: kept for some time, because it asks Stripe and reads the sums of all usage,
//! and everyone who opens the console sees the first page.

use std::time::Duration;

use usage_proto::v1::{DoctorRequest, DoctorResponse};

use super::{
    calls::Failure,
    kept::{Ages, Found, Kept},
    visitor::Visitor,
};

const AGES: Ages = Ages {
    young: Duration::from_secs(15),
    shown: Duration::from_hours(1),
    wait: Duration::from_secs(5),
};

pub(super) struct Diagnosis(Kept<DoctorResponse>);

impl Default for Diagnosis {
    fn default() -> Self {
        Self(Kept::new(AGES))
    }
}

impl Diagnosis {
    /// What was found; none if it takes longer than a page waits. It goes on, and the next page shows it.
    ///
    /// # Errors
    /// The visitor may not see it, or it fails.
    pub(super) async fn read(
        &self,
        visitor: &Visitor,
    ) -> Result<Option<Found<DoctorResponse>>, Failure> {
        let calls = visitor.calls.clone();
        let asking = async move { calls.doctor(DoctorRequest {}).await };
        // As the call itself checks it.
        if visitor.caller.check_everything().is_err() {
            asking.await?;
            return Ok(None);
        }
        self.0.get(asking).await
    }
}
