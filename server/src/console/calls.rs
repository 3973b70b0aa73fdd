//! Calls of the services within this process, through all their layers, as the visitor of a page.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    http::{StatusCode, header},
    response::IntoResponse,
};
use http::{Extensions, HeaderValue, Request, Response};
use tonic::{Status, Streaming, body::Body};
use tonic_types::StatusExt as _;
use tower::util::BoxCloneSyncService;
use tower_service::Service;
use usage_proto::v1::{
    CompareShadowRequest, CompareShadowResponse, CorrectRequest, CorrectResponse, DoctorRequest,
    DoctorResponse, ExplainInvoiceRequest, ExplainInvoiceResponse, ExportSignOffRequest,
    ExportSignOffResponse, FindIncrementRequest, FindIncrementResponse, ForceReportRequest,
    ForceReportResponse, GetAccountRequest, GetAccountResponse, GetRequest, GetResponse,
    GetSignOffRequest, GetSignOffResponse, GetSummaryRequest, GetSummaryResponse,
    ListAccountsRequest, ListAccountsResponse, ListAuditEntriesRequest, ListAuditEntriesResponse,
    ListKeysRequest, ListKeysResponse, ListMetersRequest, ListMetersResponse, ListReportsRequest,
    ListReportsResponse, ListRunsRequest, ListRunsResponse, ListUsageRequest, ListUsageResponse,
    ReconcileRequest, ReconcileResponse, ResolveReportRequest, ResolveReportResponse,
    access_service_client::AccessServiceClient, account_service_client::AccountServiceClient,
    operations_service_client::OperationsServiceClient, usage_service_client::UsageServiceClient,
};

use crate::{
    authentication::KnownCaller,
    client_address::ClientAddress,
    connections::Activity,
    domain::access::Caller,
    error::Error,
    request_context::{REQUEST_ID, RequestContext},
    serve::{MAX_ANSWER_BYTES, http_status},
};

/// The services with all their layers.
pub(crate) type Stack = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// How long a page waits for a call.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The same for one that asks Stripe much.
const LONG_TIMEOUT: Duration = Duration::from_secs(75);
/// The same for one that reads a month, which no page waits for to the end.
const SIGN_OFF_TIMEOUT: Duration = Duration::from_hours(2);

/// Why a page cannot be shown.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    /// The reason of the contract, such as `ACCOUNT_NOT_FOUND`.
    pub(super) reason: String,
    pub(super) message: String,
    /// After how many seconds it may be asked for again, if that is known.
    pub(super) retry_after_secs: Option<u64>,
}

impl Failure {
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            reason: "INVALID_FIELD".to_owned(),
            message: message.into(),
            retry_after_secs: None,
        }
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            reason: "NOT_FOUND".to_owned(),
            message: message.into(),
            retry_after_secs: None,
        }
    }

    /// A call ended without what it had to answer.
    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Status::unavailable(message).into()
    }

    /// An answer of its status that says when to ask again.
    pub(super) fn marked(&self, answer: impl IntoResponse) -> axum::response::Response {
        let mut answer = (self.status, answer).into_response();
        let secs = self.retry_after_secs.map(HeaderValue::from);
        let header = secs.map(|secs| (header::RETRY_AFTER, secs));
        answer.headers_mut().extend(header);
        answer
    }

    /// Whether it is known that nothing was done, and sending the same again changes nothing of that.
    pub(super) fn is_final(&self) -> bool {
        self.status.is_client_error() && self.status != StatusCode::TOO_MANY_REQUESTS
    }

    pub(super) fn is_denied(&self) -> bool {
        self.status == StatusCode::FORBIDDEN
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let info = status.get_details_error_info();
        let retry = status.get_details_retry_info();
        let delay = retry.and_then(|retry| retry.retry_delay);
        let wrong = status.get_details_bad_request();
        let wrong = wrong.map_or_else(Vec::new, |wrong| wrong.field_violations);
        let all: Vec<String> = wrong.into_iter().map(|one| one.description).collect();
        Self {
            status: http_status(status.code()),
            reason: info.map_or_else(|| format!("{:?}", status.code()), |info| info.reason),
            // Each field that is wrong.
            message: if all.len() > 1 {
                all.join("; ")
            } else {
                status.message().to_owned()
            },
            // In whole seconds, and never sooner than it may be sent again.
            retry_after_secs: delay.map(|delay| delay.as_secs().saturating_add(1)),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Status::from(error).into()
    }
}

/// The messages that a call streams.
pub(super) struct Messages<M>(Streaming<M>);

impl<M> Messages<M> {
    /// The next message; none after the last one.
    pub(super) async fn next(&mut self) -> Result<Option<M>, Failure> {
        Ok(self.0.message().await?)
    }
}

/// A service that calls as someone.
#[derive(Clone)]
pub(super) struct AsCaller {
    stack: Stack,
    caller: Arc<Caller>,
    activity: Option<Arc<Activity>>,
    address: Option<ClientAddress>,
    request_id: Option<HeaderValue>,
}

