//! Corrections: separate reports that are sent to Stripe like usage and never make a billing period's total negative.

use chrono::TimeDelta;
use usage_client::{
    Correct, ErrorKind, Increment, ListReports, PutAccount, Reason, ReportKind, ReportState,
};

use crate::support::world::{World, hours_ago, on_both_engines};

on_both_engines!(
    a_correction_is_a_separate_report_and_reaches_stripe,
    a_correction_that_would_take_its_period_below_zero_is_refused,
    concurrent_corrections_never_take_a_period_below_zero,
    usage_that_needs_a_decision_cannot_be_corrected_away,
    a_repeated_correction_key_corrects_once,
    a_correction_outside_its_limits_is_refused_with_its_field,
    a_free_account_is_corrected_and_nothing_is_billed,
    a_dry_correction_shows_the_totals_and_enters_nothing,
);

async fn a_correction_is_a_separate_report_and_reaches_stripe(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    let used = hours_ago(3);
    world.count("acct", 10, used).await;
    world.report_all().await;
    let correction = Correct::new("acct", -4, "a worker counted twice")
        .timestamp(used + TimeDelta::minutes(5))
        .requested_by("ann");
    let corrected = world.client().correct(correction).await.unwrap();
    assert!(!corrected.duplicate);
    let added = Correct::new("acct", 7, "a log was lost").timestamp(used);
    let added = world.client().correct(added).await.unwrap().report;
    assert_ne!(added.entered_by, None, "the caller's address");
    world
        .wait_until_reports_are("acct", &[ReportState::Accepted])
        .await;
    assert_eq!(world.usage("acct").await, (13, 13, 0, 0));
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 13);
    let events = world.meter_events("cus_acct").await;
    let values: Vec<i64> = events.iter().map(|event| event.value).collect();
    assert_eq!(values, [10, -4, 7], "each in another minute");

    let filter = ListReports::new().kind(ReportKind::Correction);
    let corrections = world.client().list_reports(filter).await.unwrap().reports;
    let [_, shown] = corrections.as_slice() else {
        panic!("{corrections:?}");
    };
    assert_eq!(shown.id, corrected.report.id);
    assert_eq!((shown.quantity, shown.kind), (-4, ReportKind::Correction));
    assert_eq!(shown.note.as_deref(), Some("a worker counted twice"));
    let by = shown.entered_by.as_deref().unwrap();
    assert!(by.starts_with("ann (no key, 127.0.0.1:"), "{by}");
    assert_eq!(shown.window.start, used);
    let filter = ListReports::new().kind(ReportKind::Usage);
    let counted = world.client().list_reports(filter).await.unwrap().reports;
    assert_eq!((counted.len(), counted[0].quantity), (1, 10));
    assert_eq!(counted[0].note, None);
    world.finish().await;
}

async fn a_correction_that_would_take_its_period_below_zero_is_refused(world: World) {
    let client = world.client();
    world
        .stripe()
        .create_subscribed_customer("cus_acct")
        .await
        .unwrap();
    let edge = hours_ago(48);
    let link = PutAccount::stripe("acct", "cus_acct")
        .bill_from(edge - TimeDelta::days(5))
        .current_period(edge, edge + TimeDelta::days(30));
    client.put_account(link).await.unwrap();
    world.count("acct", 100, edge - TimeDelta::hours(1)).await;
    world.count("acct", 10, edge).await;
    world.count_of("acct", "tokens", 50, edge).await;
    let take = |quantity| Correct::new("acct", quantity, "too much").timestamp(hours_ago(1));
    let refused = client.correct(take(-11)).await.unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::BelowZero));
    assert_eq!(refused.kind(), ErrorKind::Precondition);
    assert!(refused.to_string().contains("have 10"), "{refused}");
    client.correct(take(-10)).await.unwrap();
    assert!(client.correct(take(-1)).await.is_err());
    assert_eq!(world.usage("acct").await.0, 100);
    // No earlier period is known, so the whole time of the link is used.
    let early =
        |quantity| Correct::new("acct", quantity, "x").timestamp(edge - TimeDelta::hours(2));
    assert!(client.correct(early(-101)).await.is_err());
    client.correct(early(-100)).await.unwrap();
    world.report_all().await;
    world.wait_until_sent("acct").await;
    assert_eq!(world.stripe_total("cus_acct", "api_calls").await, 0);
    world.finish().await;
}

async fn concurrent_corrections_never_take_a_period_below_zero(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 100, hours_ago(2)).await;
    let (replica, two) = world.second_client().await;
    let one = world.client();
    let take = || Correct::new("acct", -11, "too much").timestamp(hours_ago(2));
    let calls = (0..20).map(|n| {
        let client = if n % 2 == 0 { one.clone() } else { two.clone() };
        async move { client.correct(take()).await }
    });
    let answers = futures_util::future::join_all(calls).await;
    let passed = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(passed, 9, "{answers:?}");
    assert_eq!(world.usage("acct").await.0, 1);
    if let Some(replica) = replica {
        replica.stop().await.unwrap();
    }
    world.finish().await;
}

async fn usage_that_needs_a_decision_cannot_be_corrected_away(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 10, hours_ago(2)).await;
    let refuse = fake_stripe::Fault::status(400).on_path("/v1/billing/meter_events");
    world.stripe().script(refuse).await.unwrap();
    world.report_all().await;
    world
        .wait_until_reports_are("acct", &[ReportState::Rejected])
        .await;
    let take = Correct::new("acct", -1, "too much").timestamp(hours_ago(2));
    let refused = world.client().correct(take).await.unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::BelowZero));
    world.finish().await;
}

