//! `usagectl shadow compare`, while Stripe answers and while it does not.

use fake_stripe::Fault;

use super::{done, usagectl};
use crate::support::world::{World, hours_ago, on_both_engines};

on_both_engines!(a_comparison_ends_with_the_reason_why_it_is_not_complete);

async fn a_comparison_ends_with_the_reason_why_it_is_not_complete(mut world: World) {
    world.reconfigure(&["--reporting=shadow"]).await;
    world.link_to_new_customer("acct", "cus_acct").await;
    // Of a day that may still change, so that no day differs.
    world.count("acct", 7, hours_ago(0)).await;
    let compare = ["shadow", "compare"];
    let silent = Fault::status(500).on_path("/v1/subscriptions").always();
    world.stripe().script(silent).await.unwrap();
    let compared = usagectl(world.endpoint(), &compare).await;
    assert_eq!(compared.code, 4, "{}", compared.err);
    let words = "not all customers that no account is linked to were compared: ";
    assert!(compared.err.contains(words), "{}", compared.err);
    assert!(compared.err.contains("500"), "{}", compared.err);
    assert!(compared.out.contains("cus_acct"), "{}", compared.out);
    world.stripe().clear_faults().await.unwrap();
    done(&world, &compare).await;
    world.finish().await;
}
