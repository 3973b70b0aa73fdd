//! The console: pages that the server makes itself, for people who run it. They show what calls show, do what calls do, and
//! nothing else.
//!
//! Each page gets its data through the same layers as a call of gRPC ([`calls`]), as the key that was signed in with: roles,
//! limits, scopes and audit are those of calls, and no page has a query of its own. Nothing here runs in the browser: there is
//! no script, and the policy of each answer forbids any.

mod account;
mod account_history;
mod account_parts;
mod account_periods;
mod accounts;
mod actions;
mod address_rates;
mod asked_usage;
mod audit;
mod calls;
mod chart;
mod cookie;
mod diagnosis;
mod doctor_lines;
mod explained_csv;
mod find;
mod html;
mod invoice;
mod invoice_download;
mod invoice_parts;
mod kept;
mod keys;
mod layout;
mod origin;
mod overview;
mod query;
mod recent_usage;
mod report;
mod reports;
mod runs;
mod sessions;
mod set_up;
mod shadow;
mod sign_in;
mod sign_off;
mod sign_off_file;
mod sign_off_months;
mod state_sums;
mod style;
mod time_line;
mod usage;
mod verification;
mod visitor;
mod zone;

use std::sync::Arc;

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
};

pub(crate) use self::calls::Stack;
use self::{
    address_rates::AddressRates,
    asked_usage::AskedUsage,
    calls::{Calls, Failure},
    diagnosis::Diagnosis,
    layout::Page,
    query::Query,
    recent_usage::RecentUsage,
    sessions::Sessions,
    sign_off_months::SignOffMonths,
    visitor::Visitor,
    zone::Choice,
};
use crate::{
    authentication::{Authenticator, KnownCaller},
    clock::Clock,
    domain::{
        access::{Caller, Requirement, Role},
        console_session::SessionSecret,
        http_paths::HttpPath,
        window::Slots,
    },
    error::Error,
    log_limit::LogLimit,
    serve::PageLimit,
    store::Store,
};