impl Service<Request<Body>> for AsCaller {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = <Stack as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.stack.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let extensions = request.extensions_mut();
        extensions.insert(KnownCaller(Arc::clone(&self.caller)));
        if let Some(activity) = &self.activity {
            extensions.insert(Arc::clone(activity));
        }
        if let Some(address) = self.address {
            extensions.insert(address);
        }
        if let Some(id) = &self.request_id {
            request.headers_mut().insert(REQUEST_ID, id.clone());
        }
        self.stack.call(request)
    }
}

/// The calls that pages make. Cheap to clone.
#[derive(Clone)]
pub(super) struct Calls(AsCaller);

/// A method that calls one of a service.
macro_rules! call {
    ($name:ident: $client:ident, $request:ty => $response:ty, $timeout:expr) => {
        pub(super) async fn $name(&self, request: $request) -> Result<$response, Failure> {
            let mut request = tonic::Request::new(request);
            request.set_timeout($timeout);
            let mut client = $client::new(self.0.clone());
            // A page may be larger than what a client usually takes.
            client = client.max_decoding_message_size(MAX_ANSWER_BYTES);
            Ok(client.$name(request).await?.into_inner())
        }
    };
}

impl Calls {
    /// `of_page` is what belongs to the request for the page: its calls have the same id, connection and address.
    pub(super) fn new(stack: Stack, caller: Arc<Caller>, of_page: &Extensions) -> Self {
        let context = of_page.get::<RequestContext>();
        Self(AsCaller {
            stack,
            caller,
            activity: of_page.get::<Arc<Activity>>().cloned(),
            address: ClientAddress::find(of_page),
            request_id: context.and_then(RequestContext::header),
        })
    }

    /// The file of a month in parts. The call limits its time itself.
    pub(super) async fn export_sign_off(
        &self,
        request: ExportSignOffRequest,
    ) -> Result<Messages<ExportSignOffResponse>, Failure> {
        let mut client = OperationsServiceClient::new(self.0.clone());
        let answer = client.export_sign_off(request).await?;
        Ok(Messages(answer.into_inner()))
    }

    /// Begins or watches a run, or says what one would do. Whoever reads the messages limits the time.
    pub(super) async fn force_report(
        &self,
        request: ForceReportRequest,
    ) -> Result<Messages<ForceReportResponse>, Failure> {
        let client = UsageServiceClient::new(self.0.clone());
        let mut client = client.max_decoding_message_size(MAX_ANSWER_BYTES);
        let answer = client.force_report(request).await?;
        Ok(Messages(answer.into_inner()))
    }

    call!(get: UsageServiceClient, GetRequest => GetResponse, TIMEOUT);
    call!(list_meters: UsageServiceClient, ListMetersRequest => ListMetersResponse, TIMEOUT);
    call!(correct: UsageServiceClient, CorrectRequest => CorrectResponse, TIMEOUT);
    call!(resolve_report: UsageServiceClient, ResolveReportRequest => ResolveReportResponse, TIMEOUT);
    call!(list_reports: UsageServiceClient, ListReportsRequest => ListReportsResponse, TIMEOUT);
    call!(get_summary: UsageServiceClient, GetSummaryRequest => GetSummaryResponse, LONG_TIMEOUT);
    call!(list_usage: UsageServiceClient, ListUsageRequest => ListUsageResponse, LONG_TIMEOUT);
    call!(find_increment: UsageServiceClient, FindIncrementRequest => FindIncrementResponse, TIMEOUT);
    call!(explain_invoice: UsageServiceClient, ExplainInvoiceRequest => ExplainInvoiceResponse, TIMEOUT);
    call!(reconcile: UsageServiceClient, ReconcileRequest => ReconcileResponse, LONG_TIMEOUT);
    call!(get_account: AccountServiceClient, GetAccountRequest => GetAccountResponse, TIMEOUT);
    call!(list_accounts: AccountServiceClient, ListAccountsRequest => ListAccountsResponse, TIMEOUT);
    call!(doctor: OperationsServiceClient, DoctorRequest => DoctorResponse, LONG_TIMEOUT);
    call!(compare_shadow: OperationsServiceClient, CompareShadowRequest => CompareShadowResponse, LONG_TIMEOUT);
    call!(get_sign_off: OperationsServiceClient, GetSignOffRequest => GetSignOffResponse, SIGN_OFF_TIMEOUT);
    call!(list_runs: OperationsServiceClient, ListRunsRequest => ListRunsResponse, TIMEOUT);
    call!(list_keys: AccessServiceClient, ListKeysRequest => ListKeysResponse, TIMEOUT);
    call!(list_audit_entries: AccessServiceClient, ListAuditEntriesRequest => ListAuditEntriesResponse, TIMEOUT);
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_failure_has_the_reason_and_the_status_of_the_error() {
        let failure = Failure::from(Error::AccountNotFound("acct".to_owned()));
        assert_eq!(failure.reason, "ACCOUNT_NOT_FOUND");
        assert!(failure.is_not_found());
        let failure = Failure::from(Status::new(Code::Unavailable, "later"));
        assert_eq!(failure.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(failure.message, "later");
    }
}
