//! What Stripe says about a link: a customer or subscription that it does not know is refused. While it does not answer, the
//! link is stored, and checked later.

use chrono::TimeDelta;
use fake_stripe::Fault;
use usage_client::{Error, PutAccount, Reason};
use usage_server::commands::doctor::Severity;

use crate::support::world::{TIMEOUT, World, at, billing::BASIC, on_both_engines};

on_both_engines!(
    a_customer_that_stripe_does_not_know_is_refused,
    a_subscription_that_is_not_the_customers_is_refused,
    a_link_is_stored_unverified_while_stripe_does_not_answer,
    an_unverified_link_is_checked_later_and_told,
    an_unverified_link_to_an_unknown_subscription_follows_the_customer,
    an_unverified_link_bills_from_the_period_once_it_is_known,
    a_checked_link_can_be_repeated_whatever_became_of_the_customer,
);

const START: &str = "2027-03-10T13:12:34Z";
const NOW: &str = "2027-03-20T08:30:10Z";

fn assert_refused(error: &Error, reason: &Reason, field: &str, named: &str) {
    assert_eq!(error.reason(), Some(reason), "{error}");
    assert_eq!(error.violations()[0].field, field, "{error}");
    assert!(error.to_string().contains(named), "{error}");
    assert!(!error.is_retryable());
}

async fn a_customer_that_stripe_does_not_know_is_refused(world: World) {
    let client = world.client();
    world.create_customers(&["cus_deleted"]).await;
    world.stripe().delete_customer("cus_deleted").await.unwrap();
    for (customer, named) in [
        ("cus_ghost", "no customer \"cus_ghost\""),
        ("cus_deleted", "\"cus_deleted\" was deleted"),
    ] {
        let link = PutAccount::stripe("acct", customer);
        for put in [link.clone(), link.validate_only()] {
            let error = client.put_account(put).await.unwrap_err();
            assert_refused(&error, &Reason::UnknownCustomer, "stripe.customer", named);
        }
    }
    let missing = client.get_account("acct").await.unwrap_err();
    assert_eq!(missing.reason(), Some(&Reason::AccountNotFound));
    assert_eq!(world.count_rows("customers").await, 0);
    world.finish().await;
}

async fn a_subscription_that_is_not_the_customers_is_refused(mut world: World) {
    world.with_prices_at(at(NOW)).await;
    for name in ["acct", "other"] {
        world.subscribe(name, &[BASIC], at(START)).await;
    }
    let client = world.client();
    let link =
        |subscription: &str| PutAccount::stripe("acct", "cus_acct").subscription(subscription);
    for (subscription, named) in [
        ("sub_none", "no subscription \"sub_none\""),
        ("sub_other", "\"cus_other\""),
    ] {
        let error = client.put_account(link(subscription)).await.unwrap_err();
        let reason = Reason::UnknownSubscription;
        assert_refused(&error, &reason, "stripe.subscription", named);
    }
    let missing = client.get_account("acct").await.unwrap_err();
    assert_eq!(missing.reason(), Some(&Reason::AccountNotFound));
    let done = client.put_account(link("sub_acct")).await.unwrap();
    assert!(!done.is_unverified);
    assert_eq!(done.account.valid_from, at(START));
    world.finish().await;
}

/// Blocks every answer of Stripe about customers and subscriptions.
async fn block_stripe(world: &World) {
    for path in ["/v1/customers", "/v1/subscriptions"] {
        let block = Fault::block_until_released("gate").on_path(path).always();
        world.stripe().script(block).await.unwrap();
    }
}

async fn release_stripe(world: &World) {
    world.stripe().clear_faults().await.unwrap();
    world.stripe().release("gate").await.unwrap();
}

async fn a_link_is_stored_unverified_while_stripe_does_not_answer(mut world: World) {
    let now = at(NOW);
    world.reconfigure(&["--stripe-link-check-ms"]).await;
    world.with_prices_at(now).await;
    world.create_customers(&["cus_acct"]).await;
    block_stripe(&world).await;
    let client = world.client();
    let link = PutAccount::stripe("acct", "cus_acct").bill_from(at(START));
    let preview = client.put_account(link.clone().validate_only()).await;
    assert!(preview.unwrap().is_unverified);
    let done = client.put_account(link.clone()).await.unwrap();
    assert!(done.is_unverified);
    assert_eq!(done.account.valid_from, at(START));
    // Stripe has not answered yet.
    world
        .stripe()
        .wait_for_blocked("gate", 1, TIMEOUT)
        .await
        .unwrap();
    let again = client.put_account(link).await.unwrap();
    assert!(again.is_unverified, "nor has it been asked since");
    assert!(
        !client
            .put_account(PutAccount::free("b"))
            .await
            .unwrap()
            .is_unverified
    );
    release_stripe(&world).await;
    let (severity, told) = world.doctor_says(None, "links").await;
    assert_eq!(severity, Severity::Warn, "{told}");
    assert!(told.contains("cus_acct (acct)"), "{told}");
    world.finish().await;
}

