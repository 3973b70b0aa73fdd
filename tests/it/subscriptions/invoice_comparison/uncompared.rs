//! Usage in Stripe's totals that lies in no billing period: no comparison reaches it, so it is told by itself.

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::Fault;
use sea_orm::ConnectionTrait as _;
use usage_client::{AcknowledgeDifference, InvoiceFinding, ReconciledUsage, ReportState};
use usage_server::commands::doctor::Severity;

use super::{END, START, USED, begin, rows, states};
use crate::support::world::{World, at, billing::BASIC, on_both_engines};

on_both_engines!(
    usage_after_an_end_that_was_found_late_is_told,
    a_stream_that_cannot_be_looked_at_stops_no_other,
    usage_that_is_confirmed_after_the_last_comparison_is_compared,
);

const FOUND: &str = "invoice_comparisons WHERE finding = 'no_period' AND reported = 7 \
                     AND item = 'cus_acct' AND meter = 'api_calls' AND acknowledged_at IS NULL";

async fn usage_after_an_end_that_was_found_late_is_told(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    world.count("acct", USED, world.now()).await;
    world.report_all().await;
    let broken = Fault::status(500).on_path("/v1/subscriptions");
    let broken = broken.on_method("GET").always();
    world.stripe().script(broken).await.unwrap();
    let bill = [("invoice_now", "true")];
    world
        .call_stripe("DELETE", "/v1/subscriptions/sub_acct", &bill)
        .await;
    // In another window.
    world
        .move_clocks(world.now() + TimeDelta::minutes(70))
        .await;
    let used_at = world.now();
    world.count("acct", 7, used_at).await;
    world.report_all().await;
    world.stripe().clear_faults().await.unwrap();
    let differences = r#"usage_invoice_differences_total{finding="no_period"}"#;
    let before = world.metric(differences).await;
    world.advance_until_found(FOUND).await;
    world.assert_invoiced(&[USED]).await;
    let rows = rows(&world, used_at).await;
    let told = rows.iter().find(|row| {
        row.invoices
            .iter()
            .any(|one| one.finding == InvoiceFinding::NoPeriod)
    });
    let told = told.unwrap_or_else(|| panic!("{rows:#?}"));
    assert!(!told.is_equal());
    assert_eq!(told.stripe_customer, "cus_acct");
    assert_eq!(
        (told.counted, told.reported, &told.stripe_total),
        (7, 7, &Ok(7))
    );
    let one = &told.invoices[0];
    assert_eq!(
        (one.item.as_str(), one.reported, one.invoiced),
        ("", 7, None)
    );
    assert!(one.period.start <= used_at && used_at < one.period.end);
    let (severity, line) = world.doctor_says(None, "unassigned usage").await;
    assert_eq!(severity, Severity::Bad);
    for part in ["acct", "api_calls", "7 units", "7 reported"] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    world.wait_until_metric_is_above(differences, before).await;
    stays_acknowledged_while_it_moves(&world, used_at, told).await;
    // It is told until a period contains it.
    let database = world.connect_to_database().await;
    let found = format!(
        "UPDATE billing_periods SET period_end = {} WHERE account_id = 'acct'",
        world.now().timestamp_millis()
    );
    database.execute_unprepared(&found).await.unwrap();
    world
        .move_clocks(world.now() + TimeDelta::minutes(61))
        .await;
    world
        .wait_until("it is forgotten", async || {
            world.count_rows(FOUND).await == 0
        })
        .await;
    world.finish().await;
}

