//! Signature headers of webhooks: times, several signatures, other schemes, odd parts, two headers and huge ones. A webhook is
//! stored if its first header is well formed, recent, and has one right signature.

use serde_json::json;

use super::Budget;
use crate::support::{
    random::Random,
    world::{World, http::SECRET, on_sqlite, within},
};

on_sqlite!(a_webhook_is_stored_if_its_header_has_a_right_signature);

/// Ages in seconds: the limit is 300, before or after now.
const AGES: [i64; 9] = [0, 0, 0, 0, 250, -250, 350, -350, 10_000_000];
/// Parts that are ignored.
const IGNORED: [&str; 6] = [
    "v0=6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39",
    "v2=",
    "later=x=y",
    "v1=6ffb",
    "v1=",
    " v1=x",
];
/// Parts that make a header malformed.
const MALFORMED: [&str; 5] = ["", "v1", "t=0", "t=", "x;y"];
/// More signatures than a header may have.
const TOO_MANY: usize = 20;
const LONG: usize = 5_000;
const HUGE: usize = 300_000;

async fn a_webhook_is_stored_if_its_header_has_a_right_signature(world: World) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/webhooks/stripe", world.http_url());
    let post = |body: &str| client.post(&url).body(body.to_owned());
    let mut budget = Budget::new("webhook headers", 3).at_most(600);
    while let Some(mut random) = budget.next() {
        let body = body(budget.cases);
        let (header, is_right) = header(&mut random, &world, &body);
        let mut request = post(&body).header("stripe-signature", &header);
        if random.one_in(6) {
            // Only the first one is read.
            let other = if random.one_in(2) {
                world.signed(&[SECRET], 0, &body)
            } else {
                "t".to_owned()
            };
            request = request.header("stripe-signature", other);
        }
        let answer = within("an answer", request.send()).await.unwrap();
        let place = budget.place();
        let expected = if is_right { 200 } else { 400 };
        assert_eq!(answer.status().as_u16(), expected, "{place}: {header:?}");
        let stored = format!("webhook_events WHERE id = 'evt_{}'", budget.cases);
        let stored = world.count_rows(&stored).await;
        assert_eq!(stored, i64::from(is_right), "{place}: {header:?}");
    }
    budget.end();
    // One that is too large for any server is refused before it is read, or its connection ends.
    let huge = format!("t=1,{}", "x=y,".repeat(HUGE / 4));
    let request = post(&body(0)).header("stripe-signature", huge);
    if let Ok(answer) = within("an answer", request.send()).await {
        assert!(answer.status().is_client_error(), "{answer:?}");
    }
    let body = body(u64::MAX);
    let right = world.signed(&[SECRET], 0, &body);
    let request = post(&body).header("stripe-signature", right);
    let answer = within("an answer", request.send()).await.unwrap();
    assert_eq!(answer.status(), 200);
    world.finish().await;
}

fn body(number: u64) -> String {
    json!({
        "id": format!("evt_{number}"), "object": "event", "created": 1_700_000_000, "livemode": false,
        "type": "invoice.created", "data": { "object": { "id": "in_1", "customer": "cus_1" } },
    })
    .to_string()
}

/// A header for a body, and whether it is right.
fn header(random: &mut Random, world: &World, body: &str) -> (String, bool) {
    let age = random.pick(&AGES);
    let signed = world.signed(&[SECRET], age, body);
    let (time, right) = signed.split_once(',').unwrap();
    let mut is_right = age.abs() <= 300;
    let mut parts = vec![time.to_owned()];
    for _ in 0..random.below(4) {
        parts.push(random.pick(&IGNORED).to_owned());
    }
    let wrong = world.signed(&["whsec_other"], age, body);
    let (_, wrong) = wrong.split_once(',').unwrap();
    let wrongs = match random.below(8) {
        0 => TOO_MANY,
        n => usize::try_from(n).unwrap() / 2,
    };
    is_right &= wrongs < TOO_MANY;
    parts.extend(std::iter::repeat_n(wrong.to_owned(), wrongs));
    let rights = usize::from(!random.one_in(4)) + usize::from(random.one_in(4));
    is_right &= rights > 0;
    parts.extend(std::iter::repeat_n(right.to_owned(), rights));
    match random.below(8) {
        0 => {
            parts.push(random.pick(&MALFORMED).to_owned());
            is_right = false;
        }
        1 => {
            // Without its time.
            parts.remove(0);
            is_right = false;
        }
        2 => {
            // A time that is signed in this spelling, and that is no number of digits.
            parts[0] = parts[0].replacen("t=", "t=+", 1);
            is_right = false;
        }
        3 => parts.push(format!("long={}", "x".repeat(LONG))),
        _ => {}
    }
    for last in (1..parts.len()).rev() {
        let other = random.below(i64::try_from(last + 1).unwrap());
        parts.swap(last, usize::try_from(other).unwrap());
    }
    (parts.join(","), is_right)
}
