//! The contract: the reasons of errors, gRPC reflection and health, and the rules for its files.

use std::time::Duration;

use futures_util::stream;
use prost::Message as _;
use prost_types::{
    EnumValueDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
};
use sea_orm::DbErr;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use usage_client::{Error, ErrorKind as Kind, Reason};
use usage_proto::v1::FILE_DESCRIPTOR_SET;
use usage_server::{
    domain::{
        access::Denial,
        billing_start::BillingStart,
        clock_check::Doubt,
        violation::{Reason as ServerReason, Violation},
        window::Interval,
    },
    error::Error as ServerError,
};

use crate::support::world::{World, on_both_engines};

on_both_engines!(
    the_health_service_reports_serving,
    reflection_describes_the_services,
    reflection_also_answers_older_tools,
);

/// Converts a server error to an error of the shipped client.
fn as_it_arrives(error: ServerError) -> Error {
    Error::from(tonic::Status::from(error))
}

fn refusal(reason: ServerReason) -> ServerError {
    Violation::new(reason, "field", "message").into()
}

/// The client's reason for a violation. A reason that is added to the server has to be added here and below.
fn reason_of(reason: ServerReason) -> Reason {
    match reason {
        ServerReason::InvalidField => Reason::InvalidField,
        ServerReason::UnknownMeter => Reason::UnknownMeter,
        ServerReason::TimestampTooOld => Reason::TimestampTooOld,
        ServerReason::TimestampInFuture => Reason::TimestampInFuture,
        ServerReason::NotSupported => Reason::NotSupported,
        ServerReason::PeriodNotAligned => Reason::PeriodNotAligned,
        ServerReason::TooManyPoints => Reason::TooManyPoints,
        ServerReason::PageTokenInvalid => Reason::PageTokenInvalid,
        ServerReason::KeyReused => Reason::KeyReused,
        ServerReason::UnknownCustomer => Reason::UnknownCustomer,
        ServerReason::UnknownSubscription => Reason::UnknownSubscription,
        ServerReason::PermissionDenied => Reason::PermissionDenied,
        ServerReason::AccountDeleted => Reason::AccountDeleted,
    }
}

