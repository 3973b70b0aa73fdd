//! `/sign-off` shows whether a month is closed, and sends its files.

use sea_orm::{ConnectionTrait as _, TransactionTrait as _};
use usage_client::proto::KeyRole;

use super::{Answer, Browser, keys, links};
use crate::{
    operations::{
        access::{access, create, limited_key},
        sign_off::{EXPORTED, MARCH, NOW, use_hostile_accounts},
    },
    support::world::{World, at, on_both_engines, on_postgres, on_sqlite},
};

on_both_engines!(
    a_closed_month_is_downloaded_as_the_command_writes_it,
    an_open_month_says_why_and_is_downloaded_as_it_is,
);

on_postgres!(a_month_that_takes_long_is_shown_once_it_is_read);

on_sqlite!(only_who_may_read_all_usage_sees_a_month);

/// What the command prints, in a format.
async fn of_command(world: &World, format: &str, flags: &[&str]) -> (String, String) {
    let format = format!("--format={format}");
    let args = MARCH.into_iter().chain([format.as_str()]);
    let args: Vec<&str> = args.chain(flags.iter().copied()).collect();
    world.export_at(world.now(), &args).await.unwrap()
}

#[track_caller]
fn assert_is_file(answer: &Answer, name: &str, content_type: &str) {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let disposition = format!("attachment; filename=\"{name}\"");
    assert_eq!(answer.header("content-disposition"), disposition);
    assert_eq!(answer.header("content-type"), content_type);
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
}

async fn a_closed_month_is_downloaded_as_the_command_writes_it(mut world: World) {
    use_hostile_accounts(&mut world).await;
    // Without a key of Stripe, nothing becomes of the reports.
    world.reconfigure(&["--stripe-secret-key"]).await;
    let browser = Browser::new(world.http_url());
    let start = browser.get("/sign-off").await;
    start.assert_shows(200, "Choose a month");
    assert!(start.text.contains("href=\"/sign-off?month=2027-03\""));
    let page = browser.get("/sign-off?month=2027-03").await;
    page.assert_shows(200, "closed : all usage of the month is final");
    page.assert_shows(200, "counted 1,000,000,001,962 4 1,000,000,001,966 what");
    page.assert_shows(200, "difference 0 0 0 what is not accounted for");
    page.assert_shows(200, " ago, as of ");
    let words =
        "Corrections and decisions since then are not shown. The files have a row for each account";
    page.assert_shows(200, words);
    assert!(page.text.contains("OperationsService/GetSignOff"));
    for (form, name, content_type) in [
        ("csv", "sign-off-2027-03.csv", "text/csv; charset=utf-8"),
        (
            "jsonl",
            "sign-off-2027-03.jsonl",
            "application/jsonl; charset=utf-8",
        ),
    ] {
        let link = format!("/sign-off?month=2027-03&amp;as={form}\"");
        assert!(page.text.contains(&link), "{}", page.text);
        let (printed, notes) = of_command(&world, form, &[]).await;
        let (_, sha256) = notes.trim().split_once("SHA-256 ").unwrap();
        assert!(page.text.contains(sha256), "{sha256}: {}", page.text);
        for _ in 0..2 {
            let path = format!("/sign-off?month=2027-03&as={form}");
            let file = browser.get(&path).await;
            assert_is_file(&file, name, content_type);
            assert_eq!(file.text, printed);
        }
    }
    let file = browser.get("/sign-off?month=2027-03&as=csv").await;
    assert_eq!(file.text, EXPORTED);
    world.finish().await;
}

