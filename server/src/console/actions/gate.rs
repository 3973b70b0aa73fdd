//! Which forms are accepted: those of this console, of a session that lives, and of whoever may change something.

use axum::http::{StatusCode, request::Parts};

use super::super::{calls::Failure, origin, query::Query, visitor::Visitor};

/// Why a form is not accepted.
pub(super) enum Refusal {
    /// No page of this console sent it, for this visitor.
    Foreign,
    /// The session that it was made for has ended.
    Ended,
}

/// Whether a form was sent by a page that was made for its visitor. With a session, its token says so. Without one, such as
/// with a client certificate, a browser has to say where the form comes from.
pub(super) fn check_form(visitor: &Visitor, head: &Parts, fields: &Query) -> Result<(), Refusal> {
    let token = fields.get("token");
    match &visitor.session {
        Some(session) if session.is_form_token(token) => Ok(()),
        // It must not act by another right of the browser.
        None if !token.is_empty() => Err(Refusal::Ended),
        None if origin::says_where_from(head) => Ok(()),
        Some(_) | None => Err(Refusal::Foreign),
    }
}

pub(super) fn read_only() -> Failure {
    Failure {
        status: StatusCode::FORBIDDEN,
        reason: "CONSOLE_READ_ONLY".to_owned(),
        message: "without an API key, these pages change nothing; create a key and sign in, or set CONSOLE_WRITES_WITHOUT_KEY".to_owned(),
        retry_after_secs: None,
    }
}
