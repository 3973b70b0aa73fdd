//! `/shadow` shows the comparison with another integration.

use fake_stripe::Fault;
use usage_client::CompareShadow;

use super::{Browser, keys};
use crate::{
    operations::access::client,
    support::world::{World, hours_ago, on_both_engines},
};

on_both_engines!(the_page_shows_each_day_and_its_result);

async fn the_page_shows_each_day_and_its_result(mut world: World) {
    world.reconfigure(&["--reporting=shadow"]).await;
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 1_234, hours_ago(30)).await;
    world.report_all().await;
    let [_, reader, _] = keys(&world).await;
    let question = CompareShadow::new();
    let with_key = client(world.endpoint(), &reader).await;
    let found = with_key.compare_shadow(question).await.unwrap().days;
    let day = found[0].day.format("%Y-%m-%d");
    let browser = Browser::new(world.http_url());
    browser.sign_in(&reader).await;
    let page = browser.get("/shadow").await;
    page.assert_shows(200, "Another integration bills.");
    page.assert_shows(200, &format!("cus_acct api_calls {day} 1,234 0 only here"));
    assert!(page.text.contains("OperationsService/CompareShadow"));
    let other = browser.get("/shadow?customer=cus_other").await;
    other.assert_shows(200, "No usage to show");
    let denied = Fault::status(403).on_path("/v1/subscriptions").always();
    world.stripe().script(denied).await.unwrap();
    let partial = browser.get("/shadow").await;
    let told = "Not all customers that no account is linked to are shown:";
    partial.assert_shows(200, told);
    partial.assert_shows(200, "cus_acct api_calls");
    world.stripe().clear_faults().await.unwrap();
    let reports = browser.get("/reports").await;
    reports.assert_shows(200, "not billable (would be sent");
    world.finish().await;
}
