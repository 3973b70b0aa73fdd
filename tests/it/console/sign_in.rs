//! Sessions: who signs in, and how a session ends.

use chrono::Duration;
use usage_client::proto::{KeyRole, RevokeKeyRequest};

use super::{Browser, form_token, keys};
use crate::{
    operations::access::{access, create, first_admin, new_key, timestamp},
    support::world::{Engine, World, hours_ago, on_both_engines, on_sqlite, poll},
};

on_both_engines!(
    a_key_begins_a_session_that_only_its_hash_is_stored_of,
    a_wrong_key_begins_none_and_nothing_says_why,
    a_session_ends_with_its_key,
    a_session_ends_after_eight_hours,
    ended_sessions_are_deleted,
    a_restore_ends_sessions,
    every_replica_knows_a_session,
    two_servers_on_one_host_keep_their_sessions_apart,
    signing_out_ends_the_session,
);

on_sqlite!(
    a_form_of_another_site_is_refused,
    attempts_to_sign_in_are_limited,
);

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
    let cookie = browser.cookies.borrow()[&browser.cookie_name()].clone();
    let (key, secret) = cookie.split_once('_').unwrap();
    assert!(admin.starts_with(&format!("ub_{key}_")), "{key}");
    assert_eq!(secret.len(), 64);
    let sessions = "console_sessions WHERE key_id <> ''";
    assert_eq!(world.count_rows(sessions).await, 1);
    let with_secret = format!("console_sessions WHERE hash = '{secret}' OR key_id = '{secret}'");
    assert_eq!(world.count_rows(&with_secret).await, 0);
    // Signing in again replaces the session.
    assert_eq!(browser.sign_in(&admin).await.status, 303);
    assert_ne!(browser.cookies.borrow()[&browser.cookie_name()], cookie);
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
    let digits = "0".repeat(64);
    for cookie in [
        "",
        "x",
        &digits,
        &format!("{}_{digits}", "0".repeat(16)),
        &format!("{}_{digits}", key.id),
        &format!("{}_{}", key.id, "A".repeat(64)),
    ] {
        let cookie = (browser.cookie_name(), cookie.to_owned());
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

async fn a_restore_ends_sessions(mut world: World) {
    let [admin, ..] = keys(&world).await;
    let browser = Browser::new(world.http_url());
    browser.sign_in(&admin).await;
    let backup = world.back_up().await;
    let browser = browser.at(world.http_url());
    assert_eq!(browser.get("/runs").await.status, 200);
    world.put_back(&backup).await;
    world.restore(Some(world.now()), (true, false)).await;
    world.start_server().await;
    let browser = browser.at(world.http_url());
    browser.get("/runs").await.assert_shows(401, "Sign in");
    assert_eq!(browser.sign_in(&admin).await.status, 303);
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

async fn two_servers_on_one_host_keep_their_sessions_apart(world: World) {
    let other = World::start(world.engine).await;
    let [key, ..] = keys(&world).await;
    let [other_key, ..] = keys(&other).await;
    let browser = Browser::new(world.http_url());
    assert_eq!(browser.sign_in(&key).await.status, 303);
    // A browser sends its cookies of a host to each of its ports.
    let there = Browser {
        cookies: browser.cookies.clone(),
        ..Browser::new(other.http_url())
    };
    there.get("/runs").await.assert_shows(401, "Sign in");
    assert_eq!(there.sign_in(&other_key).await.status, 303);
    there.get("/runs").await.assert_shows(200, "root (admin)");
    browser.cookies.borrow_mut().extend(there.cookies.take());
    browser.get("/runs").await.assert_shows(200, "root (admin)");
    other.finish().await;
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
