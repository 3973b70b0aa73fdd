//! Converts a `tonic::Status` with its `google.rpc` details into an [`Error`].

use crate::{Error, ErrorKind, FieldViolation, Reason, error::Source, proto};
use std::error::Error as StdError;
use tonic::Code;
use tonic_types::{RequestInfo, StatusExt as _};

impl From<tonic::transport::Error> for Error {
    /// A connection that could not be made.
    fn from(error: tonic::transport::Error) -> Self {
        let (kind, message) = transport(root_cause(&error));
        let mut this = Self::local(kind, message, false);
        this.0.source = Some(Source::Transport(error));
        this
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let info = info.filter(|info| info.domain == proto::ERROR_DOMAIN);
        let reason = info.map(|info| Reason::from_name(&info.reason));
        let cause_id = info.and_then(|info| info.metadata.get(proto::CAUSE_ID));
        let never_sent = has_cause::<tonic::ConnectError>(&status);
        let kind = kind_of(&status, reason.as_ref());
        let (kind, message) = match status.source() {
            Some(source) if kind == ErrorKind::Transport => transport(root_cause(source)),
            _ => (kind, status.message().to_owned()),
        };
        let mut error = Self::local(kind, message, !never_sent && may_take_effect(kind));
        error.0.violations = details.bad_request().map_or_else(Vec::new, |bad| {
            let violations = bad.field_violations.iter();
            violations
                .map(|violation| FieldViolation {
                    field: violation.field.clone(),
                    description: violation.description.clone(),
                })
                .collect()
        });
        error.0.retry_after = details.retry_info().and_then(|info| info.retry_delay);
        error.0.cause_id = cause_id.filter(|id| !id.is_empty()).cloned();
        error.0.reason = reason;
        error.0.request_id = request_id(&status, details.request_info());
        error.0.source = Some(Source::Status(status));
        error
    }
}

/// The id in the details; a server in between may have given another one in the headers.
fn request_id(status: &tonic::Status, info: Option<&RequestInfo>) -> Option<String> {
    let header = status.metadata().get("x-request-id");
    let id = info.map(|info| info.request_id.as_str());
    let id = id.or_else(|| header.and_then(|value| value.to_str().ok()));
    id.filter(|id| !id.is_empty()).map(str::to_owned)
}

/// Uses the reason if it determines the kind, else the code: reasons can be unknown, and proxies send none.
fn kind_of(status: &tonic::Status, reason: Option<&Reason>) -> ErrorKind {
    match reason {
        Some(Reason::KeyReused) => return ErrorKind::KeyReused,
        Some(Reason::CustomerTaken) => return ErrorKind::CustomerTaken,
        Some(Reason::EtagMismatch) => return ErrorKind::EtagMismatch,
        Some(Reason::ReportingDisabled) => return ErrorKind::ReportingDisabled,
        // It has the code of an overload, but the same message is never accepted.
        Some(Reason::MessageTooLarge) => return ErrorKind::Invalid,
        _ => {}
    }
    if has_cause::<tonic::TimeoutExpired>(status) {
        return ErrorKind::Deadline;
    }
    // Only a status that was created in this process has a source: no response was received.
    if status.source().is_some() {
        return ErrorKind::Transport;
    }
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange | Code::AlreadyExists | Code::Aborted => {
            ErrorKind::Invalid
        }
        Code::FailedPrecondition => ErrorKind::Precondition,
        Code::NotFound => ErrorKind::NotFound,
        Code::ResourceExhausted => ErrorKind::Overloaded,
        Code::Unavailable => ErrorKind::Unavailable,
        Code::Unauthenticated => ErrorKind::Unauthenticated,
        Code::PermissionDenied => ErrorKind::PermissionDenied,
        // A tonic server without this one's layer, such as a proxy, returns CANCELLED when the deadline has passed.
        Code::DeadlineExceeded | Code::Cancelled => ErrorKind::Deadline,
        Code::Unimplemented => ErrorKind::Unimplemented,
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => ErrorKind::Internal,
    }
}