async fn a_repeated_correction_key_corrects_once(world: World) {
    let client = world.client();
    world.link_to_new_customer("acct", "cus_acct").await;
    let used = hours_ago(2);
    world.count("acct", 10, used).await;
    let take = Correct::new("acct", -6, "too much")
        .timestamp(used)
        .key("k");
    let first = client.correct(take.clone()).await.unwrap();
    let again = client.correct(take).await.unwrap();
    assert!(!first.duplicate && again.duplicate);
    assert_eq!(first.report.id, again.report.id);
    for (other, field) in [
        (
            Correct::new("acct", -5, "too much").timestamp(used),
            "quantity",
        ),
        (
            Correct::new("acct", -6, "too many").timestamp(used),
            "reason",
        ),
        (Correct::new("acct", -6, "too much"), "timestamp"),
        (
            Correct::new("acct", -6, "too much")
                .timestamp(used)
                .meter("tokens"),
            "meter",
        ),
    ] {
        let refused = client.correct(other.key("k")).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::KeyReused);
        assert_eq!(refused.violations()[0].field, field);
    }
    let increment = Increment::new("acct").quantity(3).key("k").timestamp(used);
    let counted = client.increment(increment).await.unwrap();
    assert!(!counted.duplicate, "keys of increments are separate");
    assert_eq!(world.usage("acct").await.0, 7);
    world.finish().await;
}

async fn a_correction_outside_its_limits_is_refused_with_its_field(world: World) {
    let correction = || Correct::new("acct", 1, "why");
    for (wrong, field) in [
        (Correct::new("no good", 1, "why"), "account_id"),
        (correction().meter("nope"), "meter"),
        (Correct::new("acct", 0, "why"), "quantity"),
        (Correct::new("acct", 1_000_000_000_001, "why"), "quantity"),
        (Correct::new("acct", -1_000_000_000_001, "why"), "quantity"),
        (Correct::new("acct", 1, ""), "reason"),
        (Correct::new("acct", 1, "x".repeat(501)), "reason"),
        (Correct::new("acct", 1, " \t\u{a0}\n"), "reason"),
        (correction().timestamp(hours_ago(34 * 24 + 1)), "timestamp"),
        (correction().timestamp(hours_ago(-2)), "timestamp"),
        (correction().requested_by("x".repeat(129)), "requested_by"),
        (correction().requested_by("  "), "requested_by"),
        (correction().key("k".repeat(256)), "idempotency_key"),
    ] {
        let refused = world.client().correct(wrong).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert_eq!(refused.violations()[0].field, field);
    }
    assert_eq!(world.count_rows("usage_reports").await, 0);
    world.finish().await;
}

async fn a_free_account_is_corrected_and_nothing_is_billed(world: World) {
    let client = world.client();
    client.put_account(PutAccount::free("free")).await.unwrap();
    client
        .increment(Increment::new("free").quantity(5))
        .await
        .unwrap();
    let take = |quantity| Correct::new("free", quantity, "a gift");
    assert!(client.correct(take(-6)).await.is_err());
    let corrected = client.correct(take(-2)).await.unwrap().report;
    assert_eq!(corrected.state, ReportState::NotBillable);
    world.report_all().await;
    assert_eq!(world.usage("free").await, (3, 0, 0, 3));
    // A correction of an unknown account waits for a link, like its usage.
    let waiting = client
        .correct(Correct::new("new", 2, "a log"))
        .await
        .unwrap();
    assert_eq!(waiting.report.state, ReportState::NoCustomer);
    world.finish().await;
}

async fn a_dry_correction_shows_the_totals_and_enters_nothing(world: World) {
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 10, hours_ago(2)).await;
    let take = Correct::new("acct", -3, "counted twice").timestamp(hours_ago(2));
    let dry = world
        .client()
        .correct(take.clone().dry_run())
        .await
        .unwrap();
    let [total] = dry.totals.as_slice() else {
        panic!("{dry:?}");
    };
    assert_eq!((total.before, total.after), (10, 7));
    assert_eq!((dry.report.quantity, dry.duplicate), (-3, false));
    assert_eq!(dry.report.stripe_customer.as_deref(), Some("cus_acct"));
    let add = Correct::new("acct", 5, "lost").timestamp(hours_ago(2));
    let dry = world.client().correct(add.dry_run()).await.unwrap();
    assert_eq!((dry.totals[0].before, dry.totals[0].after), (10, 15));
    let below = Correct::new("acct", -11, "too much").timestamp(hours_ago(2));
    let refused = world.client().correct(below.dry_run()).await.unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::BelowZero));
    assert_eq!(world.usage("acct").await.0, 10);
    let corrections = "usage_reports WHERE kind = 'correction'";
    assert_eq!(world.count_rows(corrections).await, 0);
    assert_eq!(
        world
            .count_rows("audit_entries WHERE action = 'Correct'")
            .await,
        0
    );
    let done = world.client().correct(take).await.unwrap();
    assert!(done.totals.is_empty());
    assert_eq!(world.usage("acct").await.0, 7);
    // What adds to a total that is negative is not refused, whatever made it negative.
    let taken = |quantity: i64| {
        format!("UPDATE usage_reports SET quantity = {quantity} WHERE kind = 'correction'")
    };
    world.execute_sql(&taken(-20)).await;
    let add = Correct::new("acct", 5, "lost").timestamp(hours_ago(2));
    let dry = world.client().correct(add.dry_run()).await.unwrap();
    assert_eq!((dry.totals[0].before, dry.totals[0].after), (-10, -5));
    world.execute_sql(&taken(-3)).await;
    world.finish().await;
}