/// The client's reason and kind for an error. A variant that is added to the server has to be added here and below.
fn reason_and_kind_of(error: &ServerError) -> (Reason, Kind) {
    match error {
        ServerError::Invalid(refusals) => (reason_of(refusals[0].reason), Kind::Invalid),
        ServerError::KeyReused(_) => (Reason::KeyReused, Kind::KeyReused),
        ServerError::CustomerTaken { .. } => (Reason::CustomerTaken, Kind::CustomerTaken),
        ServerError::EtagMismatch { .. } | ServerError::ReportChanged { .. } => {
            (Reason::EtagMismatch, Kind::EtagMismatch)
        }
        ServerError::AccountNotFound(_) | ServerError::NothingStored(_) => {
            (Reason::AccountNotFound, Kind::NotFound)
        }
        ServerError::AccountDeleted => (Reason::AccountDeleted, Kind::Precondition),
        ServerError::AccountNotDeletable(_) => (Reason::AccountNotDeletable, Kind::Precondition),
        ServerError::RunNotFound(_) => (Reason::RunNotFound, Kind::NotFound),
        ServerError::Overloaded { .. }
        | ServerError::TooManyChanges { .. }
        | ServerError::TooManyRuns { .. }
        | ServerError::TooManyReads { .. }
        | ServerError::TooManyReadsOfCaller { .. }
        | ServerError::AnswersUnread { .. }
        | ServerError::RequestsUnfinished { .. }
        | ServerError::TooManyKeys => (Reason::Overloaded, Kind::Overloaded),
        ServerError::TooManyRequests { .. } => (Reason::RateLimited, Kind::Overloaded),
        ServerError::MessageTooSlow(_) => (Reason::MessageTooSlow, Kind::Deadline),
        ServerError::DatabaseUnavailable(_)
        | ServerError::KeysUnreadable
        | ServerError::ReportsMoving
        | ServerError::MonthChanged => (Reason::DatabaseUnavailable, Kind::Unavailable),
        ServerError::Unauthenticated => (Reason::Unauthenticated, Kind::Unauthenticated),
        ServerError::PermissionDenied(_) => (Reason::PermissionDenied, Kind::PermissionDenied),
        ServerError::OriginNotAllowed(_) => (Reason::OriginNotAllowed, Kind::PermissionDenied),
        ServerError::HostNotLocal => (Reason::HostNotLocal, Kind::Precondition),
        ServerError::ApiKeyNotFound(_) => (Reason::ApiKeyNotFound, Kind::NotFound),
        ServerError::ClockInDoubt(_) => (Reason::ClockInDoubt, Kind::Unavailable),
        ServerError::ShuttingDown => (Reason::ShuttingDown, Kind::Unavailable),
        ServerError::ReportingDisabled
        | ServerError::OnlyReads
        | ServerError::BilledElsewhere { .. } => {
            (Reason::ReportingDisabled, Kind::ReportingDisabled)
        }
        ServerError::StripeUnavailable(_) => (Reason::StripeUnavailable, Kind::Unavailable),
        ServerError::ChangeInProgress(_) => (Reason::ChangeInProgress, Kind::Precondition),
        ServerError::SubscriptionNotChangeable(_) => {
            (Reason::SubscriptionNotChangeable, Kind::Precondition)
        }
        ServerError::UsageNeedsDecision { .. } => (Reason::UsageNeedsDecision, Kind::Precondition),
        ServerError::ChangeTimedOut(_) => (Reason::ChangeTimedOut, Kind::Unavailable),
        ServerError::NoChangeInProgress(_) => (Reason::NoChangeInProgress, Kind::Precondition),
        ServerError::ChangeAborted(_) => (Reason::ChangeAborted, Kind::Precondition),
        ServerError::DeadlineExceeded | ServerError::ExportTooSlow(_) => {
            (Reason::DeadlineExceeded, Kind::Deadline)
        }
        ServerError::MonthNotClosed(_) | ServerError::BooksDiffer(_) => {
            (Reason::MonthNotClosed, Kind::Precondition)
        }
        ServerError::MalformedMessage(_) => (Reason::MalformedMessage, Kind::Invalid),
        ServerError::MessageTooLarge(_) => (Reason::MessageTooLarge, Kind::Invalid),
        ServerError::Unimplemented(_) => (Reason::Unimplemented, Kind::Unimplemented),
        ServerError::Internal(_) => (Reason::Internal, Kind::Internal),
        ServerError::BelowZero { .. } => (Reason::BelowZero, Kind::Precondition),
        ServerError::ReportNotFound(_) | ServerError::ReportMayBeFolded { .. } => {
            (Reason::ReportNotFound, Kind::NotFound)
        }
        ServerError::DifferenceNotFound(_) => (Reason::DifferenceNotFound, Kind::NotFound),
        ServerError::IncrementNotFound { .. } => (Reason::IncrementNotFound, Kind::NotFound),
        ServerError::NoBillingPeriod(_) | ServerError::InvoiceNotFound { .. } => {
            (Reason::InvoiceNotFound, Kind::NotFound)
        }
        ServerError::NotResolvable { .. } => (Reason::NotResolvable, Kind::Precondition),
        ServerError::Logged { error, .. } => reason_and_kind_of(error),
    }
}

fn may_be_folded() -> ServerError {
    ServerError::ReportMayBeFolded {
        report: "x".to_owned(),
        archives: vec!["x".to_owned()],
    }
}

fn increment_not_found() -> ServerError {
    ServerError::IncrementNotFound {
        account: "x".to_owned(),
        key: "x".to_owned(),
        meter: Some("x".to_owned()),
        kept_ms: 1,
    }
}

