//! An explained invoice as a file, of any length: it is read page by page while it is downloaded, and is never in memory as a
//! whole.
//!
//! Each page is a call by itself, which takes a turn among all explanations. If one fails in the end, the download is broken
//! off, so that a part is not taken for the whole.

use std::{future::ready, io, time::Duration};

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::stream::{self, StreamExt as _};
use tokio::time::{Instant, sleep, timeout_at};
use usage_proto::v1::{ExplainInvoiceRequest, ExplainInvoiceResponse};

use super::{
    calls::{Calls, Failure},
    explained_csv::ExplainedCsv,
    invoice,
    query::Query,
    visitor::Visitor,
};
use crate::error::Error;

/// Increments of one call, or reports if there are none.
const PAGE_SIZE: i32 = 1_000;
/// How long one page may take, with all attempts. Each call has a shorter deadline.
const PAGE_TIMEOUT: Duration = Duration::from_mins(1);
/// How long all pages may take. It is longer than for any invoice: a million rows take a few minutes.
const TIMEOUT: Duration = Duration::from_mins(30);
/// After which time a page that failed is read again, if the failure does not say it.
const RETRY_AFTER_SECS: u64 = 1;

/// Whether the address asks for it.
pub(super) fn is_wanted(query: &Query) -> bool {
    query.get("as") == "csv"
}

/// The answer, once its first page is read.
///
/// # Errors
/// The first call fails.
pub(super) async fn answer(visitor: &Visitor) -> Result<Response, Failure> {
    let request = invoice::request(&visitor.query)?;
    let request =
        request.ok_or_else(|| Failure::invalid("the address has no account and no invoice"))?;
    let mut download = Download::new(visitor.calls.clone(), request);
    // Whoever asks can ask again: nothing is repeated before there is an answer.
    let first = visitor.calls.explain_invoice(download.request.clone());
    let first = first.await?;
    let first = download.add(&first)?;
    let rest = stream::try_unfold(download, async |mut download: Download| {
        let part = download.next().await.inspect_err(|failure| {
            tracing::warn!(
                reason = failure.reason,
                error = failure.message,
                "the download of an invoice was broken off"
            );
        });
        let part = part.map_err(|failure| io::Error::other(failure.message));
        part.map(|part| part.map(|part| (part, download)))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"invoice.csv\"",
        ),
    ];
    let body = stream::once(ready(Ok(first))).chain(rest);
    Ok((headers, Body::from_stream(body)).into_response())
}

/// A file of which a part was read.
struct Download {
    calls: Calls,
    /// For the next page.
    request: ExplainInvoiceRequest,
    csv: ExplainedCsv,
    until: Instant,
    has_ended: bool,
}

impl Download {
    fn new(calls: Calls, request: ExplainInvoiceRequest) -> Self {
        Self {
            calls,
            csv: ExplainedCsv::new(!request.without_increments),
            request: ExplainInvoiceRequest {
                page_size: PAGE_SIZE,
                ..request
            },
            until: after(TIMEOUT),
            has_ended: false,
        }
    }

    /// The text of the next page; none after the last.
    async fn next(&mut self) -> Result<Option<String>, Failure> {
        if self.has_ended {
            return Ok(None);
        }
        let page = self.read().await?;
        self.add(&page).map(Some)
    }

    /// The text of a page that was read.
    fn add(&mut self, page: &ExplainInvoiceResponse) -> Result<String, Failure> {
        let token = page.next_page_token.clone();
        self.has_ended = token.is_empty();
        // It would be read forever.
        if !self.has_ended && token == self.request.page_token {
            let why = "a page of an explanation leads to itself";
            return Err(Error::Internal(why.into()).into());
        }
        self.request.page_token = token;
        self.csv.add_page(&page.lines);
        Ok(self.csv.take())
    }

    /// Reads the next page, again if the service had no room for it.
    async fn read(&self) -> Result<ExplainInvoiceResponse, Failure> {
        let until = after(PAGE_TIMEOUT).min(self.until);
        loop {
            let page = self.calls.explain_invoice(self.request.clone());
            let page = timeout_at(until, page).await;
            let page = page.map_err(|_| Failure::from(Error::DeadlineExceeded))?;
            let failure = match page {
                Err(failure) if may_pass(&failure) => failure,
                page => return page,
            };
            let pause = failure.retry_after_secs.unwrap_or(RETRY_AFTER_SECS);
            let pause = Duration::from_secs(pause);
            if after(pause) >= until {
                return Err(failure);
            }
            sleep(pause).await;
        }
    }
}

/// Whether the same call may succeed later.
fn may_pass(failure: &Failure) -> bool {
    let passing = [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::SERVICE_UNAVAILABLE,
    ];
    passing.contains(&failure.status)
}

fn after(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).unwrap_or(now)
}
