//! The usage of all accounts before and after reports are folded.

use chrono::TimeDelta;
use usage_client::{Correct, GetSummary, Granularity, ListUsage, MeterSummary, PutAccount};

use super::{AGE, begin, let_pass};
use crate::{
    counting::usage_of_all::list,
    support::world::{World, at, on_both_engines},
};

on_both_engines!(folded_usage_of_all_accounts_is_shown_as_before);

/// Lists and summaries of the time around the usage.
async fn shown(world: &World) -> (Vec<Vec<(String, i64)>>, Vec<Vec<MeterSummary>>) {
    let (start, end) = (at("2027-03-09T00:00:00Z"), at("2027-03-14T00:00:00Z"));
    let mut lists = Vec::new();
    for meter in ["api_calls", "tokens"] {
        let query = ListUsage::of(meter, start, end).page_size(1);
        lists.push(list(world, query.clone()).await);
        lists.push(list(world, query.by_account()).await);
    }
    let mut summaries = Vec::new();
    for (zone, granularity) in [
        ("UTC", Granularity::Total),
        ("UTC", Granularity::Hour),
        ("Asia/Kathmandu", Granularity::Day),
        ("America/Los_Angeles", Granularity::Month),
    ] {
        let query = GetSummary::of(start, end)
            .granularity(granularity)
            .time_zone(zone)
            .top_accounts(2);
        summaries.push(world.client().get_summary(query).await.unwrap().meters);
    }
    (lists, summaries)
}

async fn folded_usage_of_all_accounts_is_shown_as_before(mut world: World) {
    let _folder = begin(&mut world).await;
    for account in ["another", "third"] {
        let free = PutAccount::free(account);
        world.client().put_account(free).await.unwrap();
    }
    let begun = world.now();
    world.move_clocks(begun + TimeDelta::days(3)).await;
    for round in 1..=2 {
        for number in 0..30 {
            let time = begun + TimeDelta::minutes(i64::from(number) * 97);
            let meter = ["api_calls", "tokens"][usize::from(number % 3 == 0)];
            let account = ["free", "another", "third"][usize::try_from(number % 7 % 3).unwrap()];
            let quantity = i64::from(number) + round;
            world.count_of(account, meter, quantity, time).await;
        }
        world.report_all().await;
    }
    // A correction is never folded.
    let correct = Correct::new("free", -1, "a test").timestamp(begun);
    world.client().correct(correct).await.unwrap();
    let before = shown(&world).await;
    assert_eq!(before.0[0].len(), 3);

    let_pass(&mut world, AGE).await;
    assert_eq!(world.count_rows("usage_reports").await, 1);
    assert!(world.count_rows("folded_reports").await >= 30);
    // What is counted now is of another time.
    world.count("free", 1_000, world.now()).await;
    assert_eq!(shown(&world).await, before);
    world.finish().await;
}
