//! The Stripe account that a database reports to: another account or mode gets nothing before it is adopted.

use chrono::TimeDelta;
use fake_stripe::{FakeStripe, Fault, Settings};
use usage_client::{
    ChangePlan, ForceReport, Increment, PutAccount, Reconcile, ReportState, ResolveAction,
    ResolveReport,
};
use usage_server::commands::doctor::Severity;

use crate::support::world::{
    Server, World, at,
    billing::{BASIC, PRO},
    hours_ago, on_both_engines, on_postgres, within,
};

const EVENTS: &str = "/v1/billing/meter_events";
const ADOPT: &str = "usage-server adopt-stripe-account";

on_both_engines!(
    another_account_gets_nothing_until_it_is_adopted,
    the_other_mode_gets_nothing_until_it_is_adopted,
    what_the_former_account_may_have_is_never_sent_again,
    a_restricted_key_is_recognised_by_its_meter,
    nothing_is_sent_before_the_account_is_known,
    a_plan_change_after_an_adoption_charges_what_the_new_account_has,
);

on_postgres!(a_replica_with_another_account_sends_nothing);

/// Another Stripe account, or the other mode of the same one, with the same meters and customer.
pub(super) async fn another(settings: Settings) -> FakeStripe {
    let stripe = FakeStripe::start(settings).await.unwrap();
    for event_name in ["api_calls", "llm_tokens"] {
        stripe.control().create_meter(event_name).await.unwrap();
    }
    stripe
        .control()
        .create_subscribed_customer("cus_acct")
        .await
        .unwrap();
    stripe
}

pub(super) async fn other_account() -> FakeStripe {
    another(Settings {
        account_id: "acct_other".to_owned(),
        ..Settings::default()
    })
    .await
}

/// Restarts the server with the key of another fake Stripe.
pub(super) async fn use_key_of(world: &mut World, stripe: &FakeStripe) {
    let base = format!("--stripe-api-base={}", stripe.base_url());
    let key = format!("--stripe-secret-key={}", stripe.secret_key());
    world.reconfigure(&[&base, &key]).await;
}

async fn use_own_key(world: &mut World) {
    let (base, key) = world.stripe_address();
    let base = format!("--stripe-api-base={base}");
    let key = format!("--stripe-secret-key={key}");
    world.reconfigure(&[&base, &key]).await;
}

pub(super) async fn total(stripe: &FakeStripe) -> i64 {
    let totals = stripe.control().totals().await.unwrap();
    totals.values().sum()
}

pub(super) async fn own_total(world: &World) -> i64 {
    world.stripe_total("cus_acct", "api_calls").await
}

/// Counts and reports 5 units, which decides the Stripe account.
pub(super) async fn report_first(world: &World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(2)).await;
    world.report_all().await;
    assert_eq!(own_total(world).await, 5);
}

/// Forces a run, and waits until a report says why it is not sent.
pub(super) async fn wait_until_held(world: &World, why: &str) {
    world.start_run().await;
    world
        .wait_until("a reason not to send", async || {
            let reports = world.reports("acct").await;
            let mut errors = reports.iter().filter_map(|one| one.last_error.as_ref());
            errors.any(|error| error.contains(why))
        })
        .await;
}

/// Nothing but its identity was read: nothing is believed of another account.
async fn assert_only_identified(stripe: &FakeStripe) {
    let requests = stripe.control().requests().await.unwrap();
    assert!(!requests.is_empty());
    for request in requests {
        let meter = request.path.strip_prefix("/v1/billing/meters/");
        let is_meter = meter.is_some_and(|id| !id.contains('/'));
        assert!(is_meter || request.path == "/v1/account", "{request:?}");
    }
}

