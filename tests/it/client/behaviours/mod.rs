//! The behaviours that clients in all languages share. `client/behaviours.txt` names them; each has a test of its name.
//!
//! They are about the client, so one engine is enough.

mod programs;
mod recorders;

use std::{
    collections::BTreeSet,
    net::TcpListener,
    time::{Duration, Instant},
};

use tonic::Code;
use usage_client::{
    Batch, Correct, ErrorKind, Increment, IncrementResult, Reason, Retry, UsageClient,
};

use self::{
    programs::{api_key_from_environment_and_file, recorder_flushes_at_exit},
    recorders::{recorder_is_bounded, refused_usage_is_told, wrong_meter_is_told_at_start},
};
use crate::support::{
    flaky_server::{Behavior, FlakyServer},
    world::{TIMEOUT, World, on_sqlite},
};

/// Longer than any test: only the end of the process sends.
const NEVER: Duration = Duration::from_hours(1);

/// Turns the list of behaviours into tests, and keeps their names.
macro_rules! behaviours {
    ($($name:ident),+ $(,)?) => {
        on_sqlite!($($name),+);
        const TESTED: &[&str] = &[$(stringify!($name)),+];
    };
}

behaviours!(
    counted_once_when_the_answer_is_lost,
    key_is_kept_over_retries,
    refused_usage_is_told,
    errors_carry_reason_and_request_id,
    deadline_is_kept,
    retries_stop_at_the_deadline,
    no_retry_of_what_cannot_succeed,
    recorder_flushes_at_exit,
    recorder_is_bounded,
    wrong_meter_is_told_at_start,
    empty_key_is_refused,
    batch_items_are_answered_each,
    api_key_from_environment_and_file,
);

/// The longest that a call with a short deadline may take on a slow machine.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn every_behaviour_of_the_list_has_a_test() {
    let list = include_str!("../../../../client/behaviours.txt");
    let named = list.lines().filter_map(|line| line.split_once(": "));
    let named: BTreeSet<&str> = named.map(|(name, _)| name).collect();
    assert!(named.len() >= 13, "{named:?}");
    let tested: BTreeSet<&str> = TESTED.iter().copied().collect();
    assert_eq!(tested, named);
}

/// A client that retries quickly.
fn quick(endpoint: &str) -> UsageClient {
    let retry = Retry::default().backoff(Duration::from_millis(20), Duration::from_millis(50));
    let client = UsageClient::connect_lazy(endpoint).unwrap();
    client.with_timeout(TIMEOUT).with_retry(retry)
}

/// A server that takes connections and says nothing.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    (listener, endpoint)
}

async fn counted_once_when_the_answer_is_lost(world: World) {
    let lost = [Behavior::LosesResponse(Code::Unavailable)];
    let flaky = FlakyServer::start(world.endpoint(), lost).await;
    let increment = Increment::new("acct").meter("tokens").quantity(7);
    let counted = quick(flaky.endpoint()).increment(increment).await.unwrap();
    assert_eq!(flaky.calls(), 2);
    assert!(counted.duplicate, "the first attempt has counted it");
    assert_eq!(world.usage_of("acct", "tokens").await.0, 7);
    world.finish().await;
}

async fn key_is_kept_over_retries(world: World) {
    let behaviors = [
        Behavior::LosesResponse(Code::Unavailable),
        Behavior::RefusesFor(Code::Unavailable, "DATABASE_UNAVAILABLE", None),
        Behavior::LosesResponse(Code::Unavailable),
    ];
    let flaky = FlakyServer::start(world.endpoint(), behaviors).await;
    let client = quick(flaky.endpoint());
    let counted = client.increment("acct").await.unwrap();
    assert_eq!((flaky.calls(), counted.duplicate), (4, true));
    // The server saw three of the attempts, and another key would have counted again.
    assert_eq!(world.usage("acct").await.0, 1);
    let key = counted.key.unwrap();
    assert_eq!(key.parse::<uuid::Uuid>().unwrap().get_version_num(), 7);
    let again = world.client().increment("acct").key(&key).await.unwrap();
    assert!(again.duplicate, "the key is the one that was sent");
    let other = client.increment("acct").await.unwrap();
    assert_ne!(other.key.as_deref(), Some(&*key));
    // The program's own key is not replaced.
    let own = client.increment("acct").key("request-1").await.unwrap();
    assert_eq!(own.key.as_deref(), Some("request-1"));
    assert_eq!(world.usage("acct").await.0, 3);
    world.finish().await;
}