/// Waits until a number of customers are read by themselves.
async fn wait_until_watched(world: &World, number: i64) {
    world
        .wait_until("the links are checked", async || {
            world.count_rows("customers WHERE watch IS NOT NULL").await == number
        })
        .await;
}

/// Makes a link while Stripe does not answer.
async fn link_unverified(world: &World, put: PutAccount) -> usage_client::Account {
    let silent = Fault::status(503).on_method("GET").always();
    world.stripe().script(silent).await.unwrap();
    let done = world.client().put_account(put).await.unwrap();
    assert!(done.is_unverified);
    world.stripe().clear_faults().await.unwrap();
    done.account
}

async fn an_unverified_link_is_checked_later_and_told(mut world: World) {
    let now = at(NOW);
    world.with_prices_at(now).await;
    world.create_customers(&["cus_acct"]).await;
    for name in ["acct", "ghost"] {
        let link = PutAccount::stripe(name, format!("cus_{name}")).bill_from(now);
        link_unverified(&world, link).await;
    }
    world.move_clocks(now + TimeDelta::minutes(1)).await;
    wait_until_watched(&world, 1).await;
    let (severity, told) = world.doctor_says(None, "links").await;
    assert_eq!(severity, Severity::Bad, "{told}");
    assert!(
        told.contains("cus_ghost (ghost): Stripe has no customer"),
        "{told}"
    );
    assert!(!told.contains("cus_acct"), "{told}");
    // A call that repeats it is told too.
    let link = PutAccount::stripe("ghost", "cus_ghost").bill_from(now);
    let refused = world.client().put_account(link).await.unwrap_err();
    assert_eq!(refused.reason(), Some(&Reason::UnknownCustomer));
    world.create_customers(&["cus_ghost"]).await;
    world.move_clocks(now + TimeDelta::minutes(2)).await;
    wait_until_watched(&world, 0).await;
    let (severity, told) = world.doctor_says(None, "links").await;
    assert_eq!(severity, Severity::Ok, "{told}");
    world.finish().await;
}

async fn an_unverified_link_to_an_unknown_subscription_follows_the_customer(mut world: World) {
    let now = at(NOW);
    world.with_prices_at(now).await;
    world.subscribe("acct", &[BASIC], at(START)).await;
    let link = PutAccount::stripe("acct", "cus_acct").subscription("sub_none");
    link_unverified(&world, link.bill_from(at(START))).await;
    world.count("acct", 5, now).await;
    world.move_clocks(now + TimeDelta::minutes(1)).await;
    world
        .wait_until_subscription("acct", |known| known.id == "sub_acct")
        .await;
    world.report_all().await;
    world.wait_until_sent("acct").await;
    assert_eq!(world.usage("acct").await, (5, 5, 0, 0));
    let (severity, told) = world.doctor_says(None, "links").await;
    assert_eq!(severity, Severity::Bad, "{told}");
    assert!(told.contains("no subscription \"sub_none\""), "{told}");
    world.finish().await;
}

async fn an_unverified_link_bills_from_the_period_once_it_is_known(mut world: World) {
    let now = at(NOW);
    world.with_prices_at(now).await;
    world.subscribe("acct", &[BASIC], at(START)).await;
    world.count("acct", 5, now - TimeDelta::days(1)).await;
    let linked = link_unverified(&world, PutAccount::stripe("acct", "cus_acct")).await;
    assert_eq!(linked.valid_from, now);
    world.count("acct", 2, now).await;
    world.move_clocks(now + TimeDelta::minutes(1)).await;
    wait_until_watched(&world, 0).await;
    let account = world.client().get_account("acct").await.unwrap();
    assert_eq!(account.valid_from, at(START));
    world.report_all().await;
    world.wait_until_sent("acct").await;
    assert_eq!(world.usage("acct").await, (7, 7, 0, 0));
    // A time that was given stays.
    world.subscribe("b", &[BASIC], at(START)).await;
    let link = PutAccount::stripe("b", "cus_b").bill_from(world.now());
    let linked = link_unverified(&world, link).await;
    world.move_clocks(now + TimeDelta::minutes(2)).await;
    wait_until_watched(&world, 0).await;
    let account = world.client().get_account("b").await.unwrap();
    assert_eq!(account.valid_from, linked.valid_from);
    world.finish().await;
}

async fn a_checked_link_can_be_repeated_whatever_became_of_the_customer(world: World) {
    world.create_customers(&["cus_acct"]).await;
    let client = world.client();
    let link = PutAccount::stripe("acct", "cus_acct");
    let first = client.put_account(link.clone()).await.unwrap();
    world.stripe().delete_customer("cus_acct").await.unwrap();
    let again = client.put_account(link).await.unwrap();
    assert_eq!(again.account, first.account, "it changes nothing");
    assert!(!again.is_unverified);
    world.finish().await;
}
