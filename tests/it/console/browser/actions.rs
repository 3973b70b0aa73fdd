//! What admins do, by clicks alone: each action from the link that leads to it to the page that shows what was done.

use usage_client::{ListReports, ReportState, UsageReport};

use super::super::{keys, pages::reject};
use super::sessions::sign_in;
use crate::{
    operations::access::client,
    support::{
        chromium::Chromium,
        world::{World, hours_ago, on_sqlite},
    },
};

on_sqlite!(
    a_report_is_resolved_in_a_browser,
    usage_is_corrected_in_a_browser,
    a_run_is_forced_in_a_browser,
);

/// A browser in which an admin is signed in; and the key.
async fn admin(world: &World) -> Option<(Chromium, String)> {
    let [admin, ..] = keys(world).await;
    let window = Chromium::start(world.http_url()).await?;
    window.open("/").await;
    sign_in(&window, &admin).await;
    window.assert_shows("root (admin)").await;
    Some((window, admin))
}

async fn reports(world: &World, key: &str) -> Vec<UsageReport> {
    let client = client(world.endpoint(), key).await;
    let of_account = ListReports::new().account("acct");
    client.list_reports(of_account).await.unwrap().reports
}

async fn a_report_is_resolved_in_a_browser(world: World) {
    reject(&world).await;
    let Some((window, key)) = admin(&world).await else {
        return world.finish().await;
    };
    window.open("/reports?state=needs_decision").await;
    window.click_on("tbody a[href^='/report?']").await;
    window.click("Write it off").await;
    window.fill("Reason", "a gift").await;
    window.click_on("#check").await;
    window.assert_shows("Nothing has been done yet").await;
    // One can go back to what was typed.
    window.click_on("#change").await;
    window.assert_shows("Show what would happen").await;
    let typed = "return document.querySelector('textarea[name=reason]').value";
    assert_eq!(window.evaluate(typed).await, "a gift");
    assert_eq!(reports(&world, &key).await[0].state, ReportState::Rejected);
    window.click_on("#check").await;
    window.assert_shows("Nothing has been done yet").await;
    window.click_on("#confirm").await;
    window
        .assert_shows("The latest decision is write off")
        .await;
    assert_eq!(
        reports(&world, &key).await[0].state,
        ReportState::WrittenOff
    );
    window.finish().await;
    world.finish().await;
}

async fn usage_is_corrected_in_a_browser(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 10, hours_ago(2)).await;
    let Some((window, key)) = admin(&world).await else {
        return world.finish().await;
    };
    window.open("/account?id=acct").await;
    window.click_on("#correct-usage").await;
    window.fill("Quantity", "-3").await;
    window.fill("Reason", "counted twice").await;
    window.click_on("#check").await;
    window.assert_shows("Nothing has been done yet").await;
    assert_eq!(reports(&world, &key).await.len(), 1);
    window.click_on("#confirm").await;
    window.assert_shows("counted twice").await;
    let quantities = reports(&world, &key).await;
    let mut quantities: Vec<_> = quantities.iter().map(|report| report.quantity).collect();
    quantities.sort_unstable();
    assert_eq!(quantities, [-3, 10]);
    window.finish().await;
    world.finish().await;
}

async fn a_run_is_forced_in_a_browser(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 7, hours_ago(30)).await;
    let Some((window, key)) = admin(&world).await else {
        return world.finish().await;
    };
    window.open("/runs").await;
    window.click_on("#report-now").await;
    window.click("All accounts").await;
    window.fill("Reason", "the month is over").await;
    window.click_on("#check").await;
    assert!(!reports(&world, &key).await[0].reported);
    window.click_on("#confirm").await;
    window.assert_shows("Report run").await;
    world
        .wait_until("the report at Stripe", || async {
            world.stripe_total("cus_acct", "api_calls").await == 7
        })
        .await;
    window.finish().await;
    world.finish().await;
}
