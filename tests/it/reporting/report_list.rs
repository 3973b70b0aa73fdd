//! `ListReports`: order, filters and pages.

use usage_client::{ErrorKind, Increment, ListReports, PutAccount, ReportState};

use crate::support::world::{Engine, World, hours_ago, on_both_engines};

on_both_engines!(
    reports_are_listed_newest_first_and_filtered,
    a_page_token_belongs_to_its_filter,
    a_report_that_changes_its_state_is_listed_once,
    reports_are_found_by_meter_customer_and_time,
    a_page_of_few_matches_reads_a_limited_number,
);

async fn reports_are_listed_newest_first_and_filtered(world: World) {
    world.link_to_new_customer("a", "cus_a").await;
    for hours in 1..=7 {
        world.count("a", hours, hours_ago(hours)).await;
    }
    let run = world.report_all().await.run_id.unwrap();
    for hours in 1..=3 {
        world.count("a", 10 + hours, hours_ago(hours)).await;
        world.count("b", 1, hours_ago(hours)).await;
    }
    let list = async |filter: ListReports| {
        let page = world
            .client()
            .list_all_reports(filter, 1_000)
            .await
            .unwrap();
        page.reports
            .iter()
            .map(|report| report.quantity)
            .collect::<Vec<_>>()
    };
    let of_a = ListReports::new().account("a");
    let everything = list(of_a.clone()).await;
    assert_eq!(everything, [13, 12, 11, 7, 6, 5, 4, 3, 2, 1]);
    // The latest closed first. A run closes an account's oldest window first.
    assert_eq!(
        list(ListReports::new().run(&run)).await,
        [1, 2, 3, 4, 5, 6, 7]
    );
    assert_eq!(
        list(of_a.clone().states([ReportState::Open])).await,
        [13, 12, 11]
    );
    let all = [13, 12, 11, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7];
    assert_eq!(list(ListReports::new()).await, all);
    assert_eq!(
        list(of_a.clone().run(&run).states([ReportState::Open])).await,
        Vec::<i64>::new()
    );
    let no_run = ListReports::new().run("nonsense");
    let error = world.client().list_reports(no_run).await.unwrap_err();
    assert_eq!(error.violations()[0].field, "run_id", "{error}");

    for page_size in 1..=4 {
        let paged = pages(&world, &of_a.clone().page_size(page_size)).await;
        assert_eq!(paged, everything);
        let paged = pages(&world, &ListReports::new().page_size(page_size)).await;
        assert_eq!(paged, all);
    }
    world.finish().await;
}

/// The quantities of all pages.
async fn pages(world: &World, filter: &ListReports) -> Vec<i64> {
    let (mut paged, mut token) = (Vec::new(), None::<String>);
    loop {
        let mut ask = filter.clone();
        if let Some(token) = token.take() {
            ask = ask.page_token(token);
        }
        let page = world.client().list_reports(ask).await.unwrap();
        assert!(page.reports.len() <= 4);
        paged.extend(page.reports.iter().map(|report| report.quantity));
        match page.next_page_token {
            Some(next) => token = Some(next),
            None => return paged,
        }
    }
}

async fn a_page_token_belongs_to_its_filter(world: World) {
    for hours in 1..=3 {
        world.count("a", 1, hours_ago(hours)).await;
    }
    let filter = ListReports::new().account("a").page_size(1);
    let page = world.client().list_reports(filter.clone()).await.unwrap();
    let token = page.next_page_token.unwrap();
    let others = [
        filter.clone().account("b").page_token(&token),
        filter
            .clone()
            .states([ReportState::Open])
            .page_token(&token),
        filter
            .clone()
            .page_token(format!("{token}00")[2..].to_owned()),
    ];
    for other in others {
        let error = world.client().list_reports(other).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    // The page size is not part of the filter.
    let rest = filter.page_size(5).page_token(&token);
    assert_eq!(
        world
            .client()
            .list_reports(rest)
            .await
            .unwrap()
            .reports
            .len(),
        2
    );
    world.finish().await;
}

async fn a_report_that_changes_its_state_is_listed_once(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(2)).await;
    world.report_all().await;
    let states = [
        ReportState::Accepted,
        ReportState::Confirmed,
        ReportState::Invoiced,
    ];
    let client = world.client();
    let list = async || {
        for _ in 0..200 {
            let found = client.list_all_reports(ListReports::new().states(states), 10);
            assert_eq!(found.await.unwrap().reports.len(), 1);
        }
    };
    let change = async || {
        loop {
            for state in ["confirmed", "invoiced", "accepted"] {
                let sql = format!("UPDATE usage_reports SET state = '{state}'");
                world.execute_sql(&sql).await;
            }
        }
    };
    tokio::select! {
        () = list() => {}
        () = change() => {}
    }
    world.finish().await;
}

async fn quantities(world: &World, filter: ListReports) -> Vec<i64> {
    let page = world.client().list_all_reports(filter, 1_000).await;
    let reports = page.unwrap().reports;
    reports.iter().map(|report| report.quantity).collect()
}