fn invoice_not_found() -> ServerError {
    ServerError::InvoiceNotFound {
        invoice: "x".to_owned(),
        account: Some("x".to_owned()),
    }
}

/// The reasons of a wrong field.
const REFUSALS: [ServerReason; 11] = [
    ServerReason::InvalidField,
    ServerReason::UnknownMeter,
    ServerReason::TimestampTooOld,
    ServerReason::TimestampInFuture,
    ServerReason::NotSupported,
    ServerReason::PeriodNotAligned,
    ServerReason::TooManyPoints,
    ServerReason::PageTokenInvalid,
    ServerReason::KeyReused,
    ServerReason::UnknownCustomer,
    ServerReason::UnknownSubscription,
];

fn logged(error: ServerError) -> ServerError {
    ServerError::Logged {
        error: Box::new(error),
        cause_id: None,
    }
}

/// One of each error that is no refusal of a field.
fn other_errors() -> Vec<ServerError> {
    let text = || "x".to_owned();
    vec![
        ServerError::CustomerTaken { customer: text() },
        etag_mismatch(),
        ServerError::AccountNotFound(text()),
        ServerError::NothingStored(text()),
        ServerError::AccountDeleted,
        ServerError::AccountNotDeletable(Vec::new()),
        ServerError::RunNotFound(text()),
        ServerError::Overloaded {
            retry_after: Duration::from_millis(100),
        },
        ServerError::TooManyChanges { limit: 1 },
        too_many_reads(),
        ServerError::AnswersUnread {
            unread: 2,
            limit: 1,
        },
        ServerError::RequestsUnfinished { held: 2, limit: 1 },
        ServerError::TooManyRequests {
            per_sec: 1,
            retry_after: Duration::from_millis(100),
        },
        ServerError::MessageTooSlow(Duration::from_secs(30)),
        ServerError::TooManyKeys,
        ServerError::DatabaseUnavailable(DbErr::Custom(text())),
        ServerError::KeysUnreadable,
        ServerError::ReportsMoving,
        ServerError::Unauthenticated,
        ServerError::PermissionDenied(Denial::Account),
        ServerError::ApiKeyNotFound(text()),
        ServerError::ClockInDoubt(Doubt::DatabaseJumped(1)),
        ServerError::ShuttingDown,
        ServerError::ReportingDisabled,
        ServerError::OnlyReads,
        ServerError::BilledElsewhere {
            at: 0,
            start: BillingStart::At(1),
        },
        ServerError::StripeUnavailable(text()),
        ServerError::ChangeInProgress(text()),
        ServerError::SubscriptionNotChangeable(text()),
        ServerError::UsageNeedsDecision {
            account_id: text(),
            reports: 1,
        },
        ServerError::ChangeTimedOut(text()),
        ServerError::NoChangeInProgress(text()),
        ServerError::ChangeAborted(text()),
        ServerError::DeadlineExceeded,
        ServerError::MalformedMessage(text()),
        ServerError::MessageTooLarge(text()),
        ServerError::Unimplemented(text()),
        ServerError::Internal(text().into()),
        below_zero(),
        ServerError::ReportNotFound(text()),
        may_be_folded(),
        ServerError::DifferenceNotFound(text()),
        increment_not_found(),
        ServerError::NoBillingPeriod(text()),
        invoice_not_found(),
        ServerError::NotResolvable {
            report: text(),
            state: text(),
            decided: None,
        },
        ServerError::ReportChanged { report: text() },
        ServerError::TooManyRuns { limit: 1 },
        logged(ServerError::ShuttingDown),
    ]
}

#[test]
fn every_server_error_has_a_reason_in_the_contract() {
    let refused = REFUSALS.into_iter().map(refusal);
    let rest = sign_off_errors().into_iter().chain(errors_of_http());
    for error in refused.chain(other_errors()).chain(rest) {
        let (reason, kind) = reason_and_kind_of(&error);
        let arrived = as_it_arrives(error);
        assert_eq!(arrived.reason(), Some(&reason));
        assert_eq!(arrived.kind(), kind, "{reason}");
    }
}

