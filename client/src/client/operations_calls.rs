//! The calls of the proto's `OperationsService`. All need the key of a reader without limits.

use super::UsageClient;
use crate::{Diagnosis, Error, ListRuns, RunPage, proto, retry::Repeatable};
use std::time::Duration;

/// A diagnosis takes up to 60 seconds.
const DOCTOR_TIMEOUT: Duration = Duration::from_secs(75);

impl UsageClient {
    /// Asks the server to examine itself, its database, the Stripe account and the schedule, with its own settings.
    ///
    /// The deadline is the client's, and at least 75 seconds: the server asks Stripe.
    pub async fn doctor(&self) -> Result<Diagnosis, Error> {
        let response = self.unary_within(
            self.timeout.max(DOCTOR_TIMEOUT),
            &self.operations,
            Repeatable::Always,
            proto::DoctorRequest {},
            |mut operations, request| async move { operations.doctor(request).await },
        );
        Ok(Diagnosis::from_wire(response.await?))
    }

    /// Lists one page of report runs, the latest first.
    pub async fn list_runs(&self, filter: ListRuns) -> Result<RunPage, Error> {
        let response = self.unary(
            &self.operations,
            Repeatable::Always,
            filter.into_wire()?,
            |mut operations, request| async move { operations.list_runs(request).await },
        );
        RunPage::from_wire(response.await?)
    }
}
