//! What admins do, by clicks alone: each action from the link that leads to it to the page that shows what was done.

use fake_stripe::Fault;
use usage_client::{ListReports, ReportState, UsageReport};

use super::super::{actions::EVENTS, keys, pages::reject};
use super::{axe::Axe, looks, sessions::sign_in};
use crate::{
    operations::access::client,
    support::{
        chromium::Chromium,
        world::{TIMEOUT, World, hours_ago, on_sqlite},
    },
};

on_sqlite!(
    a_report_is_resolved_in_a_browser,
    usage_is_corrected_in_a_browser,
    what_may_have_been_done_is_sent_again_in_a_browser,
    a_run_is_forced_in_a_browser,
);

/// What says that nothing has been done.
const NOTHING_YET: &str = "Nothing has been done yet";
/// The names of the fields that are marked as wrong.
const WRONG: &str =
    "return [...document.querySelectorAll('[aria-invalid]')].map((field) => field.name)";

/// An admin who is signed in in a browser, and what was wrong with the looks of pages.
struct Admin {
    window: Chromium,
    axe: Axe,
    key: String,
    wrong: Vec<String>,
}

impl Admin {
    async fn sign_in(world: &World) -> Option<Self> {
        let [key, ..] = keys(world).await;
        let axe = Axe::load()?;
        let window = Chromium::start(world.http_url()).await?;
        window.open("/").await;
        sign_in(&window, &key).await;
        window.assert_shows("root (admin)").await;
        Some(Self {
            window,
            axe,
            key,
            wrong: Vec::new(),
        })
    }

    async fn look_at(&mut self, name: &str) {
        let wrong = looks::check(&self.window, &self.axe, name).await;
        self.wrong.extend(wrong);
    }

    /// Sends a form that is wrong, and looks at how it says so.
    async fn send_wrong(&mut self, name: &str, field: &str, problem: &str) {
        self.window.click_on("#check").await;
        self.window.assert_shows(problem).await;
        assert_eq!(
            self.window.evaluate(WRONG).await,
            serde_json::json!([field])
        );
        self.look_at(&format!("{name}-wrong")).await;
    }

    /// Sends a form, and looks at what it would do.
    async fn check(&mut self, name: &str) {
        self.window.click_on("#check").await;
        self.window.assert_shows(NOTHING_YET).await;
        self.look_at(&format!("{name}-confirm")).await;
    }

    async fn reports(&self, world: &World) -> Vec<UsageReport> {
        let client = client(world.endpoint(), &self.key).await;
        let of_account = ListReports::new().account("acct");
        client.list_reports(of_account).await.unwrap().reports
    }

    /// The quantities of all reports, the lowest first.
    async fn quantities(&self, world: &World) -> Vec<i64> {
        let reports = self.reports(world).await;
        let mut quantities: Vec<_> = reports.iter().map(|report| report.quantity).collect();
        quantities.sort_unstable();
        quantities
    }

    async fn finish(self) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n\n"));
        self.window.finish().await;
    }
}

async fn a_report_is_resolved_in_a_browser(world: World) {
    reject(&world).await;
    let Some(mut admin) = Admin::sign_in(&world).await else {
        return world.finish().await;
    };
    admin.window.open("/reports?state=needs_decision").await;
    admin.window.click_on("tbody a[href^='/report?']").await;
    admin.window.click("Write it off").await;
    admin.window.fill("Reason", " ").await;
    let problem = "reason has 0 characters";
    admin.send_wrong("resolve", "reason", problem).await;
    admin.window.fill("Reason", "a gift").await;
    admin.check("resolve").await;
    // One can go back to what was typed.
    admin.window.click_on("#change").await;
    admin.window.assert_shows("Show what would happen").await;
    let typed = "return document.querySelector('textarea[name=reason]').value";
    assert_eq!(admin.window.evaluate(typed).await, "a gift");
    assert_eq!(admin.reports(&world).await[0].state, ReportState::Rejected);
    admin.window.click_on("#check").await;
    admin.window.assert_shows(NOTHING_YET).await;
    admin.window.click_on("#confirm").await;
    let done = "The latest decision is write off";
    admin.window.assert_shows(done).await;
    let state = admin.reports(&world).await[0].state;
    assert_eq!(state, ReportState::WrittenOff);
    admin.finish().await;
    world.finish().await;
}

