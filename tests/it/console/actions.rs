//! What admins do in the console, from the form to the page that shows what was done.

use chrono::SecondsFormat;
use fake_stripe::Fault;
use usage_client::{ReportState, ResolveAction, ResolveReport, UsageReport};

use super::{Answer, Browser, form_token, keys, pages::reject};
use crate::{
    operations::access::client,
    support::{
        refused_retries::{allow_retries, wait_for_a_refused_retry},
        world::{Engine, TIMEOUT, World, hours_ago, on_both_engines, on_sqlite, poll},
    },
};

on_both_engines!(
    a_report_is_resolved_once_as_it_was_shown,
    usage_is_corrected_once_as_it_was_shown,
    a_forced_run_is_begun_once_and_watched_without_a_script,
    a_forced_run_says_that_what_waits_for_a_retry_still_waits,
);

on_sqlite!(
    a_report_that_has_changed_is_not_resolved,
    a_correction_without_a_time_is_of_the_moment_that_was_shown,
);

pub(super) const EVENTS: &str = "/v1/billing/meter_events";

/// The value of a hidden field.
#[track_caller]
fn hidden(page: &Answer, name: &str) -> String {
    let start = format!("type=\"hidden\" name=\"{name}\" value=\"");
    let rest = page.text.split_once(&start).map(|(_, rest)| rest);
    let rest = rest.unwrap_or_else(|| panic!("no {name} in {}", page.words()));
    let value = rest.split('"').next().unwrap();
    value
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
}