async fn reports_are_found_by_meter_customer_and_time(world: World) {
    world.link_to_new_customer("a", "cus_a").await;
    world.link_to_new_customer("b", "cus_b").await;
    for hours in 1..=4 {
        world.count("a", hours, hours_ago(hours)).await;
        world.count("b", 10 * hours, hours_ago(hours)).await;
    }
    let tokens = Increment::new("a")
        .meter("tokens")
        .quantity(500)
        .timestamp(hours_ago(2));
    world.client().increment(tokens.clone()).await.unwrap();
    world.report_all().await;
    world
        .client()
        .increment(tokens.quantity(600))
        .await
        .unwrap();
    // From here on, the customer of the account is another one.
    world.create_customers(&["cus_next"]).await;
    let next = PutAccount::stripe("a", "cus_next");
    world.client().put_account(next).await.unwrap();
    let all = ListReports::new;
    for filter in [all(), all().account("a")] {
        let found = quantities(&world, filter.clone().meter("tokens")).await;
        assert_eq!(found, [600, 500]);
        let closed = filter.meter("tokens").states([ReportState::Accepted]);
        assert_eq!(quantities(&world, closed).await, [500]);
    }
    // Open reports have no customer.
    let of_customer = quantities(&world, all().customer("cus_a")).await;
    assert_eq!(of_customer.len(), 5, "{of_customer:?}");
    assert_eq!(of_customer.iter().sum::<i64>(), 510);
    let both = all().customer("cus_a").account("a").meter("tokens");
    assert_eq!(quantities(&world, both).await, [500]);
    for none in [
        all().customer("cus_a").account("b"),
        all().customer("cus_unknown"),
        all().meter("never_counted"),
    ] {
        assert_eq!(quantities(&world, none).await, Vec::<i64>::new());
    }
    // Windows that begin in the half-open interval.
    let time = |filter: ListReports| filter.from(hours_ago(3)).until(hours_ago(1));
    let of_account = time(all().account("b"));
    let mut found = quantities(&world, of_account).await;
    found.sort_unstable();
    assert_eq!(found, [20, 30]);
    let mut found = quantities(&world, time(all().meter("api_calls"))).await;
    found.sort_unstable();
    assert_eq!(found, [2, 3, 20, 30]);
    for page_size in 1..=3 {
        let filter = time(all().meter("api_calls")).page_size(page_size);
        let mut paged = pages(&world, &filter).await;
        paged.sort_unstable();
        assert_eq!(paged, [2, 3, 20, 30], "{page_size}");
    }
    for (wrong, field) in [
        (all().customer("cus a"), "stripe_customer"),
        (all().meter("no meter"), "meter"),
    ] {
        let error = world.client().list_reports(wrong).await.unwrap_err();
        assert_eq!(error.violations()[0].field, field, "{error}");
    }
    world.finish().await;
}

/// More reports than one page reads, of which one matches.
async fn a_page_of_few_matches_reads_a_limited_number(mut world: World) {
    let old = hours_ago(2_000).timestamp_millis();
    let (numbers, id) = match world.engine {
        Engine::Sqlite => (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5100)",
            "randomblob(16)",
        ),
        Engine::Postgres => (
            "WITH n(i) AS (SELECT generate_series(1, 5100))",
            "gen_random_uuid()",
        ),
    };
    let insert = format!(
        "INSERT INTO usage_reports (account_id, id, meter, window_start, window_end, period_end, closed_at, quantity, \
         first_at, last_at, state) {numbers} SELECT 'old', {id}, 'tokens', {old} + i, {old} + i + 1, {old} + i + 1, \
         {old} + i + 1, 1, {old} + i, {old} + i, 'confirmed' FROM n"
    );
    world.execute_sql(&insert).await;
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 7, hours_ago(1)).await;
    world.report_all().await;
    let page = async |filter: ListReports| world.client().list_reports(filter).await.unwrap();
    // What was closed before the time cannot match, so nothing else is read.
    let recent = page(ListReports::new().from(hours_ago(2))).await;
    assert_eq!((recent.reports.len(), recent.next_page_token), (1, None));
    let of_meter = page(ListReports::new().meter("api_calls")).await;
    assert_eq!(of_meter.reports.len(), 1);
    let token = of_meter.next_page_token.expect("more to read");
    let rest = page(ListReports::new().meter("api_calls").page_token(token)).await;
    assert_eq!((rest.reports.len(), rest.next_page_token), (0, None));
    // All pages together have each report once.
    let tokens = ListReports::new().meter("tokens").page_size(1_000);
    let all = world
        .client()
        .list_all_reports(tokens, 10_000)
        .await
        .unwrap();
    assert_eq!(all.reports.len(), 5_100);
    let ids: std::collections::HashSet<_> = all.reports.iter().map(|one| &one.id).collect();
    assert_eq!(ids.len(), 5_100);
    // These reports were never counted.
    world.crash();
}
