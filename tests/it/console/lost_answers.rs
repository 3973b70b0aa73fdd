//! Actions of which it is not known whether they were done, because the database went away.

use super::{
    Answer, Browser,
    actions::{checked_correction, confirmed, of_report, only_report, send, signed_in},
    form_token,
    pages::reject,
};
use crate::support::{
    postgres_proxy::PostgresProxy,
    world::{World, on_postgres, poll},
};

on_postgres!(
    a_decision_whose_answer_is_lost_is_said_to_be_unknown_and_made_once,
    a_correction_whose_answer_is_lost_is_said_to_be_unknown_and_entered_once,
);

/// The COMMITs of an action: of its first audit entry, and its own.
const COMMITS: usize = 2;

/// Sends a form that acts. The database goes away when the action is stored and not answered.
async fn lost(
    browser: &Browser,
    proxy: &PostgresProxy,
    (path, fields): (&str, &[(String, String)]),
) -> Answer {
    proxy.go_away_with_commit(COMMITS);
    let page = send(browser, path, fields).await;
    assert!(proxy.is_away(), "{}", page.words());
    assert!(page.status >= 500, "{}", page.words());
    page.assert_shows(page.status, "Not done, as far as is known");
    page.assert_shows(page.status, "if it was done already, it is not done twice");
    page
}

/// Sends the form of the page again, until the server has connections again. Each time nothing more is done.
async fn sent_again(browser: &Browser, path: &str, page: &Answer) -> Answer {
    assert!(page.text.contains("id=\"confirm-form\""), "{}", page.text);
    let fields = confirmed(page);
    poll("the same answer", async || {
        let again = send(browser, path, &fields).await;
        (again.status == 303).then_some(again)
    })
    .await
}

async fn a_decision_whose_answer_is_lost_is_said_to_be_unknown_and_made_once(mut world: World) {
    reject(&world).await;
    let proxy = world.connect_through_proxy().await;
    let (browser, admin) = signed_in(&world).await;
    let report = only_report(&world, &admin).await;
    let token = form_token(&browser.get(&of_report("report", &report)).await);
    let path = of_report("resolve", &report);
    let fields = [
        ("token", token.as_str()),
        ("action", "write_off"),
        ("reason", "a test"),
        ("step", "check"),
    ];
    let checked = browser.post(&path, &fields).await;
    checked.assert_shows(200, "Nothing has been done yet");
    let page = lost(&browser, &proxy, (&path, &confirmed(&checked))).await;
    let decisions = "report_decisions WHERE action = 'write_off'";
    assert_eq!(world.count_rows(decisions).await, 1, "it was stored");
    proxy.come_back();
    let done = sent_again(&browser, &path, &page).await;
    assert!(done.header("location").contains("done=resolved"));
    assert_eq!(world.count_rows(decisions).await, 1);
    world.finish().await;
}

async fn a_correction_whose_answer_is_lost_is_said_to_be_unknown_and_entered_once(
    mut world: World,
) {
    let proxy = world.connect_through_proxy().await;
    let (browser, _) = signed_in(&world).await;
    let path = "/correct?account=acct";
    let checked = checked_correction(&browser, path).await;
    let page = lost(&browser, &proxy, (path, &confirmed(&checked))).await;
    let corrections = "usage_reports WHERE kind = 'correction'";
    assert_eq!(world.count_rows(corrections).await, 1, "it was stored");
    proxy.come_back();
    let done = sent_again(&browser, path, &page).await;
    assert!(done.header("location").contains("done=corrected"));
    assert_eq!(world.count_rows(corrections).await, 1);
    world.finish().await;
}
