//! Each page shows what calls show.

use fake_stripe::Fault;
use usage_client::{ListAccounts, PutAccount, Reason, ReportState, ResolveAction, ResolveReport};

use super::{Browser, keys};
use crate::{
    operations::access::client,
    support::world::{World, hours_ago, on_both_engines},
};

on_both_engines!(
    the_first_page_shows_what_needs_a_decision,
    the_first_page_does_not_wait_for_the_checks,
    accounts_are_found_by_the_beginning_of_their_id_and_by_customer,
    a_search_finds_accounts_behind_many_others,
    an_account_shows_its_link_usage_and_reports,
    reports_are_filtered_and_one_shows_its_way,
    runs_keys_and_the_audit_are_shown,
);

/// Lets Stripe reject a report of an account.
pub(super) async fn reject(world: &World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 1_234, hours_ago(30)).await;
    let refuse = Fault::status(400).on_path("/v1/billing/meter_events");
    world.stripe().script(refuse).await.unwrap();
    world.report_all().await;
    world
        .wait_until_reports_are("acct", &[ReportState::Rejected])
        .await;
}

async fn the_first_page_shows_what_needs_a_decision(world: World) {
    reject(&world).await;
    let browser = Browser::new(world.http_url());
    let page = browser.get("/").await;
    page.assert_shows(
        200,
        "BAD reports : rejected: 1 reports, 1234 units, of acct",
    );
    page.assert_shows(200, "OK sending : it is not paused");
    page.assert_shows(200, "acct api_calls 1,234 rejected cus_acct");
    page.assert_shows(200, "force");
    let all = browser.get("/reports?state=needs_decision").await;
    all.assert_shows(200, "acct api_calls 1,234 rejected cus_acct");
    let set_up = browser.get("/set-up").await;
    set_up.assert_shows(200, "What to do: fix what Stripe says, then retry");
    set_up.assert_shows(200, "STRIPE_SECRET_KEY (set)");
    set_up.assert_shows(200, "NO_CONSOLE false");
    world.finish().await;
}

async fn the_first_page_does_not_wait_for_the_checks(world: World) {
    let gate = Fault::block_until_released("gate").on_path("/v1/billing/meters");
    world.stripe().script(gate.always()).await.unwrap();
    let browser = Browser::new(world.http_url());
    for path in ["/", "/set-up"] {
        let page = browser.get_once(path).await;
        page.assert_shows(200, "This is being checked. Load this page again");
        assert_eq!(page.header("refresh"), format!("2; url={path}"));
    }
    // What compares on demand is not loaded again by itself.
    let page = browser.get_once("/verification").await;
    page.assert_shows(200, "This is being checked. Load this page again");
    assert_eq!(page.header("refresh"), "");
    world.stripe().clear_faults().await.unwrap();
    world.stripe().release("gate").await.unwrap();
    let page = browser.get("/").await;
    page.assert_shows(200, "s ago.");
    assert_eq!(page.header("refresh"), "");
    world.finish().await;
}

async fn a_search_finds_accounts_behind_many_others(world: World) {
    for number in 0..60 {
        world.count(&format!("a{number:02}"), 1, hours_ago(2)).await;
    }
    for account in ["a:1", "b", "b:1", "b:2", "b@", "bb"] {
        world.count(account, 1, hours_ago(2)).await;
    }
    world
        .client()
        .put_account(PutAccount::free("b:3"))
        .await
        .unwrap();
    let client = world.client();
    for size in [1, 2, 50] {
        let mut query = ListAccounts::new().include_counted().prefix("b:");
        query = query.page_size(size);
        let mut found = Vec::new();
        loop {
            let page = client.list_accounts(query.clone()).await.unwrap();
            let linked = page.accounts.into_iter().map(|one| one.account_id);
            found.extend(linked.chain(page.counted));
            match page.next_page_token {
                Some(token) => query = query.page_token(token),
                None => break,
            }
        }
        found.sort_unstable();
        assert_eq!(found, ["b:1", "b:2", "b:3"], "{size} a page");
    }
    // A token is for its prefix.
    let first = ListAccounts::new().include_counted().prefix("b:");
    let page = client.list_accounts(first.page_size(1)).await.unwrap();
    let other = ListAccounts::new().include_counted().prefix("b");
    let other = other.page_token(page.next_page_token.unwrap());
    let error = client.list_accounts(other).await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::PageTokenInvalid), "{error}");
    let both = ListAccounts::new().prefix("b").customer("cus_a");
    let error = client.list_accounts(both).await.unwrap_err();
    assert_eq!(error.violations()[0].field, "account_prefix");
    let browser = Browser::new(world.http_url());
    for hostile in ["%25", "b%25", "b'", "b%22%3E%3Cscript%3E", "%C3%BC", "~"] {
        let page = browser.get(&format!("/accounts?id={hostile}")).await;
        page.assert_shows(400, "no account begins with");
        assert!(!page.text.contains("<script"), "{hostile}");
    }
    let page = browser.get("/accounts?id=b%3A").await;
    page.assert_shows(200, "b:1 not linked");
    page.assert_shows(200, "b:3 free");
    assert!(!page.words().contains("a00"), "{}", page.words());
    world.finish().await;
}

