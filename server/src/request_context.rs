//! What names a request while it is handled: its id, and the trace that its caller has put it into.
//!
//! Both are in the span of the request, so that each line of the log has them. The id is in the answer, in the details
//! of an error and in the audit table. The trace is passed on to Stripe. Work that goes on in a task by itself takes
//! them along with [`carried`].

use http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, field::Empty};
use uuid::Uuid;

use crate::{
    domain::{request_id::RequestId, trace_parent::TraceParent},
    error::{Error, Result},
    otlp,
};

/// The header that names a request, and its answer.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header that puts a request into a trace.
pub(crate) const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");

tokio::task_local! {
    /// The request that the current task handles.
    static CURRENT: RequestContext;
    /// Cancelled when no caller waits any more for what the current task does; absent if it is not known.
    static GONE: CancellationToken;
}

/// What names a request. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct RequestContext {
    /// Its id.
    pub(crate) id: RequestId,
    /// The trace of its caller, if there is one.
    pub(crate) trace: Option<TraceParent>,
}

impl RequestContext {
    /// That of a request with these headers. An id that is missing or cannot be used is replaced by a new one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        Self {
            id: text(&REQUEST_ID)
                .and_then(RequestId::parse)
                .unwrap_or_else(|| RequestId::new(Uuid::now_v7())),
            trace: text(&TRACE_PARENT).and_then(TraceParent::parse),
        }
    }

    /// The id of a request, which was stored in it when it arrived.
    pub(crate) fn id_of(extensions: &Extensions) -> Result<RequestId> {
        let context = extensions.get::<Self>();
        let id = context.map(|context| context.id.clone());
        id.ok_or_else(|| Error::Internal("a request without an id".into()))
    }

    /// That of the request that the current task handles.
    pub(crate) fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// The span of the request. It has the level of errors, so that their lines have it whatever is logged.
    pub(crate) fn span(&self, method: &'static str) -> Span {
        let span = tracing::error_span!(
            "request",
            method,
            request_id = %self.id,
            trace_id = Empty,
            code = Empty
        );
        let trace = if otlp::is_on() {
            otlp::join(&span, self.trace.as_ref())
        } else {
            self.trace
        };
        if let Some(trace) = trace {
            span.record("trace_id", trace.trace_id());
        }
        span
    }

    /// Handles the request in this context.
    pub(crate) async fn scope<F: Future>(self, handling: F) -> F::Output {
        CURRENT.scope(self, handling).await
    }

    /// The header of its answer.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::try_from(self.id.as_str()).ok()?;
        // HTTP/2 would store each value in its table, in place of headers that repeat.
        value.set_sensitive(true);
        Some(value)
    }
}

/// The header that puts a request to another program into the trace of the current one.
pub(crate) fn outgoing_trace() -> Option<HeaderValue> {
    let trace = if otlp::is_on() {
        otlp::current(&Span::current())
    } else {
        RequestContext::current()?.trace
    };
    HeaderValue::try_from(trace?.to_string()).ok()
}

/// The same work in the span and the context of the current request, also if it is done in a task by itself.
pub(crate) fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    within(RequestContext::current(), work.in_current_span())
}

/// The same work in a context, if there is one.
pub(crate) async fn within<F: Future>(context: Option<RequestContext>, work: F) -> F::Output {
    match context {
        Some(context) => context.scope(work).await,
        None => work.await,
    }
}

/// Work that goes on without its caller. `gone` is cancelled when the caller is gone, so that the work begins nothing again.
pub(crate) async fn until_gone<F: Future>(gone: CancellationToken, work: F) -> F::Output {
    GONE.scope(gone, work).await
}

/// Work that is needed whether or not the caller waits, such as the record of what was done.
pub(crate) async fn also_if_gone<F: Future>(work: F) -> F::Output {
    GONE.scope(CancellationToken::new(), work).await
}

/// Whether it is known that the caller of the current work is gone.
pub(crate) fn is_caller_gone() -> bool {
    GONE.try_with(CancellationToken::is_cancelled)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn headers_that_cannot_be_used_are_replaced_or_left_out() {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("their-id-7"));
        headers.insert(TRACE_PARENT, HeaderValue::from_static(TRACE));
        let context = RequestContext::of(&headers);
        assert_eq!(context.id.as_str(), "their-id-7");
        assert_eq!(context.trace.unwrap().to_string(), TRACE);
        headers.insert(REQUEST_ID, HeaderValue::from_static("their id"));
        headers.insert(TRACE_PARENT, HeaderValue::from_static("00-1-2-01"));
        let context = RequestContext::of(&headers);
        assert!(Uuid::parse_str(context.id.as_str()).is_ok());
        assert!(context.trace.is_none());
    }

    #[tokio::test]
    async fn work_in_another_task_has_the_context_of_its_request() {
        let context = RequestContext::of(&HeaderMap::new());
        let id = context.id.clone();
        let found = context.scope(async {
            let work = carried(async { RequestContext::current() });
            tokio::spawn(work).await.unwrap()
        });
        assert_eq!(found.await.unwrap().id, id);
        assert!(RequestContext::current().is_none());
    }
}
