//! The kinds of `usage-server export` that are rows of a table: page after page of them.

use std::{collections::HashSet, io::Write};

use super::{ExportError, Selection};
use crate::{
    domain::{account_id::AccountId, audit::EntryFilter, report::State},
    record::{Record, RecordWriter},
    store::{Store, report_filter::ReportFilter},
};

/// Rows that are read at once: memory is bounded by them.
const PAGE: u64 = 1_000;

pub(super) async fn audit<W: Write>(
    store: &Store,
    selection: &Selection,
    writer: &mut RecordWriter<W>,
) -> Result<(), ExportError> {
    let filter = EntryFilter {
        from: selection.from,
        until: selection.until,
        account_id: selection.account.as_ref().map(ToString::to_string),
        ..EntryFilter::default()
    };
    let mut after = None;
    loop {
        let page = store.list_audit_entries(&filter, after, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some((last.at, last.id));
        for entry in &page {
            writer.write(&Record::from(entry))?;
        }
    }
}

pub(super) async fn runs<W: Write>(
    store: &Store,
    selection: &Selection,
    writer: &mut RecordWriter<W>,
) -> Result<(), ExportError> {
    let mut after = None;
    loop {
        let page = store.runs_after(after, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(last.id);
        for run in page.iter().filter(|run| selection.includes(run.started_at)) {
            writer.write(&Record::from(run))?;
        }
    }
}

pub(super) async fn decisions<W: Write>(
    store: &Store,
    selection: &Selection,
    writer: &mut RecordWriter<W>,
) -> Result<(), ExportError> {
    let mut after: Option<(AccountId, uuid::Uuid)> = None;
    loop {
        let place = after.as_ref().map(|(account, id)| (account, *id));
        let page = store.list_decisions(place, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some((last.account_id.clone(), last.id));
        let selected = page.iter().filter(|one| {
            selection.is_of_account(one) && selection.includes(one.decision.decided_at)
        });
        for decision in selected {
            writer.write(&Record::from(decision))?;
        }
    }
}

pub(super) async fn reports<W: Write>(
    store: &Store,
    selection: &Selection,
    writer: &mut RecordWriter<W>,
) -> Result<(), ExportError> {
    let filter = ReportFilter {
        account_id: selection.account.clone(),
        ..ReportFilter::default()
    };
    let mut after = None;
    // The open ones come first. One that is closed meanwhile is listed again then. An id has 16 bytes, and there are as many
    // as accounts and meters in use at once.
    let mut open = HashSet::new();
    loop {
        let page = store.list_reports(&filter, after.as_ref(), PAGE).await?;
        let last = page.reports.last().map(|last| last.place.clone());
        after = page.read_to.or(last);
        if after.is_none() {
            return Ok(());
        }
        let reports = page.reports.iter().map(|listed| &listed.report);
        for report in reports.filter(|report| selection.includes(report.window_start)) {
            if report.state == State::Open {
                open.insert(report.id);
            } else if open.contains(&report.id) {
                continue;
            }
            writer.write(&Record::from(report))?;
        }
    }
}