/// The hidden fields of the form that confirms, with what sends it.
pub(super) fn confirmed(page: &Answer) -> Vec<(String, String)> {
    let names = page
        .text
        .split("type=\"hidden\" name=\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap().to_owned());
    let fields = names.map(|name| {
        let value = hidden(page, &name);
        (name, value)
    });
    fields
        .chain([("step".to_owned(), "do".to_owned())])
        .collect()
}

pub(super) async fn send(browser: &Browser, path: &str, fields: &[(String, String)]) -> Answer {
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    browser.post(path, &fields).await
}

/// The address of a page about a report.
pub(super) fn of_report(page: &str, report: &UsageReport) -> String {
    let start = report
        .window
        .start
        .to_rfc3339_opts(SecondsFormat::AutoSi, true);
    format!(
        "/{page}?account={}&id={}&window={start}",
        report.account_id, report.id
    )
}

pub(super) async fn signed_in(world: &World) -> (Browser, String) {
    let [admin, ..] = keys(world).await;
    let browser = Browser::new(world.http_url());
    browser.sign_in(&admin).await;
    (browser, admin)
}

/// What a correction by 3 without a time would do.
pub(super) async fn checked_correction(browser: &Browser, path: &str) -> Answer {
    let token = form_token(&browser.get(path).await);
    let fields = [
        ("token", token.as_str()),
        ("meter", "api_calls"),
        ("quantity", "3"),
        ("timestamp", ""),
        ("reason", "lost"),
        ("step", "check"),
    ];
    let checked = browser.post(path, &fields).await;
    checked.assert_shows(200, "Nothing has been done yet");
    checked
}

pub(super) async fn only_report(world: &World, admin: &str) -> UsageReport {
    let client = client(world.endpoint(), admin).await;
    let listed = usage_client::ListReports::new().account("acct");
    let mut reports = client.list_reports(listed).await.unwrap().reports;
    assert_eq!(reports.len(), 1);
    reports.remove(0)
}

async fn a_report_is_resolved_once_as_it_was_shown(world: World) {
    reject(&world).await;
    let (browser, admin) = signed_in(&world).await;
    let before = only_report(&world, &admin).await;
    let page = browser.get(&of_report("report", &before)).await;
    page.assert_shows(200, "Write it off");
    assert!(page.text.contains("id=\"resolve-form\""), "{}", page.text);
    let token = form_token(&page);
    let path = of_report("resolve", &before);
    let fields = [
        ("token", token.as_str()),
        ("action", "write_off"),
        ("reason", "a test\r\ncustomer"),
        ("step", "check"),
    ];
    let checked = browser.post(&path, &fields).await;
    checked.assert_shows(200, "Nothing has been done yet");
    checked.assert_shows(200, "State rejected written off");
    checked.assert_shows(200, "Quantity 1,234 1,234");
    let after = only_report(&world, &admin).await;
    assert_eq!(
        (after.state, after.decisions.len()),
        (ReportState::Rejected, 0)
    );
    let fields = confirmed(&checked);
    // A button that is pressed twice.
    let (first, second) = tokio::join!(
        send(&browser, &path, &fields),
        send(&browser, &path, &fields)
    );
    for done in [&first, &second, &send(&browser, &path, &fields).await] {
        assert_eq!(done.status, 303, "{}", done.words());
    }
    let shown = first.header("location");
    assert_eq!(shown, second.header("location"));
    let shown = browser.get(shown.split('#').next().unwrap()).await;
    shown.assert_shows(200, "The latest decision is write off");
    shown.assert_shows(200, "by key root");
    assert!(!shown.text.contains("resolve-form"));
    let after = only_report(&world, &admin).await;
    assert_eq!(after.state, ReportState::WrittenOff);
    let [decision] = after.decisions.as_slice() else {
        panic!("{after:?}");
    };
    assert_eq!(decision.reason, "a test\ncustomer");
    let audit = browser.get("/audit").await;
    audit.assert_shows(200, "ResolveReport");
    audit.assert_shows(200, "&quot;via&quot;:&quot;console&quot;");
    world.finish().await;
}

async fn a_report_that_has_changed_is_not_resolved(world: World) {
    reject(&world).await;
    let (browser, admin) = signed_in(&world).await;
    let report = only_report(&world, &admin).await;
    let token = form_token(&browser.get("/runs").await);
    let path = of_report("resolve", &report);
    let fields = [
        ("token", token.as_str()),
        ("action", "write_off"),
        ("reason", "a gift"),
        ("step", "check"),
    ];
    let fields = confirmed(&browser.post(&path, &fields).await);
    // Meanwhile it is sent again, and refused again.
    let refuse = Fault::status(400).on_path(EVENTS);
    world.stripe().script(refuse).await.unwrap();
    let retry = ResolveReport::new("acct", &report.id, ResolveAction::Retry, "again");
    let admins = client(world.endpoint(), &admin).await;
    admins.resolve_report(retry).await.unwrap();
    poll("the second refusal", async || {
        let report = only_report(&world, &admin).await;
        (report.state == ReportState::Rejected && report.attempts > 0).then_some(())
    })
    .await;
    let stale = send(&browser, &path, &fields).await;
    stale.assert_shows(409, "ETAG_MISMATCH");
    assert!(
        stale.text.contains(">\na gift</textarea>"),
        "{}",
        stale.text
    );
    // Without what was seen, nothing is done.
    let unseen: Vec<_> = fields
        .into_iter()
        .filter(|(name, _)| name != "etag")
        .collect();
    let unseen = send(&browser, &path, &unseen).await;
    unseen.assert_shows(400, "look at what would happen first");
    let after = only_report(&world, &admin).await;
    assert_eq!(
        (after.state, after.decisions.len()),
        (ReportState::Rejected, 1)
    );
    world.finish().await;
}

async fn usage_is_corrected_once_as_it_was_shown(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 10, hours_ago(2)).await;
    let (browser, admin) = signed_in(&world).await;
    let page = browser.get("/account?id=acct").await;
    assert!(page.text.contains("href=\"/correct?account=acct\""));
    let form = browser.get("/correct?account=acct").await;
    form.assert_shows(200, "Correct usage of acct");
    form.assert_shows(200, "api_calls (call)");
    let time = hours_ago(2).to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let token = form_token(&form);
    let fields = |quantity, step| {
        [
            ("token", token.as_str()),
            ("meter", "api_calls"),
            ("quantity", quantity),
            ("timestamp", time.as_str()),
            ("reason", "counted twice"),
            ("step", step),
        ]
    };
    let path = "/correct?account=acct";
    let checked = browser.post(path, &fields("-3", "check")).await;
    checked.assert_shows(200, "Nothing has been done yet");
    checked.assert_shows(200, " 10 7 ");
    let corrections = "usage_reports WHERE kind = 'correction'";
    assert_eq!(world.count_rows(corrections).await, 0);
    let fields_of_it = confirmed(&checked);
    let (first, second) = tokio::join!(
        send(&browser, path, &fields_of_it),
        send(&browser, path, &fields_of_it)
    );
    assert_eq!(
        (first.status, second.status),
        (303, 303),
        "{}",
        first.words()
    );
    assert_eq!(first.header("location"), second.header("location"));
    let shown = browser.get(first.header("location")).await;
    shown.assert_shows(200, "This correction was entered by key root");
    shown.assert_shows(200, "Why counted twice");
    assert_eq!(world.count_rows(corrections).await, 1);
    // The same key for something else.
    let other = fields_of_it.iter().map(|(name, value)| {
        let value = if name == "quantity" { "-4" } else { value };
        (name.clone(), value.to_owned())
    });
    let other: Vec<_> = other.collect();
    let reused = send(&browser, path, &other).await;
    reused.assert_shows(409, "KEY_REUSED");
    let below = browser.post(path, &fields("-100", "check")).await;
    below.assert_shows(400, "BELOW_ZERO");
    assert!(below.text.contains("value=\"-100\""), "{}", below.text);
    assert_eq!(world.count_rows(corrections).await, 1);
    let admins = client(world.endpoint(), &admin).await;
    let query = world.recent("acct").meter("api_calls");
    let usage = admins.get(query).await.unwrap();
    assert_eq!(usage.meter("api_calls").unwrap().quantities.total, 7);
    world.finish().await;
}

