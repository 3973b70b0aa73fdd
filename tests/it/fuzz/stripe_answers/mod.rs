//! Stripe's answers, field by field: each field of each answer that the service reads is missing, null, of another type,
//! huge, negative or empty. Usage is counted, reported, synced, compared and shown meanwhile.
//!
//! Nothing that was acknowledged is lost, nothing is sent twice, and nothing becomes free. Once answers are whole again,
//! everything is billed, or its state says why it is not.

mod billed;
mod cases;
mod changes;
mod proxy;
mod variants;

use chrono::TimeDelta;
use usage_client::{ForceReport, Increment, PutAccount, Reconcile};
use usage_server::commands::doctor::diagnose;

use self::{
    billed::{Counted, METERS, assert_told, bill_the_rest, check, until_quiet},
    cases::cases,
    proxy::AnswerProxy,
};
use super::Budget;
use crate::support::{
    random::Random,
    world::{
        World, at,
        billing::{BASIC, TOKENS},
        on_both_engines, within,
    },
};

on_both_engines!(broken_answers_lose_nothing_and_bill_nothing_twice);

const ACCOUNTS: usize = 6;
const NOW: &str = "2027-03-20T08:30:10Z";
/// The billing periods end six hours later.
const SINCE: &str = "2027-02-20T14:30:00Z";
/// What is read in any case.
const READ: [&str; 6] = [
    "GET /v1/billing/meters",
    "GET /v1/billing/meters/{id}/event_summaries",
    "GET /v1/customers/{id}",
    "GET /v1/subscriptions",
    "GET /v1/invoices",
    "POST /v1/billing/meter_events",
];

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
    // The changes of the corpus, also of what the service remembers.
    proxy.begin_with(cases());
    world.restart().await;
    // Otherwise whole answers, so that the fields of most are known.
    round(&world, &proxy, &mut counted, &mut Random(1)).await;
    let mut budget = Budget::new("Stripe's answers", 15);
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
    bill_the_rest(&world, &proxy, &accounts().collect::<Vec<_>>()).await;
    check(&world, &proxy, &counted, &budget.place()).await;
    let endpoints = proxy.endpoints();
    for endpoint in READ {
        assert!(endpoints.contains_key(endpoint), "{endpoint}");
    }
    let left = proxy.cases_left();
    assert!(left.is_empty(), "cases that were not tried: {left:?}");
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
