//! The calls of the proto's `OperationsService`. All need a key without limits: a reader's, and an admin's for the switch-over.

use super::UsageClient;
use crate::{
    BillingSwitch, CompareShadow, Diagnosis, Error, ListRuns, RunPage, ShadowPage, proto,
    retry::Repeatable, wire,
};
use chrono::{DateTime, Utc};
use std::time::Duration;

/// A diagnosis takes up to 60 seconds.
const DOCTOR_TIMEOUT: Duration = Duration::from_secs(75);
/// The server asks Stripe for each customer and meter.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(75);

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

    /// Compares what was counted with Stripe's totals, by customer, meter and day: one page of customers. For shadow mode.
    ///
    /// The deadline is the client's, and at least 75 seconds: the server asks Stripe.
    pub async fn compare_shadow(&self, question: CompareShadow) -> Result<ShadowPage, Error> {
        let response = self.unary_within(
            self.timeout.max(COMPARE_TIMEOUT),
            &self.operations,
            Repeatable::Always,
            question.into_wire()?,
            |mut operations, request| async move { operations.compare_shadow(request).await },
        );
        ShadowPage::from_wire(response.await?)
    }

    /// Names the moment from which on the service bills, after it ran in shadow mode: a full hour of UTC, at least ten
    /// minutes ahead. Needs an admin's key. A repetition changes nothing.
    pub async fn switch_billing(
        &self,
        bill_from: DateTime<Utc>,
        requested_by: impl Into<String>,
    ) -> Result<BillingSwitch, Error> {
        let request = proto::SwitchBillingRequest {
            bill_from: wire::optional_time_to_wire(Some(bill_from), "bill_from")?,
            requested_by: requested_by.into(),
        };
        let response = self.unary(
            &self.operations,
            Repeatable::Always,
            request,
            |mut operations, request| async move { operations.switch_billing(request).await },
        );
        BillingSwitch::from_wire(response.await?)
    }
}
