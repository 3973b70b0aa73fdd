//! Connections that are refused before they can be used: counted, and logged once a minute for each reason.

use std::{
    collections::BTreeMap,
    fmt::Display,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use crate::{log_limit::LogLimit, metrics};

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// Plain text where TLS is needed.
    NeedsTls,
    /// TLS where plain text is spoken.
    SpeaksNoTls,
    /// A handshake that failed: the client's certificate, protocols that the two do not share.
    HandshakeFailed,
    /// A handshake that was not complete in time.
    HandshakeTimedOut,
    /// A client's certificate that was accepted and is no longer.
    CertificateRefused,
    /// Its address has all connections that one may have, and calls on each of them.
    TooMany,
}

impl Reason {
    /// Its name in metrics.
    fn name(self) -> &'static str {
        match self {
            Self::NeedsTls => "needs_tls",
            Self::SpeaksNoTls => "speaks_no_tls",
            Self::HandshakeFailed => "handshake_failed",
            Self::HandshakeTimedOut => "handshake_timed_out",
            Self::CertificateRefused => "certificate_refused",
            Self::TooMany => "too_many_of_address",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::NeedsTls => "a client speaks plain text, and this port needs TLS: use https://",
            Self::SpeaksNoTls => "a client speaks TLS, and this port does not: use http://",
            Self::HandshakeFailed => "a TLS handshake failed",
            Self::HandshakeTimedOut => "a connection was not opened in time",
            Self::CertificateRefused => "a client's certificate is no longer accepted",
            Self::TooMany => {
                "an address has calls on all connections that it may have (CONNECTIONS_PER_ADDRESS)"
            }
        }
    }
}

/// Which reasons are logged.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<BTreeMap<Reason, LogLimit>>);

impl Refusals {
    pub(super) fn record(&self, reason: Reason, peer: SocketAddr, cause: Option<&dyn Display>) {
        metrics::connection_refused(reason.name());
        if let Some(unlogged) = self.count(reason) {
            let cause = cause.map(tracing::field::display);
            tracing::warn!(%peer, cause, unlogged, "{}", reason.text());
        }
    }

    /// Counts one. If it is to be logged, returns how many were not since the last.
    fn count(&self, reason: Reason) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(reason).or_default().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_limit::LOG_INTERVAL;

    #[tokio::test(start_paused = true)]
    async fn each_reason_is_logged_once_a_minute() {
        let refusals = Refusals::default();
        assert_eq!(refusals.count(Reason::NeedsTls), Some(0));
        assert_eq!(refusals.count(Reason::NeedsTls), None);
        assert_eq!(refusals.count(Reason::NeedsTls), None);
        assert_eq!(refusals.count(Reason::SpeaksNoTls), Some(0));
        tokio::time::advance(LOG_INTERVAL).await;
        assert_eq!(refusals.count(Reason::NeedsTls), Some(2));
        assert_eq!(refusals.count(Reason::NeedsTls), None);
    }
}
