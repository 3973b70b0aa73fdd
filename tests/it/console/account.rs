//! What happened to an account in the time that is shown, however much happened since.

use chrono::TimeDelta;
use usage_client::{
    CancelSubscription, Correct, Period, PutAccount, ResolveAction, ResolveReport,
    SubscriptionChangeKind, SubscriptionChangeState,
};

use super::{Browser, keys, pages::reject};
use crate::{
    operations::access::client,
    support::world::{World, at, billing::BASIC, hours_ago, on_both_engines},
};

on_both_engines!(
    a_decision_is_shown_however_many_reports_came_after_it,
    links_and_subscription_changes_are_on_the_time_line,
);

fn time(hours: i64) -> String {
    hours_ago(hours).format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

async fn a_decision_is_shown_however_many_reports_came_after_it(world: World) {
    reject(&world).await;
    let report = world.reports("acct").await.remove(0);
    let [admin, reader, _] = keys(&world).await;
    let with_key = client(world.endpoint(), &admin).await;
    let write_off = ResolveReport::new("acct", &report.id, ResolveAction::WriteOff, "a gift");
    let resolved = with_key.resolve_report(write_off.requested_by("ann"));
    resolved.await.unwrap();
    let correct = |quantity, hours| {
        let correct = Correct::new("acct", quantity, format!("hour {hours}"));
        let correct = correct.requested_by("bob").timestamp(hours_ago(hours));
        with_key.correct(correct)
    };
    correct(7, 30).await.unwrap();
    // 50 reports after it, of usage and of corrections.
    for hours in 2..27 {
        let usage = usage_client::Increment::new("acct").quantity(5);
        let usage = usage.timestamp(hours_ago(hours));
        with_key.increment(usage).await.unwrap();
        correct(1, hours).await.unwrap();
    }
    let browser = Browser::new(world.http_url());
    browser.sign_in(&reader).await;
    let path = |from: i64, to: i64| {
        let (start, end) = (time(from), time(to));
        format!("/account?id=acct&by=hour&start={start}&end={end}")
    };
    let decision = "decision on 1,234 of api_calls: write off a gift ann";
    let correction = "correction of api_calls by 7 hour 30 bob";
    let then = browser.get(&path(32, 28)).await;
    then.assert_shows(200, decision);
    then.assert_shows(200, correction);
    assert!(!then.words().contains("hour 26 bob"));
    // The time of the decision; an hour may have turned since.
    let now = browser.get(&path(1, -2)).await;
    now.assert_shows(200, decision);
    assert!(!now.words().contains(correction));
    let between = browser.get(&path(20, 10)).await;
    between.assert_shows(200, "correction of api_calls by 1 hour 15 bob");
    assert!(!between.words().contains(decision));
    // Its lists have the same.
    let lists = then.text.split("href=\"").skip(1).map(|rest| {
        let link = rest.split('"').next().unwrap();
        link.replace("&amp;", "&")
    });
    let lists: Vec<String> = lists
        .filter(|link| link.starts_with("/reports?account=acct&") && link.contains("from="))
        .collect();
    let [corrections, decided, _] = &lists[..] else {
        panic!("{lists:?}");
    };
    let corrections = browser.get(corrections).await;
    corrections.assert_shows(200, "acct api_calls 7 (correction)");
    assert!(!corrections.words().contains("1,234"));
    let decided = browser.get(decided).await;
    decided.assert_shows(200, "acct api_calls 1,234 written off");
    assert!(!decided.words().contains("(correction)"));
    // An admin sees who did what in that time only.
    let admins = Browser::new(world.http_url());
    admins.sign_in(&admin).await;
    let page = admins.get(&path(32, 28)).await;
    page.assert_shows(200, "No admin did anything with this account in this time.");
    let page = admins.get(&path(1, -2)).await;
    page.assert_shows(200, "ResolveReport acct done");
    world.finish().await;
}

async fn links_and_subscription_changes_are_on_the_time_line(mut world: World) {
    let (start, now) = (at("2027-03-10T13:12:34Z"), at("2027-03-20T08:30:10Z"));
    world.start_subscribed(now, &[BASIC], start).await;
    world.count("acct", 11, now - TimeDelta::days(1)).await;
    let client = world.client().clone();
    let cancel = CancelSubscription::now("acct").requested_by("ann");
    let changed = world
        .while_clock_moves(client.cancel_subscription(cancel))
        .await;
    let change = changed.unwrap().change.unwrap();
    let put = PutAccount::free("acct");
    client.put_account(put).await.unwrap();
    let month = Period::new(at("2027-03-01T00:00:00Z"), at("2027-04-01T00:00:00Z"));
    let history = client.account_history("acct", month).await.unwrap();
    let [found] = &history.changes[..] else {
        panic!("{history:?}");
    };
    assert_eq!((&found.id, found.boundary), (&change.id, change.boundary));
    assert_eq!(found.kind, SubscriptionChangeKind::Cancel);
    assert_eq!(found.state, SubscriptionChangeState::Done);
    let by = found.requested_by.as_deref().unwrap();
    assert!(by.starts_with("ann (no key, "), "{by}");
    let links: Vec<_> = history
        .links
        .iter()
        .map(|link| (link.stripe_customer.as_deref(), link.ended))
        .collect();
    assert_eq!(links[0], (None, false), "{links:?}");
    assert!(links.contains(&(Some("cus_acct"), true)), "{links:?}");
    assert!(links.contains(&(Some("cus_acct"), false)), "{links:?}");
    assert!(!history.truncated);
    // A later time begins with the link that is in force by then.
    let later = Period::new(now + TimeDelta::days(1), now + TimeDelta::days(2));
    let found = client.account_history("acct", later).await.unwrap();
    assert!(found.links.is_empty(), "{found:?}");
    let link = found.link_before.unwrap();
    assert_eq!(
        (link.version, link.stripe_customer),
        (history.links[0].version, None)
    );
    let browser = Browser::new(world.http_url());
    let page = browser
        .get("/account?id=acct&start=2027-03-01&end=2027-04-01")
        .await;
    let done = format!("cancel of {}: done", change.subscription);
    for words in [
        &*done,
        "billed to cus_acct from here on",
        "no longer billed to cus_acct from here on",
        "free from here on",
    ] {
        page.assert_shows(200, words);
    }
    assert!(page.text.contains(&format!("<title>{done}</title>")));
    // Nothing of it was in another month.
    let before = Period::new(at("2027-02-01T00:00:00Z"), at("2027-03-01T00:00:00Z"));
    let none = client.account_history("acct", before).await.unwrap();
    assert!(none.links.is_empty() && none.changes.is_empty(), "{none:?}");
    assert!(none.link_before.is_none(), "{none:?}");
    let page = browser
        .get("/account?id=acct&start=2027-04-01&end=2027-04-10")
        .await;
    page.assert_shows(200, "Before this time it was free, since");
    let wrong = Period::new(month.end, month.start);
    let refused = client.account_history("acct", wrong).await.unwrap_err();
    assert_eq!(refused.violations()[0].field, "history");
    world.finish().await;
}