fn may_take_effect(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Invalid
        | ErrorKind::KeyReused
        | ErrorKind::CustomerTaken
        | ErrorKind::EtagMismatch
        | ErrorKind::NotFound
        | ErrorKind::Overloaded
        | ErrorKind::ReportingDisabled
        | ErrorKind::Precondition
        | ErrorKind::Unauthenticated
        | ErrorKind::PermissionDenied
        | ErrorKind::Spool
        | ErrorKind::Tls
        | ErrorKind::Unimplemented => false,
        ErrorKind::Unavailable
        | ErrorKind::Deadline
        | ErrorKind::Internal
        | ErrorKind::Transport
        | ErrorKind::Malformed => true,
    }
}

fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn has_cause<E: StdError + 'static>(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(<dyn StdError>::is::<E>)
}

/// The innermost cause; the outer ones only say "transport error".
pub(crate) fn root_cause(error: &(dyn StdError + 'static)) -> String {
    causes(error).last().unwrap_or(error).to_string()
}

/// The kind of a failed connection, and its cause in words. TLS is told from the text of its library: the error's type is
/// lost on the way through HTTP/2.
fn transport(cause: String) -> (ErrorKind, String) {
    match tls_message(&cause) {
        Some(message) => (ErrorKind::Tls, message),
        None => (ErrorKind::Transport, cause),
    }
}

fn tls_message(cause: &str) -> Option<String> {
    const NEEDS_TLS: &str = "this port needs TLS: use https://";
    const ALERT: &str = "received fatal alert: ";
    const UNTRUSTED: &str = "invalid peer certificate: ";
    const NO_TLS: &str =
        "the server speaks no TLS that this client knows; if it serves without TLS, use http://";
    if cause.contains(NEEDS_TLS) {
        return Some(NEEDS_TLS.to_owned());
    }
    if let Some((_, why)) = cause.split_once(UNTRUSTED) {
        return Some(format!("the server's certificate is not trusted: {why}"));
    }
    if cause.contains("InvalidContentType") {
        return Some(NO_TLS.to_owned());
    }
    let (_, alert) = cause.split_once(ALERT)?;
    Some(match alert {
        "ProtocolVersion" => NO_TLS.to_owned(),
        "CertificateRequired" => "the server needs a client certificate".to_owned(),
        alert
            if alert.contains("Certificate")
                || matches!(alert, "UnknownCA" | "DecryptError" | "AccessDenied") =>
        {
            format!("the server refuses the client's certificate: {alert}")
        }
        alert => format!("the handshake failed: {alert}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tonic::Status;
    use tonic_types::{ErrorDetails, FieldViolation as WireViolation};

    fn with_reason(code: Code, reason: &str) -> ErrorDetailsAndCode {
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, proto::ERROR_DOMAIN, []);
        (code, details)
    }

    type ErrorDetailsAndCode = (Code, ErrorDetails);

    fn error((code, details): ErrorDetailsAndCode) -> Error {
        Status::with_error_details(code, "what was wrong", details).into()
    }

    #[test]
    fn invalid_argument_names_its_fields() {
        let mut failure = with_reason(Code::InvalidArgument, "INVALID_FIELD");
        failure
            .1
            .set_bad_request(vec![WireViolation::new("quantity", "0 is below 1")]);
        let error = error(failure);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(error.reason(), Some(&Reason::InvalidField));
        assert_eq!(error.violations()[0].field, "quantity");
        assert_eq!(
            error.to_string(),
            "invalid (INVALID_FIELD): what was wrong; quantity: 0 is below 1"
        );
        assert!(!error.is_retryable());
        assert!(!error.may_have_taken_effect());
        assert_eq!(error.status().unwrap().code(), Code::InvalidArgument);
    }

    #[test]
    fn a_cause_in_the_log_of_this_service_is_named() {
        for (domain, id, cause_id) in [
            (proto::ERROR_DOMAIN, "c-1", Some("c-1")),
            (proto::ERROR_DOMAIN, "", None),
            ("another service", "c-1", None),
        ] {
            let mut details = ErrorDetails::new();
            let metadata = [(proto::CAUSE_ID.to_owned(), id.to_owned())];
            details.set_error_info("INTERNAL", domain, metadata);
            let error = error((Code::Internal, details));
            assert_eq!(error.cause_id(), cause_id, "{domain} {id}");
        }
    }

    #[test]
    fn overload_has_a_delay_and_no_effect() {
        let mut failure = with_reason(Code::ResourceExhausted, "OVERLOADED");
        failure.1.set_retry_info(Some(Duration::from_millis(250)));
        let error = error(failure);
        assert_eq!(error.kind(), ErrorKind::Overloaded);
        assert_eq!(error.retry_after(), Some(Duration::from_millis(250)));
        assert!(error.is_retryable());
        assert!(!error.may_have_taken_effect());
    }

    #[test]
    fn reasons_distinguish_errors_with_one_code() {
        for (reason, kind) in [
            ("KEY_REUSED", ErrorKind::KeyReused),
            ("CUSTOMER_TAKEN", ErrorKind::CustomerTaken),
            ("SOMETHING_NEW", ErrorKind::Invalid),
        ] {
            let error = error(with_reason(Code::AlreadyExists, reason));
            assert_eq!(error.kind(), kind);
            assert_eq!(error.reason().unwrap().as_str(), reason);
        }
    }

    #[test]
    fn the_id_of_the_request_is_in_the_details_or_else_in_a_header() {
        let mut failure = with_reason(Code::Unavailable, "SHUTTING_DOWN");
        assert_eq!(error(failure.clone()).request_id(), None);
        failure.1.set_request_info("r-1", "");
        assert_eq!(error(failure).request_id(), Some("r-1"));
        let mut proxied = Status::unavailable("no backend");
        let id = "r-2".parse().unwrap();
        proxied.metadata_mut().insert("x-request-id", id);
        assert_eq!(Error::from(proxied).request_id(), Some("r-2"));
    }

    #[test]
    fn unavailable_database_may_have_counted() {
        let error = error(with_reason(Code::Unavailable, "DATABASE_UNAVAILABLE"));
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.is_retryable());
        assert!(error.may_have_taken_effect());
    }

    #[test]
    fn reason_of_another_domain_is_ignored() {
        let mut details = ErrorDetails::new();
        details.set_error_info("KEY_REUSED", "example.org", []);
        let error = error((Code::Unavailable, details));
        assert_eq!(error.reason(), None);
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn refused_connection_has_no_effect() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = Error::from(Status::from_error(Box::new(tonic::ConnectError(Box::new(
            refused,
        )))));
        assert_eq!(error.kind(), ErrorKind::Transport);
        assert_eq!(error.to_string(), "connection failed: connection refused");
        assert!(error.is_retryable());
        assert!(!error.may_have_taken_effect());
    }

    #[test]
    fn lost_connection_may_have_counted() {
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let error = Error::from(Status::from_error(Box::new(reset)));
        assert_eq!(error.kind(), ErrorKind::Transport);
        assert!(error.is_retryable());
        assert!(error.may_have_taken_effect());
    }

    #[test]
    fn failures_of_tls_are_told_in_words() {
        for (cause, words) in [
            (
                "connection error received: inadequate security (b\"this port needs TLS: use https://\")",
                "TLS: this port needs TLS: use https://",
            ),
            (
                "received corrupt message of type InvalidContentType",
                "if it serves without TLS, use http://",
            ),
            ("received fatal alert: ProtocolVersion", "use http://"),
            (
                "received fatal alert: CertificateRequired",
                "needs a client certificate",
            ),
            (
                "received fatal alert: CertificateRevoked",
                "refuses the client's certificate: CertificateRevoked",
            ),
            (
                "received fatal alert: UnknownCA",
                "refuses the client's certificate: UnknownCA",
            ),
            (
                "received fatal alert: NoApplicationProtocol",
                "handshake failed: NoApplicationProtocol",
            ),
            (
                "invalid peer certificate: UnknownIssuer",
                "not trusted: UnknownIssuer",
            ),
        ] {
            let cause = std::io::Error::other(cause);
            let error = Error::from(Status::from_error(Box::new(cause)));
            assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
            assert!(error.to_string().contains(words), "{error}");
            assert!(!error.is_retryable(), "{error}");
            assert!(!error.may_have_taken_effect(), "{error}");
        }
    }

    #[test]
    fn deadlines_of_client_and_server_are_one_kind() {
        let ours = Status::from_error(Box::new(tonic::TimeoutExpired(())));
        for status in [ours, Status::cancelled("Timeout expired")] {
            let error = Error::from(status);
            assert_eq!(error.kind(), ErrorKind::Deadline);
            assert!(error.may_have_taken_effect());
        }
    }
}