async fn accounts_are_found_by_the_beginning_of_their_id_and_by_customer(world: World) {
    let others = ["tea", "tean", "Team/3", "cus_four/1", "cus_fours"];
    for account in ["team", "team/1", "team/2"].iter().chain(&others) {
        let put = PutAccount::free(*account);
        world.client().put_account(put).await.unwrap();
    }
    world.link_to_new_customer("team/4", "cus_four").await;
    world.count("team/3", 1, hours_ago(30)).await;
    let browser = Browser::new(world.http_url());
    let listed = |page: &super::Answer| {
        let links = page.text.split("/account?id=").skip(1);
        let ids = links.map(|rest| rest.split('"').next().unwrap().replace("%2F", "/"));
        ids.collect::<Vec<_>>()
    };
    for (wanted, found) in [
        ("team%2F", &["team/1", "team/2", "team/3", "team/4"][..]),
        ("team", &["team", "team/1", "team/2", "team/3", "team/4"]),
        ("cus_four", &["cus_four/1", "cus_fours", "team/4"]),
        ("cus_four%2F", &["cus_four/1"]),
        ("zzz", &[]),
        (
            "",
            &[
                "Team/3",
                "cus_four/1",
                "cus_fours",
                "tea",
                "team",
                "team/1",
                "team/2",
                "team/3",
                "team/4",
                "tean",
            ],
        ),
    ] {
        let page = browser.get(&format!("/accounts?id={wanted}")).await;
        assert_eq!(page.status, 200);
        assert_eq!(listed(&page), found, "{wanted}");
    }
    let page = browser.get("/accounts?id=team%2F3").await;
    page.assert_shows(200, "team/3 not linked");
    // The second page of a beginning ends where it ends.
    for number in 0..60 {
        let put = PutAccount::free(format!("many:{number:02}"));
        world.client().put_account(put).await.unwrap();
    }
    let first = browser.get("/accounts?id=many%3A").await;
    assert_eq!(listed(&first).len(), 50);
    let next = first.text.split("rel=\"next\" href=\"").nth(1).unwrap();
    let next = next.split('"').next().unwrap().replace("&amp;", "&");
    let second = browser.get(&next).await;
    assert_eq!(listed(&second).len(), 10);
    assert!(!second.text.contains("rel=\"next\""));
    world.finish().await;
}

