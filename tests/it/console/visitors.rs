//! What is answered to whom: by role and limit, by the name of the server, and by where a browser says a request comes from.

use usage_client::proto::KeyRole;

use super::{Browser, keys};
use crate::{
    operations::access::{access, create, first_admin, limited_key},
    support::world::{Server, World, hours_ago, on_sqlite},
};

on_sqlite!(
    roles_see_what_their_calls_may,
    a_key_that_is_limited_to_a_meter_sees_its_usage,
    a_page_beyond_the_limit_of_requests_says_when_to_ask_again,
    without_keys_only_local_names_are_answered,
    without_the_console_none_of_its_paths_is_there,
    a_session_follows_links_to_json_and_changes_nothing,
    links_of_other_sites_are_followed_and_nothing_is_loaded_into_them,
);

/// A call that only reads.
const METERS: &str = "/usage.v1.UsageService/ListMeters?encoding=json&message=%7B%7D";

async fn roles_see_what_their_calls_may(world: World) {
    let [admin, reader, writer] = keys(&world).await;
    let browser = Browser::new(world.http_url());
    browser.sign_in(&reader).await;
    let page = browser.get("/").await;
    page.assert_shows(200, "reader (reader)");
    assert!(!page.text.contains("href=\"/keys\"") && !page.text.contains("href=\"/audit\""));
    for page in ["/accounts", "/reports", "/runs", "/set-up"] {
        assert_eq!(browser.get(page).await.status, 200, "{page}");
    }
    for page in ["/keys", "/audit"] {
        let refused = browser.get(page).await;
        refused.assert_shows(403, "the key has the role reader");
    }
    // As refused calls are, these are in the audit.
    let admins = Browser::new(world.http_url());
    admins.sign_in(&admin).await;
    let audit = admins.get("/audit").await;
    for action in ["ListKeys", "ListAuditEntries"] {
        audit.assert_shows(200, &format!("{action} – failed"));
    }
    let browser = Browser::new(world.http_url());
    assert_eq!(browser.sign_in(&writer).await.status, 303);
    for page in ["/", "/accounts", "/reports", "/runs", "/set-up", "/keys"] {
        let refused = browser.get(page).await;
        refused.assert_shows(403, "counts usage and shows nothing");
    }
    world.finish().await;
}

async fn a_key_that_is_limited_to_a_meter_sees_its_usage(world: World) {
    world.count("acct", 7, hours_ago(2)).await;
    world.count_of("acct", "tokens", 9, hours_ago(2)).await;
    let (_, admin) = first_admin(&world).await;
    let mut admins = access(&world, Some(&admin)).await;
    let limited = limited_key("tokens", KeyRole::Reader, &[], &["tokens"]);
    let limited = create(&mut admins, limited).await;
    let browser = Browser::new(world.http_url());
    browser.sign_in(&limited.text).await;
    let time = |hours| hours_ago(hours).format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let usage = format!(
        "/account?id=acct&by=hour&start={}&end={}",
        time(48),
        time(0)
    );
    let page = browser.get(&format!("{usage}&meter=tokens")).await;
    page.assert_shows(200, "Totals of the period");
    page.assert_shows(200, ": 9 (");
    page.assert_shows(200, "this call is about all of them");
    assert!(!page.text.contains("api_calls"), "{}", page.words());
    let all = browser.get(&usage).await;
    all.assert_shows(403, "this call is about all of them");
    world.finish().await;
}

async fn a_page_beyond_the_limit_of_requests_says_when_to_ask_again(mut world: World) {
    let [admin, ..] = keys(&world).await;
    world.stop().await;
    let mut config = world.config();
    config.access.requests_per_sec = 1;
    let server = Server::start(config, world.clock.clone()).await;
    let browser = Browser::new(server.http_url());
    assert_eq!(browser.sign_in(&admin).await.status, 303);
    let mut limited = None;
    for _ in 0..100 {
        // One of the two takes what there is for a second.
        let (one, other) = tokio::join!(browser.get("/runs"), browser.get("/runs"));
        limited = [one, other].into_iter().find(|page| page.status == 429);
        if limited.is_some() {
            break;
        }
    }
    let limited = limited.expect("a refusal");
    limited.assert_shows(429, "RATE_LIMITED");
    let secs: u64 = limited.header("retry-after").parse().unwrap();
    assert!((1..=2).contains(&secs), "{secs}");
    server.stop().await.unwrap();
    world.finish().await;
}

async fn without_keys_only_local_names_are_answered(world: World) {
    let browser = Browser::new(world.http_url());
    let page = browser.get("/").await;
    page.assert_shows(200, "No API key is needed yet");
    assert!(!page.text.contains("Sign out"));
    let form = browser.get("/sign-in").await;
    assert_eq!((form.status, form.header("location")), (303, "/"));
    for local in ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:8080"] {
        for path in ["/runs", METERS, "/metrics", "/openapi.json"] {
            let page = browser.get_with(path, &[("host", local)]).await;
            assert_eq!(page.status, 200, "{local}{path}");
        }
    }
    assert_only_local_names_are_answered(&browser, &["/", "/accounts", "/set-up", "/keys"]).await;
    // With a key, the name makes no difference. The port does: it is part of the cookie's name.
    let [admin, ..] = keys(&world).await;
    let (_, port) = world.http_url().rsplit_once(':').expect("a port");
    let named = format!("usage.example:{port}");
    let host = [("host", named.as_str())];
    let page = browser.get_with("/runs", &host).await;
    assert_eq!(page.status, 401);
    browser.sign_in(&admin).await;
    assert_eq!(browser.get_with("/runs", &host).await.status, 200);
    world.finish().await;
}

