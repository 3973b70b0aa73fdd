//! Stripe's answers, field by field: each field of each answer that the service reads is missing, null, of another type,
//! huge, negative or empty. Usage is counted, reported, synced, compared and shown meanwhile.
//!
//! Nothing that was acknowledged is lost, nothing is sent twice, and nothing becomes free. Once answers are whole again,
//! everything is billed, or its state says why it is not.

mod proxy;
mod variants;

use std::{collections::BTreeMap, time::Duration};

use chrono::TimeDelta;
use usage_client::{
    Error, ErrorKind, ForceReport, Increment, PutAccount, Reconcile, ReportState, ResolveAction,
    ResolveReport, UsageReport,
};
use usage_server::commands::doctor::diagnose;

use self::proxy::AnswerProxy;
use super::Budget;
use crate::support::{
    random::Random,
    world::{
        World, at,
        billing::{BASIC, TOKENS},
        on_sqlite, within,
    },
};

on_sqlite!(broken_answers_lose_nothing_and_bill_nothing_twice);

const ACCOUNTS: usize = 6;
const METERS: [(&str, &str); 2] = [("api_calls", "api_calls"), ("tokens", "llm_tokens")];
const NOW: &str = "2027-03-20T08:30:10Z";
/// The billing periods end six hours later.
const SINCE: &str = "2027-02-20T14:30:00Z";
/// Steps after which everything must be billed once answers are whole again.
const MAX_STEPS: usize = 30;
/// What is read in any case.
const READ: [&str; 6] = [
    "GET /v1/billing/meters",
    "GET /v1/billing/meters/{id}/event_summaries",
    "GET /v1/customers/{id}",
    "GET /v1/subscriptions",
    "GET /v1/invoices",
    "POST /v1/billing/meter_events",
];