fn sign_off_errors() -> [ServerError; 5] {
    [
        ServerError::TooManyReadsOfCaller {
            of: "sign-offs of a month",
            limit: 1,
        },
        ServerError::MonthChanged,
        ServerError::MonthNotClosed("x".to_owned()),
        ServerError::BooksDiffer("x".to_owned()),
        ServerError::ExportTooSlow(Duration::from_mins(10)),
    ]
}

fn errors_of_http() -> [ServerError; 2] {
    [
        ServerError::OriginNotAllowed("x".to_owned()),
        ServerError::HostNotLocal,
    ]
}

fn below_zero() -> ServerError {
    ServerError::BelowZero {
        quantity: -2,
        current: 1,
        period: Interval { start: 0, end: 1 },
    }
}

fn too_many_reads() -> ServerError {
    ServerError::TooManyReads {
        of: "explanations of invoices",
        running: 1,
        waiting: 1,
    }
}

fn etag_mismatch() -> ServerError {
    let text = || "x".to_owned();
    ServerError::EtagMismatch {
        given: text(),
        actual: text(),
    }
}

#[test]
fn a_violation_keeps_its_field_and_description() {
    let arrived = as_it_arrives(refusal(ServerReason::UnknownMeter));
    let [violation] = arrived.violations() else {
        panic!("{arrived}")
    };
    assert_eq!(
        (&*violation.field, &*violation.description),
        ("field", "message")
    );
    assert!(!arrived.is_retryable() && !arrived.may_have_taken_effect());
}

#[test]
fn a_transient_error_carries_a_retry_delay() {
    let delay = Duration::from_millis(100);
    let overloaded = as_it_arrives(ServerError::Overloaded { retry_after: delay });
    assert_eq!(overloaded.retry_after(), Some(delay));
    for error in [
        ServerError::ShuttingDown,
        ServerError::DatabaseUnavailable(DbErr::Custom(String::new())),
    ] {
        let arrived = as_it_arrives(error);
        assert!(arrived.is_retryable() && arrived.retry_after().is_some());
    }
}

async fn the_health_service_reports_serving(world: World) {
    let mut health = HealthClient::new(world.grpc_channel().await);
    for service in [
        "",
        "usage.v1.UsageService",
        "usage.v1.AccountService",
        "usage.v1.AccessService",
    ] {
        let service = service.to_owned();
        let answer = health.check(HealthCheckRequest { service }).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    }
    let service = "usage.v1.Nothing".to_owned();
    let error = health
        .check(HealthCheckRequest { service })
        .await
        .unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);
    world.finish().await;
}

/// Asks the reflection service of one version, whose types differ only by their module.
macro_rules! assert_reflects {
    ($world:expr, $version:ident) => {{
        use tonic_reflection::pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let mut reflection = ServerReflectionClient::new($world.grpc_channel().await);
        let questions = questions().map(|question| ServerReflectionRequest {
            host: String::new(),
            message_request: Some(match question {
                Question::Services => MessageRequest::ListServices(String::new()),
                Question::File(symbol) => MessageRequest::FileContainingSymbol(symbol.to_owned()),
            }),
        });
        let call = reflection.server_reflection_info(stream::iter(questions));
        let mut answers = call.await.unwrap().into_inner();
        let mut seen = Vec::new();
        while let Some(answer) = answers.message().await.unwrap() {
            seen.push(match answer.message_response.unwrap() {
                MessageResponse::ListServicesResponse(list) => {
                    Described::Services(list.service.into_iter().map(|one| one.name).collect())
                }
                MessageResponse::FileDescriptorResponse(file) => {
                    Described::Files(file.file_descriptor_proto)
                }
                other => panic!("{other:?}"),
            });
        }
        assert_described(seen);
    }};
}

