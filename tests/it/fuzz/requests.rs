//! Every request message over gRPC: each of its fields with a hostile value, random messages, and random bytes.

use std::collections::BTreeSet;

use prost::Message as _;
use prost_reflect::DynamicMessage;
use usage_server::domain::method_roles::METHODS;

use super::{
    Budget,
    calls::{Caller, check_refusal},
    cases,
    messages::{Seen, Target, methods, targets},
    texts,
};
use crate::support::{
    random::Random,
    world::{World, hours_ago, on_both_engines},
};

on_both_engines!(hostile_requests_are_answered_or_refused_by_field);

#[test]
fn every_method_is_called() {
    let called = methods();
    for (path, _) in METHODS {
        let is_called = called.iter().any(|(known, _)| known == path);
        assert_eq!(is_called, !path.starts_with("/grpc.reflection."), "{path}");
    }
}

async fn hostile_requests_are_answered_or_refused_by_field(mut world: World) {
    // Random requests are many.
    world
        .reconfigure(&["--requests-per-sec=0", "--change-wait-secs=5"])
        .await;
    world.link_to_new_customer("acct", "cus_acct").await;
    world.count("acct", 5, hours_ago(3)).await;
    let caller = Caller::admin(&world).await;
    for case in cases::requests() {
        let answer = caller.call(&case.path, case.encoded()).await;
        let checked = answer.map_or_else(|status| check_refusal(&status, true), |_| Ok(()));
        checked.unwrap_or_else(|why| panic!("corpus/requests/{}: {why}", case.name));
    }
    let methods = methods();
    let targets = targets(&methods);
    let mut done = BTreeSet::new();
    let mut seen = Seen::default();
    let mut budget = Budget::new("requests", 15)
        .at_most(3_000)
        .at_least(targets.len());
    while let Some(mut random) = budget.next() {
        let (target, is_readable) = pick(&mut random, &targets, budget.cases);
        let (path, method) = (&target.path, &target.method);
        let made = target.message(&mut random, &seen);
        done.insert(path.clone());
        if path.ends_with("/RevokeKey") && format!("{made:?}").contains(caller.key_id()) {
            // Nothing more could be done.
            continue;
        }
        let bytes = if is_readable {
            made.encode_to_vec()
        } else if random.one_in(2) {
            texts::bytes(&mut random, 300)
        } else {
            texts::damaged(&mut random, made.encode_to_vec())
        };
        match caller.call(path, bytes).await {
            Ok(answers) => {
                for answer in answers {
                    let answer = DynamicMessage::decode(method.output(), &*answer).unwrap();
                    seen.read(&answer);
                }
            }
            Err(status) => {
                if let Err(why) = check_refusal(&status, is_readable) {
                    panic!("{}: {path} {why}\n{made:?}", budget.place());
                }
            }
        }
    }
    budget.end();
    assert_eq!(done.len(), methods.len(), "methods that were not called");
    world.finish().await;
}

/// The method and the field of an input, and whether its message is one that can be read. Each is the target of one input, and
/// then of random ones.
fn pick<'a>(random: &mut Random, targets: &'a [Target], input: u64) -> (&'a Target, bool) {
    let nth = usize::try_from(input).unwrap() - 1;
    if let Some(target) = targets.get(nth) {
        return (target, true);
    }
    let place = random.below(i64::try_from(targets.len()).unwrap());
    let target = &targets[usize::try_from(place).unwrap()];
    (target, !random.one_in(6))
}