/// Nothing goes to the other account or mode before it is adopted. `names` are in what is said.
async fn adopt_after_nothing_was_sent(mut world: World, other: FakeStripe, names: &[&str]) {
    report_first(&world).await;
    use_key_of(&mut world, &other).await;
    world.count("acct", 3, hours_ago(1)).await;
    wait_until_held(&world, ADOPT).await;
    assert_eq!(total(&other).await, 0);
    assert_eq!(world.usage("acct").await, (8, 5, 3, 0), "counting goes on");
    let reconciled = world
        .client()
        .reconcile(Reconcile::new().account("acct"))
        .await
        .unwrap();
    let shown = reconciled.rows[0].stripe_total.clone();
    assert!(shown.unwrap_err().contains(ADOPT));
    assert_only_identified(&other).await;
    let (severity, line) = world.doctor_says(None, "stripe account").await;
    assert_eq!(severity, Severity::Bad, "{line}");
    for name in names {
        assert!(line.contains(name), "{name} in {line}");
    }
    world.stop().await;
    let mut printed = Vec::new();
    let refused = world.try_restore(true, false, Some(0), &mut printed).await;
    let why = refused.unwrap_err().to_string();
    assert!(why.contains(ADOPT), "{why}");
    let (is_done, printed) = world.adopt(false).await;
    assert!(!is_done, "{printed}");
    for part in [
        "1 reports with 5 unconfirmed units",
        "3 unsent units",
        "--yes",
    ] {
        assert!(printed.contains(part), "{part} in {printed}");
    }
    world.start_server().await;
    wait_until_held(&world, ADOPT).await;
    assert_eq!(total(&other).await, 0);
    world.stop().await;
    assert!(world.adopt(true).await.0);
    let (is_done, printed) = world.adopt(true).await;
    assert!(is_done && printed.contains("already"), "{printed}");
    world.start_server().await;
    world.report_all().await;
    world.wait_until_sent("acct").await;
    assert_eq!((total(&other).await, own_total(&world).await), (3, 5));
    let (severity, line) = world.doctor_says(None, "stripe account").await;
    assert_eq!(severity, Severity::Ok, "{line}");
    other.stop().await;
    world.finish().await;
}

async fn another_account_gets_nothing_until_it_is_adopted(world: World) {
    let other = other_account().await;
    let names = ["acct_fake in test mode", "acct_other in test mode", ADOPT];
    adopt_after_nothing_was_sent(world, other, &names).await;
}

async fn the_other_mode_gets_nothing_until_it_is_adopted(world: World) {
    let other = another(Settings {
        secret_key: "sk_live_fake".to_owned(),
        live_mode: true,
        ..Settings::default()
    })
    .await;
    let names = ["acct_fake in test mode", "acct_fake in live mode", ADOPT];
    adopt_after_nothing_was_sent(world, other, &names).await;
}

async fn what_the_former_account_may_have_is_never_sent_again(mut world: World) {
    let now = hours_ago(1);
    world.freeze(now).await;
    report_first(&world).await;
    // Stripe has another report, and its answer is lost.
    let lost = Fault::accept_then_drop().always().on_path(EVENTS);
    world.stripe().script(lost).await.unwrap();
    world.count("acct", 4, now).await;
    world.start_run().await;
    world
        .wait_until("the event", async || own_total(&world).await == 9)
        .await;
    let other = other_account().await;
    world.stop().await;
    use_key_of(&mut world, &other).await;
    world.stop().await;
    let (is_done, printed) = world.adopt(true).await;
    assert!(is_done, "{printed}");
    assert!(
        printed.contains("2 reports with 9 unconfirmed"),
        "{printed}"
    );
    world.start_server().await;
    world.count("acct", 1, now).await;
    // For days nothing of the former account is looked up, verified or sent.
    for hours in [1, 25, 50] {
        let at = now + TimeDelta::hours(hours);
        other
            .control()
            .set_clock(at.timestamp_millis())
            .await
            .unwrap();
        world.move_clocks(at).await;
        world.report_all().await;
        world
            .wait_until("the new report", async || total(&other).await == 1)
            .await;
        world
            .wait_until("verification", async || {
                let since = at.timestamp_millis();
                let ran = format!("leases WHERE name = 'verification' AND last_run_at >= {since}");
                world.count_rows(&ran).await == 1
            })
            .await;
    }
    assert_eq!(total(&other).await, 1);
    check_former_reports(&world).await;
    assert_eq!(total(&other).await, 1);
    other.stop().await;
    world.finish().await;
}

/// Of 10 units, 9 were sent to the former account: 4 without an answer.
async fn check_former_reports(world: &World) {
    let mut states: Vec<(i64, ReportState)> = world
        .reports("acct")
        .await
        .iter()
        .map(|one| (one.quantity, one.state))
        .collect();
    states.sort_unstable_by_key(|(quantity, _)| *quantity);
    let expected = [
        (1, ReportState::Confirmed),
        (4, ReportState::Unknown),
        (5, ReportState::Accepted),
    ];
    assert_eq!(states, expected);
    let reports = world.reports("acct").await;
    let unknown = reports.iter().find(|one| one.quantity == 4).unwrap();
    let error = unknown.last_error.clone().unwrap_or_default();
    assert!(error.contains("acct_fake"), "{error}");
    let decide = async |action| {
        let decision = ResolveReport::new(
            &unknown.account_id,
            &unknown.id,
            action,
            "the former account has it",
        );
        world.client().resolve_report(decision).await
    };
    let refused = decide(ResolveAction::Retry).await.unwrap_err();
    assert!(refused.to_string().contains("WRITE_OFF"), "{refused}");
    decide(ResolveAction::WriteOff).await.unwrap();
}