/// What was counted, by account and meter.
type Counted = BTreeMap<(String, &'static str), i64>;

async fn broken_answers_lose_nothing_and_bill_nothing_twice(mut world: World) {
    world.with_prices_at(at(NOW)).await;
    let proxy = AnswerProxy::start(world.stripe_address().0).await;
    let base = format!("--stripe-api-base={}", proxy.url());
    world
        .reconfigure(&[&base, "--late-usage=current_period"])
        .await;
    for account in accounts() {
        world.subscribe(&account, &[BASIC, TOKENS], at(SINCE)).await;
        world.link_to_subscription(&account).await;
    }
    let mut counted = Counted::new();
    // Whole answers first, so that the fields of most are known.
    round(&world, &proxy, &mut counted, &mut Random(1)).await;
    let mut budget = Budget::new("Stripe's answers", 39);
    proxy.change(Some(Random(budget.seed)));
    while let Some(mut random) = budget.next() {
        round(&world, &proxy, &mut counted, &mut random).await;
    }
    proxy.change(None);
    let (tried, known) = proxy.counts();
    eprintln!(
        "{tried} of {known} variants tried of {:#?}",
        proxy.endpoints()
    );
    bill_the_rest(&world, &proxy).await;
    check(&world, &proxy, &counted, &budget.place()).await;
    for endpoint in READ {
        let endpoints = proxy.endpoints();
        assert!(endpoints.iter().any(|one| one == endpoint), "{endpoint}");
    }
    budget.end();
    world.finish().await;
}

fn accounts() -> impl Iterator<Item = String> {
    (0..ACCOUNTS).map(|nth| format!("acct-{nth}"))
}

/// Counts, reports, links, reconciles and diagnoses, while time passes.
async fn round(world: &World, proxy: &AnswerProxy, counted: &mut Counted, random: &mut Random) {
    let client = world.client();
    for account in accounts() {
        for (meter, _) in METERS {
            let quantity = 1 + random.below(50);
            let increment = Increment::new(&account).meter(meter).quantity(quantity);
            // Counting never waits for Stripe.
            client.increment(increment).await.unwrap();
            *counted.entry((account.clone(), meter)).or_default() += quantity;
        }
    }
    let run = client.force_report(ForceReport::all()).await;
    drop(run.expect("a run begins without Stripe"));
    let puts = accounts().map(|account| {
        let put = PutAccount::stripe(&account, format!("cus_{account}"));
        let client = client.clone();
        async move { client.put_account(put).await.map(drop) }
    });
    let month = Reconcile::new().period(at(SINCE), world.now());
    let shown = async { client.reconcile(month).await.map(drop) };
    let linked = futures_util::future::join_all(puts);
    let (linked, shown) = within("answers", async { tokio::join!(linked, shown) }).await;
    for answer in linked.into_iter().chain([shown]) {
        if let Err(error) = answer {
            assert_told(&error, proxy);
        }
    }
    if random.one_in(4) {
        let config = world.doctor_config();
        // It may say that it cannot read something.
        drop(within("a diagnosis", diagnose(&config, &world.clock)).await);
    }
    let passed = TimeDelta::minutes(5 + random.below(30));
    world.move_clocks(world.now() + passed).await;
    until_quiet(proxy).await;
}

/// An error that says what is wrong with Stripe or the request; never a defect.
fn assert_told(error: &Error, proxy: &AnswerProxy) {
    let is_defect = matches!(error.kind(), ErrorKind::Internal);
    assert!(!is_defect, "{error:?} after\n{}", proxy.last());
}

/// Waits until the service asks nothing more for a moment, at most some seconds: it may retry for as long as it likes.
async fn until_quiet(proxy: &AnswerProxy) {
    const STEP: Duration = Duration::from_millis(10);
    let (mut before, mut quiet) = (proxy.answers(), 0);
    for _ in 0..300 {
        tokio::time::sleep(STEP).await;
        let answers = proxy.answers();
        quiet = if answers == before { quiet + 1 } else { 0 };
        before = answers;
        if quiet >= 8 {
            return;
        }
    }
}

/// Lets time pass with whole answers, and decides what waits for a decision, until everything is at Stripe.
async fn bill_the_rest(world: &World, proxy: &AnswerProxy) {
    for step in 0..MAX_STEPS {
        world
            .move_clocks(world.now() + TimeDelta::minutes(61))
            .await;
        world.start_run().await;
        until_quiet(proxy).await;
        let mut left = 0;
        for account in accounts() {
            for report in world.reports(&account).await {
                left += usize::from(!report.reported);
                if step > 10 && needs_decision(&report) {
                    let retry = ResolveReport::new(
                        &account,
                        &report.id,
                        ResolveAction::Retry,
                        "whole again",
                    );
                    drop(world.client().resolve_report(retry).await);
                }
            }
        }
        // Until the invoices of the billing periods that end meanwhile were read.
        if left == 0 && step > 8 {
            return;
        }
    }
}

fn needs_decision(report: &UsageReport) -> bool {
    matches!(
        report.state,
        ReportState::Rejected | ReportState::CustomerDeleted | ReportState::TooLate
    )
}

async fn check(world: &World, proxy: &AnswerProxy, counted: &Counted, place: &str) {
    for account in accounts() {
        let reports = world.reports(&account).await;
        for (meter, event_name) in METERS {
            let whose = format!(
                "{place}: {account} {meter}, last changes:\n{}",
                proxy.last()
            );
            let of_meter = || reports.iter().filter(|report| report.meter == meter);
            let sum = |is_in: fn(&UsageReport) -> bool| -> i64 {
                of_meter()
                    .filter(|report| is_in(report))
                    .map(|report| report.quantity)
                    .sum()
            };
            let all = counted[&(account.clone(), meter)];
            assert_eq!(sum(|_| true), all, "lost: {whose}");
            for report in of_meter().filter(|report| !report.reported) {
                eprintln!(
                    "{account} {meter}: {:?} {:?}",
                    report.state, report.last_error
                );
                let says_why = match report.state {
                    ReportState::Uncharged | ReportState::TooLate | ReportState::Unknown => true,
                    ReportState::Rejected | ReportState::Missing | ReportState::CustomerDeleted => {
                        report.last_error.is_some()
                    }
                    _ => false,
                };
                assert!(says_why, "{whose}: {report:#?}");
            }
            // Whether Stripe has what it did not confirm is not known.
            let open =
                sum(|report| matches!(report.state, ReportState::Unknown | ReportState::Missing));
            let reported = sum(|report| report.reported);
            let at_stripe = world
                .stripe_total(&format!("cus_{account}"), event_name)
                .await;
            assert!(
                (reported..=reported + open).contains(&at_stripe),
                "{at_stripe} at Stripe, {reported} reported and {open} open: {whose}"
            );
        }
    }
}
