//! The usage of all accounts, of one, and of those of a list.

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use sea_orm::{ConnectionTrait as _, TransactionTrait as _};
use usage_client::{Correct, ErrorKind, ListUsage, PutAccount};

use super::{BEING_CHECKED, Browser, keys};
use crate::{
    operations::access::client,
    support::world::{World, at, hours_ago, on_both_engines, on_postgres, within},
};

on_both_engines!(
    the_usage_of_all_accounts_is_shown_beside_each_other,
    the_first_page_shows_the_usage_of_the_last_days,
    all_accounts_of_a_meter_are_on_pages,
    accounts_have_their_recent_usage,
    an_account_shows_what_happened_to_it,
);

on_postgres!(pages_share_the_places_of_their_key);

/// 70 units at Stripe, 5 that wait, 9 never billed, of the default meter; and 3 of another.
async fn count(world: &World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    let free = PutAccount::free("gratis");
    world.client().put_account(free).await.unwrap();
    world.count("acct", 70, hours_ago(30)).await;
    world.report_all().await;
    world.count("acct", 5, hours_ago(29)).await;
    world.count("gratis", 9, hours_ago(0)).await;
    world.count_of("acct", "tokens", 3, hours_ago(29)).await;
}

fn time(hours: i64) -> String {
    hours_ago(hours).format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

async fn the_usage_of_all_accounts_is_shown_beside_each_other(world: World) {
    count(&world).await;
    let browser = Browser::new(world.http_url());
    let period = format!("start={}&end={}", time(48), time(-1));
    let page = browser.get(&format!("/usage?by=hour&{period}")).await;
    page.assert_shows(200, "Usage of all accounts");
    page.assert_shows(200, "Counted Reported Confirmed Invoiced");
    // Counted, reported, confirmed, invoiced, waiting, to decide, never billed, accounts.
    page.assert_shows(200, "api_calls ( call ) 84 70 0 0 14 0 0 2");
    page.assert_shows(200, "tokens ( token ) 3 0 0 0 3 0 0 1");
    page.assert_shows(200, "acct 75 Show gratis 9 Show");
    // One of the accounts has usage of both meters.
    page.assert_shows(200, "Accounts with usage of any meter: 2 .");
    let bar = hours_ago(30).format("%Y-%m-%d %H:%M");
    assert!(
        page.text
            .contains(&format!("<title>{bar}: 70 (70 at Stripe, 0 confirmed")),
        "{}",
        page.text
    );
    // The same account in a list.
    let customer = browser.get("/accounts?id=cus_acct").await;
    let title = "<title>api_calls of acct, 75 in 30 days</title>";
    assert!(customer.text.contains(title), "{}", customer.text);
    // Only one meter, and those whose ids begin with a text.
    let one = browser
        .get(&format!("/usage?{period}&meter=tokens&prefix=ac"))
        .await;
    one.assert_shows(200, "tokens ( token ) 3 0 0 0 3 0 0 1");
    one.assert_shows(200, "Accounts with usage of tokens");
    assert!(!one.text.contains("gratis"));
    // In another zone, steps begin at its days.
    let zone = browser
        .get(&format!("/usage?by=hour&{period}&tz=Etc/GMT-3"))
        .await;
    let local = hours_ago(27).format("%Y-%m-%d %H:%M");
    assert!(zone.text.contains(&format!("<title>{local}: 70 (")));
    for (wrong, words) in [
        ("start=2026-03-01", "give both a start and an end"),
        ("by=week", "by is"),
        ("tz=Mars", "time_zone"),
        ("prefix=%25", "account_prefix"),
        ("page=x&meter=tokens", "PAGE_TOKEN_INVALID"),
    ] {
        let page = browser.get(&format!("/usage?{wrong}")).await;
        assert!(page.words().contains(words), "{wrong}: {}", page.words());
    }
    world.finish().await;
}

async fn the_first_page_shows_the_usage_of_the_last_days(world: World) {
    count(&world).await;
    let browser = Browser::new(world.http_url());
    // It is read in the background.
    let is_shown = async || {
        let page = browser.get("/").await;
        assert_eq!(page.status, 200);
        page.words().contains("The last 30 days in UTC")
    };
    world
        .wait_until("the usage of all accounts", is_shown)
        .await;
    let page = browser.get("/").await;
    page.assert_shows(200, "api_calls ( call ) 84 70 0 0 14 0 0 2");
    page.assert_shows(200, "s ago.");
    page.assert_shows(200, "OK unreported usage : the oldest that is on its way");
    assert!(page.text.contains("<rect class=\"reported\""));
    let kept = browser.get("/usage").await;
    kept.assert_shows(200, "api_calls ( call ) 84 70 0 0 14 0 0 2");
    kept.assert_shows(200, "Accounts with the most The largest quantity first");
    // What was read for one is not shown to a key that may not see all accounts.
    let [_, reader, _] = keys(&world).await;
    let browser = Browser::new(world.http_url());
    browser.sign_in(&reader).await;
    browser.get("/").await.assert_shows(200, "84 70 0 0 14");
    world.finish().await;
}

async fn all_accounts_of_a_meter_are_on_pages(world: World) {
    for number in 0..60 {
        let quantity = i64::from(number) + 1;
        world
            .count(&format!("many:{number:02}"), quantity, hours_ago(2))
            .await;
    }
    let browser = Browser::new(world.http_url());
    let path = format!("/usage?meter=api_calls&start={}&end={}", time(24), time(0));
    let first = browser.get(&path).await;
    first.assert_shows(200, "many:59 60 Show many:58 59 Show");
    let next = first.text.split("rel=\"next\" href=\"").nth(1).unwrap();
    let next = next.split('"').next().unwrap().replace("&amp;", "&");
    let second = browser.get(&next).await;
    second.assert_shows(200, "many:09 10 Show");
    second.assert_shows(200, "many:00 1 Show");
    assert!(!second.text.contains("rel=\"next\""));
    world.finish().await;
}

async fn accounts_have_their_recent_usage(mut world: World) {
    world.set_time("2027-03-10T12:00:00Z").await;
    world.count("seen", 9, at("2027-03-10T11:00:00Z")).await;
    world.count("seen", 4, at("2027-02-20T11:00:00Z")).await;
    world
        .count_of("seen", "tokens", 3, at("2027-02-07T11:00:00Z"))
        .await;
    let free = PutAccount::free("acct");
    world.client().put_account(free).await.unwrap();
    world.count("acct", 5, at("2027-03-09T11:00:00Z")).await;
    let browser = Browser::new(world.http_url());
    let page = browser.get("/accounts").await;
    // This month, and the last one.
    page.assert_shows(
        200,
        "seen not linked – – – api_calls 9 tokens 0 api_calls 4 tokens 3",
    );
    for title in [
        "api_calls of seen, 13 in 30 days",
        // The 31st day is not among them.
        "tokens of seen, 0 in 30 days",
        "api_calls of acct, 5 in 30 days",
    ] {
        let title = format!("<title>{title}</title>");
        assert!(page.text.contains(&title), "{title}: {}", page.text);
    }
    // What is not known is no zero, and says why.
    world.count("old", 7, at("2027-03-09T11:00:00Z")).await;
    world.set_time("2027-06-10T12:00:00Z").await;
    let page = Browser::new(world.http_url()).get("/accounts?id=old").await;
    page.assert_shows(200, "old not linked");
    let why = "title=\"There is no usage of the last 70 days";
    assert_eq!(page.text.matches(why).count(), 2, "{}", page.text);
    world.finish().await;
}

async fn an_account_shows_what_happened_to_it(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 9, hours_ago(2)).await;
    let [admin, reader, _] = keys(&world).await;
    let with_key = client(world.endpoint(), &admin).await;
    let correct = Correct::new("acct", -2, "a gift").requested_by("ann");
    let correct = correct.timestamp(hours_ago(2));
    with_key.correct(correct).await.unwrap();
    let put = PutAccount::free("acct");
    with_key.put_account(put).await.unwrap();
    let browser = Browser::new(world.http_url());
    browser.sign_in(&admin).await;
    let path = format!(
        "/account?id=acct&by=hour&start={}&end={}",
        time(24),
        // The turn of an hour may be in between.
        time(-2)
    );
    let page = browser.get(&path).await;
    page.assert_shows(200, "Links and changes in this time");
    page.assert_shows(200, "free from here on");
    page.assert_shows(200, "correction of api_calls by -2 a gift ann");
    page.assert_shows(200, "Corrections and decisions");
    page.assert_shows(200, "Who did what");
    page.assert_shows(200, "PutAccount acct done");
    page.assert_shows(200, "Periods");
    assert!(page.text.contains("<line class=\"mark\""), "{}", page.text);
    // Readers do not see who did what, and their look at the page is no refused call.
    let readers = Browser::new(world.http_url());
    readers.sign_in(&reader).await;
    let page = readers.get(&path).await;
    page.assert_shows(200, "correction of api_calls by -2 a gift ann");
    assert!(!page.text.contains("Who did what"));
    let audit = browser.get("/audit").await;
    assert!(!audit.words().contains("ListAuditEntries"));
    world.finish().await;
}

