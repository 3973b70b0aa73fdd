//! Forced report runs: starting and watching them.

use crate::{Error, UsageReport, proto, wire::non_empty};
use proto::force_report_response::Event as Wire;
use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio_stream::Stream;
use tonic::Streaming;

/// Closes open reports and sends them to Stripe now, or watches a run that does.
///
/// ```
/// use usage_client::ForceReport;
///
/// let what_would_be_sent = ForceReport::all().dry_run();
/// let some = ForceReport::accounts(["acct_42", "acct_43"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is reported until it is sent"]
pub struct ForceReport(proto::ForceReportRequest);

impl ForceReport {
    /// All accounts.
    pub fn all() -> Self {
        Self(proto::ForceReportRequest {
            all: true,
            ..Default::default()
        })
    }

    /// These accounts, at most 1,000.
    pub fn accounts<A: Into<String>>(account_ids: impl IntoIterator<Item = A>) -> Self {
        Self(proto::ForceReportRequest {
            account_ids: account_ids.into_iter().map(Into::into).collect(),
            ..Default::default()
        })
    }

    /// Watches a run that was started before.
    pub fn watch(run_id: impl Into<String>) -> Self {
        Self(proto::ForceReportRequest {
            run_id: run_id.into(),
            ..Default::default()
        })
    }

    /// Only returns what would be sent; closes and sends nothing.
    pub fn dry_run(mut self) -> Self {
        self.0.dry_run = true;
        self
    }

    /// Why, at most 500 characters, for the audit.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.0.reason = reason.into();
        self
    }

    /// The id that the run gets, a UUID: one that is sent again watches the run that it started, and starts no other.
    pub fn key(mut self, id: impl Into<String>) -> Self {
        self.0.idempotency_key = id.into();
        self
    }

    pub(crate) fn into_wire(self) -> proto::ForceReportRequest {
        self.0
    }
}

/// An event of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReportEvent {
    /// The first event.
    Started {
        /// The run's id, with which it can be watched again; none for a dry run.
        run_id: Option<String>,
        /// Why reports that wait for a retry still wait, which a run otherwise sends too; none if they do not.
        not_retried: Option<String>,
    },
    /// Sent when the run has advanced, and from time to time.
    Progress(ReportProgress),
    /// Reports that a dry run would send; open ones would be closed first.
    Preview(Vec<UsageReport>),
    /// The last event.
    Summary(ReportSummary),
}

/// The progress of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReportProgress {
    /// The number of reports that the run has closed so far.
    pub closed: i64,
    /// How many of these are in a final state or wait for a retry.
    pub done: i64,
    /// Whether everything is closed: `closed` then no longer grows.
    pub closing_finished: bool,
    /// The number of reports in the same scope that earlier runs closed and that this run also waits for.
    pub in_earlier_runs: i64,
}

/// The number and the total of some reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReportCount {
    /// The number of reports.
    pub reports: i64,
    /// The sum of their quantities.
    pub quantity: i64,
}

/// The results of the reports that a run closed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReportSummary {
    /// The run's id; none for a dry run.
    pub run_id: Option<String>,
    /// All reports that it closed; in a dry run, that it would close.
    pub closed: ReportCount,
    /// Accepted by Stripe; in a dry run, what would be sent.
    pub accepted: ReportCount,
    /// Not billed: rejected, customer deleted, too late or written off.
    pub rejected: ReportCount,
    /// No final answer yet; the service continues to retry by itself.
    pub retried_later: ReportCount,
    /// Never billed.
    pub not_billable: ReportCount,
    /// Waiting because the account has no Stripe customer.
    pub no_customer: ReportCount,
}

/// The events of a run, as a stream that ends after the summary.
///
/// Dropping it does not stop the run. There is no deadline between two events; keep-alive detects a lost server.
#[derive(Debug)]
#[must_use = "the run continues by itself; read the events to learn its result"]
pub struct ReportRun {
    stream: Streaming<proto::ForceReportResponse>,
    first: Option<ReportEvent>,
    run_id: Option<String>,
    not_retried: Option<String>,
    finished: bool,
}

