//! `ListUsage` and `GetSummary`: who may ask, what is refused, and the limits of an answer.

use chrono::{DateTime, TimeDelta, Utc};
use usage_client::{
    Error, Get, GetSummary, Granularity, ListUsage, Reason,
    proto::{
        self, GetSummaryRequest, KeyRole, ListUsageRequest,
        usage_service_client::UsageServiceClient,
    },
};

use super::usage_of_all::{pair, refused};
use crate::{
    operations::access::{access, client, create, first_admin, limited_key},
    support::world::{World, hours_ago, on_both_engines},
};

on_both_engines!(
    a_page_token_belongs_to_its_query,
    an_invalid_question_is_refused_with_its_field,
    an_invalid_field_of_a_list_is_refused,
    a_key_with_a_prefix_sees_its_accounts,
    a_key_with_a_meter_sees_it_of_all_accounts,
    a_summary_has_at_most_ten_thousand_points,
    a_sum_beyond_64_bits_is_refused_with_its_meter,
);

async fn a_page_token_belongs_to_its_query(world: World) {
    for account in ["a", "b", "c"] {
        world.count(account, 5, hours_ago(2)).await;
    }
    let query = ListUsage::of("api_calls", hours_ago(3), hours_ago(1)).page_size(1);
    let page = world.client().list_usage(query.clone()).await.unwrap();
    let token = page.next_page_token.unwrap();
    let same = query.clone().page_size(2).page_token(&token);
    let next = world.client().list_usage(same).await.unwrap();
    assert_eq!(next.usage.len(), 2);
    assert_eq!(next.next_page_token, None);
    for other in [
        query.clone().by_account(),
        query.clone().account_prefix("a"),
        ListUsage::of("tokens", hours_ago(3), hours_ago(1)),
        ListUsage::of("api_calls", hours_ago(4), hours_ago(1)),
    ] {
        let answer = world.client().list_usage(other.page_token(&token)).await;
        refused(answer, "page_token", &Reason::PageTokenInvalid);
    }
    let damaged = query.page_token(&token[1..]);
    let answer = world.client().list_usage(damaged).await;
    refused(answer, "page_token", &Reason::PageTokenInvalid);
    world.finish().await;
}

async fn an_invalid_question_is_refused_with_its_field(world: World) {
    let client = world.client();
    let (start, end) = (hours_ago(3), hours_ago(1));
    let inside = start + TimeDelta::minutes(1);
    let text = refused(
        client
            .list_usage(ListUsage::of("tokens", inside, end))
            .await,
        "period.start",
        &Reason::PeriodNotAligned,
    );
    assert!(text.contains("round_outward"), "{text}");
    let rounded = ListUsage::of("tokens", inside, end - TimeDelta::minutes(1)).round_outward();
    let page = client.list_usage(rounded).await.unwrap();
    assert_eq!((page.period.start, page.period.end), (start, end));
    assert_eq!(page.unit, "token");
    let long = GetSummary::of(end - TimeDelta::days(3_661), end);
    let answer = client.get_summary(long).await;
    refused(answer, "period", &Reason::InvalidField);
    for (summary, field, reason) in [
        (
            GetSummary::of(start, inside),
            "period.end",
            Reason::PeriodNotAligned,
        ),
        (
            GetSummary::of(start, end).time_zone("Mars"),
            "time_zone",
            Reason::InvalidField,
        ),
        (
            GetSummary::of(start, end).top_accounts(101),
            "top_accounts",
            Reason::InvalidField,
        ),
        (
            GetSummary::of(start, end).meter("a b"),
            "meter",
            Reason::InvalidField,
        ),
    ] {
        refused(client.get_summary(summary).await, field, &reason);
    }
    world.finish().await;
}

async fn an_invalid_field_of_a_list_is_refused(world: World) {
    let (start, end) = (hours_ago(3), hours_ago(1));
    let mut raw = UsageServiceClient::new(world.grpc_channel().await);
    let period = Some(proto::Period {
        start: Some(timestamp(start)),
        end: Some(timestamp(end)),
    });
    let valid = ListUsageRequest {
        meter: "tokens".to_owned(),
        period,
        ..ListUsageRequest::default()
    };
    assert!(raw.list_usage(valid.clone()).await.is_ok());
    for (request, field) in [
        (
            ListUsageRequest {
                meter: String::new(),
                ..valid.clone()
            },
            "meter",
        ),
        (
            ListUsageRequest {
                period: None,
                ..valid.clone()
            },
            "period",
        ),
        (
            ListUsageRequest {
                order: 3,
                ..valid.clone()
            },
            "order",
        ),
        (
            ListUsageRequest {
                page_size: -1,
                ..valid
            },
            "page_size",
        ),
    ] {
        let answer = raw.list_usage(request).await.map_err(Error::from);
        refused(answer, field, &Reason::InvalidField);
    }
    let missing = raw.get_summary(GetSummaryRequest::default()).await;
    refused(
        missing.map_err(Error::from),
        "period",
        &Reason::InvalidField,
    );
    world.finish().await;
}

fn timestamp(time: DateTime<Utc>) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.timestamp(),
        nanos: 0,
    }
}

fn assert_denied<T: std::fmt::Debug>(answer: Result<T, Error>) -> String {
    let error = answer.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::PermissionDenied), "{error}");
    error.to_string()
}

