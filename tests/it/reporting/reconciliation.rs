//! Reconciliation: counted, reported and Stripe's total side by side, equal when no report is in progress or lost.

use chrono::{DateTime, TimeDelta, Utc};
use fake_stripe::Fault;
use usage_client::{
    Correct, ErrorKind, PutAccount, Reconcile, ReconciledUsage, ReportState, ResolveAction,
    ResolveReport,
};
use usage_server::{
    config::CommandConfig,
    reconciliation::{ReconciliationQuery, reconcile},
};

use crate::support::world::{World, hours_ago, on_both_engines};

const EVENTS: &str = "/v1/billing/meter_events";

on_both_engines!(
    complete_usage_reconciles_to_the_last_millisecond_of_the_period,
    each_difference_names_its_side,
    reconciled_accounts_are_paged,
    a_stripe_outage_is_stated_in_the_reconciliation,
    reconciliation_needs_a_stripe_key,
    a_missing_database_is_not_created_by_the_command,
);

/// The rows of an account, without that of the year, which the subscription bills.
async fn rows(world: &World, question: Reconcile) -> Vec<ReconciledUsage> {
    let mut rows = world.client().reconcile(question).await.unwrap().rows;
    let all = rows.len();
    rows.retain(|row| row.period.start == edge() || row.period.end == edge());
    assert_eq!(rows.len() + 1, all, "the year is one row");
    rows
}

/// The edge between two billing periods, in the middle of an hour, a minute and a second.
fn edge() -> DateTime<Utc> {
    hours_ago(30) + TimeDelta::milliseconds(1_234_567)
}

fn figures(row: &ReconciledUsage) -> (i64, i64, Result<i64, String>) {
    (row.counted, row.reported, row.stripe_total.clone())
}

/// An account with 10 units up to an edge of its billing periods and 7 from it on, all reported.
async fn around_an_edge(world: &World) {
    let client = world.client();
    let subscription = world.customer_with_another_subscription("cus_acct").await;
    let start = edge() - TimeDelta::days(20);
    let link = |start, end| {
        PutAccount::stripe("acct", "cus_acct")
            .subscription(&subscription)
            .bill_from(edge() - TimeDelta::days(20))
            .current_period(start, end)
    };
    client.put_account(link(start, edge())).await.unwrap();
    let next = edge() + TimeDelta::days(30);
    client.put_account(link(edge(), next)).await.unwrap();
    world
        .count("acct", 10, edge() - TimeDelta::milliseconds(1))
        .await;
    world.count("acct", 7, edge()).await;
    world.report_all().await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted, ReportState::Confirmed])
        .await;
}

async fn complete_usage_reconciles_to_the_last_millisecond_of_the_period(world: World) {
    around_an_edge(&world).await;
    // One event on each side, in the minute of the edge.
    for (quantity, at) in [(2, -1), (3, 0)] {
        for _ in 0..50 {
            let at = edge() + TimeDelta::milliseconds(at);
            world
                .client()
                .correct(Correct::new("acct", quantity, "more").timestamp(at))
                .await
                .unwrap();
        }
    }
    world.report_all().await;
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted, ReportState::Confirmed])
        .await;
    let both = Reconcile::new().period(edge() - TimeDelta::hours(1), edge() + TimeDelta::hours(1));
    let [before, after] = rows(&world, both).await.try_into().unwrap();
    assert_eq!(figures(&before), (110, 110, Ok(110)));
    assert_eq!(figures(&after), (157, 157, Ok(157)));
    assert!(before.is_equal() && after.is_equal() && before.is_billing_period);
    assert_eq!(before.period.end, edge());
    let now = rows(&world, Reconcile::new().account("acct")).await;
    assert_eq!((now.len(), now[0].period.start), (1, edge()));
    // The command returns the same while the server is running.
    let asked = ReconciliationQuery::default();
    let mut found = reconcile(&command(&world), &world.clock, &asked)
        .await
        .unwrap();
    found.retain(|row| row.period.start == edge().timestamp_millis());
    assert_eq!(found.len(), 1);
    assert!(found[0].is_equal());
    assert_eq!(
        (found[0].counted, found[0].stripe_total.clone()),
        (157, Ok(157))
    );
    world.finish().await;
}

