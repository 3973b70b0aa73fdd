//! Sessions: who signs in, what a session may do, and how it ends.

use chrono::Duration;
use usage_client::proto::{KeyRole, RevokeKeyRequest};

use super::{Browser, form_token, keys};
use crate::{
    operations::access::{access, create, first_admin, limited_key, new_key, timestamp},
    support::world::{Engine, Server, World, hours_ago, on_both_engines, on_sqlite, poll},
};

on_both_engines!(
    a_key_begins_a_session_that_only_its_hash_is_stored_of,
    a_wrong_key_begins_none_and_nothing_says_why,
    a_session_ends_with_its_key,
    a_session_ends_after_eight_hours,
    ended_sessions_are_deleted,
    every_replica_knows_a_session,
    signing_out_ends_the_session,
);

on_sqlite!(
    a_form_of_another_site_is_refused,
    attempts_to_sign_in_are_limited,
    roles_see_what_their_calls_may,
    a_key_that_is_limited_to_a_meter_sees_its_usage,
    without_keys_only_local_names_are_answered,
    without_the_console_none_of_its_paths_is_there,
    a_session_follows_links_to_json_and_changes_nothing,
    links_of_other_sites_are_followed_and_nothing_is_loaded_into_them,
);

const COOKIE: &str = "usage_console";
/// A call that only reads.
const METERS: &str = "/usage.v1.UsageService/ListMeters?encoding=json&message=%7B%7D";

async fn a_key_begins_a_session_that_only_its_hash_is_stored_of(world: World) {
    let [admin, ..] = keys(&world).await;
    let browser = Browser::new(world.http_url());
    let asked = browser.get("/accounts?id=a%2Fb").await;
    asked.assert_shows(401, "Sign in");
    assert!(
        asked.text.contains("value=\"/accounts?id=a%2Fb\""),
        "{}",
        asked.text
    );
    let fields = [("key", admin.as_str()), ("next", "/accounts?id=a%2Fb")];
    let signed_in = browser.post("/sign-in", &fields).await;
    assert_eq!(signed_in.status, 303);
    assert_eq!(signed_in.header("location"), "/accounts?id=a%2Fb");
    let cookie = signed_in.header("set-cookie").to_owned();
    for part in ["HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=28800"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains(&admin[20..]));
    browser.get("/").await.assert_shows(200, "root (admin)");
    let secret = browser.cookies.borrow()[COOKIE].clone();
    assert_eq!(secret.len(), 64);
    let sessions = "console_sessions WHERE key_id <> ''";
    assert_eq!(world.count_rows(sessions).await, 1);
    let with_secret = format!("console_sessions WHERE hash = '{secret}' OR key_id = '{secret}'");
    assert_eq!(world.count_rows(&with_secret).await, 0);
    // Signing in again replaces the session.
    assert_eq!(browser.sign_in(&admin).await.status, 303);
    assert_ne!(browser.cookies.borrow()[COOKIE], secret);
    assert_eq!(world.count_rows(sessions).await, 1);
    world.finish().await;
}

async fn a_wrong_key_begins_none_and_nothing_says_why(world: World) {
    let (key, admin) = first_admin(&world).await;
    let mut admins = access(&world, Some(&admin)).await;
    let revoked = create(&mut admins, new_key("old", KeyRole::Reader)).await;
    let id = revoked.key.unwrap().id;
    admins.revoke_key(RevokeKeyRequest { id }).await.unwrap();
    let other_secret = format!("ub_{}_{}", key.id, "0".repeat(64));
    let no_such_key = format!("ub_{}_{}", "0".repeat(16), "0".repeat(64));
    let mut answers = Vec::new();
    for wrong in [
        other_secret.as_str(),
        &no_such_key,
        &revoked.text,
        "",
        "hunter2",
    ] {
        let browser = Browser::new(world.http_url());
        let refused = browser.sign_in(wrong).await;
        refused.assert_shows(401, "This key is not valid");
        assert!(browser.cookies.borrow().is_empty());
        assert!(wrong.is_empty() || !refused.text.contains(wrong));
        answers.push(refused.text);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "all are answered alike");
    // A key in the address is not read.
    let browser = Browser::new(world.http_url());
    let path = format!("/sign-in?key={admin}");
    let refused = browser.post(&path, &[("next", "/")]).await;
    assert_eq!(refused.status, 401);
    assert_eq!(world.count_rows("console_sessions").await, 0);
    // Cookies that were made up open nothing.
    for cookie in ["", "x", &"0".repeat(64), &"A".repeat(64)] {
        let cookie = (COOKIE.to_owned(), cookie.to_owned());
        browser.cookies.borrow_mut().extend([cookie]);
        browser.get("/").await.assert_shows(401, "Sign in");
    }
    world.finish().await;
}

