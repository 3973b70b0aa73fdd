//! Every request message over gRPC: random bytes, and random messages with hostile values.

use prost::Message as _;
use prost_reflect::DynamicMessage;
use usage_server::domain::method_roles::METHODS;

use super::{
    Budget,
    calls::{Caller, check_refusal},
    cases,
    messages::{Seen, message, methods},
    texts,
};
use crate::support::world::{World, hours_ago, on_both_engines};

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
    let mut seen = Seen::default();
    let mut budget = Budget::new("requests", 15).at_most(3_000);
    while let Some(mut random) = budget.next() {
        let nth = usize::try_from(budget.cases).unwrap() % methods.len();
        let (path, method) = &methods[nth];
        let is_readable = !random.one_in(6);
        let made = message(&mut random, &seen, &method.input(), 0);
        if path.ends_with("/RevokeKey") && format!("{made:?}").contains(caller.key_id()) {
            // Nothing more could be called.
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
    world.finish().await;
}