async fn usage_is_corrected_in_a_browser(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 10, hours_ago(2)).await;
    let Some(mut admin) = Admin::sign_in(&world).await else {
        return world.finish().await;
    };
    admin.window.open("/account?id=acct").await;
    admin.window.click_on("#correct-usage").await;
    admin.window.fill("Quantity", "three").await;
    admin.window.fill("Reason", "counted twice").await;
    let problem = "it must be a whole number";
    admin.send_wrong("correct", "quantity", problem).await;
    admin.window.fill("Quantity", "-3").await;
    admin.check("correct").await;
    assert_eq!(admin.quantities(&world).await, [10]);
    admin.window.click_on("#confirm").await;
    admin.window.assert_shows("counted twice").await;
    assert_eq!(admin.quantities(&world).await, [-3, 10]);
    admin.finish().await;
    world.finish().await;
}

async fn what_may_have_been_done_is_sent_again_in_a_browser(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 10, hours_ago(2)).await;
    let Some(mut admin) = Admin::sign_in(&world).await else {
        return world.finish().await;
    };
    admin.window.open("/correct?account=acct").await;
    admin.window.fill("Quantity", "-3").await;
    admin.window.fill("Reason", "a gift").await;
    admin.window.click_on("#check").await;
    admin.window.assert_shows(NOTHING_YET).await;
    // What would happen is found by doing it and taking it back, so it is refused only from here on.
    let broken = "CREATE TRIGGER refuse BEFORE INSERT ON usage_reports WHEN NEW.note = 'a gift' \
                  BEGIN SELECT RAISE(ABORT, 'refused'); END";
    world.execute_sql(broken).await;
    admin.window.click_on("#confirm").await;
    let unknown = "Not done, as far as is known";
    admin.window.assert_shows(unknown).await;
    admin.look_at("correct-not-known").await;
    // The browser logs the status of such a page, and nothing else.
    for problem in admin.window.problems().await {
        assert!(problem.contains("with a status of 500"), "{problem}");
    }
    world.execute_sql("DROP TRIGGER refuse").await;
    admin.window.click("Send it again").await;
    admin.window.assert_shows("a gift").await;
    assert_eq!(admin.quantities(&world).await, [-3, 10]);
    admin.finish().await;
    world.finish().await;
}

async fn a_run_is_forced_in_a_browser(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 7, hours_ago(30)).await;
    let gate = Fault::block_until_released("gate").on_path(EVENTS);
    world.stripe().script(gate).await.unwrap();
    let Some(mut admin) = Admin::sign_in(&world).await else {
        world.stripe().release("gate").await.unwrap();
        return world.finish().await;
    };
    admin.window.open("/runs").await;
    admin.window.click_on("#report-now").await;
    admin.window.fill("Reason", "the month is over").await;
    let problem = "accounts is empty";
    admin.send_wrong("force", "accounts", problem).await;
    admin.window.click("All accounts").await;
    admin.check("force").await;
    assert!(!admin.reports(&world).await[0].reported);
    admin.window.click_on("#confirm").await;
    admin.window.assert_shows("Report run").await;
    let blocked = world.stripe().wait_for_blocked("gate", 1, TIMEOUT).await;
    blocked.unwrap();
    // While it loads itself again, it cannot be looked at for long, and a click may come too late.
    let run = admin.window.path().await;
    let run = run.split('&').next().unwrap();
    admin.window.open(&format!("{run}&refresh=no")).await;
    admin.window.assert_shows("In progress: ").await;
    admin.window.assert_shows("Left 1 reports").await;
    admin.look_at("run-progress").await;
    admin.window.click_on("#start-refresh").await;
    admin
        .window
        .assert_shows("This page loads itself again")
        .await;
    world.stripe().release("gate").await.unwrap();
    // The page shows the end by itself.
    admin
        .window
        .assert_shows("Done: each report has a result")
        .await;
    admin.window.assert_shows("Left 0 reports").await;
    admin.look_at("run-done").await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 7);
    admin.finish().await;
    world.finish().await;
}