impl ReportRun {
    /// Waits for the first event, which contains the run's id.
    pub(crate) async fn open(
        mut stream: Streaming<proto::ForceReportResponse>,
    ) -> Result<Self, Error> {
        let message = stream.message().await?;
        let event = message.map(ReportEvent::from_wire).transpose()?.flatten();
        match event {
            Some(ReportEvent::Started {
                run_id,
                not_retried,
            }) => Ok(Self {
                stream,
                first: Some(ReportEvent::Started {
                    run_id: run_id.clone(),
                    not_retried: not_retried.clone(),
                }),
                run_id,
                not_retried,
                finished: false,
            }),
            Some(_) => Err(Error::malformed(
                "the first message does not contain the run's id",
            )),
            None => Err(Error::cut_off(
                "the stream ended before the run's id was received",
            )),
        }
    }

    /// The run's id, with which it can be watched again; none for a dry run.
    pub fn run_id(&self) -> Option<&str> {
        self.run_id.as_deref()
    }

    /// Why reports of its scope that wait for a retry still wait, which a run otherwise sends too; none if they do not. They are
    /// retried by themselves, or at once by the same call with the run's id as its [`key`](ForceReport::key).
    pub fn not_retried(&self) -> Option<&str> {
        self.not_retried.as_deref()
    }

    /// The next event; none after the summary.
    ///
    /// If the stream ends before the summary, this is an error. Watch the run again by its id.
    pub async fn next(&mut self) -> Result<Option<ReportEvent>, Error> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context))
            .await
            .transpose()
    }

    /// Watches the run until its end.
    pub async fn summary(mut self) -> Result<ReportSummary, Error> {
        while let Some(event) = self.next().await? {
            if let ReportEvent::Summary(summary) = event {
                return Ok(summary);
            }
        }
        Err(Error::malformed("the summary was already read"))
    }
}

impl Stream for ReportRun {
    type Item = Result<ReportEvent, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        while !this.finished {
            let event = match ready!(Pin::new(&mut this.stream).poll_next(context)) {
                Some(Ok(message)) => ReportEvent::from_wire(message),
                Some(Err(status)) => Err(status.into()),
                None => Err(Error::cut_off("the stream ended before the summary")),
            };
            this.finished = matches!(event, Err(_) | Ok(Some(ReportEvent::Summary(_))));
            // An event that this version does not know is skipped.
            if let Some(event) = event.transpose() {
                return Poll::Ready(Some(event));
            }
        }
        Poll::Ready(None)
    }
}

impl ReportEvent {
    fn from_wire(message: proto::ForceReportResponse) -> Result<Option<Self>, Error> {
        Ok(match message.event {
            Some(Wire::Started(started)) => Some(Self::Started {
                run_id: non_empty(started.run_id),
                not_retried: non_empty(started.not_retried),
            }),
            Some(Wire::Progress(progress)) => Some(Self::Progress(ReportProgress {
                closed: progress.closed,
                done: progress.done,
                closing_finished: progress.closing_finished,
                in_earlier_runs: progress.in_earlier_runs,
            })),
            Some(Wire::Preview(preview)) => {
                Some(Self::Preview(UsageReport::all_from_wire(preview.reports)?))
            }
            Some(Wire::Summary(summary)) => Some(Self::Summary(ReportSummary {
                run_id: non_empty(summary.run_id),
                closed: summary.closed.into(),
                accepted: summary.accepted.into(),
                rejected: summary.rejected.into(),
                retried_later: summary.retried_later.into(),
                not_billable: summary.not_billable.into(),
                no_customer: summary.no_customer.into(),
            })),
            None => None,
        })
    }
}

impl From<Option<proto::ReportCount>> for ReportCount {
    fn from(count: Option<proto::ReportCount>) -> Self {
        let count = count.unwrap_or_default();
        Self {
            reports: count.reports,
            quantity: count.quantity,
        }
    }
}