async fn errors_carry_reason_and_request_id(world: World) {
    let refused = world.client().increment("a b").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert_eq!(refused.reason(), Some(&Reason::InvalidField));
    let fields: Vec<&str> = refused.violations().iter().map(|one| &*one.field).collect();
    assert_eq!(fields, ["account_id"]);
    assert!(refused.request_id().is_some_and(|id| !id.is_empty()));
    assert!(refused.to_string().contains("INVALID_FIELD"), "{refused}");
    assert!(!refused.may_have_taken_effect() && !refused.is_retryable());

    let delay = Duration::from_millis(250);
    let full = Behavior::RefusesFor(Code::ResourceExhausted, "OVERLOADED", Some(delay));
    let flaky = FlakyServer::start(world.endpoint(), [full]).await;
    let client = quick(flaky.endpoint()).with_retry(Retry::never());
    let error = client.increment("acct").key("k").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.reason(), error.retry_after()),
        (
            ErrorKind::Overloaded,
            Some(&Reason::Overloaded),
            Some(delay)
        )
    );
    assert_eq!(error.idempotency_key(), Some("k"));
    assert!(error.is_retryable() && !error.may_have_taken_effect());
    world.finish().await;
}

async fn deadline_is_kept(world: World) {
    let (_listener, endpoint) = silent();
    let timeout = Duration::from_millis(300);
    let (client, begun) = (quick(&endpoint).with_timeout(timeout), Instant::now());
    let error = client.increment("acct").await.unwrap_err();
    let took = begun.elapsed();
    assert!((timeout..SOON).contains(&took), "{took:?}");
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(error.is_retryable() && error.idempotency_key().is_some());
    // The server is told of it.
    let flaky = FlakyServer::start(world.endpoint(), []).await;
    let client = quick(flaky.endpoint()).with_timeout(SOON);
    client.increment("acct").await.unwrap();
    let timeouts = flaky.timeouts();
    assert!(timeouts.iter().all(|left| *left <= SOON), "{timeouts:?}");
    assert_eq!(timeouts.len(), 1);
    world.finish().await;
}

async fn retries_stop_at_the_deadline(world: World) {
    let ending = Behavior::RefusesFor(Code::Unavailable, "SHUTTING_DOWN", None);
    let flaky = FlakyServer::start(world.endpoint(), vec![ending; 1_000]).await;
    let timeout = Duration::from_secs(1);
    let (client, begun) = (
        quick(flaky.endpoint()).with_timeout(timeout),
        Instant::now(),
    );
    let error = client.increment("acct").await.unwrap_err();
    assert!(begun.elapsed() < SOON);
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.reason(), Some(&Reason::ShuttingDown));
    let left = flaky.timeouts();
    assert!(left.len() > 2 && left[0] <= timeout, "{left:?}");
    assert!(left.is_sorted_by(|a, b| a > b), "one deadline: {left:?}");
    // A delay that the server asks for and that ends after the deadline is not waited for.
    let minute = Some(Duration::from_mins(1));
    let full = Behavior::RefusesFor(Code::ResourceExhausted, "OVERLOADED", minute);
    let flaky = FlakyServer::start(world.endpoint(), [full]).await;
    let (client, begun) = (quick(flaky.endpoint()).with_timeout(SOON), Instant::now());
    let error = client.increment("acct").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    assert!(begun.elapsed() < SOON);
    assert_eq!(flaky.calls(), 1);
    world.finish().await;
}

