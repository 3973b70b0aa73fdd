//! Validation: each limit of an increment in the contract, at the limit and one beyond it.

use chrono::{DateTime, TimeDelta, Utc};
use usage_client::{
    Error, ErrorKind, Increment, Reason,
    proto::{self, usage_service_client::UsageServiceClient},
};
use usage_server::clock::Clock;

use crate::support::world::{World, at, on_both_engines};

on_both_engines!(
    an_account_id_has_1_to_128_characters_of_its_alphabet,
    an_unknown_meter_is_refused_with_the_known_ones,
    a_meter_is_required_without_a_default_meter,
    a_quantity_is_1_to_a_million_million,
    a_key_has_at_most_255_bytes,
    unusual_keys_are_distinct,
    a_time_is_at_most_34_days_old_and_5_minutes_ahead,
    a_time_is_truncated_to_whole_milliseconds,
    dimensions_are_refused,
    all_violations_are_reported_together,
);

const MANY: i64 = 1_000_000_000_000;

/// Sends an increment that must be rejected because of one field. Returns the violation's text.
async fn refusal(world: &World, increment: Increment, field: &str, reason: Reason) -> String {
    let error = world.client().increment(increment).await.unwrap_err();
    violation_of(&error, field, &reason)
}

/// Only an error from the service has a reason, because the client checks the domain.
fn violation_of(error: &Error, field: &str, reason: &Reason) -> String {
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert_eq!(error.reason(), Some(reason), "{error}");
    assert!(!error.may_have_taken_effect() && !error.is_retryable());
    let status = error.status().unwrap();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let [violation] = error.violations() else {
        panic!("{error} names another number of fields than one")
    };
    assert_eq!(violation.field, field);
    assert_eq!(violation.description, status.message());
    violation.description.clone()
}

/// The raw call, for values that the client would not send.
async fn send(world: &World, request: proto::IncrementRequest) -> Result<(), Error> {
    let mut usage = UsageServiceClient::new(world.grpc_channel().await);
    Ok(usage.increment(request).await.map(|_| ())?)
}

fn on_the_wire() -> proto::IncrementRequest {
    proto::IncrementRequest {
        account_id: "acct".to_owned(),
        ..Default::default()
    }
}

async fn an_account_id_has_1_to_128_characters_of_its_alphabet(world: World) {
    let longest = "x".repeat(128);
    let alphabet: String = ('A'..='Z').chain('a'..='z').chain('0'..='9').collect();
    for account in ["a", "0", &longest, &alphabet, "._:@/+=-"] {
        world.client().increment(account).await.unwrap();
        assert_eq!(world.usage(account).await.0, 1);
    }
    for wrong in [
        "", "a b", " a", "a\n", "a\0", "ä", "a#", "a,b", "a\\", "a%41", "a*", "用户",
    ] {
        let text = refusal(&world, wrong.into(), "account_id", Reason::InvalidField).await;
        assert!(
            text.contains(&format!("{wrong:?}")) && text.contains("128"),
            "{text}"
        );
    }
    let too_long = refusal(
        &world,
        "x".repeat(129).into(),
        "account_id",
        Reason::InvalidField,
    )
    .await;
    assert!(
        too_long.contains("(129 bytes)") && too_long.contains("128"),
        "{too_long}"
    );
    world.finish().await;
}

async fn an_unknown_meter_is_refused_with_the_known_ones(world: World) {
    for wrong in ["nope", "API_CALLS", "llm_tokens", "api_calls ", "é"] {
        let increment = Increment::new("acct").meter(wrong);
        let text = refusal(&world, increment, "meter", Reason::UnknownMeter).await;
        assert!(text.contains(&format!("{wrong:?}")), "{text}");
        assert!(text.contains("api_calls, tokens"), "{text}");
    }
    assert_eq!(world.usage("acct").await.0, 0);
    world.finish().await;
}

async fn a_meter_is_required_without_a_default_meter(mut world: World) {
    world.reconfigure(&["--default-meter"]).await;
    let text = refusal(&world, "acct".into(), "meter", Reason::UnknownMeter).await;
    assert!(
        text.contains("meter is empty") && text.contains("api_calls, tokens"),
        "{text}"
    );
    world
        .client()
        .increment(Increment::new("acct").meter("tokens"))
        .await
        .unwrap();
    assert_eq!(world.usage_of("acct", "tokens").await.0, 1);
    world.finish().await;
}

async fn a_quantity_is_1_to_a_million_million(world: World) {
    for quantity in [1, MANY] {
        world
            .client()
            .increment(Increment::new("acct").quantity(quantity))
            .await
            .unwrap();
    }
    for wrong in [0, -1, MANY + 1, i64::MIN, i64::MAX] {
        let increment = Increment::new("acct").quantity(wrong);
        let text = refusal(&world, increment, "quantity", Reason::InvalidField).await;
        assert!(
            text.contains(&format!("is {wrong};")) && text.contains("1000000000000"),
            "{text}"
        );
    }
    assert_eq!(world.usage("acct").await.0, MANY + 1);
    world.finish().await;
}

async fn a_key_has_at_most_255_bytes(world: World) {
    let (ascii, wide) = ("k".repeat(255), format!("{}k", "é".repeat(127)));
    for key in [&ascii, &wide] {
        world
            .client()
            .increment(Increment::new("acct").key(key))
            .await
            .unwrap();
    }
    for wrong in ["k".repeat(256), "é".repeat(128)] {
        let increment = Increment::new("acct").key(wrong);
        let text = refusal(&world, increment, "idempotency_key", Reason::InvalidField).await;
        assert!(
            text.contains("256 bytes") && text.contains("at most 255"),
            "{text}"
        );
    }
    let increment = Increment::new("acct").key("a\0b");
    let text = refusal(&world, increment, "idempotency_key", Reason::InvalidField).await;
    assert!(text.contains("NUL"), "{text}");
    assert_eq!(world.usage("acct").await.0, 2);
    world.finish().await;
}