/// Reads wait for a lock, so that none ends.
async fn pages_share_the_places_of_their_key(world: World) {
    const LOCK: &str = "LOCK TABLE folded_reports IN ACCESS EXCLUSIVE MODE";
    let [admin, reader, _] = keys(&world).await;
    let browsers = [(); 2].map(|()| Browser::new(world.http_url()));
    for (browser, key) in browsers.iter().zip([&reader, &admin]) {
        browser.sign_in(key).await;
    }
    let [own, other] = browsers;
    let database = world.connect_to_database().await;
    let lock = database.begin().await.unwrap();
    lock.execute_unprepared(LOCK).await.unwrap();
    let caller = client(world.endpoint(), &reader).await;
    let query = ListUsage::of("api_calls", hours_ago(3), hours_ago(1));
    let mut calls: FuturesUnordered<_> = (0..5).map(|_| caller.list_usage(query.clone())).collect();
    let refused = within("a refusal", calls.next()).await.unwrap();
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Overloaded, "{refused}");
    let why = "4 reads of the usage of all accounts with this key or certificate run or wait";
    assert!(refused.to_string().contains(why), "{refused}");
    let path = format!("/usage?meter=api_calls&start={}&end={}", time(24), time(0));
    own.get(&path).await.assert_shows(200, why);
    // What failed for one key is read for another one.
    let page = other.get_once(&path).await;
    assert!(page.text.contains(BEING_CHECKED), "{}", page.words());
    lock.rollback().await.unwrap();
    database.close().await.unwrap();
    while let Some(answer) = within("an answer", calls.next()).await {
        assert!(answer.unwrap().usage.is_empty());
    }
    let page = own.get(&path).await;
    page.assert_shows(200, "api_calls");
    assert!(!page.words().contains(why), "{}", page.words());
    world.finish().await;
}