async fn a_stream_that_cannot_be_looked_at_stops_no_other(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    world.subscribe("other", &[BASIC], at(START)).await;
    world.link_to_subscription("other").await;
    for account in ["acct", "other"] {
        world.count(account, 7, world.now()).await;
    }
    world.report_all().await;
    let confirmed = "(SELECT COUNT(*) AS number FROM usage_reports WHERE state = 'confirmed') c WHERE number = 2";
    world.advance_until_found(confirmed).await;
    let now = world.now().timestamp_millis();
    let broken = format!(
        "INSERT INTO invoice_comparisons (account_id, item, period_start, period_end, subscription, customer, meter, finding, \
         reported, changed_at, acknowledged_at) VALUES ('', 'cus_acct', {now}, {now} + 1, '', 'cus_acct', 'api_calls', \
         'no_period', 1, 1, 1)"
    );
    // No period contains the usage of either.
    let cut = "UPDATE billing_periods SET period_end = period_start + 1";
    for sql in [broken.as_str(), cut] {
        world.execute_sql(sql).await;
    }
    world
        .move_clocks(world.now() + TimeDelta::minutes(125))
        .await;
    // The customer of `acct` comes first.
    let of_other =
        "invoice_comparisons WHERE finding = 'no_period' AND reported = 7 AND account_id = 'other'";
    let is_found = async || world.count_rows(of_other).await == 1;
    world
        .wait_until("the usage of the other one", is_found)
        .await;
    assert_eq!(world.count_rows(FOUND).await, 0);
    world
        .execute_sql("DELETE FROM invoice_comparisons WHERE account_id = ''")
        .await;
    world
        .move_clocks(world.now() + TimeDelta::minutes(61))
        .await;
    let is_repaired = async || world.count_rows(FOUND).await == 1;
    world.wait_until("the usage of both", is_repaired).await;
    world.finish().await;
}

/// Acknowledges the usage. Its time moves, and later it becomes more.
async fn stays_acknowledged_while_it_moves(
    world: &World,
    used_at: DateTime<Utc>,
    told: &ReconciledUsage,
) {
    let id = told.invoices[0].difference_id.clone().expect("an id");
    let call = AcknowledgeDifference::new("acct", &id, "a test").requested_by("ann");
    world.client().acknowledge_difference(call).await.unwrap();
    let start = (used_at - TimeDelta::minutes(40)).timestamp_millis();
    let of_account = "WHERE account_id = 'acct'";
    world
        .execute_sql(&format!(
            "UPDATE billing_periods SET period_end = {start} {of_account}"
        ))
        .await;
    let look_again = async |found: &str| {
        world
            .move_clocks(world.now() + TimeDelta::minutes(61))
            .await;
        world
            .wait_until(found, async || world.count_rows(found).await == 1)
            .await;
        let all = "invoice_comparisons WHERE finding = 'no_period'";
        assert_eq!(world.count_rows(all).await, 1);
    };
    let known = "acknowledged_by LIKE 'ann (%' AND reported = 7";
    let moved = format!("invoice_comparisons WHERE {known} AND period_start = {start}");
    assert_eq!(world.count_rows(&moved).await, 0);
    look_again(&moved).await;
    let of_report = format!("{of_account} AND window_start >= {start}");
    let set = async |quantity: i64| {
        let sql = format!("UPDATE usage_reports SET quantity = {quantity} {of_report}");
        world.execute_sql(&sql).await;
    };
    set(9).await;
    look_again("invoice_comparisons WHERE reported = 9 AND acknowledged_at IS NULL").await;
    set(7).await;
    look_again(FOUND).await;
}

async fn usage_that_is_confirmed_after_the_last_comparison_is_compared(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    world.count("acct", USED, world.now()).await;
    world.report_all().await;
    world.advance_past_draft(at(END)).await;
    let equal = format!("invoice_comparisons WHERE finding = 'equal' AND reported = {USED}");
    world.advance_until_found(&equal).await;
    let pay = [("paid_out_of_band", "true")];
    super::change_invoice(&world, "pay", &pay).await;
    world
        .advance_to(at(END) + TimeDelta::days(5), TimeDelta::hours(20))
        .await;
    let done = "billing_periods WHERE compared_at IS NOT NULL AND compare_again_at IS NULL";
    world.advance_until_found(done).await;
    assert_eq!(states(&world).await, [ReportState::Invoiced]);
    // As if Stripe's totals had lacked it until now.
    let database = world.connect_to_database().await;
    let lost = "UPDATE usage_reports SET state = 'missing'";
    database.execute_unprepared(lost).await.unwrap();
    world
        .advance_until_found("usage_reports WHERE state = 'confirmed' OR state = 'invoiced'")
        .await;
    world
        .wait_until_reports_are("acct", &[ReportState::Invoiced])
        .await;
    world.finish().await;
}
