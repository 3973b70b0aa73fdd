//! Differences that an admin has acknowledged: doctor is silent, `Reconcile` says who and why, and a new result is told
//! again.

use chrono::TimeDelta;
use fake_stripe::Fault;
use sea_orm::ConnectionTrait as _;
use serde_json::Value;
use usage_client::{AcknowledgeDifference, InvoiceFinding, Reason};
use usage_server::commands::doctor::Severity;

use super::{END, USED, begin, change_invoice, comparison, expect_found, rows};
use crate::support::world::{World, at, billing::BASIC, on_both_engines};

on_both_engines!(
    an_acknowledged_difference_is_told_again_only_if_it_changes,
    a_difference_is_told_until_it_is_acknowledged,
    a_difference_of_a_meter_that_is_not_configured_is_shown,
);

/// Usage that joined no invoice: a draft was finalized by hand before it arrived.
async fn with_difference(world: &mut World) {
    begin(world, &[BASIC]).await;
    world.count("acct", USED, world.now()).await;
    world.advance_past(at(END), TimeDelta::minutes(20)).await;
    change_invoice(world, "finalize", &[]).await;
    world.count("acct", 6, at(END) - TimeDelta::hours(2)).await;
    world.report_all().await;
    expect_found(world, InvoiceFinding::Differs, USED + 6, Some(USED)).await;
}

async fn assert_doctor(world: &World, expected: Severity) {
    let (severity, line) = world.doctor_says(None, "invoices").await;
    assert_eq!(severity, expected, "{line}");
}

async fn an_acknowledged_difference_is_told_again_only_if_it_changes(mut world: World) {
    with_difference(&mut world).await;
    let found = comparison(&world, END).await.0;
    let id = found.difference_id.clone().expect("an id");
    let (_, line) = world.doctor_says(None, "invoices").await;
    assert!(line.contains(&format!("[{id}]")), "{line}");
    let client = world.client();
    let call = |id: &str, reason: &str| {
        let call = AcknowledgeDifference::new("acct", id, reason).requested_by("ann");
        client.acknowledge_difference(call)
    };
    for (id, reason, expected) in [
        ("1:2:si:api_calls", "why", Reason::DifferenceNotFound),
        ("nonsense", "why", Reason::DifferenceNotFound),
        (id.as_str(), "  ", Reason::InvalidField),
    ] {
        let refused = call(id, reason).await.unwrap_err();
        assert_eq!(refused.reason(), Some(&expected), "{refused}");
    }
    let done = call(&id, "charged by hand").await.unwrap();
    assert!(!done.duplicate);
    let known = done.difference.acknowledged.clone().expect("who");
    assert_eq!(known.reason, "charged by hand");
    let by = &known.requested_by;
    assert!(by.starts_with("ann (no key, "), "{by}");
    let again = call(&id, "twice").await.unwrap();
    assert!(again.duplicate);
    assert_eq!(again.difference, done.difference);
    assert_doctor(&world, Severity::Ok).await;
    // With it, the month is closed.
    let april = ["sign-off", "--month=2027-04"];
    let may = at("2027-05-01T00:00:00Z");
    let (rows, _) = world.export_at(may, &april).await.unwrap();
    let rows: Vec<Value> = rows
        .lines()
        .map(|row| serde_json::from_str(row).unwrap())
        .collect();
    for row in &rows {
        let figure = |name: &str| row[name].as_i64().unwrap();
        assert_eq!(figure("difference"), 0, "{row}");
        assert!(figure("acknowledged") >= 6, "{row}");
        let accounted = figure("acknowledged") + figure("invoiced");
        assert_eq!(accounted, USED + 6, "{row}");
    }
    // The same result stays acknowledged.
    world
        .advance_to(world.now() + TimeDelta::days(2), TimeDelta::hours(12))
        .await;
    world.wait_until_compared().await;
    let (shown, is_equal) = comparison(&world, END).await;
    assert_eq!(shown, done.difference);
    assert!(!is_equal);
    assert_doctor(&world, Severity::Ok).await;
    // Another one is told.
    change_invoice(&world, "void", &[]).await;
    world
        .advance_to(world.now() + TimeDelta::hours(25), TimeDelta::hours(5))
        .await;
    let changed = expect_found(&world, InvoiceFinding::Differs, USED + 6, Some(0)).await;
    assert_eq!(changed.acknowledged, None);
    let stale = call(&id, "not seen").await.unwrap_err();
    assert_eq!(stale.reason(), Some(&Reason::DifferenceNotFound));
    world.finish().await;
}

async fn a_difference_is_told_until_it_is_acknowledged(mut world: World) {
    with_difference(&mut world).await;
    // It is compared for the last time, and years pass.
    let years_ago = (world.now() - TimeDelta::days(1_000)).timestamp_millis();
    for sql in [
        "UPDATE billing_periods SET compare_again_at = NULL".to_owned(),
        format!("UPDATE invoice_comparisons SET changed_at = {years_ago}"),
    ] {
        world.execute_sql(&sql).await;
    }
    assert_doctor(&world, Severity::Bad).await;
    world.move_clocks(world.now() + TimeDelta::minutes(2)).await;
    let open = async |number: &str| {
        let metric = format!(r#"usage_invoice_differences_open{{finding="differs"}} {number}"#);
        let is_shown = async || {
            let (_, metrics) = world.http_get("/metrics").await;
            metrics.lines().any(|line| line == metric)
        };
        world.wait_until(&metric, is_shown).await;
    };
    open("1").await;
    let id = comparison(&world, END)
        .await
        .0
        .difference_id
        .expect("an id");
    let call = AcknowledgeDifference::new("acct", &id, "charged by hand");
    let client = world.client();
    client.acknowledge_difference(call).await.unwrap();
    assert_doctor(&world, Severity::Ok).await;
    world.move_clocks(world.now() + TimeDelta::minutes(2)).await;
    open("0").await;
    world.finish().await;
}

async fn a_difference_of_a_meter_that_is_not_configured_is_shown(mut world: World) {
    with_difference(&mut world).await;
    // The comparison is not repeated.
    let refused = Fault::status(403).on_path("/v1/invoices").always();
    world.stripe().script(refused).await.unwrap();
    let database = world.connect_to_database().await;
    for table in ["invoice_comparisons", "billing_periods"] {
        let sql = format!("UPDATE {table} SET meter = 'retired'");
        database.execute_unprepared(&sql).await.unwrap();
    }
    let around = at(END) - TimeDelta::hours(2);
    let page = world
        .client()
        .reconcile(
            usage_client::Reconcile::new()
                .account("acct")
                .period(around, at(END)),
        )
        .await
        .unwrap();
    let row = page.rows.iter().find(|row| row.meter == "retired");
    let row = row.unwrap_or_else(|| panic!("{page:#?}"));
    assert!(!row.is_equal());
    assert_eq!(row.invoices[0].reported, USED + 6);
    let unread = row.stripe_total.clone().unwrap_err();
    assert!(unread.contains("not configured"), "{unread}");
    assert!(
        rows(&world, around)
            .await
            .iter()
            .all(|row| row.invoices.is_empty())
    );
    database
        .execute_unprepared("UPDATE billing_periods SET meter = 'api_calls'")
        .await
        .unwrap();
    world.finish().await;
}