async fn a_session_ends_with_its_key(mut world: World) {
    let clock = world.set_time("2027-03-10T12:00:00Z").await;
    let (_, admin) = first_admin(&world).await;
    let mut admins = access(&world, Some(&admin)).await;
    let revoked = create(&mut admins, new_key("revoked", KeyRole::Reader)).await;
    let mut expires = new_key("expires", KeyRole::Reader);
    expires.expires_at = Some(timestamp(clock.now() + 60_000));
    let expires = create(&mut admins, expires).await;
    let one = Browser::new(world.http_url());
    let other = Browser::new(world.http_url());
    one.sign_in(&revoked.text).await;
    other.sign_in(&expires.text).await;
    assert_eq!(one.get("/runs").await.status, 200);
    assert_eq!(other.get("/runs").await.status, 200);
    let id = revoked.key.unwrap().id;
    admins.revoke_key(RevokeKeyRequest { id }).await.unwrap();
    one.get("/runs").await.assert_shows(401, "Sign in");
    clock.advance(60_000);
    other.get("/runs").await.assert_shows(401, "Sign in");
    assert_eq!(other.sign_in(&expires.text).await.status, 401);
    world.finish().await;
}

async fn a_session_ends_after_eight_hours(mut world: World) {
    let clock = world.set_time("2027-03-10T12:00:00Z").await;
    let (_, admin) = first_admin(&world).await;
    let browser = Browser::new(world.http_url());
    browser.sign_in(&admin).await;
    let hours = |hours| Duration::hours(hours).num_milliseconds();
    clock.advance(hours(8) - 1);
    assert_eq!(browser.get("/runs").await.status, 200);
    clock.advance(1);
    assert_eq!(browser.get("/runs").await.status, 401);
    world.finish().await;
}

async fn ended_sessions_are_deleted(world: World) {
    let [admin, reader, _] = keys(&world).await;
    for key in [&admin, &reader] {
        let browser = Browser::new(world.http_url());
        assert_eq!(browser.sign_in(key).await.status, 303);
    }
    let ended = world.clock.now() - 1;
    let of_reader = format!("key_id = '{}'", &reader[3..19]);
    world
        .execute_sql(&format!(
            "UPDATE console_sessions SET expires_at = {ended} WHERE {of_reader}"
        ))
        .await;
    world.wait_until_job_ran("cleanup").await;
    world.set_last_run("cleanup", hours_ago(2)).await;
    world
        .wait_until("the end of the session", || async {
            world.count_rows("console_sessions").await == 1
        })
        .await;
    let left = format!("console_sessions WHERE {of_reader}");
    assert_eq!(world.count_rows(&left).await, 0);
    world.finish().await;
}

async fn every_replica_knows_a_session(world: World) {
    let [admin, ..] = keys(&world).await;
    let browser = Browser::new(world.http_url());
    browser.sign_in(&admin).await;
    if world.engine == Engine::Sqlite {
        let mut world = world;
        world.restart().await;
        let browser = browser.at(world.http_url());
        browser.get("/keys").await.assert_shows(200, "writer");
        return world.finish().await;
    }
    let replica = world.replica().await;
    let there = browser.at(replica.http_url());
    there.get("/keys").await.assert_shows(200, "writer");
    let token = form_token(&browser.get("/runs").await);
    let out = browser.post("/sign-out", &[("token", &token)]).await;
    assert_eq!(out.status, 303);
    // The other one has remembered it for some seconds.
    poll("the end of the session", async || {
        (there.get("/keys").await.status == 401).then_some(())
    })
    .await;
    replica.stop().await.unwrap();
    world.finish().await;
}

