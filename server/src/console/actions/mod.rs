//! What admins do in the console: resolve a report, correct usage, force reports.
//!
//! Each has a form, a page that says what would happen, and a button there that does it, by the same calls as gRPC: rights,
//! limits, audit and errors are those of calls. After it, another page shows what was done, so that loading it again does
//! nothing.

mod correct;
mod fields;
mod force;
mod gate;
mod links;
mod preview;
mod resolve;
mod run;

use std::sync::Arc;

use axum::{
    body::Body,
    http::{StatusCode, request::Parts},
    response::{IntoResponse as _, Response},
};
use usage_proto::v1::{CorrectRequest, ForceReportRequest, ResolveReportRequest};

use self::{
    fields::Form,
    gate::{Refusal, check_form, read_only},
};
pub(super) use self::{
    links::{account_part, recorded, report_part, runs_part},
    run::refresh_after,
};
use super::{
    Console, Place,
    calls::Failure,
    layout::{self, Page},
    origin,
    query::Query,
    see_other,
    sign_in::{foreign_form, read_form},
    unidentified,
    visitor::Visitor,
};
use crate::{
    domain::{access::Requirement, http_paths::HttpPath},
    error::Error,
};

/// The largest form that names one account: a reason, with each byte escaped.
const MAX_FORM_BYTES: usize = 64 * 1024;
/// The same with a list of 1,000 accounts.
const MAX_LIST_FORM_BYTES: usize = 512 * 1024;

/// What a form leads to.
enum Outcome {
    /// A page, which changed nothing.
    Page(StatusCode, Page),
    /// It is done, and this page shows it.
    Done(String),
}

/// The page of a form, or of the progress of a run.
///
/// # Errors
/// The visitor may not act, or what the address names cannot be shown.
pub(super) async fn page(path: HttpPath, visitor: &Visitor) -> Result<Page, Failure> {
    if path == HttpPath::ConsoleRun {
        return run::page(visitor).await;
    }
    if !visitor.may_change {
        return Err(read_only());
    }
    let none = Query::default();
    let form = Form::new(visitor, &none);
    match path {
        HttpPath::ConsoleResolve => resolve::form(&form, None).await,
        HttpPath::ConsoleCorrect => correct::form(&form, None).await,
        _ => Ok(force::form(&form, None)),
    }
}

impl Console {
    /// The answer to a form that acts.
    pub(super) async fn act(
        &self,
        path: HttpPath,
        requirement: Requirement,
        place: Place,
        head: &Parts,
        body: Body,
    ) -> Response {
        if !origin::is_own_form(head) {
            let made = async { layout::failure(None, &foreign_form()) };
            return self.bounded(None, head, made).await;
        }
        match self.identify(place, head).await {
            Ok(visitor) => {
                let caller = Arc::clone(&visitor.caller);
                let made = Box::pin(acted(path, requirement, visitor, head, body));
                self.bounded(Some(&caller), head, made).await
            }
            Err(error) => {
                let made = async { unidentified(head, error) };
                self.bounded(None, head, made).await
            }
        }
    }
}

async fn acted(
    path: HttpPath,
    requirement: Requirement,
    visitor: Visitor,
    head: &Parts,
    body: Body,
) -> Response {
    let max_bytes = if path == HttpPath::ConsoleForce {
        MAX_LIST_FORM_BYTES
    } else {
        MAX_FORM_BYTES
    };
    let fields = match read_form(head, body, max_bytes).await {
        Ok(fields) => fields,
        Err(failure) => return layout::failure(Some(&visitor), &failure),
    };
    match check_form(&visitor, head, &fields) {
        Ok(()) => {}
        Err(Refusal::Foreign) => return layout::failure(None, &foreign_form()),
        Err(Refusal::Ended) => return unidentified(head, Error::Unauthenticated),
    }
    let form = Form::new(&visitor, &fields);
    let outcome = if visitor.caller.check_role(requirement).is_err() {
        Err(refused(path, &visitor).await)
    } else if visitor.may_change {
        match path {
            HttpPath::ConsoleResolve => resolve::post(&form).await,
            HttpPath::ConsoleCorrect => correct::post(&form).await,
            _ => force::post(&form).await,
        }
    } else {
        Err(read_only())
    };
    match outcome {
        Ok(Outcome::Done(to)) => see_other(&to),
        Ok(Outcome::Page(status, page)) => {
            let page = layout::answer(Some(&visitor), path, &page);
            (status, page).into_response()
        }
        Err(failure) => layout::failure(Some(&visitor), &failure),
    }
}

/// Refuses whoever has not the role, as the call does, so that this is limited and audited.
async fn refused(path: HttpPath, visitor: &Visitor) -> Failure {
    let calls = &visitor.calls;
    let refused = match path {
        HttpPath::ConsoleResolve => {
            let request = ResolveReportRequest::default();
            calls.resolve_report(request).await.err()
        }
        HttpPath::ConsoleCorrect => calls.correct(CorrectRequest::default()).await.err(),
        _ => {
            let request = ForceReportRequest::default();
            calls.force_report(request).await.err()
        }
    };
    // An empty request does nothing, whoever sends it.
    refused.unwrap_or_else(read_only)
}

/// The page after a form failed, if it may have been done: it sends the form again as it is. It reads nothing, because the
/// database may be what failed.
fn not_known(form: &Form<'_>, failure: &Failure, again: &str) -> Option<Outcome> {
    let may_be_done = form.is("do") && !failure.is_final();
    may_be_done.then(|| Outcome::Page(failure.status, fields::uncertain(form, failure, again)))
}