async fn a_correction_without_a_time_is_of_the_moment_that_was_shown(world: World) {
    world.count("acct", 10, hours_ago(2)).await;
    let (browser, _) = signed_in(&world).await;
    let path = "/correct?account=acct";
    let checked = checked_correction(&browser, path).await;
    assert_eq!(
        hidden(&checked, "timestamp"),
        "",
        "it stays as it was typed"
    );
    let now = hidden(&checked, "now");
    let now = chrono::DateTime::parse_from_rfc3339(&now).unwrap();
    let done = send(&browser, path, &confirmed(&checked)).await;
    assert_eq!(done.status, 303, "{}", done.words());
    let at = now.timestamp_millis();
    let entered = format!("usage_reports WHERE kind = 'correction' AND first_at = {at}");
    assert_eq!(world.count_rows(&entered).await, 1);
    world.finish().await;
}

async fn a_forced_run_is_begun_once_and_watched_without_a_script(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(2)).await;
    world.count("unlinked", 3, hours_ago(2)).await;
    let gate = Fault::block_until_released("gate").on_path(EVENTS);
    world.stripe().script(gate).await.unwrap();
    let (browser, _) = signed_in(&world).await;
    let form = browser.get("/force?account=acct").await;
    form.assert_shows(200, "Report now");
    let token = form_token(&form);
    let fields = [
        ("token", token.as_str()),
        ("scope", "accounts"),
        ("accounts", "acct\r\nunlinked"),
        ("reason", "the month ends"),
        ("step", "check"),
    ];
    let checked = browser.post("/force", &fields).await;
    checked.assert_shows(200, "api_calls 1 1 5");
    checked.assert_shows(200, "Without a Stripe customer 1 reports, 3 units");
    let runs = "report_runs WHERE requested_by = 'key root'";
    assert_eq!(world.count_rows(runs).await, 0);
    let fields = confirmed(&checked);
    let (first, second) = tokio::join!(
        send(&browser, "/force", &fields),
        send(&browser, "/force", &fields)
    );
    assert_eq!(
        (first.status, second.status),
        (303, 303),
        "{}",
        first.words()
    );
    let run = first.header("location");
    assert_eq!(run, second.header("location"));
    assert_eq!(world.count_rows(runs).await, 1);
    assert_progress(&world, &browser, run).await;
    world.stripe().release("gate").await.unwrap();
    let ended = poll("the end of the run", async || {
        let page = browser.get(run).await;
        page.header("refresh").is_empty().then_some(page)
    })
    .await;
    ended.assert_shows(200, "Done: each report has a result");
    ended.assert_shows(200, "Closed 2 reports, 8 units Sent 1 reports, 5 units");
    ended.assert_shows(200, "Left 0 reports");
    let audit = browser.get("/audit").await;
    audit.assert_shows(200, "the month ends");
    // The key is that of another run.
    let all: Vec<_> = fields
        .into_iter()
        .map(|(name, value)| match name.as_str() {
            "scope" => (name, "all".to_owned()),
            _ => (name, value),
        })
        .collect();
    let reused = send(&browser, "/force", &all).await;
    reused.assert_shows(409, "KEY_REUSED");
    assert_eq!(world.count_rows(runs).await, 1);
    world.finish().await;
}