async fn an_account_shows_its_link_usage_and_reports(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.wait_until_subscription("acct", |_| true).await;
    world.count("acct", 70, hours_ago(30)).await;
    world.report_all().await;
    world.count("acct", 5, hours_ago(29)).await;
    let browser = Browser::new(world.http_url());
    let time = |hours| hours_ago(hours).format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let (start, end) = (time(48), time(0));
    let path = format!("/account?id=acct&by=hour&start={start}&end={end}");
    let page = browser.get(&path).await;
    page.assert_shows(200, "Stripe customer cus_acct");
    page.assert_shows(200, "Subscription sub_");
    page.assert_shows(200, "api_calls ( call ) 75 70 5 0");
    page.assert_shows(200, "api_calls 70 accepted");
    page.assert_shows(200, "api_calls 5 open");
    assert!(
        page.text.contains("<rect class=\"reported\""),
        "{}",
        page.text
    );
    assert!(page.text.contains("<rect class=\"waiting\""));
    assert!(page.text.contains(&format!(
        "<title>{}: 70 (70 at Stripe, 0 not yet at Stripe, 0 never billed)</title>",
        hours_ago(30).format("%Y-%m-%d %H:%M")
    )));
    // The same hour in a zone that has the same hours.
    let zone = browser.get(&format!("{path}&tz=Etc/GMT-3")).await;
    let local = hours_ago(27).format("%Y-%m-%d %H:%M");
    assert!(
        zone.text.contains(&format!("<title>{local}: 70 (70 at")),
        "{}",
        zone.text
    );
    page.assert_shows(200, "The highest: 70");
    assert!(page.text.contains("aria-current=\"true\">Accounts"));
    let list = browser.get("/accounts").await;
    assert!(list.text.contains("aria-current=\"page\">Accounts"));
    let compared = browser.get(&format!("{path}&compare=yes")).await;
    compared.assert_shows(200, "Accepted by Stripe 70");
    // Many steps are no chart.
    let long = format!("/account?id=acct&by=hour&start={}&end={end}", time(24 * 60));
    browser
        .get(&long)
        .await
        .assert_shows(200, "steps are too many for a chart");
    world.finish().await;
}

async fn reports_are_filtered_and_one_shows_its_way(world: World) {
    reject(&world).await;
    world.count_of("other", "tokens", 9, hours_ago(2)).await;
    let report = world.reports("acct").await.remove(0);
    let write_off = ResolveReport::new("acct", &report.id, ResolveAction::WriteOff, "a gift");
    let client = world.client();
    let resolved = client.resolve_report(write_off.requested_by("ann"));
    resolved.await.unwrap();
    let browser = Browser::new(world.http_url());
    let time = |hours| hours_ago(hours).format("%Y-%m-%dT%H:%M:%SZ").to_string();
    for (filter, is_acct, is_other) in [
        (String::new(), true, true),
        ("state=written_off".to_owned(), true, false),
        ("state=needs_decision".to_owned(), false, false),
        ("account=other".to_owned(), false, true),
        ("meter=tokens".to_owned(), false, true),
        ("customer=cus_acct".to_owned(), true, false),
        (format!("from={}", time(3)), false, true),
        (format!("until={}", time(3)), true, false),
    ] {
        let page = browser.get(&format!("/reports?{filter}")).await;
        assert_eq!(page.status, 200, "{}", page.words());
        let has = |account: &str| {
            page.text
                .contains(&format!("<bdi class=\"id\">{account}</bdi>"))
        };
        assert_eq!((has("acct"), has("other")), (is_acct, is_other), "{filter}");
    }
    let path = format!("/report?account=acct&id={}&window={}", report.id, time(30));
    let page = browser.get(&path).await;
    page.assert_shows(200, "State written off");
    page.assert_shows(200, &format!("identifier {}", report.identifier));
    page.assert_shows(200, "write off a gift ann");
    page.assert_shows(200, "rejected");
    world.finish().await;
}

async fn runs_keys_and_the_audit_are_shown(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 7, hours_ago(30)).await;
    world.report_all().await;
    let [admin, reader, _] = keys(&world).await;
    let with_key = client(world.endpoint(), &admin).await;
    let put = PutAccount::free("freebie");
    with_key.put_account(put).await.unwrap();
    let browser = Browser::new(world.http_url());
    browser.sign_in(&admin).await;
    let runs = browser.get("/runs?state=REPORT_RUN_STATE_CLOSED").await;
    runs.assert_shows(200, "closed 1 1 0 0 0 0");
    let audit = browser.get("/audit?account=freebie").await;
    audit.assert_shows(200, "PutAccount freebie done");
    assert!(!audit.words().contains("CreateKey"));
    let key = &admin[3..19];
    let by_key = browser.get(&format!("/audit?key={key}")).await;
    by_key.assert_shows(200, "root 127.0.0.1:");
    let page = browser.get("/keys").await;
    for words in [
        key,
        &reader[3..19],
        "root admin nothing",
        "writer writer nothing",
    ] {
        page.assert_shows(200, words);
    }
    for secret in [&admin[20..], &reader[20..]] {
        assert!(!page.text.contains(secret));
    }
    world.finish().await;
}
