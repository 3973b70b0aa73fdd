//! The contract: the reasons of errors, and gRPC reflection and health.

use std::time::Duration;

use futures_util::stream;
use sea_orm::DbErr;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use usage_client::{Error, ErrorKind, Reason};
use usage_server::{
    domain::{
        clock_check::Doubt,
        violation::{Reason as ServerReason, Violation},
        window::Interval,
    },
    error::Error as ServerError,
};

use crate::support::world::{World, on_both_engines};

on_both_engines!(
    the_health_service_reports_serving,
    reflection_describes_the_services
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
    }
}

/// The client's reason and kind for an error. A variant that is added to the server has to be added here and below.
fn reason_and_kind_of(error: &ServerError) -> (Reason, ErrorKind) {
    use ErrorKind as Kind;
    match error {
        ServerError::Invalid(refusals) => (reason_of(refusals[0].reason), Kind::Invalid),
        ServerError::KeyReused(_) => (Reason::KeyReused, Kind::KeyReused),
        ServerError::CustomerTaken { .. } => (Reason::CustomerTaken, Kind::CustomerTaken),
        ServerError::EtagMismatch { .. } => (Reason::EtagMismatch, Kind::EtagMismatch),
        ServerError::AccountNotFound(_) => (Reason::AccountNotFound, Kind::NotFound),
        ServerError::RunNotFound(_) => (Reason::RunNotFound, Kind::NotFound),
        ServerError::Overloaded { .. }
        | ServerError::TooManyChanges { .. }
        | ServerError::AnswersUnread { .. } => (Reason::Overloaded, Kind::Overloaded),
        ServerError::DatabaseUnavailable(_) => (Reason::DatabaseUnavailable, Kind::Unavailable),
        ServerError::ClockInDoubt(_) => (Reason::ClockInDoubt, Kind::Unavailable),
        ServerError::ShuttingDown => (Reason::ShuttingDown, Kind::Unavailable),
        ServerError::ReportingDisabled => (Reason::ReportingDisabled, Kind::ReportingDisabled),
        ServerError::StripeUnavailable(_) => (Reason::StripeUnavailable, Kind::Unavailable),
        ServerError::ChangeInProgress(_) => (Reason::ChangeInProgress, Kind::Precondition),
        ServerError::SubscriptionNotChangeable(_) => {
            (Reason::SubscriptionNotChangeable, Kind::Precondition)
        }
        ServerError::UsageNeedsDecision { .. } => (Reason::UsageNeedsDecision, Kind::Precondition),
        ServerError::ChangeTimedOut(_) => (Reason::ChangeTimedOut, Kind::Unavailable),
        ServerError::Internal(_) => (Reason::Internal, Kind::Internal),
        ServerError::BelowZero { .. } => (Reason::BelowZero, Kind::Precondition),
        ServerError::ReportNotFound(_) => (Reason::ReportNotFound, Kind::NotFound),
        ServerError::NotResolvable { .. } => (Reason::NotResolvable, Kind::Precondition),
    }
}

#[test]
fn every_server_error_has_a_reason_in_the_contract() {
    let text = || "x".to_owned();
    let refusals = [
        ServerReason::InvalidField,
        ServerReason::UnknownMeter,
        ServerReason::TimestampTooOld,
        ServerReason::TimestampInFuture,
        ServerReason::NotSupported,
        ServerReason::PeriodNotAligned,
        ServerReason::TooManyPoints,
        ServerReason::PageTokenInvalid,
        ServerReason::KeyReused,
    ];
    let others = [
        ServerError::CustomerTaken { customer: text() },
        ServerError::EtagMismatch {
            given: text(),
            actual: text(),
        },
        ServerError::AccountNotFound(text()),
        ServerError::RunNotFound(text()),
        ServerError::Overloaded {
            retry_after: Duration::from_millis(100),
        },
        ServerError::TooManyChanges { limit: 1 },
        ServerError::AnswersUnread {
            unread: 2,
            limit: 1,
        },
        ServerError::DatabaseUnavailable(DbErr::Custom(text())),
        ServerError::ClockInDoubt(Doubt::DatabaseJumped(1)),
        ServerError::ShuttingDown,
        ServerError::ReportingDisabled,
        ServerError::StripeUnavailable(text()),
        ServerError::ChangeInProgress(text()),
        ServerError::SubscriptionNotChangeable(text()),
        ServerError::UsageNeedsDecision {
            account_id: text(),
            reports: 1,
        },
        ServerError::ChangeTimedOut(text()),
        ServerError::Internal(text().into()),
        ServerError::BelowZero {
            quantity: -2,
            current: 1,
            period: Interval { start: 0, end: 1 },
        },
        ServerError::ReportNotFound(text()),
        ServerError::NotResolvable {
            report: text(),
            state: text(),
            decided: None,
        },
    ];
    for error in refusals.into_iter().map(refusal).chain(others) {
        let (reason, kind) = reason_and_kind_of(&error);
        let arrived = as_it_arrives(error);
        assert_eq!(arrived.reason(), Some(&reason));
        assert_eq!(arrived.kind(), kind, "{reason}");
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
    for service in ["", "usage.v1.UsageService", "usage.v1.AccountService"] {
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

async fn reflection_describes_the_services(world: World) {
    let mut reflection = ServerReflectionClient::new(world.grpc_channel().await);
    let ask = |message_request| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message_request),
    };
    let questions = stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(
            "usage.v1.UsageService.Increment".to_owned(),
        )),
    ]);
    let mut answers = reflection
        .server_reflection_info(questions)
        .await
        .unwrap()
        .into_inner();
    let mut next = async || {
        answers
            .message()
            .await
            .unwrap()
            .unwrap()
            .message_response
            .unwrap()
    };
    let MessageResponse::ListServicesResponse(list) = next().await else {
        panic!("no list of services")
    };
    let services: Vec<&str> = list.service.iter().map(|service| &*service.name).collect();
    for service in [
        "usage.v1.UsageService",
        "usage.v1.AccountService",
        "grpc.health.v1.Health",
    ] {
        assert!(
            services.contains(&service),
            "{service} is not in {services:?}"
        );
    }
    let MessageResponse::FileDescriptorResponse(file) = next().await else {
        panic!("no description of Increment")
    };
    assert!(!file.file_descriptor_proto.is_empty());
    world.finish().await;
}
