//! The frame of all pages: head, navigation, and how errors look.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{calls::Failure, style, visitor::Visitor};
use crate::domain::{
    access::{CallerKind, Requirement, Role},
    http_paths::HttpPath,
};

/// The pages that each other page links to.
const NAVIGATION: [(HttpPath, &str); 11] = [
    (HttpPath::ConsoleOverview, "Overview"),
    (HttpPath::ConsoleUsage, "Usage"),
    (HttpPath::ConsoleAccounts, "Accounts"),
    (HttpPath::ConsoleReports, "Reports"),
    (HttpPath::ConsoleRuns, "Runs"),
    (HttpPath::ConsoleVerification, "Verification"),
    (HttpPath::ConsoleSignOff, "Sign-off"),
    (HttpPath::ConsoleFind, "Find a call"),
    (HttpPath::ConsoleSetUp, "Set-up"),
    (HttpPath::ConsoleKeys, "Keys"),
    (HttpPath::ConsoleAudit, "Audit"),
];

/// What a page shows, within the frame.
pub(super) struct Page {
    pub(super) title: String,
    pub(super) content: Markup,
    /// When the browser loads what next, by itself.
    refresh: Option<String>,
}

impl Page {
    pub(super) fn new(title: impl Into<String>, content: Markup) -> Self {
        Self {
            title: title.into(),
            content,
            refresh: None,
        }
    }

    /// The same, which a browser replaces by another page after some seconds.
    pub(super) fn refreshed(self, secs: u32, next: &str) -> Self {
        let refresh = Some(format!("{secs}; url={next}"));
        Self { refresh, ..self }
    }
}

pub(super) fn answer(visitor: Option<&Visitor>, path: HttpPath, page: &Page) -> Response {
    let mut answer = framed(visitor, Some(path), &page.title, &page.content);
    let refresh = page.refresh.as_deref();
    let refresh = refresh.and_then(|refresh| HeaderValue::from_str(refresh).ok());
    let refresh = refresh.map(|refresh| (header::REFRESH, refresh));
    answer.headers_mut().extend(refresh);
    answer
}

/// A page that says why there is no other.
pub(super) fn failure(visitor: Option<&Visitor>, failure: &Failure) -> Response {
    let title = match failure.status {
        StatusCode::FORBIDDEN => "Not allowed",
        StatusCode::NOT_FOUND => "Not found",
        StatusCode::BAD_REQUEST => "Not a valid request",
        StatusCode::TOO_MANY_REQUESTS => "Too many requests",
        _ => "This page cannot be shown",
    };
    let content = html! {
        h1 { (title) }
        (reason(failure))
        @if let Some(visitor) = visitor && visitor.caller.role == Role::Writer {
            p { "The key that you signed in with counts usage and shows nothing. Sign out, and sign in with a key of the role " code { "reader" } " or " code { "admin" } "." }
        }
    };
    let path = visitor.and_then(|visitor| visitor.path);
    let page = framed(visitor, path, title, &content);
    failure.marked(page)
}

/// Why a part of a page, or all of it, cannot be shown.
pub(super) fn reason(failure: &Failure) -> Markup {
    html! {
        p .error role="alert" {
            strong { (failure.reason) } " (" (failure.status.as_u16()) "): "
            bdi { (failure.message) }
        }
    }
}

/// A page without navigation.
pub(super) fn bare(title: &str, content: &Markup) -> Response {
    framed(None, None, title, content).into_response()
}

fn framed(
    visitor: Option<&Visitor>,
    path: Option<HttpPath>,
    title: &str,
    content: &Markup,
) -> Response {
    let styles = match visitor {
        Some(_) => style::url(),
        None => style::forgetting_url(),
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " – usage-billing" }
                link rel="stylesheet" href=(styles);
                link rel="icon" href="data:,";
            }
            body {
                a .skip href="#main" { "Skip to the content" }
                header {
                    p .brand { "usage-billing" }
                    @if let Some(visitor) = visitor {
                        (navigation(visitor, path))
                        (identity(visitor))
                    }
                }
                main #main tabindex="-1" { (content) }
                footer { p { "usage-server " (env!("CARGO_PKG_VERSION")) ". Times are UTC unless a page says otherwise." } }
            }
        }
    };
    html_answer(page)
}

fn html_answer(page: Markup) -> Response {
    let PreEscaped(text) = page;
    let html = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    (html, text).into_response()
}

fn navigation(visitor: &Visitor, path: Option<HttpPath>) -> Markup {
    let is_shown = |page: HttpPath| {
        let for_admins = matches!(page, HttpPath::ConsoleKeys | HttpPath::ConsoleAudit);
        !for_admins || Requirement::Role(Role::Admin).is_met_by(visitor.caller.role)
    };
    let section = match path {
        Some(HttpPath::ConsoleAccount | HttpPath::ConsoleInvoice | HttpPath::ConsoleCorrect) => {
            Some(HttpPath::ConsoleAccounts)
        }
        Some(HttpPath::ConsoleReport | HttpPath::ConsoleResolve) => Some(HttpPath::ConsoleReports),
        Some(HttpPath::ConsoleForce | HttpPath::ConsoleRun) => Some(HttpPath::ConsoleRuns),
        Some(HttpPath::ConsoleShadow) => Some(HttpPath::ConsoleVerification),
        other => other,
    };
    // Of the page of one account, the list is the parent.
    let current = |page: HttpPath| {
        let kind = if path == section { "page" } else { "true" };
        (section == Some(page)).then_some(kind)
    };
    html! {
        nav aria-label="Pages" {
            ul {
                @for (page, name) in NAVIGATION.into_iter().filter(|(page, _)| is_shown(*page)) {
                    li {
                        a href=(page.name()) aria-current=[current(page)] { (name) }
                    }
                }
            }
        }
    }
}

/// Who looks at the page, and the end of the session.
fn identity(visitor: &Visitor) -> Markup {
    let caller = &visitor.caller;
    html! {
        div .identity {
            @match caller.kind() {
                CallerKind::Anyone => span { "No API key is needed yet" },
                CallerKind::Key(_) | CallerKind::Certificate => {
                    span { bdi { (caller.name) } " (" (caller.role.name()) ")" }
                }
            }
            @if let Some(session) = &visitor.session {
                form method="post" action=(HttpPath::ConsoleSignOut.name()) {
                    input type="hidden" name="token" value=(session.form_token());
                    button type="submit" .quiet { "Sign out" }
                }
            }
        }
    }
}
