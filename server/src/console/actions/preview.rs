//! What `ForceReport` streams, as far as a page needs it: the id of a run that begins, what a dry run would send, and how far a
//! run is.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, timeout_at};
use usage_proto::v1::{
    ForceReportRequest, ForceReportResponse, ReportRunProgress, ReportRunSummary, UsageReportState,
    force_report_response::Event,
};

use crate::{
    console::calls::{Calls, Failure, Messages},
    error::Error,
};

/// Reports of a dry run that a page reads.
pub(super) const MAX_PREVIEWED: usize = 100_000;
/// How long it reads them.
const PREVIEW_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a run takes to begin, or to be looked at.
const EVENT_TIMEOUT: Duration = Duration::from_secs(20);

/// What would be sent of a meter.
#[derive(Debug, Default)]
pub(super) struct OfMeter {
    pub(super) reports: i64,
    /// Those of them that would be closed first.
    pub(super) open: i64,
    pub(super) quantity: i64,
}

/// What a run would do.
#[derive(Debug, Default)]
pub(super) struct Preview {
    pub(super) by_meter: BTreeMap<String, OfMeter>,
    /// Absent if it is cut.
    pub(super) summary: Option<ReportRunSummary>,
    /// Whether there is more.
    pub(super) is_cut: bool,
}

/// How far a run is.
pub(super) enum Seen {
    Progress(ReportRunProgress),
    Summary(ReportRunSummary),
}

async fn next(
    events: &mut Messages<ForceReportResponse>,
    until: Instant,
) -> Result<Option<Event>, Failure> {
    let late = |_| Failure::from(Error::DeadlineExceeded);
    let message = timeout_at(until, events.next()).await.map_err(late)?;
    Ok(message?.and_then(|message| message.event))
}

/// The messages of a call that answers in time.
async fn called(
    calls: &Calls,
    request: ForceReportRequest,
    until: Instant,
) -> Result<Messages<ForceReportResponse>, Failure> {
    let late = |_| Failure::from(Error::DeadlineExceeded);
    timeout_at(until, calls.force_report(request))
        .await
        .map_err(late)?
}

/// A run that was begun.
pub(super) struct Begun {
    pub(super) run_id: String,
    /// Whether reports that wait for a retry still wait.
    pub(super) is_waiting: bool,
}

/// Begins a run, which goes on without its watcher.
pub(super) async fn begin(calls: &Calls, request: ForceReportRequest) -> Result<Begun, Failure> {
    let until = deadline(EVENT_TIMEOUT);
    let mut events = called(calls, request, until).await?;
    match next(&mut events, until).await? {
        Some(Event::Started(started)) => Ok(Begun {
            run_id: started.run_id,
            is_waiting: !started.not_retried.is_empty(),
        }),
        _ => Err(Error::Internal("a run without a first message".into()).into()),
    }
}

/// What a run would do.
pub(super) async fn read(calls: &Calls, request: ForceReportRequest) -> Result<Preview, Failure> {
    let request = ForceReportRequest {
        dry_run: true,
        ..request
    };
    let until = deadline(PREVIEW_TIMEOUT);
    let mut events = called(calls, request, until).await?;
    let (mut preview, mut read) = (Preview::default(), 0_usize);
    loop {
        let event = match timeout_at(until, events.next()).await {
            Ok(message) => message?.and_then(|message| message.event),
            Err(_) => None,
        };
        let reports = match event {
            Some(Event::Preview(part)) => part.reports,
            Some(Event::Summary(summary)) => {
                preview.summary = Some(summary);
                return Ok(preview);
            }
            Some(Event::Started(_) | Event::Progress(_)) => continue,
            None => Vec::new(),
        };
        read = read.saturating_add(reports.len());
        preview.is_cut = reports.is_empty() || read >= MAX_PREVIEWED;
        for report in reports {
            let is_open = report.state() == UsageReportState::Open;
            let of = preview.by_meter.entry(report.meter).or_default();
            of.reports = of.reports.saturating_add(1);
            of.open = of.open.saturating_add(i64::from(is_open));
            of.quantity = of.quantity.saturating_add(report.quantity);
        }
        if preview.is_cut {
            return Ok(preview);
        }
    }
}

/// How far a run is now, as the database has it.
pub(super) async fn watch(calls: &Calls, run: &str) -> Result<Seen, Failure> {
    let request = ForceReportRequest {
        run_id: run.to_owned(),
        ..ForceReportRequest::default()
    };
    let until = deadline(EVENT_TIMEOUT);
    let mut events = called(calls, request, until).await?;
    loop {
        match next(&mut events, until).await? {
            Some(Event::Progress(progress)) => return Ok(Seen::Progress(progress)),
            Some(Event::Summary(summary)) => return Ok(Seen::Summary(summary)),
            Some(Event::Started(_) | Event::Preview(_)) => {}
            None => return Err(Error::Internal("a run without progress".into()).into()),
        }
    }
}

fn deadline(after: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(after).unwrap_or(now)
}
