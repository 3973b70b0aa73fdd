//! `ListReports`: order, filters and pages.

use usage_client::{ErrorKind, ListReports, ReportState};

use crate::support::world::{World, hours_ago, on_both_engines};

on_both_engines!(
    reports_are_listed_newest_first_and_filtered,
    a_page_token_belongs_to_its_filter,
    a_report_that_changes_its_state_is_listed_once,
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
