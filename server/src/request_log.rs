//! A line of the log for a share of the requests: which method, with which result, and how long it took.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tracing::Span;

use crate::domain::share::Share;

/// Decides which requests have a line. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct RequestLog {
    share: Share,
    random: RandomState,
    requests: Arc<AtomicU64>,
}

impl RequestLog {
    pub(crate) fn new(share: Share) -> Self {
        Self {
            share,
            random: RandomState::new(),
            requests: Arc::default(),
        }
    }

    /// Begins a request.
    pub(crate) fn begin(&self, span: Span) -> OpenRequest {
        let has_line = self.share != Share::NONE && {
            let number = self.requests.fetch_add(1, Ordering::Relaxed);
            self.share.has(self.random.hash_one(number))
        };
        OpenRequest {
            span: Some(span),
            begun: has_line.then(Instant::now),
        }
    }
}

/// A request in progress. One that is dropped before its end was given up by its caller.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    /// Absent after the end.
    span: Option<Span>,
    /// Absent without a line.
    begun: Option<Instant>,
}

impl OpenRequest {
    /// Ends the request with a code of its protocol.
    pub(crate) fn end(&mut self, code: &str) {
        let Some(span) = self.span.take() else {
            return;
        };
        if crate::otlp::is_on() {
            span.record("code", code);
        }
        if let Some(begun) = self.begun {
            let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            span.in_scope(|| tracing::info!(code, took_us, "request"));
        }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.end("CANCELLED");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_the_share_of_requests_has_a_line() {
        let lines = |share: &str| {
            let log = RequestLog::new(share.parse().unwrap());
            let requests = (0..10_000).map(|_| log.begin(Span::none()));
            requests.filter(|request| request.begun.is_some()).count()
        };
        assert_eq!(lines("0"), 0);
        assert_eq!(lines("1"), 10_000);
        // Ten standard deviations.
        assert!((700..1_300).contains(&lines("0.1")));
    }
}