async fn each_difference_names_its_side(world: World) {
    around_an_edge(&world).await;
    let later = |minutes| edge() + TimeDelta::hours(2) + TimeDelta::minutes(minutes);
    // Counted, but not reported yet.
    world.count("acct", 1, later(1)).await;
    let row = rows(&world, Reconcile::new()).await.remove(0);
    assert_eq!(figures(&row), (8, 7, Ok(7)));
    assert!(
        row.states
            .iter()
            .any(|one| one.state == ReportState::Open && one.quantity == 1)
    );
    // Reported, but dropped by Stripe.
    world
        .stripe()
        .script(Fault::lose().on_path(EVENTS))
        .await
        .unwrap();
    world.report_all().await;
    let row = rows(&world, Reconcile::new()).await.remove(0);
    assert_eq!(figures(&row), (8, 8, Ok(7)));
    assert!(!row.is_equal());
    // Rejected by Stripe, then written off.
    world
        .stripe()
        .script(Fault::status(400).on_path(EVENTS))
        .await
        .unwrap();
    world.count("acct", 100, later(2)).await;
    world.report_all().await;
    let row = rows(&world, Reconcile::new()).await.remove(0);
    assert_eq!(figures(&row), (108, 8, Ok(7)));
    let reports = world.reports("acct").await;
    let rejected = reports
        .iter()
        .find(|one| one.state == ReportState::Rejected)
        .unwrap();
    let write_off = ResolveReport::new(
        &rejected.account_id,
        &rejected.id,
        ResolveAction::WriteOff,
        "a test",
    );
    world.client().resolve_report(write_off).await.unwrap();
    let row = rows(&world, Reconcile::new()).await.remove(0);
    assert_eq!(figures(&row), (8, 8, Ok(7)));
    let asked = ReconciliationQuery::default();
    let found = reconcile(&command(&world), &world.clock, &asked)
        .await
        .unwrap();
    assert!(!found[0].is_equal());
    world.finish().await;
}

async fn reconciled_accounts_are_paged(world: World) {
    for number in 0..5 {
        let (account, customer) = (format!("acct-{number}"), format!("cus_{number}"));
        let subscription = world.customer_with_another_subscription(&customer).await;
        let link = PutAccount::stripe(&account, &customer).subscription(subscription);
        let link = link.bill_from(hours_ago(24));
        world.client().put_account(link).await.unwrap();
        world.count(&account, 10 + number, hours_ago(1)).await;
        world.count_of(&account, "tokens", 5, hours_ago(1)).await;
    }
    world
        .client()
        .put_account(PutAccount::free("free"))
        .await
        .unwrap();
    world.count("free", 3, hours_ago(1)).await;
    world.report_all().await;
    let now = hours_ago(0);
    let question = || Reconcile::new().page_size(2).period(hours_ago(2), now);
    let mut seen = Vec::new();
    let mut page = world.client().reconcile(question()).await.unwrap();
    loop {
        seen.extend(page.rows);
        let Some(token) = page.next_page_token else {
            break;
        };
        let other = Reconcile::new().page_size(2).page_token(&token);
        let refused = world.client().reconcile(other).await.unwrap_err();
        assert_eq!(
            refused.kind(),
            ErrorKind::Invalid,
            "the token is another question's"
        );
        page = world
            .client()
            .reconcile(question().page_token(token))
            .await
            .unwrap();
    }
    assert_eq!(seen.len(), 10, "{seen:#?}");
    assert!(
        seen.iter()
            .all(|row| row.is_equal() && row.is_billing_period)
    );
    let total: i64 = seen.iter().map(|row| row.counted).sum();
    assert_eq!(total, 10 + 11 + 12 + 13 + 14 + 25);
    world.finish().await;
}

async fn a_stripe_outage_is_stated_in_the_reconciliation(world: World) {
    around_an_edge(&world).await;
    let broken = Fault::status(500).on_path("/v1/billing/meters").always();
    world.stripe().script(broken).await.unwrap();
    let row = rows(&world, Reconcile::new()).await.remove(0);
    assert_eq!((row.counted, row.reported), (7, 7));
    assert!(
        row.stripe_total.as_ref().unwrap_err().contains("500"),
        "{row:?}"
    );
    assert!(!row.is_equal());
    world.stripe().clear_faults().await.unwrap();
    world.finish().await;
}

async fn reconciliation_needs_a_stripe_key(mut world: World) {
    world.reconfigure(&["--stripe-secret-key"]).await;
    let refused = world
        .client()
        .reconcile(Reconcile::new())
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReportingDisabled);
    let asked = ReconciliationQuery::default();
    let refused = reconcile(&command(&world), &world.clock, &asked).await;
    assert!(refused.unwrap_err().contains("STRIPE_SECRET_KEY"));
    world.finish().await;
}

async fn a_missing_database_is_not_created_by_the_command(world: World) {
    let mut config = command(&world);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("missing.db");
    config.database.database_url = Some(format!("sqlite://{}", file.display()).into());
    let query = ReconciliationQuery::default();
    let refused = reconcile(&config, &world.clock, &query).await.unwrap_err();
    assert!(refused.contains("the database cannot be used"), "{refused}");
    assert!(!file.exists());
    world.finish().await;
}

/// The command's configuration for this world.
fn command(world: &World) -> CommandConfig {
    world.config().into()
}
