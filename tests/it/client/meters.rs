//! What a program asks before it counts, and how it asks for the last days.

use usage_client::{ErrorKind, Get, proto::KeyRole};

use crate::{
    operations::access::{client, create_key_with_meters},
    support::world::{World, hours_ago, on_both_engines},
};

on_both_engines!(
    meters_are_listed_and_checked,
    a_key_that_is_limited_to_a_meter_sees_that_one,
    the_last_days_need_no_edges,
);

async fn meters_are_listed_and_checked(world: World) {
    let meters = world.client().list_meters().await.unwrap();
    let shown = meters.iter().map(|one| {
        let names = (&*one.name, &*one.stripe_event_name);
        (names, &*one.unit, one.is_default)
    });
    assert_eq!(
        shown.collect::<Vec<_>>(),
        [
            (("api_calls", "api_calls"), "call", true),
            (("tokens", "llm_tokens"), "token", false),
        ]
    );
    let client = world.client();
    client.check_meters(["tokens", "api_calls"]).await.unwrap();
    // An empty name is the default meter.
    client.check_meters([""]).await.unwrap();
    let wrong = client.check_meters(["tokens", "token"]).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Invalid);
    let text = wrong.to_string();
    assert!(
        text.contains("\"token\"") && text.contains("api_calls, tokens"),
        "{text}"
    );
    world.finish().await;
}

async fn a_key_that_is_limited_to_a_meter_sees_that_one(world: World) {
    let key = create_key_with_meters(&world, KeyRole::Writer, &["tokens"]).await;
    let limited = client(world.endpoint(), &key).await;
    let meters = limited.list_meters().await.unwrap();
    assert_eq!(meters.len(), 1);
    assert_eq!(meters[0].name, "tokens");
    limited.check_meters(["tokens"]).await.unwrap();
    // The default meter is another one.
    for (name, words) in [
        ("api_calls", "this API key may not use it"),
        (
            "",
            "the server's default meter, and there is none that can be used",
        ),
    ] {
        let refused = limited.check_meters([name]).await.unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
        assert!(refused.contains("tokens"), "{refused}");
    }
    world.finish().await;
}

async fn the_last_days_need_no_edges(world: World) {
    world.count("acct", 3, hours_ago(2)).await;
    world.count("acct", 4, hours_ago(50)).await;
    let account = "acct".to_owned();
    assert!(world.client().get(&account).await.is_ok());
    let total = async |get: Get| {
        let usage = world.client().get(get).await.unwrap();
        usage.meter("api_calls").unwrap().quantities.total
    };
    assert_eq!(total(Get::account(&account).last_days(7)).await, 7);
    assert_eq!(total(Get::account(&account).last_hours(24)).await, 3);
    world.finish().await;
}
