//! Explanations that do not fit on a page.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use usage_client::{Batch, ExplainInvoice, Increment, Reason};

use super::{END, assert_whole, begin, count_keyless, explain, period};
use crate::support::world::{
    World, at,
    billing::{BASIC, TOKENS},
    on_both_engines,
};

on_both_engines!(
    each_increment_is_on_one_page,
    keys_of_other_reports_take_no_room_on_a_page,
    each_report_is_on_one_page,
    a_page_token_belongs_to_its_request,
);

/// Counts usage in two windows: some of it with keys that are a UUID, some with a text.
async fn count_many(world: &World) {
    for hour in 0..2 {
        let used = world.now() - TimeDelta::hours(hour);
        let increment = |number: i64| {
            let increment = Increment::new("acct").quantity(number + 1).timestamp(used);
            if number % 2 == 0 {
                increment.key(format!("key-{hour}-{number}"))
            } else {
                let last = 100 * hour + number;
                increment.key(format!("0192f0c1-2b3c-7d4e-8f50-{last:012x}"))
            }
        };
        let batch: Vec<Increment> = (0..25).map(increment).collect();
        world
            .client()
            .increment_batch(Batch::from(batch))
            .await
            .unwrap();
        count_keyless(world, 1_000, used).await;
    }
}

async fn each_increment_is_on_one_page(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    count_many(&world).await;
    world.report_all().await;
    world.wait_until_sent("acct").await;
    let client = world.client();
    let (mut pages, mut token) = (0, None);
    let mut keys = Vec::new();
    let mut sums: BTreeMap<String, i64> = BTreeMap::new();
    let mut ended = BTreeMap::new();
    loop {
        let mut page = period().page_size(7);
        if let Some(token) = token {
            page = page.page_token(token);
        }
        let page = client.explain_invoice(page).await.unwrap();
        pages += 1;
        assert!(pages < 40, "it does not end");
        let mut on_page = 0;
        for report in page.lines.iter().flat_map(|line| &line.reports) {
            on_page += report.increments.len();
            let sum = sums.entry(report.report.id.clone()).or_default();
            *sum += report
                .increments
                .iter()
                .map(|one| one.quantity)
                .sum::<i64>();
            assert_eq!(report.with_key, *sum, "of all pages so far");
            keys.extend(report.increments.iter().map(|one| one.key.clone()));
            if let Some(rest) = report.without_key {
                assert_eq!(rest + *sum, report.report.quantity);
                let again = ended.insert(report.report.id.clone(), rest);
                assert_eq!(again, None, "a report ends once");
            }
        }
        assert!(on_page <= 7, "{on_page}");
        token = page.next_page_token;
        if token.is_none() {
            break;
        }
    }
    assert_eq!(keys.len(), 50);
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 50, "an increment is on two pages");
    assert!(pages >= 8, "{pages}");
    assert_eq!(ended.into_values().collect::<Vec<_>>(), [1_000, 1_000]);
    // All pages together are the same as one.
    let at_once = explain(&world, period().page_size(1_000)).await;
    let page_by_page = explain(&world, period().page_size(7)).await;
    let sorted = |explained: usage_client::InvoiceExplanation| {
        let mut lines = explained.lines;
        for report in lines.iter_mut().flat_map(|line| &mut line.reports) {
            report
                .increments
                .sort_by(|one, other| one.key.cmp(&other.key));
        }
        lines
    };
    assert_eq!(sorted(page_by_page), sorted(at_once));
    world.finish().await;
}

async fn keys_of_other_reports_take_no_room_on_a_page(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    let client = world.client();
    let now = world.now();
    let increment = |number: i64, hours| {
        let key = format!("0192f0c1-2b3c-7d4e-8f50-{number:012x}");
        let at = now - TimeDelta::hours(hours);
        Increment::new("acct").key(key).timestamp(at)
    };
    client.increment(increment(101, 1)).await.unwrap();
    // A report between both, of which the keys come first. No line charges it.
    let others = (0..45).map(|number| increment(number, 0).meter("tokens"));
    let others = others.collect::<Vec<_>>();
    client.increment_batch(Batch::from(others)).await.unwrap();
    client.increment(increment(102, 0)).await.unwrap();
    let page = client.explain_invoice(period().page_size(2)).await.unwrap();
    let [line] = page.lines.as_slice() else {
        panic!("{page:#?}");
    };
    let found: Vec<usize> = line
        .reports
        .iter()
        .map(|report| report.increments.len())
        .collect();
    assert_eq!(found, [1, 1], "{page:#?}");
    world.finish().await;
}

async fn each_report_is_on_one_page(mut world: World) {
    begin(&mut world, &[BASIC, TOKENS]).await;
    let now = world.now();
    for hour in 0..5 {
        let used = now - TimeDelta::hours(hour);
        world.count("acct", hour + 1, used).await;
        world
            .count_of("acct", "tokens", 10 * (hour + 1), used)
            .await;
    }
    for page_size in [1, 2, 3, 100] {
        let whole = explain(&world, period().page_size(page_size)).await;
        let figures: Vec<(&str, Vec<i64>)> = whole
            .lines
            .iter()
            .map(|line| {
                let reports = line.reports.iter();
                let quantities = reports.map(|report| report.report.quantity);
                (&*line.meter, quantities.collect())
            })
            .collect();
        assert_eq!(
            figures,
            [
                ("api_calls", vec![5, 4, 3, 2, 1]),
                ("tokens", vec![50, 40, 30, 20, 10])
            ]
        );
        let reports = whole.lines.iter().flat_map(|line| &line.reports);
        reports.for_each(assert_whole);
        let first = period().page_size(page_size).without_increments();
        let first = world.client().explain_invoice(first).await.unwrap();
        let reports = first.lines.iter().map(|line| line.reports.len());
        let reports = reports.sum::<usize>();
        assert_eq!(reports, usize::try_from(page_size).unwrap().min(10));
        assert_eq!(first.next_page_token.is_some(), page_size < 100);
    }
    world.finish().await;
}

async fn a_page_token_belongs_to_its_request(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    count_many(&world).await;
    let client = world.client();
    let first = client.explain_invoice(period().page_size(1)).await.unwrap();
    let token = first.next_page_token.unwrap();
    let refused = async |selection: ExplainInvoice| {
        let error = client.explain_invoice(selection).await.unwrap_err();
        assert_eq!(error.reason(), Some(&Reason::PageTokenInvalid), "{error}");
    };
    let earlier = at(END) - TimeDelta::hours(2);
    let of_others = [
        ExplainInvoice::of_account("other").period(at(END) - TimeDelta::hours(1), at(END)),
        ExplainInvoice::of_account("acct").period(earlier, at(END)),
        ExplainInvoice::of_account("acct"),
        period().without_increments(),
    ];
    for selection in of_others {
        refused(selection.page_token(&token)).await;
    }
    let mut changed = token.clone();
    changed.pop();
    for damaged in [changed, format!("{token}00"), "x".to_owned()] {
        refused(period().page_token(damaged)).await;
    }
    let next = period().page_size(1).page_token(token);
    assert!(client.explain_invoice(next).await.is_ok());
    world.finish().await;
}