async fn a_key_with_a_prefix_sees_its_accounts(world: World) {
    for account in ["team:1", "team:2", "other", "alone"] {
        world.count(account, 5, hours_ago(2)).await;
    }
    let (_, admin) = first_admin(&world).await;
    let mut with_key = access(&world, Some(&admin)).await;
    let mut request = limited_key("limited", KeyRole::Reader, &["alone"], &[]);
    request.scope.as_mut().unwrap().account_prefixes = vec!["team:".to_owned()];
    let key = create(&mut with_key, request).await.text;
    let limited = client(world.endpoint(), &key).await;
    let query = ListUsage::of("api_calls", hours_ago(3), hours_ago(1));
    let summary = GetSummary::of(hours_ago(3), hours_ago(1)).top_accounts(9);
    for (prefix, accounts) in [
        ("team:", &["team:1", "team:2"][..]),
        ("team:2", &["team:2"]),
    ] {
        let own = query.clone().account_prefix(prefix);
        let page = limited.list_usage(own).await.unwrap();
        let ids: Vec<&str> = page.usage.iter().map(|one| &*one.account_id).collect();
        assert_eq!(ids, accounts);
        let own = summary.clone().account_prefix(prefix);
        let own = limited.get_summary(own).await.unwrap();
        let calls = own.meter("api_calls").unwrap();
        let ids: Vec<&str> = calls
            .top_accounts
            .iter()
            .map(|one| &*one.account_id)
            .collect();
        assert_eq!(ids, accounts);
    }
    // Also an account that the key names is more than one prefix.
    for prefix in ["", "team", "other", "alone", "o"] {
        let more = query.clone().account_prefix(prefix);
        let text = assert_denied(limited.list_usage(more).await);
        assert!(text.contains("account_prefix"), "{text}");
        let more = summary.clone().account_prefix(prefix);
        assert_denied(limited.get_summary(more).await);
    }
    world.finish().await;
}

async fn a_key_with_a_meter_sees_it_of_all_accounts(world: World) {
    world.count_of("a", "tokens", 5, hours_ago(2)).await;
    world.count_of("a", "api_calls", 6, hours_ago(2)).await;
    let (_, admin) = first_admin(&world).await;
    let mut with_key = access(&world, Some(&admin)).await;
    let request = limited_key("limited", KeyRole::Reader, &[], &["tokens"]);
    let key = create(&mut with_key, request).await.text;
    let limited = client(world.endpoint(), &key).await;
    let of = |meter: &str| ListUsage::of(meter, hours_ago(3), hours_ago(1));
    let page = limited.list_usage(of("tokens")).await.unwrap();
    let listed: Vec<_> = page.usage.into_iter().map(pair).collect();
    assert_eq!(listed, [("a".to_owned(), 5)]);
    assert_denied(limited.list_usage(of("api_calls")).await);
    let summary = GetSummary::of(hours_ago(3), hours_ago(1));
    assert_denied(limited.get_summary(summary.clone()).await);
    assert_denied(
        limited
            .get_summary(summary.clone().meter("api_calls"))
            .await,
    );
    let own = limited.get_summary(summary.meter("tokens")).await.unwrap();
    assert_eq!(own.meters.len(), 1);
    assert_eq!(own.meters[0].quantities.total, 5);
    world.finish().await;
}

async fn a_summary_has_at_most_ten_thousand_points(world: World) {
    let start = hours_ago(5_000);
    let query = |hours: i64| {
        GetSummary::of(start, start + TimeDelta::hours(hours)).granularity(Granularity::Hour)
    };
    let summary = world.client().get_summary(query(5_000)).await.unwrap();
    let points = summary.meters.iter().map(|meter| meter.points.len());
    assert_eq!(points.sum::<usize>(), 10_000);
    let answer = world.client().get_summary(query(5_001)).await;
    refused(answer, "granularity", &Reason::TooManyPoints);
    let one = query(10_000).meter("tokens");
    let one = world.client().get_summary(one).await.unwrap();
    assert_eq!(one.meters[0].points.len(), 10_000);
    world.finish().await;
}

async fn a_sum_beyond_64_bits_is_refused_with_its_meter(world: World) {
    let large = i64::MAX - 1;
    for (account, ago) in [("a", 2), ("b", 2), ("c", 2), ("c", 5)] {
        world
            .insert_folded(account, "tokens", large, hours_ago(ago))
            .await;
    }
    world.count("a", 5, hours_ago(2)).await;
    let client = world.client();
    // Each account alone is shown, and another meter too.
    let (start, end) = (hours_ago(3), hours_ago(1));
    let page = client.list_usage(ListUsage::of("tokens", start, end));
    let listed: Vec<_> = page.await.unwrap().usage.into_iter().map(pair).collect();
    let expected = ["a", "b", "c"].map(|account| (account.to_owned(), large));
    assert_eq!(listed, expected);
    let calls = GetSummary::of(start, end).meter("api_calls");
    let calls = client.get_summary(calls).await.unwrap();
    assert_eq!(calls.meters[0].quantities.total, 5);
    let one = GetSummary::of(start, end).account_prefix("a");
    let one = client.get_summary(one).await.unwrap();
    assert_eq!(one.meter("tokens").unwrap().quantities.total, large);
    let summary = GetSummary::of(start, end).top_accounts(3);
    let answer = client.get_summary(summary).await;
    let text = refused(answer, "period", &Reason::InvalidField);
    for part in ["\"tokens\"", "27670116110564327418", "shorter period"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // An account whose sum is beyond them.
    let start = hours_ago(6);
    let page = client.list_usage(ListUsage::of("tokens", start, end));
    let text = refused(page.await, "period", &Reason::InvalidField);
    assert!(text.contains("18446744073709551612"), "{text}");
    let get = Get::account("c").period(start, end);
    let answer = client.get(get).await;
    let text = refused(answer, "period", &Reason::InvalidField);
    assert!(text.contains("18446744073709551612"), "{text}");
    world.finish().await;
}
