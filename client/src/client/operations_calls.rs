//! The calls of the proto's `OperationsService`. All need a key without limits: a reader's, and an admin's for the switch-over.

use super::UsageClient;
use crate::{
    BillingSwitch, CompareShadow, Diagnosis, Error, ExportSignOff, ListRuns, RunPage, ShadowPage,
    SignOff, SignOffExport, proto,
    retry::{Repeatable, call_with_retry},
    wire,
};
use chrono::{DateTime, Utc};
use std::time::Duration;

/// A diagnosis takes up to 60 seconds.
const DOCTOR_TIMEOUT: Duration = Duration::from_secs(75);
/// The server asks Stripe for each customer and meter.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(75);
/// All usage of a month is read, perhaps after that of other callers.
const SIGN_OFF_TIMEOUT: Duration = Duration::from_secs(75);

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

    /// Shows whether a calendar month in UTC, such as `2026-10`, is closed, and its totals.
    ///
    /// The deadline is the client's, and at least 75 seconds: all usage of the month is read.
    pub async fn sign_off(&self, month: impl Into<String>) -> Result<SignOff, Error> {
        let request = proto::GetSignOffRequest {
            month: month.into(),
        };
        let response = self.unary_within(
            self.timeout.max(SIGN_OFF_TIMEOUT),
            &self.operations,
            Repeatable::Always,
            request,
            |mut operations, request| async move { operations.get_sign_off(request).await },
        );
        SignOff::from_wire(response.await?)
    }

    /// Exports a calendar month for finance, as CSV or JSON lines: the bytes of `usage-server export sign-off`.
    ///
    /// A month that is not closed is refused with [`MonthNotClosed`](crate::Reason::MonthNotClosed) when the first part is read,
    /// unless it is asked for as it is. The deadline, at least 75 seconds, applies until the export begins.
    pub async fn export_sign_off(&self, wanted: ExportSignOff) -> Result<SignOffExport, Error> {
        let message = wanted.into_wire();
        let timeout = self.timeout.max(SIGN_OFF_TIMEOUT);
        let attempt = |remaining| {
            let (mut operations, message) = (self.operations.clone(), message.clone());
            let opening = async move {
                let response = operations.export_sign_off(message).await?;
                Ok::<_, Error>(SignOffExport::open(response.into_inner()))
            };
            async move {
                let opened = tokio::time::timeout(remaining, opening).await;
                opened.map_err(|_elapsed| Error::deadline(timeout))?
            }
        };
        call_with_retry(self.retry, timeout, Repeatable::Always, attempt).await
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
