//! Signing in and out, and what a browser shows whom.

use chrono::Duration;

use super::super::keys;
use crate::{
    operations::access::first_admin,
    support::{
        chromium::Chromium,
        world::{World, hours_ago, on_sqlite},
    },
};

on_sqlite!(
    a_key_opens_the_page_that_was_asked_for_and_signing_out_closes_it,
    a_session_that_has_ended_asks_for_the_key_and_goes_on,
    a_reader_sees_no_keys_and_a_writer_nothing,
    forms_that_filter_have_addresses,
);

/// Signs in with a key on the page that asks for one.
pub(super) async fn sign_in(window: &Chromium, key: &str) {
    window.fill("API key", key).await;
    window.click("Sign in").await;
}

async fn a_key_opens_the_page_that_was_asked_for_and_signing_out_closes_it(world: World) {
    let [admin, ..] = keys(&world).await;
    let Some(window) = Chromium::start(world.http_url()).await else {
        return world.finish().await;
    };
    window.open("/accounts?id=a%2Fb").await;
    sign_in(&window, "hunter2").await;
    window.assert_shows("This key is not valid").await;
    sign_in(&window, &admin).await;
    window.assert_is_at("/accounts?id=a%2Fb").await;
    window.assert_shows("root (admin)").await;
    // No script could read the cookie.
    assert_eq!(window.evaluate("return document.cookie").await, "");
    window.click("Sign out").await;
    window.assert_is_at("/sign-in").await;
    assert_eq!(world.count_rows("console_sessions").await, 0);
    // What was shown before is not kept.
    window.back().await;
    window.assert_is_at("/accounts?id=a%2Fb").await;
    let shown = window.words().await;
    assert!(shown.contains("API key"), "{shown}");
    assert!(!shown.contains("root (admin)"), "{shown}");
    window.finish().await;
    world.finish().await;
}

async fn a_session_that_has_ended_asks_for_the_key_and_goes_on(mut world: World) {
    let clock = world.set_time("2027-03-10T12:00:00Z").await;
    let (_, admin) = first_admin(&world).await;
    let Some(window) = Chromium::start(world.http_url()).await else {
        return world.finish().await;
    };
    window.open("/").await;
    sign_in(&window, &admin).await;
    window.click("Runs").await;
    window.assert_is_at("/runs").await;
    clock.advance(Duration::hours(8).num_milliseconds());
    window.click("Accounts").await;
    window.assert_shows("API key").await;
    let asked = window.words().await;
    assert!(!asked.contains("root (admin)"), "{asked}");
    sign_in(&window, &admin).await;
    window.assert_is_at("/accounts").await;
    window.assert_shows("root (admin)").await;
    // Also where a form is sent.
    clock.advance(Duration::hours(8).num_milliseconds());
    window.click("Sign out").await;
    window.assert_shows("API key").await;
    window.finish().await;
    world.finish().await;
}

async fn a_reader_sees_no_keys_and_a_writer_nothing(world: World) {
    let [_, reader, writer] = keys(&world).await;
    let Some(window) = Chromium::start(world.http_url()).await else {
        return world.finish().await;
    };
    window.open("/keys").await;
    sign_in(&window, &reader).await;
    window.assert_shows("the key has the role reader").await;
    window.click("Reports").await;
    window.assert_shows("reader (reader)").await;
    let names = "return [...document.querySelectorAll('nav a')].map((link) => link.textContent)";
    let names = window.evaluate(names).await.to_string();
    assert!(
        !names.contains("Keys") && !names.contains("Audit"),
        "{names}"
    );
    window.click("Sign out").await;
    sign_in(&window, &writer).await;
    window.assert_shows("counts usage and shows nothing").await;
    window.click("Sign out").await;
    window.assert_is_at("/sign-in").await;
    window.finish().await;
    world.finish().await;
}

async fn forms_that_filter_have_addresses(world: World) {
    for account in ["team/1", "team/2", "other"] {
        world.count(account, 7, hours_ago(30)).await;
    }
    world.count_of("other", "tokens", 9, hours_ago(29)).await;
    let Some(window) = Chromium::start(world.http_url()).await else {
        return world.finish().await;
    };
    window.open("/reports").await;
    window.fill("Account", "other").await;
    window.fill("Meter", "tokens").await;
    window.click("Show").await;
    window.assert_shows("tokens").await;
    let path = window.path().await;
    assert!(
        path.contains("account=other") && path.contains("meter=tokens"),
        "{path}"
    );
    let rows = "return document.querySelectorAll('tbody tr').length";
    assert_eq!(window.evaluate(rows).await, 1);
    // The address alone shows the same.
    window.open(&path).await;
    assert_eq!(window.evaluate(rows).await, 1);
    window.finish().await;
    world.finish().await;
}
