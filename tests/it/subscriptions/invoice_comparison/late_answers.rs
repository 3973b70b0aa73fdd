//! Invoices that were read before a newer comparison was recorded change nothing after it.

use chrono::TimeDelta;
use fake_stripe::Fault;
use sea_orm::ConnectionTrait as _;
use usage_client::ReportState;

use super::{END, START, USED, begin, states};
use crate::support::world::{TIMEOUT, World, at, billing::BASIC, on_both_engines};

on_both_engines!(an_older_reading_is_dropped);

/// Holds back the answer to the next request for invoices.
async fn hold_answer(world: &World, name: &str) {
    let hold = Fault::block_until_released(name).after_executing();
    let hold = hold.on_method("GET").on_path("/v1/invoices");
    world.stripe().script(hold).await.unwrap();
}

async fn wait_until_held(world: &World, name: &str) {
    let stripe = world.stripe();
    stripe.wait_for_blocked(name, 1, TIMEOUT).await.unwrap();
}

async fn an_older_reading_is_dropped(mut world: World) {
    begin(&mut world, &[BASIC]).await;
    world.count("acct", USED, world.now()).await;
    world.report_all().await;
    let confirmed = "usage_reports WHERE state = 'confirmed'";
    world.advance_past(at(END), TimeDelta::minutes(63)).await;
    world
        .wait_until("the usage is confirmed", async || {
            world.count_rows(confirmed).await == 1
        })
        .await;
    // The invoice is final, so only the comparison reads it.
    hold_answer(&world, "late").await;
    world.move_clocks(at(END) + TimeDelta::minutes(66)).await;
    wait_until_held(&world, "late").await;
    // Another replica takes over. It reads that the invoice is void, and is done first.
    let minutes = |minutes| (at(END) + TimeDelta::minutes(minutes)).timestamp_millis();
    world.move_clocks(at(END) + TimeDelta::minutes(68)).await;
    let database = world.connect_to_database().await;
    let start = at(START).timestamp_millis();
    let (end, read_at, again_at) = (minutes(0), minutes(67), minutes(70));
    for sql in [
        format!(
            "INSERT INTO invoice_comparisons (account_id, item, period_start, period_end, subscription, customer, meter, \
             finding, reported, invoiced, changed_at) SELECT account_id, item, {start}, {end}, 'sub_acct', 'cus_acct', \
             'api_calls', 'void', {USED}, 0, {read_at} FROM billing_periods WHERE period_end = {end}"
        ),
        format!(
            "UPDATE billing_periods SET compared_at = {read_at}, compare_again_at = {again_at} WHERE period_end = {end}"
        ),
    ] {
        let done = database.execute_unprepared(&sql).await.unwrap();
        assert_eq!(done.rows_affected(), 1, "{sql}");
    }
    // When the next comparison has begun, the one before is over.
    hold_answer(&world, "next").await;
    world.move_clocks(at(END) + TimeDelta::minutes(71)).await;
    world.stripe().release("late").await.unwrap();
    wait_until_held(&world, "next").await;
    let newer = format!("invoice_comparisons WHERE finding = 'void' AND changed_at = {read_at}");
    assert_eq!(world.count_rows(&newer).await, 1);
    assert_eq!(world.count_rows("invoice_lines").await, 0);
    let times =
        format!("billing_periods WHERE compared_at = {read_at} AND compare_again_at = {again_at}");
    assert_eq!(world.count_rows(&times).await, 1);
    assert_eq!(states(&world).await, [ReportState::Confirmed]);
    world.stripe().release("next").await.unwrap();
    world
        .wait_until_reports_are("acct", &[ReportState::Invoiced])
        .await;
    world.finish().await;
}
