//! The doctor's checks for usage that reaches no invoice, or may not reach it in time.

use fake_stripe::Fault;
use usage_client::PutAccount;
use usage_server::{clock::Clock, commands::doctor::Severity};

use super::{assert_bad, assert_finding, assert_only_bad, examine, healthy};
use crate::support::world::{World, at, billing::BASIC, hours_ago, on_both_engines};

on_both_engines!(
    doctor_reports_usage_without_a_link_and_its_deadline,
    doctor_lists_reports_that_need_a_decision,
    doctor_reports_unsent_usage_near_the_end_of_a_draft,
    doctor_says_when_a_months_usage_cannot_be_sent_in_an_hour,
);

async fn doctor_reports_usage_without_a_link_and_its_deadline(world: World) {
    world.count("young", 2, hours_ago(1)).await;
    let diagnosis = examine(&world).await;
    assert_finding(
        &diagnosis,
        Severity::Warn,
        "accounts",
        &["no link", "2 units", "young"],
    );
    assert!(diagnosis.is_healthy(), "{diagnosis}");

    world
        .client()
        .put_account(PutAccount::free("young"))
        .await
        .unwrap();
    world.count("unlinked", 3, hours_ago(26)).await;
    world.report_all().await;
    assert_only_bad(
        &examine(&world).await,
        "accounts",
        &["no link", "3 units", "unlinked"],
    );

    world.count("unlinked", 4, hours_ago(31 * 24)).await;
    let diagnosis = examine(&world).await;
    assert_finding(
        &diagnosis,
        Severity::Warn,
        "reports",
        &["1 reports, 4 units, of unlinked", "35 days"],
    );
    world.count("unlinked", 5, hours_ago(33 * 24 + 1)).await;
    let diagnosis = examine(&world).await;
    assert_bad(
        &diagnosis,
        "reports",
        &["2 reports, 9 units, of unlinked", "35 days"],
    );
    world.finish().await;
}

async fn doctor_lists_reports_that_need_a_decision(mut world: World) {
    healthy(&world).await;
    world.count("acct", 6, hours_ago(1)).await;
    // Else Stripe has more than a report in one of these states explains.
    let lost = Fault::lose().on_path("/v1/billing/meter_events");
    world.stripe().script(lost).await.unwrap();
    world.report_all().await;
    // A running server would check the unknown one at Stripe.
    world.stop().await;
    for state in [
        "rejected",
        "customer_deleted",
        "unknown",
        "missing",
        "too_late",
    ] {
        let change = format!("UPDATE usage_reports SET state = '{state}', last_error = 'refused'");
        world.execute_sql(&change).await;
        let diagnosis = examine(&world).await;
        let words = [state, "1 reports, 6 units, of acct", "refused"];
        assert_only_bad(&diagnosis, "reports", &words);
    }
    world.finish().await;
}

async fn doctor_reports_unsent_usage_near_the_end_of_a_draft(world: World) {
    healthy(&world).await;
    world.count("acct", 6, hours_ago(3)).await;
    let now = Clock::system().now();
    let (start, end) = (
        hours_ago(24).timestamp_millis(),
        hours_ago(1).timestamp_millis(),
    );
    let insert_of = |meter: &str, draft_until: i64| {
        format!(
            "INSERT INTO billing_periods (account_id, item, subscription, meter, period_start, period_end, recorded_at, \
             invoice_state, draft_until) \
             VALUES ('acct', 'si_{meter}', 'sub_1', '{meter}', {start}, {end}, {now}, 'draft', {draft_until})"
        )
    };
    let insert = |draft_until: i64| insert_of("api_calls", draft_until);
    let subscription = format!(
        "INSERT INTO subscriptions (account_id, subscription, customer, status, billing_mode, synced_at) \
         VALUES ('acct', 'sub_1', 'cus_acct', 'active', 'flexible', {now})"
    );
    world.execute_sql(&subscription).await;
    let minutes = 60_000;
    world.execute_sql(&insert(now + 60 * minutes)).await;
    // The draft of another meter, which has no usage.
    let other = insert_of("tokens", now + 5 * minutes);
    world.execute_sql(&other).await;
    let early = examine(&world).await;
    assert!(early.is_healthy(), "{early}");
    for draft_until in [now + 5 * minutes, now - minutes] {
        world.execute_sql("DELETE FROM billing_periods").await;
        world.execute_sql(&insert(draft_until)).await;
        let diagnosis = examine(&world).await;
        assert_only_bad(
            &diagnosis,
            "reports",
            &["1 reports, 6 units, of acct", "draft"],
        );
    }
    // The sender would first ask Stripe for the invoice, which does not exist there.
    let no_draft = format!(
        "UPDATE billing_periods SET period_end = {}",
        now + 60 * minutes
    );
    world.execute_sql(&no_draft).await;
    world.report_all().await;
    let sent = examine(&world).await;
    assert!(sent.is_healthy(), "{sent}");
    world.finish().await;
}

async fn doctor_says_when_a_months_usage_cannot_be_sent_in_an_hour(mut world: World) {
    const NOW: &str = "2027-03-20T08:30:10Z";
    world.reconfigure(&["--stripe-events-per-sec=1"]).await;
    world.with_prices_at(at(NOW)).await;
    let (severity, line) = world.doctor_says(None, "sending rate").await;
    assert_eq!(severity, Severity::Ok);
    assert!(line.contains("no billing period is known"), "{line}");

    // The tests' schedule never fires, so a month of windows is left at the end of each period.
    for (number, severity) in [(4, Severity::Ok), (5, Severity::Bad)] {
        while world.count_rows("billing_periods").await < number {
            let account = format!("acct-{}", world.count_rows("billing_periods").await);
            world
                .subscribe(&account, &[BASIC], at("2027-03-10T10:00:00Z"))
                .await;
            world.link_to_subscription(&account).await;
        }
        let (found, line) = world.doctor_says(None, "sending rate").await;
        assert_eq!(found, severity, "{line}");
        let words = format!(
            "2027-04-10T10:00Z the periods of {number} customers and meters end, with up to 744 windows each: {} reports",
            number * 744
        );
        assert!(line.contains(&words), "{line}");
    }
    world.finish().await;
}