async fn reflection_describes_the_services(world: World) {
    assert_reflects!(world, v1);
    world.finish().await;
}

async fn reflection_also_answers_older_tools(world: World) {
    assert_reflects!(world, v1alpha);
    world.finish().await;
}

/// What both versions of reflection are asked.
enum Question {
    Services,
    File(&'static str),
}

enum Described {
    Services(Vec<String>),
    Files(Vec<Vec<u8>>),
}

/// A symbol of the contract, and the types in the details of its errors.
const SYMBOLS: [&str; 5] = [
    "usage.v1.UsageService.Increment",
    "google.rpc.Status",
    "google.rpc.ErrorInfo",
    "google.rpc.BadRequest",
    "google.rpc.RetryInfo",
];

fn questions() -> impl Iterator<Item = Question> + Send + 'static {
    std::iter::once(Question::Services).chain(SYMBOLS.into_iter().map(Question::File))
}

fn assert_described(seen: Vec<Described>) {
    assert_eq!(seen.len(), SYMBOLS.len() + 1);
    for described in seen {
        match described {
            Described::Services(names) => {
                for service in [
                    "usage.v1.UsageService",
                    "usage.v1.AccountService",
                    "usage.v1.AccessService",
                    "grpc.health.v1.Health",
                    "grpc.reflection.v1.ServerReflection",
                    "grpc.reflection.v1alpha.ServerReflection",
                ] {
                    let listed = names.iter().filter(|name| *name == service).count();
                    assert_eq!(listed, 1, "{service} in {names:?}");
                }
            }
            Described::Files(files) => assert!(files.iter().all(|file| !file.is_empty())),
        }
    }
}

/// The files of the contract, without the ones of Google that they import.
fn contract_files() -> Vec<FileDescriptorProto> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let files = set.file.into_iter();
    files.filter(|file| file.package() == "usage.v1").collect()
}

#[test]
fn every_proto_file_names_its_package_in_other_languages() {
    let files = contract_files();
    assert_eq!(files.len(), 9);
    for file in files {
        let options = file.options.as_ref().unwrap();
        let name = file.name();
        assert_eq!(options.go_package(), "usage/v1;usagev1", "{name}");
        assert_eq!(options.java_package(), "usage.v1", "{name}");
        assert!(options.java_multiple_files(), "{name}");
        assert_eq!(options.csharp_namespace(), "Usage.V1", "{name}");
        assert_eq!(options.php_namespace(), "Usage\\V1", "{name}");
        assert_eq!(options.ruby_package(), "Usage::V1", "{name}");
        let outer = options.java_outer_classname().to_lowercase();
        let file = name.trim_start_matches("usage/v1/").replace('_', "");
        assert_eq!(outer, file.replace(".proto", "proto"), "{name}");
    }
}

#[test]
fn a_gap_between_numbers_of_the_contract_is_reserved() {
    for file in contract_files() {
        for item in &file.enum_type {
            let used = item.value.iter().map(EnumValueDescriptorProto::number);
            // Both ends of a reserved range of an enum are part of it.
            let reserved = item.reserved_range.iter();
            let reserved = reserved.flat_map(|range| range.start()..=range.end());
            assert_gapless(item.name(), 0, used.chain(reserved));
        }
        for item in &file.message_type {
            let used = item.field.iter().map(FieldDescriptorProto::number);
            let reserved = item.reserved_range.iter();
            let reserved = reserved.flat_map(|range| range.start()..range.end());
            assert_gapless(item.name(), 1, used.chain(reserved));
        }
    }
}

fn assert_gapless(item: &str, first: i32, numbers: impl Iterator<Item = i32>) {
    let mut numbers: Vec<i32> = numbers.collect();
    numbers.sort_unstable();
    let count = i32::try_from(numbers.len()).unwrap();
    let expected: Vec<i32> = (first..first + count).collect();
    assert_eq!(numbers, expected, "{item} has a gap that is not reserved");
}
