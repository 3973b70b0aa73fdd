//! `pause_collection`: what becomes of the invoices of a subscription that stays active.

use serde_json::{Value, json};

use crate::billing_world::{DAY, HALF, MONTH_END, SUB, half_way, lines};
use crate::client::World;

async fn paused(behavior: &str, resumes_at: Option<i64>) -> World {
    let (world, _) = half_way(&["price_basic"], |_| {}).await;
    let resumes_at = resumes_at.map(|at| at.to_string());
    let mut pairs = vec![("pause_collection[behavior]", behavior)];
    pairs.extend(
        resumes_at
            .as_deref()
            .map(|at| ("pause_collection[resumes_at]", at)),
    );
    let subscription = world.post(SUB, &pairs).await.ok();
    assert_eq!(subscription["pause_collection"]["behavior"], behavior);
    assert_eq!(subscription["status"], "active");
    world
}

async fn newest_invoice(world: &World) -> Value {
    let list = world.get("/v1/invoices", &[("limit", "1")]).await.ok();
    list["data"][0].clone()
}

#[tokio::test]
async fn drafts_are_kept_and_their_usage_grows() {
    let world = paused("keep_as_draft", None).await;
    world.clock_at(MONTH_END + 5 * 86_400).await;
    world.use_at("late", 3, MONTH_END - 60).await.ok();
    let draft = newest_invoice(&world).await;
    assert_eq!(
        [
            &draft["status"],
            &draft["auto_advance"],
            &draft["automatically_finalizes_at"]
        ],
        [&json!("draft"), &json!(false), &json!(null)]
    );
    assert_eq!(draft["lines"]["data"][0]["quantity"], 23);

    let unset = world.post(SUB, &[("pause_collection", "")]).await.ok();
    assert_eq!(unset["pause_collection"], json!(null));
    world.control.advance_clock(DAY).await.unwrap();
    assert_eq!(
        newest_invoice(&world).await["status"],
        "draft",
        "it stays one"
    );
    let path = format!("/v1/invoices/{}", draft["id"].as_str().unwrap());
    let advanced = world.post(&path, &[("auto_advance", "true")]).await.ok();
    assert_eq!(
        advanced["automatically_finalizes_at"],
        MONTH_END + 6 * 86_400 + 3_600
    );
    world.control.advance_clock(DAY).await.unwrap();
    let last = newest_invoice(&world).await;
    assert_eq!(
        (&last["status"], &last["amount_due"]),
        (&json!("open"), &json!(230))
    );

    // By hand.
    let world = paused("keep_as_draft", None).await;
    world.clock_at(MONTH_END).await;
    let draft = newest_invoice(&world).await;
    let path = format!("/v1/invoices/{}/finalize", draft["id"].as_str().unwrap());
    assert_eq!(world.post(&path, &[]).await.ok()["status"], "open");
}

#[tokio::test]
async fn invoices_are_voided_or_marked_until_collection_resumes() {
    for (behavior, status, transition) in [
        ("void", "void", "voided_at"),
        (
            "mark_uncollectible",
            "uncollectible",
            "marked_uncollectible_at",
        ),
    ] {
        let world = paused(behavior, Some(MONTH_END + 86_400)).await;
        world.clock_at(MONTH_END).await;
        let invoice = newest_invoice(&world).await;
        assert_eq!(
            [
                &invoice["status"],
                &invoice["status_transitions"][transition]
            ],
            [&json!(status), &json!(MONTH_END)]
        );
        assert_eq!(invoice["lines"]["data"][0]["quantity"], 20);
        let voided = [("invoice_voided".to_owned(), 20)];
        let expected: &[_] = if behavior == "void" { &voided } else { &[] };
        assert_eq!(world.discarded().await, expected);

        world.clock_at(MONTH_END + 86_400).await;
        let subscription = world.get(SUB, &[]).await.ok();
        assert_eq!(subscription["pause_collection"], json!(null));
        world.use_at("next", 9, MONTH_END + 86_400).await.ok();
        world.clock_at(MONTH_END + 32 * 86_400).await;
        let next = world.invoices().await.pop().unwrap();
        assert_eq!(
            (lines(&next), next.status.as_str()),
            (vec![("calls", 9, 90)], "open")
        );
    }
}

#[tokio::test]
async fn collection_that_resumes_at_a_period_end_collects_its_invoice() {
    let world = paused("void", Some(MONTH_END)).await;
    world.clock_at(MONTH_END).await;
    assert_eq!(newest_invoice(&world).await["status"], "draft");
}

#[tokio::test]
async fn a_pause_of_collection_is_checked() {
    let (world, _) = half_way(&["price_basic"], |_| {}).await;
    for (pairs, param) in [
        (
            &[("pause_collection[resumes_at]", "1900000000")][..],
            "pause_collection[behavior]",
        ),
        (
            &[("pause_collection[behavior]", "wait")][..],
            "pause_collection[behavior]",
        ),
        (&[("pause_collection", "x")][..], "pause_collection"),
        (
            &[
                ("pause_collection[behavior]", "void"),
                ("pause_collection[resumes_at]", "1500000000"),
            ][..],
            "pause_collection[resumes_at]",
        ),
    ] {
        let reply = world.post(SUB, pairs).await;
        assert_eq!(
            (reply.status, &reply.body["error"]["param"]),
            (400, &json!(param))
        );
    }
    let ended = world.call("DELETE", SUB, &[]).await.ok();
    assert_eq!(ended["ended_at"], HALF);
    let pause = [("pause_collection[behavior]", "void")];
    assert_eq!(world.post(SUB, &pause).await.status, 400);
}

#[tokio::test]
async fn a_trial_of_a_paused_collection_does_not_pause_the_subscription() {
    let world = World::billing().await;
    let end = HALF;
    world
        .subscribe_with(&["price_seat"], |new| {
            new.trial_end = Some(end);
            new.missing_payment_method = Some("pause".to_owned());
        })
        .await;
    let pause = [("pause_collection[behavior]", "void")];
    world.post(SUB, &pause).await.ok();
    world.clock_at(end).await;
    assert_eq!(world.get(SUB, &[]).await.ok()["status"], "active");
    assert_eq!(newest_invoice(&world).await["status"], "void");
}