async fn no_retry_of_what_cannot_succeed(world: World) {
    for (code, reason, kind) in [
        (Code::InvalidArgument, "INVALID_FIELD", ErrorKind::Invalid),
        (Code::AlreadyExists, "KEY_REUSED", ErrorKind::KeyReused),
        (Code::NotFound, "ACCOUNT_NOT_FOUND", ErrorKind::NotFound),
        (
            Code::PermissionDenied,
            "PERMISSION_DENIED",
            ErrorKind::PermissionDenied,
        ),
        (
            Code::Unauthenticated,
            "UNAUTHENTICATED",
            ErrorKind::Unauthenticated,
        ),
        (Code::Internal, "INTERNAL", ErrorKind::Internal),
        // It has the code of an overload, which is retried.
        (
            Code::ResourceExhausted,
            "MESSAGE_TOO_LARGE",
            ErrorKind::Invalid,
        ),
    ] {
        let refused = Behavior::RefusesFor(code, reason, None);
        let flaky = FlakyServer::start(world.endpoint(), [refused]).await;
        let error = quick(flaky.endpoint()).increment("acct").await.unwrap_err();
        assert_eq!(error.kind(), kind, "{reason}");
        assert_eq!(error.reason().map(Reason::as_str), Some(reason));
        assert_eq!(flaky.calls(), 1, "{reason}");
    }
    // Only what the server itself refused has these reasons: an overload without them is retried.
    let full = [Behavior::RefusesFor(
        Code::ResourceExhausted,
        "OVERLOADED",
        None,
    )];
    let flaky = FlakyServer::start(world.endpoint(), full).await;
    assert!(
        !quick(flaky.endpoint())
            .increment("acct")
            .await
            .unwrap()
            .duplicate
    );
    assert_eq!(flaky.calls(), 2);
    world.finish().await;
}

async fn empty_key_is_refused(world: World) {
    let flaky = FlakyServer::start(world.endpoint(), []).await;
    let client = quick(flaky.endpoint());
    let own = Increment::new("acct").key("");
    let batch = Batch::new().push("acct").key("");
    let item = Batch::new().push("acct").push(own.clone());
    let correction = Correct::new("acct", 1, "a test").key("");
    let errors = [
        client.increment(own).await.unwrap_err(),
        client.increment_batch(batch.dry_run()).await.unwrap_err(),
        client.increment_batch(item).await.unwrap_err(),
        client.correct(correction).await.unwrap_err(),
    ];
    let fields = [
        "idempotency_key",
        "idempotency_key",
        "increments[1].idempotency_key",
        "idempotency_key",
    ];
    for (error, field) in errors.iter().zip(fields) {
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(error.violations().len(), 1);
        let wrong = &error.violations()[0];
        assert_eq!(wrong.field, field);
        let said = "the key is empty; it must have 1 to 255 bytes, or be left out";
        assert_eq!(wrong.description, said);
    }
    assert_eq!(flaky.calls(), 0);
    world.finish().await;
}

async fn batch_items_are_answered_each(world: World) {
    let client = world.client();
    client.increment("acct").key("known").await.unwrap();
    let batch = || {
        Batch::new()
            .push(Increment::new("acct").meter("tokens").quantity(5))
            .push(Increment::new("acct").meter("steps"))
            .push(Increment::new("acct").meter("tokens").quantity(0))
            .push(Increment::new("acct").key("known"))
            .push("acct")
            .key("batch-1")
    };
    let outcome = client.increment_batch(batch()).await.unwrap();
    let shown = outcome.results.iter().map(|result| match result {
        IncrementResult::Refused { reason, field, .. } => format!("{reason} {field}"),
        other => format!("{other:?}"),
    });
    assert_eq!(
        shown.collect::<Vec<_>>(),
        [
            "Counted",
            "UNKNOWN_METER meter",
            "INVALID_FIELD quantity",
            "Duplicate",
            "Counted"
        ]
    );
    let places: Vec<usize> = outcome.refused().map(|(place, _)| place).collect();
    assert_eq!(places, [1, 2]);
    let again = client.increment_batch(batch()).await.unwrap();
    assert!(again.duplicate);
    assert_eq!(again.results, outcome.results);
    assert_eq!(world.usage("acct").await.0, 2);
    assert_eq!(world.usage_of("acct", "tokens").await.0, 5);
    world.finish().await;
}
