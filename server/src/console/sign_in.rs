//! Signing in with an API key, and out.
//!
//! The key is in the body of a form and nowhere else. What is said of a wrong one does not depend on what exists.

use std::{net::IpAddr, time::Duration};

use axum::{
    body::{Body, to_bytes},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use maud::html;

use super::{
    Console, Place, calls::Failure, cookie, layout, origin, query::Query, see_other, visitor,
};
use crate::{
    domain::{api_key::PresentedKey, http_paths::HttpPath},
    error::{Error, Result},
};

/// The longest address of a page that comes next.
const MAX_NEXT_BYTES: usize = 2 * 1024;
/// The largest form: a key, and the address of a page with each byte escaped.
const MAX_FORM_BYTES: usize = 8 * 1024;
/// How long it may take to arrive.
const FORM_TIMEOUT: Duration = Duration::from_secs(10);

const WRONG: &str =
    "This key is not valid: it is misspelt, revoked or expired, or belongs to another server.";

impl Console {
    pub(super) async fn show_sign_in(&self, place: Place, head: &Parts) -> Response {
        let query = Query::parse(head.uri.query().unwrap_or_default());
        let next = own_page(query.get("next"));
        match self.identify(place, head).await {
            // Whoever needs no key cannot sign in.
            Ok(visitor) if visitor.caller.is_anyone() => see_other(next),
            _ => form(StatusCode::OK, next, None),
        }
    }

    pub(super) async fn sign_in(&self, place: Place, head: &Parts, body: Body) -> Response {
        if !origin::is_own_form(head) {
            return layout::failure(None, &foreign_form());
        }
        let address = visitor::address(&head.extensions);
        let is_secure = origin::is_secure(&head.headers, place);
        let former = cookie::read(&head.uri, &head.headers, place);
        let fields = match read_form(head, body, MAX_FORM_BYTES).await {
            Ok(fields) => fields,
            Err(failure) => return layout::failure(None, &failure),
        };
        let next = own_page(fields.get("next"));
        let secret = match self.begin(fields.get("key"), address).await {
            Ok(secret) => secret,
            Err(Error::Unauthenticated) => {
                return self.wrong_key(fields.get("key"), next, address);
            }
            Err(error) => return layout::failure(None, &error.into()),
        };
        if let Some(former) = former
            && let Err(error) = self.sessions.end(&former).await
        {
            // It ends by itself.
            tracing::debug!(error = error.cause(), "the former session was not deleted");
        }
        let mut answer = see_other(next);
        let cookie = cookie::set(&secret, head, is_secure);
        let cookie = cookie.map(|value| (header::SET_COOKIE, value));
        answer.headers_mut().extend(cookie);
        answer
    }

    /// Refuses a key that is not valid. Only these count: no one else's attempts keep a valid key out.
    fn wrong_key(&self, key: &str, next: &str, address: IpAddr) -> Response {
        if let Some(unlogged) = self.failure_lines.count() {
            // Of a text that is no key, nothing is logged.
            let key = PresentedKey::parse(key).map(|key| key.id.to_string());
            let key = key.unwrap_or_default();
            tracing::warn!(%address, key, unlogged, "an attempt to sign in to the console failed");
        }
        if self.failures.may_try(address) {
            return form(StatusCode::UNAUTHORIZED, next, Some(WRONG));
        }
        let wait = "Too many attempts to sign in. Wait a minute and try again.";
        let mut answer = form(StatusCode::TOO_MANY_REQUESTS, next, Some(wait));
        let secs = header::HeaderValue::from_static("60");
        answer.headers_mut().insert(header::RETRY_AFTER, secs);
        answer
    }

    async fn begin(
        &self,
        key: &str,
        address: IpAddr,
    ) -> Result<crate::domain::console_session::SessionSecret> {
        let caller = self.authenticator.caller_of_text(key).await?;
        let key = caller.key.ok_or(Error::Unauthenticated)?;
        let secret = self.sessions.begin(key).await?;
        tracing::info!(%key, name = caller.name, %address, "signed in to the console");
        Ok(secret)
    }

    pub(super) async fn sign_out(&self, place: Place, head: &Parts, body: Body) -> Response {
        if !origin::is_own_form(head) {
            return layout::failure(None, &foreign_form());
        }
        let is_secure = origin::is_secure(&head.headers, place);
        let session = cookie::read(&head.uri, &head.headers, place);
        let fields = match read_form(head, body, MAX_FORM_BYTES).await {
            Ok(fields) => fields,
            Err(failure) => return layout::failure(None, &failure),
        };
        if let Some(secret) = session {
            if !secret.is_form_token(fields.get("token")) {
                return layout::failure(None, &foreign_form());
            }
            if let Err(error) = self.sessions.end(&secret).await {
                return layout::failure(None, &error.into());
            }
        }
        let mut answer = see_other(HttpPath::ConsoleSignIn.name());
        let cookie = cookie::clear(head, is_secure);
        let cookie = cookie.map(|value| (header::SET_COOKIE, value));
        answer.headers_mut().extend(cookie);
        answer
    }
}

/// The page of the console that a text names, with its query; the first one if there is none, or it is too long.
fn own_page(next: &str) -> &str {
    let path = next.split(['?', '#']).next().unwrap_or_default();
    let is_page = HttpPath::find(path).is_some_and(|path| {
        let is_other = matches!(
            path,
            HttpPath::ConsoleSignIn | HttpPath::ConsoleSignOut | HttpPath::ConsoleStyle
        );
        path.is_console() && !is_other
    });
    if is_page && next.len() <= MAX_NEXT_BYTES {
        next
    } else {
        "/"
    }
}

pub(super) fn foreign_form() -> Failure {
    Failure {
        status: StatusCode::FORBIDDEN,
        reason: "FOREIGN_FORM".to_owned(),
        message:
            "this form was not sent by a page of this console; open the page again and repeat it"
                .to_owned(),
        retry_after_secs: None,
    }
}

/// The fields of a form of so many bytes at most.
pub(super) async fn read_form(
    head: &Parts,
    body: Body,
    max_bytes: usize,
) -> std::result::Result<Query, Failure> {
    let kind = head.headers.get(header::CONTENT_TYPE);
    let is_form = kind.is_some_and(|value| {
        value
            .as_bytes()
            .starts_with(b"application/x-www-form-urlencoded")
    });
    if !is_form {
        let message = "the body must be a form: application/x-www-form-urlencoded";
        return Err(Failure::invalid(message));
    }
    read_body(body, max_bytes).await
}

async fn read_body(body: Body, max_bytes: usize) -> std::result::Result<Query, Failure> {
    let reading = tokio::time::timeout(FORM_TIMEOUT, to_bytes(body, max_bytes));
    match reading.await {
        Ok(Ok(bytes)) => Ok(Query::parse(&String::from_utf8_lossy(&bytes))),
        Ok(Err(_)) => Err(Failure::invalid(format!(
            "the form could not be read; it may have {max_bytes} bytes"
        ))),
        Err(_) => Err(Failure::invalid("the form did not arrive in time")),
    }
}

/// The form, which leads to a page afterwards.
pub(super) fn form(status: StatusCode, next: &str, error: Option<&str>) -> Response {
    let content = html! {
        h1 { "Sign in" }
        p { "Use an API key of this server. A key of the role " code { "reader" } " sees what the console shows, and one of the role " code { "admin" } " also keys and the audit." }
        @if let Some(error) = error {
            p .error role="alert" { (error) }
        }
        form method="post" action=(HttpPath::ConsoleSignIn.name()) .stacked {
            input type="hidden" name="next" value=(own_page(next));
            label for="key" { "API key" }
            input #key type="password" name="key" required autocomplete="current-password" maxlength="200" spellcheck="false";
            button type="submit" { "Sign in" }
        }
    };
    let page = layout::bare("Sign in", &content);
    (status, page).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_page_of_the_console_comes_next() {
        for page in ["/", "/accounts?id=a", "/account?id=a%2Fb#usage", "/set-up"] {
            assert_eq!(own_page(page), page);
        }
        for other in [
            "",
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "/sign-out",
            "/sign-in",
            "/metrics",
            "/accountsx",
            "javascript:alert(1)",
            &format!("/accounts?id={}", "a".repeat(MAX_NEXT_BYTES)),
        ] {
            assert_eq!(own_page(other), "/", "{other}");
        }
    }
}