async fn unusual_keys_are_distinct(world: World) {
    // Adjacent ids differ only in case, spaces or Unicode normalization.
    let keys = [
        "k",
        "K",
        " k",
        "k ",
        "\u{e9}",
        "e\u{301}",
        "ss",
        "ß",
        "\n",
        "\t",
        "\u{1}",
        "\u{7f}",
        "\u{feff}k",
        "\u{200b}k",
        "\u{202e}k",
        "\u{10ffff}",
        "\u{1f469}\u{200d}\u{1f680}",
        "'; DROP TABLE commits; --",
        "\"",
        "\\",
        "\\u006b",
        "%",
        "null",
        "NULL",
        "1",
        "01",
        "1.0",
        "[]",
        "{}",
    ];
    for repeated in [false, true] {
        for key in keys {
            let counted = world
                .client()
                .increment(Increment::new("acct").key(key))
                .await
                .unwrap();
            assert_eq!(counted.duplicate, repeated, "{key:?}");
        }
    }
    assert_eq!(
        usize::try_from(world.usage("acct").await.0).unwrap(),
        keys.len()
    );
    world.finish().await;
}

const NOW: &str = "2026-07-15T10:20:30.400Z";

async fn at_a_fixed_time(world: &mut World) -> DateTime<Utc> {
    let now = at(NOW);
    world.set_clock(Clock::manual(now.timestamp_millis())).await;
    now
}

async fn a_time_is_at_most_34_days_old_and_5_minutes_ahead(mut world: World) {
    let now = at_a_fixed_time(&mut world).await;
    let (oldest, latest) = (now - TimeDelta::days(34), now + TimeDelta::minutes(5));
    let millisecond = TimeDelta::milliseconds(1);
    for timestamp in [oldest, now, latest] {
        let increment = Increment::new("acct").timestamp(timestamp);
        world.client().increment(increment).await.unwrap();
    }
    let years = [at("1970-01-01T00:00:00Z"), at("9999-12-31T23:59:59Z")];
    for (wrong, reason, limit) in [
        (oldest - millisecond, Reason::TimestampTooOld, "34 days"),
        (years[0], Reason::TimestampTooOld, "34 days"),
        (latest + millisecond, Reason::TimestampInFuture, "5 minutes"),
        (years[1], Reason::TimestampInFuture, "5 minutes"),
    ] {
        let increment = Increment::new("acct").timestamp(wrong);
        let text = refusal(&world, increment, "timestamp", reason).await;
        let wrong = wrong.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
        assert!(
            text.contains(&wrong) && text.contains(limit) && text.contains(NOW),
            "{text}"
        );
    }
    assert_eq!(world.usage("acct").await.0, 3);
    world.finish().await;
}

async fn a_time_is_truncated_to_whole_milliseconds(mut world: World) {
    let now = at_a_fixed_time(&mut world).await;
    let micros = TimeDelta::microseconds(999);
    let increment = Increment::new("acct").key("k").timestamp(now);
    world.client().increment(increment.clone()).await.unwrap();
    let same = world
        .client()
        .increment(increment.timestamp(now + micros))
        .await;
    assert!(same.unwrap().duplicate);
    let latest = Increment::new("acct").timestamp(now + TimeDelta::minutes(5) + micros);
    world.client().increment(latest).await.unwrap();

    for (seconds, nanos) in [
        (0, 1_000_000_000),
        (0, -1),
        (i64::MAX, 0),
        (-62_135_596_801, 0),
    ] {
        let mut request = on_the_wire();
        let timestamp = request.timestamp.get_or_insert_default();
        (timestamp.seconds, timestamp.nanos) = (seconds, nanos);
        let error = send(&world, request).await.unwrap_err();
        let text = violation_of(&error, "timestamp", &Reason::InvalidField);
        assert!(
            text.contains(&format!("{seconds} s and {nanos} ns")),
            "{text}"
        );
    }
    assert_eq!(world.usage("acct").await.0, 2);
    world.finish().await;
}

async fn dimensions_are_refused(world: World) {
    let mut request = on_the_wire();
    request
        .dimensions
        .insert("region".to_owned(), String::new());
    let error = send(&world, request).await.unwrap_err();
    violation_of(&error, "dimensions", &Reason::NotSupported);
    assert_eq!(world.usage("acct").await.0, 0);
    world.finish().await;
}

/// Violations are sent in headers, whose size is limited.
async fn all_violations_are_reported_together(world: World) {
    let longest = "\u{10ffff}".repeat(10_000);
    let mut request = proto::IncrementRequest {
        account_id: longest.clone(),
        meter: longest.clone(),
        quantity: Some(i64::MIN),
        idempotency_key: format!("\0{}", "\u{1}".repeat(254)),
        ..on_the_wire()
    };
    request.timestamp.get_or_insert_default().seconds = -62_135_596_800;
    request.dimensions.insert(longest.clone(), longest);
    let error: Error = send(&world, request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let fields: Vec<&str> = error
        .violations()
        .iter()
        .map(|violation| &*violation.field)
        .collect();
    assert_eq!(
        fields,
        [
            "account_id",
            "meter",
            "quantity",
            "idempotency_key",
            "timestamp",
            "dimensions"
        ]
    );
    world.finish().await;
}