async fn signing_out_ends_the_session(world: World) {
    let [admin, ..] = keys(&world).await;
    let browser = Browser::new(world.http_url());
    browser.sign_in(&admin).await;
    let copy = browser.at(world.http_url());
    let token = form_token(&browser.get("/runs").await);
    for wrong in [String::new(), "0".repeat(64), token.replace('a', "b") + "c"] {
        let refused = browser.post("/sign-out", &[("token", &wrong)]).await;
        refused.assert_shows(403, "FOREIGN_FORM");
    }
    assert_eq!(browser.get("/sign-out").await.status, 405);
    let out = browser.post("/sign-out", &[("token", &token)]).await;
    assert_eq!((out.status, out.header("location")), (303, "/sign-in"));
    assert!(browser.cookies.borrow().is_empty());
    // Also for whoever has copied the cookie.
    assert_eq!(copy.get("/runs").await.status, 401);
    assert_eq!(world.count_rows("console_sessions").await, 0);
    world.finish().await;
}

async fn a_form_of_another_site_is_refused(world: World) {
    let [admin, ..] = keys(&world).await;
    let browser = Browser::new(world.http_url());
    let fields = [("key", admin.as_str())];
    for headers in [
        [("origin", "https://evil.example"), ("accept", "*/*")],
        [("origin", "null"), ("accept", "*/*")],
        [
            ("sec-fetch-site", "cross-site"),
            ("origin", world.http_url()),
        ],
        [("sec-fetch-site", "same-site"), ("accept", "*/*")],
    ] {
        let refused = browser.post_with("/sign-in", &fields, &headers).await;
        refused.assert_shows(403, "FOREIGN_FORM");
        assert!(browser.cookies.borrow().is_empty(), "{headers:?}");
    }
    browser.sign_in(&admin).await;
    let token = form_token(&browser.get("/runs").await);
    let evil = [("origin", "https://evil.example")];
    let refused = browser
        .post_with("/sign-out", &[("token", &token)], &evil)
        .await;
    assert_eq!(refused.status, 403);
    assert_eq!(browser.get("/runs").await.status, 200);
    // Behind a proxy with TLS, the cookie is only sent over TLS.
    let host = [
        ("origin", "https://usage.example"),
        ("host", "usage.example"),
    ];
    let proxied = Browser::new(world.http_url());
    let signed_in = proxied.post_with("/sign-in", &fields, &host).await;
    let cookie = signed_in.header("set-cookie");
    assert!(cookie.starts_with("__Host-usage_console="), "{cookie}");
    assert!(cookie.ends_with("; Secure"), "{cookie}");
    assert_eq!(proxied.get("/runs").await.status, 200);
    // No form at all.
    let json = proxied.client.post(format!("{}/sign-in", world.http_url()));
    let json = json.body(format!("{{\"key\": \"{admin}\"}}"));
    assert_eq!(proxied.send(json, &[]).await.status, 400);
    world.finish().await;
}

async fn attempts_to_sign_in_are_limited(world: World) {
    let [admin, ..] = keys(&world).await;
    let browser = Browser::new(world.http_url());
    let mut statuses = Vec::new();
    for _ in 0..30 {
        statuses.push(browser.sign_in("wrong").await.status);
    }
    assert_eq!(statuses[..10], [401; 10]);
    assert_eq!(statuses.last(), Some(&429));
    let refused = browser.sign_in("wrong").await;
    refused.assert_shows(429, "Too many attempts");
    assert_eq!(refused.header("retry-after"), "60");
    assert_eq!(browser.get("/sign-in").await.status, 200);
    // They keep no key out that is right.
    assert_eq!(browser.sign_in(&admin).await.status, 303);
    assert_eq!(browser.get("/runs").await.status, 200);
    world.finish().await;
}

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
    // With a key, the name makes no difference.
    let [admin, ..] = keys(&world).await;
    let host = [("host", "usage.example")];
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
    // Calls that change something need the key itself.
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