async fn a_restricted_key_is_recognised_by_its_meter(mut world: World) {
    let denied = |path: &str| Fault::status(403).always().on_path(path);
    world.stripe().script(denied("/v1/account")).await.unwrap();
    world.stripe().script(denied("/v1/prices")).await.unwrap();
    report_first(&world).await;
    world.restart().await;
    world.count("acct", 2, hours_ago(1)).await;
    world.report_all().await;
    assert_eq!(own_total(&world).await, 7, "the same account");
    let other = other_account().await;
    other.control().script(denied("/v1/account")).await.unwrap();
    use_key_of(&mut world, &other).await;
    world.count("acct", 3, hours_ago(1)).await;
    wait_until_held(&world, "has meter mtr_").await;
    assert_eq!(total(&other).await, 0);
    use_own_key(&mut world).await;
    world.report_all().await;
    assert_eq!(own_total(&world).await, 10, "the former key again");
    other.stop().await;
    world.finish().await;
}

async fn nothing_is_sent_before_the_account_is_known(mut world: World) {
    report_first(&world).await;
    let hidden = Fault::drop_connection()
        .always()
        .on_path("/v1/billing/meters/");
    world.stripe().script(hidden).await.unwrap();
    world.restart().await;
    world.count("acct", 3, hours_ago(1)).await;
    world.start_run().await;
    world
        .wait_until("a reason not to send", async || {
            let reports = world.reports("acct").await;
            let has_reason = reports.iter().any(|one| one.last_error.is_some());
            has_reason || own_total(&world).await != 5
        })
        .await;
    assert_eq!(own_total(&world).await, 5, "it was sent");
    world.stripe().clear_faults().await.unwrap();
    world.report_all().await;
    world.wait_until_sent("acct").await;
    assert_eq!(own_total(&world).await, 8);
    world.finish().await;
}

async fn a_plan_change_after_an_adoption_charges_what_the_new_account_has(mut world: World) {
    let now = at("2027-03-20T08:30:10Z");
    world.with_prices_at(now).await;
    let former = other_account().await;
    let now_ms = now.timestamp_millis();
    former.control().set_clock(now_ms).await.unwrap();
    use_key_of(&mut world, &former).await;
    let start = at("2027-03-10T13:12:34Z");
    let put = PutAccount::stripe("acct", "cus_acct").bill_from(start);
    world.client().put_account(put).await.unwrap();
    world.count("acct", 7, now - TimeDelta::minutes(9)).await;
    world.report_all().await;
    assert_eq!(total(&former).await, 7);
    // The customer moves to the other account, with a subscription that began before that usage.
    world.subscribe("acct", &[BASIC], start).await;
    use_own_key(&mut world).await;
    world.stop().await;
    assert!(world.adopt(true).await.0);
    world.start_server().await;
    // Later the account is synced again.
    let now = now + TimeDelta::hours(2);
    world.move_clocks(now).await;
    world
        .wait_until_subscription("acct", |known| known.id == "sub_acct")
        .await;
    world.count("acct", 4, now).await;
    let client = world.client();
    let change = client.change_plan(ChangePlan::new("acct", PRO));
    let changed = world.while_clock_moves(change).await;
    assert!(changed.unwrap().change.is_some());
    world.assert_invoiced(&[4]).await;
    former.stop().await;
    world.finish().await;
}

async fn a_replica_with_another_account_sends_nothing(mut world: World) {
    let other = other_account().await;
    let mut config = world.config();
    config.stripe.stripe_api_base = Some(other.base_url().to_owned());
    // Both start before an account is remembered.
    let replica = Server::start(config, world.clock.clone()).await;
    let client = replica.client().await;
    report_first(&world).await;
    world.stop().await;
    let increment = Increment::new("acct").quantity(3).timestamp(hours_ago(1));
    client.increment(increment).await.unwrap();
    let run = client.force_report(ForceReport::all()).await.unwrap();
    within("a run", run.summary()).await.unwrap();
    assert_eq!(total(&other).await, 0);
    // It hands over to a replica with the right key.
    world.start_server().await;
    world.start_run().await;
    world
        .wait_until("the other replica", async || own_total(&world).await == 8)
        .await;
    assert_eq!(total(&other).await, 0);
    replica.stop().await.unwrap();
    other.stop().await;
    world.finish().await;
}