async fn a_forced_run_says_that_what_waits_for_a_retry_still_waits(mut world: World) {
    wait_for_a_refused_retry(&mut world).await;
    let (browser, admin) = signed_in(&world).await;
    let form = browser.get("/force?account=acct").await;
    let token = form_token(&form);
    let fields = [
        ("token", token.as_str()),
        ("scope", "accounts"),
        ("accounts", "acct"),
        ("reason", "the month ends"),
        ("step", "check"),
    ];
    let checked = browser.post("/force", &fields).await;
    let fields = confirmed(&checked);
    let begun = send(&browser, "/force", &fields).await;
    assert_eq!(begun.status, 303, "{}", begun.words());
    let told = "Reports that waited for a retry when this run began still wait";
    let run = begun.header("location");
    browser.get(run).await.assert_shows(200, told);
    let (without, rest) = run.split_once("&waiting=").unwrap();
    assert_eq!(rest, "yes");
    let other = browser.get(without).await;
    assert!(!other.words().contains(told), "{}", other.words());
    // The same again retries them.
    allow_retries(&world).await;
    let again = send(&browser, "/force", &fields).await;
    assert_eq!(again.header("location"), without);
    poll("the report to be sent", async || {
        let report = only_report(&world, &admin).await;
        let is_sent = [ReportState::Accepted, ReportState::Confirmed].contains(&report.state);
        is_sent.then_some(())
    })
    .await;
    world.finish().await;
}

/// The page of a run that Stripe holds up, on every replica.
async fn assert_progress(world: &World, browser: &Browser, run: &str) {
    world
        .stripe()
        .wait_for_blocked("gate", 1, TIMEOUT)
        .await
        .unwrap();
    let page = browser.get(run).await;
    page.assert_shows(200, "In progress");
    page.assert_shows(200, "Left 1 reports");
    let refresh = page.header("refresh");
    assert_eq!(refresh, format!("2; url={run}&seen=1"));
    let stopped = browser.get(&format!("{run}&refresh=no")).await;
    stopped.assert_shows(200, "no longer loads itself again");
    assert_eq!(stopped.header("refresh"), "");
    let last = browser.get(&format!("{run}&seen=900")).await;
    assert_eq!(last.header("refresh"), "");
    if world.engine == Engine::Postgres {
        let replica = world.replica().await;
        let there = browser.at(replica.http_url());
        there.get(run).await.assert_shows(200, "Left 1 reports");
        replica.stop().await.unwrap();
    }
}
