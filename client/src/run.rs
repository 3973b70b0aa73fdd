//! Forced reporting: which usage is closed and sent now, and following the run that does it.

use crate::{Error, UsageReport, proto, wire::non_empty};
use proto::force_report_response::Event as Wire;
use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio_stream::Stream;
use tonic::Streaming;

/// Closes what counts and sends it to Stripe now, or watches a run that does.
///
/// ```
/// use usage_client::ForceReport;
///
/// let what_would_be_sent = ForceReport::all().dry_run();
/// let some = ForceReport::accounts(["acct_42", "acct_43"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is reported before it is sent"]
pub struct ForceReport(proto::ForceReportRequest);

impl ForceReport {
    /// Every account.
    pub fn all() -> Self {
        Self(proto::ForceReportRequest {
            all: true,
            ..Default::default()
        })
    }

    /// These accounts: at most 1,000.
    pub fn accounts<A: Into<String>>(account_ids: impl IntoIterator<Item = A>) -> Self {
        Self(proto::ForceReportRequest {
            account_ids: account_ids.into_iter().map(Into::into).collect(),
            ..Default::default()
        })
    }

    /// Starts nothing, and follows a run that was started before.
    pub fn watch(run_id: impl Into<String>) -> Self {
        Self(proto::ForceReportRequest {
            run_id: run_id.into(),
            ..Default::default()
        })
    }

    /// Closes and sends nothing: only answers what would be sent.
    pub fn dry_run(mut self) -> Self {
        self.0.dry_run = true;
        self
    }

    pub(crate) fn into_wire(self) -> proto::ForceReportRequest {
        self.0
    }
}

/// What happens in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReportEvent {
    /// The first event.
    Started {
        /// Watch the run again by this id; none for a dry run.
        run_id: Option<String>,
    },
    /// Some time has passed or something has changed.
    Progress(ReportProgress),
    /// What a dry run would send; the ones that are open would be closed first.
    Preview(Vec<UsageReport>),
    /// The last event.
    Summary(ReportSummary),
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReportProgress {
    /// Reports closed so far.
    pub closed: i64,
    /// Of these, the ones that have reached an end or wait for a retry.
    pub done: i64,
    /// All usage is closed: `closed` grows no further.
    pub closing_finished: bool,
    /// Reports that earlier runs closed in the same scope and that this run waits for as well.
    pub in_earlier_runs: i64,
}

/// Number and total of some reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReportCount {
    /// How many reports.
    pub reports: i64,
    /// The sum of their quantities.
    pub quantity: i64,
}

/// What became of the reports that a run closed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReportSummary {
    /// The run; none for a dry run.
    pub run_id: Option<String>,
    /// Everything it closed; in a dry run, what it would close.
    pub closed: ReportCount,
    /// Stripe has it; in a dry run, what would be sent.
    pub accepted: ReportCount,
    /// Stripe refused it, or its customer is gone, or it is too old.
    pub rejected: ReportCount,
    /// No final answer yet; the service goes on trying by itself.
    pub retried_later: ReportCount,
    /// Never billed.
    pub not_billable: ReportCount,
    /// Waits for its account to be linked.
    pub unlinked: ReportCount,
}

/// A run that is being followed: a stream of events that ends after the summary.
///
/// Dropping it stops the following, not the run. No deadline holds between two events; keep-alive
/// notices a server that is gone.
#[derive(Debug)]
#[must_use = "the run goes on by itself; its outcome is known only to those who follow it"]
pub struct ReportRun {
    stream: Streaming<proto::ForceReportResponse>,
    first: Option<ReportEvent>,
    run_id: Option<String>,
    finished: bool,
}

impl ReportRun {
    /// Waits for the first event, which names the run.
    pub(crate) async fn open(
        mut stream: Streaming<proto::ForceReportResponse>,
    ) -> Result<Self, Error> {
        let message = stream.message().await?;
        let event = message.map(ReportEvent::from_wire).transpose()?.flatten();
        match event {
            Some(ReportEvent::Started { run_id }) => Ok(Self {
                stream,
                first: Some(ReportEvent::Started {
                    run_id: run_id.clone(),
                }),
                run_id,
                finished: false,
            }),
            Some(_) => Err(Error::malformed("the first message does not name the run")),
            None => Err(Error::cut_off("the stream ended before it named the run")),
        }
    }

    /// The id to watch the run by again; none for a dry run.
    pub fn run_id(&self) -> Option<&str> {
        self.run_id.as_deref()
    }

    /// The next event; none after the summary.
    ///
    /// A stream that breaks off before the summary is an error: watch the run again by its id.
    pub async fn next(&mut self) -> Result<Option<ReportEvent>, Error> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context))
            .await
            .transpose()
    }

    /// Follows the run to its end.
    pub async fn summary(mut self) -> Result<ReportSummary, Error> {
        while let Some(event) = self.next().await? {
            if let ReportEvent::Summary(summary) = event {
                return Ok(summary);
            }
        }
        Err(Error::malformed("the summary was taken before"))
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
                None => Err(Error::cut_off("the stream ended before its summary")),
            };
            this.finished = matches!(event, Err(_) | Ok(Some(ReportEvent::Summary(_))));
            // An event that this version does not know is passed over.
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
                unlinked: summary.unlinked.into(),
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
