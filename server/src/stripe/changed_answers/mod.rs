//! Every function of this module, given answers of which one field is missing, null, of another type, huge, negative or empty:
//! it reads the rest or says what is wrong, and skips nothing without saying so.
//!
//! A function that sends a request must be in `calls.rs`. Each field of what it returns must depend on some field of the fake
//! Stripe's answer: a field that is read and that the fake does not have would never be changed here.

mod calls;
mod leaves;
mod replay;
mod sample;

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use fake_stripe::{BROKEN_BODIES, Variant};
use serde_json::Value;

use self::{
    calls::{Call, Outcome, calls},
    leaves::Leaves,
    replay::Replay,
    sample::{API_CALLS, Sample},
};
use super::Stripe;

/// The limit of each call.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Stripe's own messages are cut at 500 characters.
const MAX_MESSAGE_CHARS: usize = 700;
/// Functions without a request of their own.
const SEND_NOTHING: [&str; 1] = ["read_turn"];
/// Fields of results that no change of one field of an answer changes alone: the function (all if empty), the end of the path or
/// the whole path, and why.
const NOT_FROM_ONE_FIELD: [(&str, &str, &str); 12] = [
    ("", ".is_flat_fee", "needs a certain description"),
    ("", ".quantity", "is in two fields"),
    ("", ".tiers", "has amounts that are in two fields"),
    ("list_meters", "*.is_complete", "needs a limit"),
    ("list_prices", "*.is_complete", "needs a limit"),
    ("list_live_subscriptions", "*.is_complete", "needs a limit"),
    ("find_subscription", "*.*.id", "another id is refused"),
    ("change_items", "*.id", "another id is refused"),
    ("marked_products", "", "products are read by their ids"),
    ("check_key", ".status", "is not in the body"),
    ("check_key", ".date", "is not in the body"),
    ("check_key", ".message", "is only in errors"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_answer_is_read_or_refused_and_nothing_is_lost() {
    let sample = Sample::start().await;
    let replay = Replay::start(sample.url()).await;
    let stripe = sample.stripe_at(replay.url());
    let (mut tried, mut unchanged) = (0_usize, Vec::new());
    for call in calls() {
        replay.record();
        let whole = run(&call, &stripe, "a whole answer").await;
        let Outcome::Read(text) = &whole else {
            panic!("{}: {whole:?}", call.name)
        };
        let mut leaves = Leaves::of(text);
        for (request, answer) in replay.recorded() {
            tried += try_all(&call, (&stripe, &replay), (&request, &answer), &mut leaves).await;
        }
        let paths = leaves.unchanged().into_iter();
        let paths = paths.filter(|path| !call.is_like_another && !is_exception(call.name, path));
        unchanged.extend(paths.map(|path| format!("{}: {path}", call.name)));
    }
    eprintln!("{tried} answers");
    assert!(
        unchanged.is_empty(),
        "no change of an answer changes these fields; let the fake Stripe's answers have them: {unchanged:#?}"
    );
    sample.stop().await;
}

#[test]
fn every_function_that_sends_a_request_is_called() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/stripe");
    let mut defined = BTreeSet::new();
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(path).unwrap();
            let functions = text.split("    pub(crate) async fn ").skip(1);
            let names = functions.filter_map(|rest| rest.split(['(', '<']).next());
            defined.extend(names.map(str::to_owned));
        }
    }
    for name in SEND_NOTHING {
        assert!(defined.remove(name), "{name}");
    }
    let called: BTreeSet<String> = calls().iter().map(|call| call.name.to_owned()).collect();
    assert_eq!(called, defined);
}

/// Gives a call all variants of one of its answers. Returns how many there were.
async fn try_all(
    call: &Call,
    (stripe, replay): (&Stripe, &Replay),
    (request, answer): (&str, &[u8]),
    leaves: &mut Leaves,
) -> usize {
    for broken in BROKEN_BODIES {
        replay.give(request, broken.as_bytes());
        let place = format!("{} {request}: {broken:?}", call.name);
        run(call, stripe, &place).await;
    }
    if call.is_like_another {
        return BROKEN_BODIES.len();
    }
    let answer: Value = serde_json::from_slice(answer).unwrap();
    let mut variants = Variant::of(&answer);
    variants.extend(Variant::flipped(&answer));
    for variant in &variants {
        replay.give(request, variant.made(&answer).to_string().as_bytes());
        let place = format!("{} {request} {}", call.name, variant.name());
        if let Outcome::Read(text) = run(call, stripe, &place).await {
            leaves.compare(&text);
            // A list may also be empty.
            let found = leaves::count(&text, call.object) + leaves::count_unreadable(&text);
            let is_whole = found >= leaves.count(call.object) || variant.path() == "data";
            assert!(is_whole, "skipped without a word: {place}\n{text}");
        }
    }
    BROKEN_BODIES.len() + variants.len()
}

/// Makes a call. It must end, must not panic, and what it refuses it must explain in short.
async fn run(call: &Call, stripe: &Stripe, place: &str) -> Outcome {
    stripe.meter_ids.invalidate(API_CALLS);
    let running = tokio::spawn((call.run)(stripe.clone()));
    let ended = tokio::time::timeout(TIMEOUT, running).await;
    let ended = ended.unwrap_or_else(|_| panic!("{place}: no end"));
    let outcome = ended.unwrap_or_else(|error| panic!("{place}: {error}"));
    if let Outcome::Refused(why) = &outcome {
        let length = why.chars().count();
        let is_short = (1..=MAX_MESSAGE_CHARS).contains(&length);
        assert!(is_short, "{place}: {length} characters: {why}");
    }
    outcome
}

fn is_exception(call: &str, path: &str) -> bool {
    NOT_FROM_ONE_FIELD.iter().any(|(of, end, _)| {
        let is_of = of.is_empty() || *of == call;
        let is_path = if end.starts_with('*') {
            path == *end
        } else {
            path.ends_with(end) || path.contains(&format!("{end}."))
        };
        is_of && is_path
    })
}
