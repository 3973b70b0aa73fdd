//! `ListUsage` and `GetSummary`: the usage of all accounts is that of each account, in pages and in sums.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use usage_client::{
    AccountUsage, Correct, Error, Get, GetSummary, Granularity, ListUsage, PutAccount, Reason,
    ReportState,
};

use crate::support::{
    random::Random,
    world::{World, at, hours_ago, on_both_engines},
};

on_both_engines!(
    the_usage_of_each_account_is_what_get_returns,
    equal_quantities_are_paged_by_account,
    negative_quantities_are_last,
    a_prefix_means_itself,
    a_deleted_account_is_listed_under_its_token,
);

const METERS: [&str; 2] = ["api_calls", "tokens"];

pub(super) fn pair(usage: AccountUsage) -> (String, i64) {
    (usage.account_id, usage.quantity)
}

/// All pages of a list.
pub(crate) async fn list(world: &World, query: ListUsage) -> Vec<(String, i64)> {
    let (mut query, mut all) = (query, Vec::new());
    loop {
        let page = world.client().list_usage(query.clone()).await.unwrap();
        all.extend(page.usage.into_iter().map(pair));
        match page.next_page_token {
            Some(token) => query = query.page_token(token),
            None => return all,
        }
    }
}

pub(super) fn refused<T: std::fmt::Debug>(
    result: Result<T, Error>,
    field: &str,
    reason: &Reason,
) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.reason(), Some(reason), "{error}");
    assert_eq!(error.violations()[0].field, field, "{error}");
    error.violations()[0].description.clone()
}

/// Counts random usage of an account, some of it at times at which other usage was counted.
async fn count_some(world: &World, random: &mut Random, account: &str) {
    for _ in 0..random.below(6) {
        let ago = TimeDelta::minutes(random.below(20 * 24 * 60));
        let meter = random.pick(&METERS);
        let quantity = 100 + random.below(1_000_000_000);
        let time = hours_ago(0) - ago;
        world.count_of(account, meter, quantity, time).await;
        if random.one_in(3) {
            let change = random.pick(&[-7, 13]);
            let correct = Correct::new(account, change, "a test").meter(meter);
            let corrected = world.client().correct(correct.timestamp(time)).await;
            corrected.unwrap();
        }
    }
}

/// What `Get` returns of each account with a report in the period.
async fn expected(
    world: &World,
    accounts: &[&str],
    meter: &str,
    (start, end): (DateTime<Utc>, DateTime<Utc>),
) -> BTreeMap<String, i64> {
    let mut expected = BTreeMap::new();
    for account in accounts {
        let get = Get::account(*account).meter(meter).period(start, end);
        let usage = world.client().get(get).await.unwrap();
        let total = usage.meter(meter).unwrap().quantities.total;
        let reports = world.reports(account).await;
        let has_any = reports.iter().any(|report| {
            report.meter == meter && start <= report.window.start && report.window.start < end
        });
        assert!(has_any || total == 0);
        if has_any {
            expected.insert((*account).to_owned(), total);
        }
    }
    expected
}

async fn the_usage_of_each_account_is_what_get_returns(world: World) {
    let linked = ["linked", "acct.b"];
    for account in linked {
        let customer = format!("cus_{}", account.replace('.', "_"));
        world.link_to_new_customer(account, &customer).await;
    }
    let free = PutAccount::free("free");
    world.client().put_account(free).await.unwrap();
    let accounts = &["linked", "acct.b", "free", "acct_b", "Acct", "team:1"];
    let mut random = Random(7);
    for account in accounts {
        count_some(&world, &mut random, account).await;
    }
    world.report_all().await;
    world.wait_until_all_sent().await;
    for account in accounts {
        count_some(&world, &mut random, account).await;
    }
    // Another boundary inside an hour.
    let late =
        PutAccount::stripe("team:1", "cus_late").bill_from(hours_ago(100) + TimeDelta::minutes(17));
    world.create_customers(&["cus_late"]).await;
    world.client().put_account(late).await.unwrap();
    let states: BTreeSet<String> = [
        world.reports("linked").await,
        world.reports("acct.b").await,
        world.reports("free").await,
        world.reports("acct_b").await,
    ]
    .concat()
    .iter()
    .map(|report| report.state.to_string())
    .collect();
    assert!(states.len() >= 3, "{states:?}");
    for period in [
        (hours_ago(24 * 24), hours_ago(-1)),
        (hours_ago(200), hours_ago(50)),
        (hours_ago(100), hours_ago(99)),
    ] {
        check_lists(&world, accounts, period).await;
        for (zone, granularity) in [
            ("UTC", Granularity::Total),
            ("UTC", Granularity::Hour),
            ("Europe/Vienna", Granularity::Day),
            ("America/New_York", Granularity::Day),
            ("Pacific/Auckland", Granularity::Month),
        ] {
            check_summary(&world, accounts, period, zone, granularity).await;
        }
    }
    world.finish().await;
}