/// At other names, neither pages nor calls are answered, whatever key is made up; load balancers are.
async fn assert_only_local_names_are_answered(browser: &Browser, pages: &[&str]) {
    let others = [METERS, "/metrics", "/openapi.json"];
    for foreign in ["evil.example", "localhost.evil.example:8080"] {
        let host = ("host", foreign);
        for path in pages.iter().chain(&others) {
            let refused = browser.get_with(path, &[host]).await;
            refused.assert_shows(421, "HOST_NOT_LOCAL");
            let with_key = [host, ("authorization", "Bearer x")];
            assert_eq!(browser.get_with(path, &with_key).await.status, 421);
        }
        let increment = format!("{}/usage.v1.UsageService/Increment", browser.url);
        let increment = browser.client.post(increment).body(r#"{"accountId":"a"}"#);
        let json = [host, ("content-type", "application/json")];
        assert_eq!(browser.send(increment, &json).await.status, 421);
        let live = browser.get_with("/health/live", &[host]).await;
        assert_eq!(live.status, 200);
    }
}

async fn without_the_console_none_of_its_paths_is_there(mut world: World) {
    world.stop().await;
    let mut config = world.config();
    config.no_console = true;
    let server = Server::start(config, world.clock.clone()).await;
    let browser = Browser::new(server.http_url());
    for path in ["/", "/accounts", "/sign-in", "/console.css", "/set-up"] {
        let answer = browser.get(path).await;
        assert_eq!((answer.status, &*answer.text), (404, "not found\n"));
    }
    assert_eq!(browser.get("/health/live").await.status, 200);
    assert_only_local_names_are_answered(&browser, &[]).await;
    server.stop().await.unwrap();
    world.finish().await;
}

async fn a_session_follows_links_to_json_and_changes_nothing(world: World) {
    let [admin, ..] = keys(&world).await;
    let browser = Browser::new(world.http_url());
    browser.sign_in(&admin).await;
    let meters = browser.get(METERS).await;
    assert_eq!(meters.status, 200, "{}", meters.text);
    assert!(meters.text.contains("api_calls"), "{}", meters.text);
    assert_eq!(meters.header("cache-control"), "no-store");
    assert_eq!(meters.header("x-frame-options"), "DENY");
    assert!(!meters.header("content-security-policy").is_empty());
    // A page of another origin is told nothing.
    let other = [("origin", "https://evil.example")];
    assert_eq!(browser.get_with(METERS, &other).await.status, 403);
    // Calls that change something need the key itself, and no link makes one.
    let message = "%7B%22accountId%22%3A%22a%22%2C%22quantity%22%3A%221%22%7D";
    let link = format!("/usage.v1.UsageService/Increment?encoding=json&message={message}");
    assert_eq!(browser.get(&link).await.status, 405);
    let increment = format!("{}/usage.v1.UsageService/Increment", world.http_url());
    let increment = browser.client.post(increment).body(r#"{"accountId":"a"}"#);
    let json = [("content-type", "application/json")];
    assert_eq!(browser.send(increment, &json).await.status, 401);
    assert_eq!(world.count_rows("all_reports").await, 0);
    world.finish().await;
}

async fn links_of_other_sites_are_followed_and_nothing_is_loaded_into_them(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    let [admin, ..] = keys(&world).await;
    let browser = Browser::new(world.http_url());
    browser.sign_in(&admin).await;
    for site in ["cross-site", "same-site"] {
        let link = [
            ("sec-fetch-site", site),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        let frame = [link[0], link[1], ("sec-fetch-dest", "iframe")];
        let image = [link[0], ("sec-fetch-mode", "no-cors")];
        assert_eq!(browser.get_with("/runs", &link).await.status, 200);
        assert_eq!(browser.get_with(METERS, &link).await.status, 200);
        for headers in [&frame[..], &image] {
            let refused = browser.get_with("/runs", headers).await;
            refused.assert_shows(403, "FOREIGN_PAGE");
            assert_eq!(browser.get_with(METERS, headers).await.status, 401);
        }
        // None of them asks Stripe.
        let compare = "/account?id=acct&compare=yes";
        let page = browser.get_with(compare, &link).await;
        page.assert_shows(200, "Compare with Stripe's totals");
        let reconcile = "/usage.v1.UsageService/Reconcile?encoding=json&message=%7B%7D";
        assert_eq!(browser.get_with(reconcile, &link).await.status, 401);
    }
    for site in ["same-origin", "none"] {
        let own = [("sec-fetch-site", site)];
        let page = browser.get_with("/account?id=acct&compare=yes", &own).await;
        assert_eq!(page.status, 200);
        assert!(!page.text.contains("compare=yes"), "{}", page.text);
    }
    world.finish().await;
}