async fn an_open_month_says_why_and_is_downloaded_as_it_is(mut world: World) {
    world.freeze(at(NOW)).await;
    world.count("acct", 5, at("2027-03-20T05:00:00Z")).await;
    let browser = Browser::new(world.http_url());
    let page = browser.get("/sign-off?month=2027-03").await;
    page.assert_shows(200, "not closed");
    page.assert_shows(200, "5 still open (first: account acct, customer none");
    page.assert_shows(
        200,
        "What was counted, billed or decided since then is not shown.",
    );
    assert!(!page.text.contains("SHA-256 as CSV"), "{}", page.text);
    let refused = browser.get("/sign-off?month=2027-03&as=csv").await;
    refused.assert_shows(400, "MONTH_NOT_CLOSED");
    refused.assert_shows(400, "5 still open");
    for form in ["csv", "jsonl"] {
        let path = format!("/sign-off?month=2027-03&as={form}&open=yes");
        assert!(page.text.contains(&path.replace('&', "&amp;")), "{path}");
        let file = browser.get(&path).await;
        assert_eq!(file.status, 200);
        let name = format!("filename=\"sign-off-2027-03-open.{form}\"");
        assert!(file.header("content-disposition").ends_with(&name));
        let (printed, _) = of_command(&world, form, &["--open"]).await;
        assert_eq!(file.text, printed);
    }
    let current = browser.get("/sign-off?month=2027-04").await;
    current.assert_shows(200, "month 2027-04 is not over");
    world.finish().await;
}

async fn a_month_that_takes_long_is_shown_once_it_is_read(mut world: World) {
    world.freeze(at(NOW)).await;
    world.count("acct", 5, at("2027-03-20T05:00:00Z")).await;
    let database = world.connect_to_database().await;
    let lock = database.begin().await.unwrap();
    let locked = "LOCK TABLE folded_reports IN ACCESS EXCLUSIVE MODE";
    lock.execute_unprepared(locked).await.unwrap();
    let browsers = [0, 1].map(|_| Browser::new(world.http_url()));
    let [browser, other] = &browsers;
    let path = "/sign-off?month=2027-03";
    // Whoever looks meanwhile begins no other read.
    let pages = tokio::join!(browser.get_once(path), other.get_once(path));
    for page in [pages.0, pages.1] {
        page.assert_shows(200, "All usage of the month is being read.");
        assert_eq!(page.header("refresh"), format!("5; url={path}"));
        assert!(page.text.contains("OperationsService/GetSignOff"));
    }
    let reads = "pg_stat_activity WHERE datname = current_database() \
        AND wait_event_type = 'Lock' AND query LIKE '%next_of_usage_reports%'";
    assert_eq!(world.count_rows(reads).await, 1);
    lock.rollback().await.unwrap();
    database.close().await.unwrap();
    let page = browser.get(path).await;
    page.assert_shows(200, "5 still open (first: account acct, customer none");
    assert!(page.headers.get("refresh").is_none());
    // It took three seconds at least, so it is kept, until somebody asks for it anew.
    world.count("acct", 2, at("2027-03-20T05:00:00Z")).await;
    let page = other.get(path).await;
    page.assert_shows(200, "5 still open (first: account acct, customer none");
    let [anew] = &links(&page, "/sign-off?month=2027-03&anew=yes")[..] else {
        panic!("{}", page.text);
    };
    let page = other.get(anew).await;
    page.assert_shows(200, "7 still open (first: account acct, customer none");
    world.finish().await;
}

async fn only_who_may_read_all_usage_sees_a_month(world: World) {
    let paths = ["/sign-off?month=2020-01", "/sign-off?month=2020-01&as=csv"];
    let stranger = Browser::new(world.http_url());
    let [admin, reader, writer] = keys(&world).await;
    for path in paths {
        let refused = stranger.get(path).await;
        refused.assert_shows(401, "Sign in");
    }
    let browser = Browser::new(world.http_url());
    browser.sign_in(&writer).await;
    for path in paths.into_iter().chain(["/sign-off"]) {
        let refused = browser.get(path).await;
        refused.assert_shows(403, "counts usage and shows nothing");
    }
    let mut admins = access(&world, Some(&admin)).await;
    for limited in [
        limited_key("own", KeyRole::Admin, &["own"], &[]),
        limited_key("tokens", KeyRole::Reader, &[], &["tokens"]),
    ] {
        let limited = create(&mut admins, limited).await;
        let browser = Browser::new(world.http_url());
        browser.sign_in(&limited.text).await;
        for path in paths {
            let refused = browser.get(path).await;
            refused.assert_shows(403, "use a key without limits");
        }
    }
    let browser = Browser::new(world.http_url());
    browser.sign_in(&reader).await;
    for path in paths {
        assert_eq!(browser.get(path).await.status, 200, "{path}");
    }
    let foreign = [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "no-cors"),
    ];
    let refused = browser.get_with(paths[1], &foreign).await;
    assert_eq!(refused.status, 403);
    world.finish().await;
}