async fn check_lists(world: &World, accounts: &[&str], period: (DateTime<Utc>, DateTime<Utc>)) {
    for meter in METERS {
        let by_account: Vec<(String, i64)> = expected(world, accounts, meter, period)
            .await
            .into_iter()
            .collect();
        let mut by_quantity = by_account.clone();
        by_quantity.sort_by(|one, other| other.1.cmp(&one.1).then(one.0.cmp(&other.0)));
        for size in [1, 2, 100] {
            let query = ListUsage::of(meter, period.0, period.1).page_size(size);
            assert_eq!(list(world, query.clone()).await, by_quantity, "{size}");
            assert_eq!(list(world, query.by_account()).await, by_account, "{size}");
        }
    }
}

async fn check_summary(
    world: &World,
    accounts: &[&str],
    (start, end): (DateTime<Utc>, DateTime<Utc>),
    zone: &str,
    granularity: Granularity,
) {
    let query = GetSummary::of(start, end)
        .granularity(granularity)
        .time_zone(zone)
        .top_accounts(3);
    let summary = world.client().get_summary(query).await.unwrap();
    assert_eq!((summary.period.start, summary.period.end), (start, end));
    assert_eq!(summary.time_zone, zone);
    let names: Vec<&str> = summary.meters.iter().map(|one| &*one.meter).collect();
    assert_eq!(names, METERS);
    let mut any = BTreeSet::new();
    for meter in METERS {
        let ranked = list(world, ListUsage::of(meter, start, end)).await;
        any.extend(ranked.into_iter().map(|(account, _)| account));
    }
    assert_eq!(summary.accounts, i64::try_from(any.len()).unwrap());
    for one in &summary.meters {
        let ranked = list(world, ListUsage::of(&one.meter, start, end)).await;
        let total: i64 = ranked.iter().map(|(_, quantity)| quantity).sum();
        assert_eq!(one.quantities.total, total);
        assert_eq!(one.accounts, i64::try_from(ranked.len()).unwrap());
        let top: Vec<_> = one.top_accounts.iter().cloned().map(pair).collect();
        assert_eq!(top, ranked[..ranked.len().min(3)]);
        let states: i64 = one.states.iter().map(|state| state.quantity).sum();
        assert_eq!(states, total);
        check_points(world, accounts, one, (start, end), zone, granularity).await;
    }
}

/// Each point is the sum of the same point of each account, and the points are all of the usage.
async fn check_points(
    world: &World,
    accounts: &[&str],
    summary: &usage_client::MeterSummary,
    (start, end): (DateTime<Utc>, DateTime<Utc>),
    zone: &str,
    granularity: Granularity,
) {
    let mut quantities = usage_client::Quantities::default();
    let mut totals: BTreeMap<DateTime<Utc>, i64> = BTreeMap::new();
    for account in accounts {
        let get = Get::account(*account)
            .meter(&summary.meter)
            .period(start, end)
            .granularity(granularity)
            .time_zone(zone);
        let usage = world.client().get(get).await.unwrap().meters.remove(0);
        quantities.total += usage.quantities.total;
        quantities.reported += usage.quantities.reported;
        quantities.not_yet_reported += usage.quantities.not_yet_reported;
        quantities.not_billable += usage.quantities.not_billable;
        for point in usage.points {
            *totals.entry(point.period.start).or_default() += point.quantities.total;
        }
    }
    assert_eq!(summary.quantities, quantities);
    let points = summary.points.iter();
    let points: BTreeMap<_, _> = points
        .map(|point| {
            let states: i64 = point.states.iter().map(|state| state.quantity).sum();
            assert_eq!(states, point.total);
            (point.period.start, point.total)
        })
        .collect();
    assert_eq!(points, totals);
}

async fn equal_quantities_are_paged_by_account(world: World) {
    let accounts = ["b", "a.2", "c", "a", "a.1", "B", "a:1"];
    for account in accounts {
        world.count(account, 5, hours_ago(2)).await;
    }
    world.count("most", 6, hours_ago(2)).await;
    world.count("least", 4, hours_ago(2)).await;
    let mut sorted: Vec<&str> = accounts.to_vec();
    sorted.sort_unstable();
    let by_quantity = [&["most"], &sorted[..], &["least"]].concat();
    let mut by_account = by_quantity.clone();
    by_account.sort_unstable();
    let query = ListUsage::of("api_calls", hours_ago(3), hours_ago(1));
    for size in 0..=10 {
        let query = query.clone().page_size(size);
        for (query, expected) in [
            (query.clone(), &by_quantity),
            (query.by_account(), &by_account),
        ] {
            let listed = list(&world, query).await;
            let ids: Vec<&str> = listed.iter().map(|(id, _)| &**id).collect();
            assert_eq!(ids, *expected, "{size} a page");
        }
    }
    // Nothing is outside of the period, and nothing of another meter.
    let before = ListUsage::of("api_calls", hours_ago(4), hours_ago(2));
    assert!(list(&world, before).await.is_empty());
    let other = ListUsage::of("tokens", hours_ago(3), hours_ago(1));
    assert!(list(&world, other).await.is_empty());
    world.finish().await;
}