/// Calls that no link of another site makes: each asks Stripe much.
const ASKS_STRIPE: [&str; 3] = [
    "/usage.v1.OperationsService/CompareShadow",
    "/usage.v1.UsageService/Reconcile",
    "/usage.v1.OperationsService/Doctor",
];
/// What a browser may do with an answer: show it with our own styles, and send forms back to us.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
const HEADERS: [(header::HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // Forms are sent with their origin, and links to elsewhere with nothing.
    (header::REFERRER_POLICY, "same-origin"),
    (
        header::HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        header::HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// The socket that a request arrived on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Whether it speaks TLS.
    pub(crate) is_tls: bool,
    /// Whether only this machine reaches it.
    pub(crate) is_loopback: bool,
}

/// What is made of a request.
enum Made {
    /// An answer that exists in full.
    Page(Response),
    /// One that is made while it is read.
    Download(Response),
}

impl From<Response> for Made {
    fn from(answer: Response) -> Self {
        Self::Page(answer)
    }
}

/// The console of a server.
pub(crate) struct Console {
    sessions: Sessions,
    authenticator: Authenticator,
    stack: Stack,
    clock: Clock,
    /// Attempts to sign in that failed, and their lines in the log.
    failures: AddressRates,
    failure_lines: LogLimit,
    diagnosis: Diagnosis,
    recent_usage: RecentUsage,
    asked_usage: AskedUsage,
    sign_off_months: SignOffMonths,
    /// Pages that are made or wait to be read.
    pages: PageLimit,
    /// The slots that usage is kept in.
    slots: Slots,
    /// Whether pages change something while no key is needed.
    writes_without_key: bool,
}

impl Console {
    /// `stack` are the services with all their layers.
    pub(crate) fn new(
        store: Store,
        clock: Clock,
        authenticator: Authenticator,
        stack: Stack,
        slots: Slots,
        writes_without_key: bool,
    ) -> Self {
        Self {
            sessions: Sessions::new(store, clock.clone(), authenticator.clone()),
            authenticator,
            stack,
            clock,
            failures: AddressRates::of_sign_ins(),
            failure_lines: LogLimit::new(),
            diagnosis: Diagnosis::default(),
            recent_usage: RecentUsage::default(),
            asked_usage: AskedUsage::default(),
            sign_off_months: SignOffMonths::default(),
            pages: PageLimit::default(),
            slots,
            writes_without_key,
        }
    }

    /// The answer to a request for a path of the console.
    pub(crate) async fn answer(
        &self,
        path: HttpPath,
        requirement: Requirement,
        place: Place,
        request: Request,
    ) -> Response {
        // A body cannot be shared while a call is waited for.
        let (head, body) = request.into_parts();
        match path {
            HttpPath::ConsoleStyle => style::answer(head.uri.query()),
            HttpPath::ConsoleSignIn if head.method == Method::POST => {
                let made = self.sign_in(place, &head, body);
                self.bounded(None, &head, made).await
            }
            HttpPath::ConsoleSignIn => {
                let made = self.show_sign_in(place, &head);
                self.bounded(None, &head, made).await
            }
            HttpPath::ConsoleSignOut => {
                let made = self.sign_out(place, &head, body);
                self.bounded(None, &head, made).await
            }
            HttpPath::ConsoleResolve | HttpPath::ConsoleCorrect | HttpPath::ConsoleForce
                if head.method == Method::POST =>
            {
                self.act(path, requirement, place, &head, body).await
            }
            _ => self.page(path, requirement, place, &head).await,
        }
    }

    /// Lets a link of a page to the JSON of a call that only reads be followed: the session says who calls. Returns whether
    /// it does.
    pub(crate) async fn identify_link(&self, place: Place, request: &mut Request) -> bool {
        let headers = request.headers();
        let asks_stripe = ASKS_STRIPE.contains(&request.uri().path());
        let is_link = request.method() == Method::GET
            && !headers.contains_key(header::AUTHORIZATION)
            && !headers.contains_key(header::ORIGIN)
            && origin::may_show(headers)
            && (!asks_stripe || origin::is_own_request(headers));
        let session = is_link.then(|| cookie::read(request.uri(), headers, place));
        let Some(secret) = session.flatten() else {
            return false;
        };
        // Without a caller, the call is refused as one without a key.
        let address = visitor::address(request.extensions());
        let caller = self.sessions.caller(&secret, address).await.ok();
        let known = caller.map(|caller| request.extensions_mut().insert(KnownCaller(caller)));
        known.is_some()
    }

    async fn page(
        &self,
        path: HttpPath,
        requirement: Requirement,
        place: Place,
        head: &Parts,
    ) -> Response {
        if !origin::may_show(&head.headers) {
            let made = async { layout::failure(None, &origin::foreign_page()) };
            return self.bounded(None, head, made).await;
        }
        match self.identify(place, head).await {
            Ok(visitor) => {
                let caller = Arc::clone(&visitor.caller);
                let made = Box::pin(async {
                    match zone::chosen(&visitor, place, head) {
                        Some(Ok(answer)) => answer.into(),
                        Some(Err(failure)) => layout::failure(Some(&visitor), &failure).into(),
                        None => self.made(path, requirement, visitor).await,
                    }
                });
                self.bounded(Some(&caller), head, made).await
            }
            Err(error) => {
                let made = async { unidentified(head, error) };
                self.bounded(None, head, made).await
            }
        }
    }

    /// An answer whose bytes count from now on until they are read; a refusal if too many wait.
    async fn bounded(
        &self,
        caller: Option<&Caller>,
        head: &Parts,
        made: impl Future<Output = impl Into<Made>>,
    ) -> Response {
        let Some(connection) = visitor::activity(head) else {
            let made: Made = made.await.into();
            let (Made::Page(answer) | Made::Download(answer)) = made;
            return answer;
        };
        let kept = match self.pages.reserve(caller, connection) {
            Ok(place) => {
                let made: Made = made.await.into();
                match made {
                    Made::Page(answer) => place.keep(answer).await,
                    Made::Download(answer) => Ok(place.follow(answer)),
                }
            }
            Err(error) => Err(error),
        };
        kept.unwrap_or_else(unread)
    }

    async fn made(&self, path: HttpPath, requirement: Requirement, visitor: Visitor) -> Made {
        // The calls of these refuse by themselves, which is limited and audited.
        let is_audited = matches!(path, HttpPath::ConsoleAudit | HttpPath::ConsoleKeys);
        if !is_audited && let Err(denial) = visitor.caller.check_role(requirement) {
            return layout::failure(Some(&visitor), &Error::PermissionDenied(denial).into()).into();
        }
        if path == HttpPath::ConsoleInvoice && invoice_download::is_wanted(&visitor.query) {
            return match invoice_download::answer(&visitor).await {
                Ok(answer) => Made::Download(answer),
                Err(failure) => layout::failure(Some(&visitor), &failure).into(),
            };
        }
        if path == HttpPath::ConsoleSignOff && sign_off_file::is_wanted(&visitor.query) {
            return match sign_off_file::answer(&visitor).await {
                Ok(answer) => Made::Download(answer),
                Err(failure) => layout::failure(Some(&visitor), &failure).into(),
            };
        }
        match self.content(path, &visitor).await {
            Ok(page) => layout::answer(Some(&visitor), path, &page).into(),
            Err(failure) => {
                let mut answer = layout::failure(Some(&visitor), &failure);
                if path == HttpPath::ConsoleRun {
                    let refresh = actions::refresh_after(&visitor, &failure);
                    let refresh = refresh.map(|refresh| (header::REFRESH, refresh));
                    answer.headers_mut().extend(refresh);
                }
                answer.into()
            }
        }
    }

    async fn content(&self, path: HttpPath, visitor: &Visitor) -> Result<Page, Failure> {
        match path {
            HttpPath::ConsoleOverview => {
                overview::page(visitor, &self.diagnosis, &self.recent_usage).await
            }
            HttpPath::ConsoleUsage => {
                usage::page(visitor, &self.recent_usage, &self.asked_usage).await
            }
            HttpPath::ConsoleAccounts => accounts::page(visitor).await,
            HttpPath::ConsoleAccount => account::page(visitor).await,
            HttpPath::ConsoleReports => reports::page(visitor).await,
            HttpPath::ConsoleReport => report::page(visitor).await,
            HttpPath::ConsoleInvoice => invoice::page(visitor).await,
            HttpPath::ConsoleFind => find::page(visitor).await,
            HttpPath::ConsoleRuns => runs::page(visitor).await,
            HttpPath::ConsoleVerification => verification::page(visitor, &self.diagnosis).await,
            HttpPath::ConsoleShadow => shadow::page(visitor).await,
            HttpPath::ConsoleSignOff => sign_off::page(visitor, &self.sign_off_months).await,
            HttpPath::ConsoleAudit => audit::page(visitor).await,
            HttpPath::ConsoleKeys => keys::page(visitor).await,
            HttpPath::ConsoleSetUp => set_up::page(visitor, &self.diagnosis).await,
            HttpPath::ConsoleResolve
            | HttpPath::ConsoleCorrect
            | HttpPath::ConsoleForce
            | HttpPath::ConsoleRun => actions::page(path, visitor).await,
            _ => Err(Failure::not_found("this page does not exist")),
        }
    }

    /// Who looks at a page: by its session; without one by a key in the headers, a client certificate, or nothing if no
    /// caller needs a key.
    async fn identify(&self, place: Place, head: &Parts) -> Result<Visitor, Error> {
        let secret = cookie::read(&head.uri, &head.headers, place);
        if let Some(secret) = secret {
            let address = visitor::address(&head.extensions);
            match self.sessions.caller(&secret, address).await {
                Ok(caller) => {
                    return Ok(self.visitor(caller, Some(secret), place, head));
                }
                // It has ended. The browser may have another right.
                Err(Error::Unauthenticated) => {}
                Err(error) => return Err(error),
            }
        }
        let certificate = visitor::activity(head);
        let certificate = certificate.as_ref().and_then(|of| of.client_certificate());
        let caller = self
            .authenticator
            .authenticate(&head.headers, certificate)
            .await?;
        Ok(self.visitor(caller, None, place, head))
    }

    fn visitor(
        &self,
        caller: Arc<Caller>,
        session: Option<SessionSecret>,
        place: Place,
        head: &Parts,
    ) -> Visitor {
        let is_admin = Requirement::Role(Role::Admin).is_met_by(caller.role);
        let may_change = is_admin && (self.writes_without_key || !caller.is_anyone());
        let query = Query::parse(head.uri.query().unwrap_or_default());
        let zone = Choice::read(&query, head, place, self.slots);
        let calls = Calls::new(self.stack.clone(), Arc::clone(&caller), &head.extensions);
        Visitor {
            caller,
            session,
            calls,
            path: HttpPath::find(head.uri.path()),
            query,
            zone,
            is_own_request: origin::is_own_request(&head.headers),
            now: self.clock.now(),
            may_change,
        }
    }
}

/// What whoever has no right to a page gets in its place.
fn unidentified(head: &Parts, error: Error) -> Response {
    if !matches!(error, Error::Unauthenticated) {
        return layout::failure(None, &error.into());
    }
    let next = head.uri.path_and_query();
    let next = next.map_or("/", |next| next.as_str());
    sign_in::form(StatusCode::UNAUTHORIZED, next, None)
}

/// Refuses a page because too many wait to be read. It is short, because it counts nowhere.
fn unread(error: Error) -> Response {
    let failure = Failure::from(error);
    failure.marked(format!("{}: {}\n", failure.reason, failure.message))
}

/// Adds what every answer of the console has.
pub(crate) fn protect(answer: &mut Response) {
    let headers: &mut HeaderMap = answer.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let no_store = HeaderValue::from_static("no-store");
    headers.entry(header::CACHE_CONTROL).or_insert(no_store);
}

/// Sends a browser to another page.
fn see_other(to: &str) -> Response {
    let to = HeaderValue::from_str(to).unwrap_or_else(|_| HeaderValue::from_static("/"));
    (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response()
}
