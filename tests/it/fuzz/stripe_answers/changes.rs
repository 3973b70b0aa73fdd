//! Plan changes and cancellations whose answers are broken: each is made once or not at all, and usage before it is billed
//! exactly once. Only answers to requests that change something are broken: those that are read say what there is to change.

use chrono::TimeDelta;
use fake_stripe::SubscriptionSnapshot;
use tokio::task::JoinHandle;
use usage_client::{CancelSubscription, ChangePlan, Error, UsageClient};

use super::{
    super::Budget,
    billed::{Counted, assert_told, bill_the_rest, check, until_quiet},
    proxy::AnswerProxy,
};
use crate::support::{
    random::Random,
    world::{
        World, at,
        billing::{BASIC, PRO},
        on_sqlite, within,
    },
};

on_sqlite!(a_change_with_a_broken_answer_is_made_once);

/// Changes that are made at the same time.
const CHANGES: usize = 6;
/// What each account uses before its change.
const QUANTITY: i64 = 5;
const NOW: &str = "2027-03-20T08:30:10Z";
const SINCE: &str = "2027-03-10T13:12:34Z";
const UNFINISHED: &str = "subscription_changes WHERE finished_at IS NULL";
/// Steps of three seconds until changes must have ended, and those in which answers are broken.
const MAX_STEPS: usize = 200;
const BROKEN_STEPS: usize = 12;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Plan,
    CancelNow,
    CancelAtPeriodEnd,
}

async fn a_change_with_a_broken_answer_is_made_once(mut world: World) {
    world.with_prices_at(at(NOW)).await;
    let proxy = AnswerProxy::start(world.stripe_address().0).await;
    let base = format!("--stripe-api-base={}", proxy.url());
    world
        .reconfigure(&[&base, "--late-usage=current_period"])
        .await;
    proxy.change_only_writes();
    let mut counted = Counted::new();
    // Whole answers first, so that their fields are known.
    change_some(&world, &proxy, &mut counted, ("whole", None)).await;
    let mut budget = Budget::new("answers to changes", 9);
    while let Some(random) = budget.next() {
        let name = format!("r{}", budget.cases);
        change_some(&world, &proxy, &mut counted, (&name, Some(random))).await;
    }
    let (tried, known) = proxy.counts();
    eprintln!("{tried} of {known} variants tried");
    let accounts: Vec<String> = counted.keys().map(|(account, _)| account.clone()).collect();
    bill_the_rest(&world, &proxy, &accounts).await;
    check(&world, &proxy, &counted, &budget.place()).await;
    for account in accounts {
        let customer = format!("cus_{account}");
        let invoiced = world.invoiced_quantities(&customer, "api_calls").await;
        let sum: i64 = invoiced.iter().sum();
        assert!(sum <= QUANTITY, "{account}: {invoiced:?} on invoices");
    }
    budget.end();
    world.finish().await;
}

/// Makes some changes at the same time, with broken answers if there is a source of them.
async fn change_some(
    world: &World,
    proxy: &AnswerProxy,
    counted: &mut Counted,
    (prefix, random): (&str, Option<Random>),
) {
    let kinds = [Kind::Plan, Kind::CancelNow, Kind::CancelAtPeriodEnd];
    let mut begun = Vec::new();
    for (nth, kind) in kinds.into_iter().cycle().take(CHANGES).enumerate() {
        let account = format!("{prefix}-{nth}");
        world.subscribe(&account, &[BASIC], at(SINCE)).await;
        world.link_to_subscription(&account).await;
        let before = world.now() - TimeDelta::minutes(10);
        world.count(&account, QUANTITY, before).await;
        counted.insert((account.clone(), "api_calls"), QUANTITY);
        begun.push((account, kind));
    }
    proxy.change(random);
    let calls: Vec<JoinHandle<Result<(), Error>>> = begun
        .iter()
        .map(|(account, kind)| {
            let (client, account, kind) = (world.client(), account.clone(), *kind);
            tokio::spawn(async move { request(&client, &account, kind).await })
        })
        .collect();
    for step in 0..MAX_STEPS {
        let are_answered = calls.iter().all(JoinHandle::is_finished);
        if are_answered && world.count_rows(UNFINISHED).await == 0 {
            break;
        }
        if step == BROKEN_STEPS {
            proxy.change(None);
        }
        let later = world.now() + TimeDelta::seconds(3);
        world.move_clocks(later).await;
        until_quiet(proxy).await;
    }
    proxy.change(None);
    assert_eq!(world.count_rows(UNFINISHED).await, 0, "{}", proxy.last());
    let subscriptions = world.stripe().subscriptions().await.unwrap();
    for (call, (account, kind)) in calls.into_iter().zip(begun) {
        let answer = within("a change", call).await.unwrap();
        let id = format!("sub_{account}");
        let found = subscriptions.iter().find(|one| one.id == id).unwrap();
        let is_made = is_made(found, kind);
        match answer {
            Ok(()) => assert_eq!(is_made, Some(true), "{kind:?} {found:?}"),
            Err(error) => {
                assert_told(&error, proxy);
                assert!(is_made.is_some(), "{kind:?} {found:?}");
            }
        }
    }
}

async fn request(client: &UsageClient, account: &str, kind: Kind) -> Result<(), Error> {
    let changed = match kind {
        Kind::Plan => client.change_plan(ChangePlan::new(account, PRO)).await,
        Kind::CancelNow => {
            let cancel = CancelSubscription::now(account);
            client.cancel_subscription(cancel).await
        }
        Kind::CancelAtPeriodEnd => {
            let cancel = CancelSubscription::at_period_end(account);
            client.cancel_subscription(cancel).await
        }
    };
    changed.map(drop)
}

/// Whether a subscription was changed; `None` if it was in another way than asked for.
fn is_made(found: &SubscriptionSnapshot, kind: Kind) -> Option<bool> {
    let prices: Vec<&str> = found.items.iter().map(|item| item.price.as_str()).collect();
    let is_canceled = found.status == "canceled";
    match (kind, prices.as_slice()) {
        (Kind::Plan, [PRO]) if !is_canceled => Some(true),
        (Kind::Plan, [BASIC]) if !is_canceled => Some(false),
        (Kind::CancelNow, _) => Some(is_canceled),
        (Kind::CancelAtPeriodEnd, [BASIC]) if !is_canceled => Some(found.cancel_at.is_some()),
        _ => None,
    }
}