/// The part of a period with more taken away than counted.
async fn negative_quantities_are_last(mut world: World) {
    world.set_time("2026-06-20T12:00:00Z").await;
    let (first, second) = (at("2026-06-20T08:00:00Z"), at("2026-06-20T10:00:00Z"));
    let changes = [
        ("a", -30),
        ("b", -1_500_000_000),
        ("c", 4),
        ("d", -999_999_999),
        ("e", -1_000_000_000),
        ("f", 1_000_000_000),
        ("g", -30),
        ("h", 999_999_999),
    ];
    for (account, change) in changes {
        world.count(account, 2_000_000_000, first).await;
        let correct = Correct::new(account, change, "a test").timestamp(second);
        world.client().correct(correct).await.unwrap();
    }
    world.count("i", 5, second).await;
    let correct = Correct::new("i", -5, "a test").timestamp(second);
    world.client().correct(correct).await.unwrap();
    let end = at("2026-06-20T11:00:00Z");
    let expected = [
        ("f", 1_000_000_000),
        ("h", 999_999_999),
        ("c", 4),
        ("i", 0),
        ("a", -30),
        ("g", -30),
        ("d", -999_999_999),
        ("e", -1_000_000_000),
        ("b", -1_500_000_000),
    ];
    let expected = expected.map(|(id, quantity)| (id.to_owned(), quantity));
    for size in [1, 2, 3, 100] {
        let query = ListUsage::of("api_calls", second, end).page_size(size);
        assert_eq!(list(&world, query).await, expected, "{size} a page");
    }
    let query = GetSummary::of(second, end).top_accounts(2);
    let summary = world.client().get_summary(query).await.unwrap();
    let calls = summary.meter("api_calls").unwrap();
    let total: i64 = expected.iter().map(|(_, quantity)| quantity).sum();
    assert_eq!((calls.quantities.total, calls.accounts), (total, 9));
    let top: Vec<_> = calls.top_accounts.iter().cloned().map(pair).collect();
    assert_eq!(top, expected[..2]);
    world.finish().await;
}

async fn a_prefix_means_itself(world: World) {
    for account in ["a_1", "a_2", "ab1", "a.1", "A_1", "a", "b_1", "z"] {
        world.count(account, 1, hours_ago(2)).await;
    }
    let query = ListUsage::of("api_calls", hours_ago(3), hours_ago(1));
    for (prefix, expected) in [
        ("a_", &["a_1", "a_2"][..]),
        ("a", &["a", "a.1", "a_1", "a_2", "ab1"]),
        ("A", &["A_1"]),
        ("z", &["z"]),
        ("a_1", &["a_1"]),
        ("a_11", &[]),
    ] {
        for by_account in [false, true] {
            let query = query.clone().account_prefix(prefix).page_size(2);
            let query = if by_account {
                query.by_account()
            } else {
                query
            };
            let listed = list(&world, query).await;
            let ids: Vec<&str> = listed.iter().map(|(id, _)| &**id).collect();
            assert_eq!(ids, expected, "{prefix}");
        }
        let summary = GetSummary::of(hours_ago(3), hours_ago(1)).account_prefix(prefix);
        let summary = world.client().get_summary(summary).await.unwrap();
        let accounts = i64::try_from(expected.len()).unwrap();
        let calls = summary.meter("api_calls").unwrap();
        assert_eq!(
            (calls.accounts, calls.quantities.total),
            (accounts, accounts)
        );
        assert_eq!(summary.accounts, accounts);
    }
    let long = "a".repeat(129);
    for wrong in ["%", "a%", "ü", "a b", "'", "\\", &long] {
        let answer = world.client();
        let answer = answer.list_usage(query.clone().account_prefix(wrong)).await;
        refused(answer, "account_prefix", &Reason::InvalidField);
        let summary = GetSummary::of(hours_ago(3), hours_ago(1)).account_prefix(wrong);
        let answer = world.client().get_summary(summary).await;
        refused(answer, "account_prefix", &Reason::InvalidField);
    }
    world.finish().await;
}

async fn a_deleted_account_is_listed_under_its_token(world: World) {
    let free = PutAccount::free("gone");
    world.client().put_account(free).await.unwrap();
    world.count("gone", 5, hours_ago(2)).await;
    world.report_all().await;
    world
        .wait_until_reports_are("gone", &[ReportState::NotBillable])
        .await;
    let delete = usage_client::DeleteAccount::new("gone");
    let token = world.client().delete_account(delete).await.unwrap().token;
    let query = ListUsage::of("api_calls", hours_ago(3), hours_ago(1));
    let expected = vec![(token.unwrap(), 5)];
    assert_eq!(list(&world, query.clone()).await, expected);
    assert_eq!(list(&world, query.by_account()).await, expected);
    world.finish().await;
}
