//! The time zone of charts and days: chosen once, kept, named by an address, and off the grid of slots.

use super::Browser;
use crate::support::world::{World, at, on_both_engines};

on_both_engines!(
    a_zone_that_was_chosen_stays_on_every_page,
    days_and_months_of_a_zone_inside_slots_are_shown_and_do_not_overlap,
    a_zone_is_chosen_by_pages_of_the_console_only,
);

const DAYS: &str = "start=2026-03-28&end=2026-03-31";

/// On the 29th, the clocks of Vienna went forward: its day is from 23:00Z on the 28th to 22:00Z.
async fn count(world: &mut World) {
    world.set_time("2026-03-30T12:00:00Z").await;
    for (quantity, time) in [
        (1, "2026-03-28T22:59:59.999Z"),
        (2, "2026-03-28T23:00:00Z"),
        (4, "2026-03-29T21:59:59.999Z"),
        (8, "2026-03-29T22:00:00Z"),
    ] {
        world.count("acct", quantity, at(time)).await;
    }
}

/// The name of the cookie of a zone without TLS.
fn zone_cookie(browser: &Browser) -> String {
    browser
        .cookie_name()
        .replace("usage_console", "usage_console_zone")
}

/// Asserts that a chart has a bar for each of these days, with these units.
#[track_caller]
fn assert_days(text: &str, days: &[(&str, i64)]) {
    for (day, units) in days {
        let title = format!("<title>{day}: {units} (");
        assert!(text.contains(&title), "{title}: {text}");
    }
}

async fn a_zone_that_was_chosen_stays_on_every_page(mut world: World) {
    count(&mut world).await;
    let browser = Browser::new(world.http_url());
    let chosen = browser.get("/accounts?id=acct&zone=Europe/Vienna").await;
    assert_eq!(chosen.status, 303);
    assert_eq!(chosen.header("location"), "/accounts?id=acct");
    // The token of a page is of the period of one zone.
    let other = browser.get("/usage?by=day&page=x&zone=Europe/Vienna").await;
    assert_eq!(other.header("location"), "/usage?by=day");
    let cookie = chosen.header("set-cookie");
    let named = format!("{}=Europe/Vienna; ", zone_cookie(&browser));
    assert!(cookie.starts_with(&named), "{cookie}");
    for part in ["; HttpOnly", "; SameSite=Strict", "; Path=/;"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let of_vienna = [("2026-03-28", 1), ("2026-03-29", 6), ("2026-03-30", 8)];
    let is_shown = async || {
        let page = browser.get("/").await;
        page.words().contains("The last 30 days in Europe/Vienna")
    };
    world
        .wait_until("the usage of all accounts", is_shown)
        .await;
    assert_days(&browser.get("/").await.text, &of_vienna);
    assert_days(&browser.get("/usage").await.text, &of_vienna);
    for path in ["/usage?by=day", "/account?id=acct&by=day"] {
        let page = browser.get(&format!("{path}&{DAYS}")).await;
        assert_days(&page.text, &of_vienna);
        page.assert_shows(200, "in steps of the time zone Europe/Vienna");
        assert!(page.text.contains("name=\"zone\" value=\"Europe/Vienna\""));
    }
    let accounts = browser.get("/accounts").await;
    accounts.assert_shows(200, "30 days in Europe/Vienna");
    // March began there at 23:00Z.
    let account = browser.get("/account?id=acct").await;
    account.assert_shows(200, "2026-02-28 23:00:00 to 2026-03-31 22:00:00");
    // An address that names a zone comes first, and its links keep it; the choice stays.
    let path = format!("/usage?by=day&{DAYS}");
    let shared = browser.get(&format!("{path}&tz=America/New_York")).await;
    // Its 28th is to 04:00Z on the 29th.
    assert_days(&shared.text, &[("2026-03-28", 3), ("2026-03-29", 12)]);
    for link in ["\"/?tz=America%2FNew_York\"", "tz=America%2FNew_York#usage"] {
        assert!(shared.text.contains(link), "{link}: {}", shared.text);
    }
    assert_days(&browser.get(&path).await.text, &of_vienna);
    // The default is as every other choice.
    browser.get("/?zone=").await;
    let utc = browser.get(&path).await;
    assert_days(&utc.text, &[("2026-03-28", 3), ("2026-03-29", 12)]);
    world.finish().await;
}

async fn days_and_months_of_a_zone_inside_slots_are_shown_and_do_not_overlap(mut world: World) {
    count(&mut world).await;
    let browser = Browser::new(world.http_url());
    browser.get("/?zone=Asia/Kolkata").await;
    let note = "days of Asia/Kolkata begin inside one";
    // Midnight is at 18:30Z, in the slot from 18:00Z on.
    let days = [("2026-03-28", 0), ("2026-03-29", 3), ("2026-03-30", 12)];
    let account = format!("/account?id=acct&by=day&{DAYS}");
    for path in [&*account, &format!("/usage?by=day&{DAYS}")] {
        let page = browser.get(path).await;
        page.assert_shows(200, note);
        assert_days(&page.text, &days);
        page.assert_shows(200, "From 2026-03-27 18:00:00 to 2026-03-30 18:00:00 UTC");
    }
    for path in ["/account?id=acct&by=month", "/usage?by=month", "/accounts"] {
        browser.get(path).await.assert_shows(200, note);
    }
    let page = browser.get("/account?id=acct").await;
    page.assert_shows(
        200,
        "2026-02-28 18:00:00 to 2026-03-31 18:00:00 api_calls 15",
    );
    page.assert_shows(200, "2026-01-31 18:00:00 to 2026-02-28 18:00:00 no usage");
    // Finer slots have its midnights.
    world.reconfigure(&["--window-mins=30"]).await;
    let browser = Browser::new(world.http_url());
    browser.get("/?zone=Asia/Kolkata").await;
    let page = browser.get(&account).await;
    assert!(!page.words().contains(note), "{}", page.words());
    page.assert_shows(200, "From 2026-03-27 18:30:00 to 2026-03-30 18:30:00 UTC");
    assert_days(&page.text, &days);
    world.finish().await;
}

async fn a_zone_is_chosen_by_pages_of_the_console_only(world: World) {
    let browser = Browser::new(world.http_url());
    let link = [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
    ];
    let path = "/reports?zone=Europe/Vienna";
    let followed = browser.get_with(path, &link).await;
    assert_eq!(followed.status, 200);
    assert_eq!(followed.header("set-cookie"), "");
    let own = [("sec-fetch-site", "same-origin")];
    assert_eq!(browser.get_with(path, &own).await.status, 303);
    // What is no zone is no choice, and never shown as one.
    let wrong = browser.get("/reports?zone=Mars").await;
    wrong.assert_shows(400, "time_zone &quot;Mars&quot;");
    assert_eq!(wrong.header("set-cookie"), "");
    let other = Browser::new(world.http_url());
    for value in ["Mars", "\"><script>", &"x".repeat(3_000)] {
        let cookie = format!("{}={value}", zone_cookie(&other));
        let page = other.get_with("/accounts", &[("cookie", &cookie)]).await;
        page.assert_shows(200, "Time zone of charts and days");
        assert!(page.text.contains("name=\"zone\" value=\"UTC\""), "{value}");
        assert!(!page.text.contains("<script"));
    }
    world.finish().await;
}
